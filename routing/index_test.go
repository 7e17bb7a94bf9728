package routing_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

func oneOf[T any](r *rand.Rand, all ...T) T { return all[r.IntN(len(all))] }

// drawnRules are rules that overlap in all that an index goes by.
func drawnRules(r *rand.Rand) (routes []routing.RouteConfig) {
	for range 1 + r.IntN(40) {
		m := routing.MatchConfig{}
		if r.IntN(8) > 0 {
			m.Path = routing.Texts{oneOf(r, "/**", "/a", "/a/", "/a/b", "/a/{x}", "/a/{x}/c", "/{x}/b", "/a/b/**", "/a/b/c/d", "/api/free", "/{$}",
				"/a/{rest...}")}
		}
		if r.IntN(3) == 0 {
			m.Method = routing.Texts{oneOf(r, "GET", "POST")}
		}
		if r.IntN(3) == 0 {
			m.Host = oneOf(r, "box", "BOX", "one.example.com", "*.example.com", "k")
		}
		if r.IntN(2) == 0 {
			m.Model = routing.Texts{oneOf(r, "m1", "m2", "m3", "m*")}
			if r.IntN(4) == 0 {
				m.Model = append(m.Model, oneOf(r, "m1", "m2"))
			}
		}
		if r.IntN(5) == 0 {
			m.When = oneOf(r, `body.n > 2`, `header["x-a"] == "1"`, `size > 20`)
		}
		if r.IntN(8) == 0 {
			m.Headers = map[string]string{"X-A": oneOf(r, "1", "*")}
		}
		route := oneOf(r, heavy, heavyToo, light, pass)("", m)
		route.RequireBody = !route.Pass && r.IntN(10) == 0
		routes = append(routes, route)
		for r.IntN(2) == 0 { // neighbours that differ in their models
			next := oneOf(r, heavy, heavyToo, light, pass)("", m)
			next.Match.Model = routing.Texts{oneOf(r, "m1", "m2", "m3", "m4")}
			routes = append(routes, next)
		}
	}
	return routes
}

// What the index leaves out would not have matched: each decision is that of a look at
// all rules in order.
func TestTheIndexDecidesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	decided, grouped := 0, 0
	for world := range 400 {
		c := aConfig(drawnRules(r)...)
		table, err := routing.NewTable(c) // Check would refuse rules that never apply
		if err != nil {
			t.Fatal(err)
		}
		if table.Groups() < len(table.Routes()) {
			grouped++
		}
		plain := table.WithoutIndex()
		for range 60 {
			headers := []string{"Host: " + oneOf(r, "box", "Box:80", "one.example.com.", "two.example.com", "other", "\u212a", "k")}
			if r.IntN(3) > 0 {
				headers = append(headers, "Content-Type: "+oneOf(r, "application/json", "application/x-www-form-urlencoded"))
			}
			for range r.IntN(3) {
				headers = append(headers, "X-A: "+oneOf(r, "1", "2"))
			}
			body := oneOf(r, "", `{"model":"m1"}`, `{"model":"m2","n":3}`, `{"model":"m3","model":"m1"}`, `{"model":4}`, `{"MODEL":"m1"}`,
				`["m1"]`, `{"n":1}`, `{"model":"m1`, `model=m1&n=3`, `model=m1&model=m2`)
			target := oneOf(r, "/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/b/c/d", "/a//b", "/a/../a/b", "/x/b", "/api/free", "/a%2fb", "/A")
			request, seen := posted(t, target, body, headers...)
			request.Method = oneOf(r, "GET", "POST", "POST", "POST", "HEAD", "OPTIONS")
			got, want := outcome(table, request, seen), outcome(plain, request, seen)
			if got != want {
				t.Fatalf("world %d: %s %s of %s with %s: got %s, want %s, by the rules\n%s", world, request.Method, target, headers, body, got, want,
					listed(c.Routes))
			}
			if strings.HasPrefix(want, "route") {
				decided++
			}
		}
	}
	if decided < 5000 || grouped < 50 {
		t.Errorf("%d requests found a route, and %d tables had groups: too few to show anything", decided, grouped)
	}
}

func outcome(table *routing.Table, r *http.Request, seen routing.Body) string {
	c, err := table.Find(r)
	if err != nil {
		return "find: " + err.Error()
	}
	first := fmt.Sprint(c.First().Name, c.NeedBody(), c.Free(r))
	d, err := c.Decide(r, seen)
	if err != nil {
		return first + " decide: " + err.Error()
	}
	return fmt.Sprint("route ", first, d.Route.Name, d.Pass, d.VRAM, d.Why)
}

func listed(routes []routing.RouteConfig) string {
	var b strings.Builder
	for i, r := range routes {
		fmt.Fprintf(&b, "%d %+v %s %s %t\n", i, r.Match, r.Class, r.Backend, r.Pass)
	}
	return b.String()
}
