package routing_test

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// aConfig is a card of 47 GiB with a heavy and a light class and two backends,
// one of which holds 7 GiB while it is idle. Check accepts it.
func aConfig(routes ...routing.RouteConfig) routing.Config {
	breaker := backend.BreakerConfig{Failures: 5, Open: 30 * time.Second}
	return routing.Config{
		Classes: map[string]routing.ClassConfig{
			"heavy": {Slots: 1, VRAM: routing.VRAM{Amount: 34 * admission.GiB}, Estimate: 18 * time.Second},
			"light": {Slots: 8, VRAM: routing.VRAM{Amount: 512 * admission.MiB}, Estimate: time.Second},
		},
		Backends: map[string]backend.Config{
			"flux": {URL: "http://127.0.0.1:8001", GPU: "gpu0", Breaker: breaker},
			"vqa":  {URL: "http://127.0.0.1:8002", GPU: "gpu0", Resident: backend.Resident{Amount: 7 * admission.GiB}, Breaker: breaker},
		},
		Routes: routes,
		Room:   map[string]admission.Bytes{"gpu0": 47 * admission.GiB},
	}
}

func heavy(name string, match routing.MatchConfig) routing.RouteConfig {
	return routing.RouteConfig{Name: name, Match: match, Class: "heavy", Backend: "flux"}
}

// heavyToo is heavy work of the backend that light work goes to.
func heavyToo(name string, match routing.MatchConfig) routing.RouteConfig {
	return routing.RouteConfig{Name: name, Match: match, Class: "heavy", Backend: "vqa"}
}

func light(name string, match routing.MatchConfig) routing.RouteConfig {
	return routing.RouteConfig{Name: name, Match: match, Class: "light", Backend: "vqa"}
}

func pass(name string, match routing.MatchConfig) routing.RouteConfig {
	return routing.RouteConfig{Name: name, Match: match, Pass: true, Backend: "vqa"}
}

func path(p string) routing.MatchConfig { return routing.MatchConfig{Path: routing.Texts{p}} }

func when(expression string) routing.MatchConfig { return routing.MatchConfig{When: expression} }

func aTable(t testing.TB, routes ...routing.RouteConfig) *routing.Table {
	t.Helper()
	return compiled(t, aConfig(routes...))
}

func compiled(t testing.TB, c routing.Config) *routing.Table {
	t.Helper()
	c.Check(func(path, problem string) { t.Fatalf("the test's own configuration: %s: %s", path, problem) })
	table, err := routing.NewTable(c)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// asServed is the request as net/http's server hands it over.
func asServed(t testing.TB, line string, headers ...string) *http.Request {
	t.Helper()
	text := line + " HTTP/1.1\r\nHost: box\r\n" + strings.Join(append(headers, "\r\n"), "\r\n")
	if len(headers) > 0 && strings.HasPrefix(headers[0], "Host:") {
		text = line + " HTTP/1.1\r\n" + strings.Join(append(headers, "\r\n"), "\r\n")
	}
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r
}

// posted is a request with a body, and the body as the rules see it.
func posted(t testing.TB, target, body string, headers ...string) (*http.Request, routing.Body) {
	t.Helper()
	r := asServed(t, "POST "+target, headers...)
	r.ContentLength = int64(len(body))
	r.Body = http.NoBody
	return r, routing.Body{Prefix: []byte(body), Size: int64(len(body))}
}

func decide(t testing.TB, table *routing.Table, r *http.Request, b routing.Body) (routing.Decision, error) {
	t.Helper()
	candidates, err := table.Find(r)
	if err != nil {
		return routing.Decision{}, err
	}
	return candidates.Decide(r, b)
}

// chosen is the name of the rule that applies, or the error.
func chosen(t testing.TB, table *routing.Table, r *http.Request, b routing.Body) string {
	t.Helper()
	d, err := decide(t, table, r, b)
	if err != nil {
		return err.Error()
	}
	return d.Route.Name
}

func wantRule(t testing.TB, table *routing.Table, r *http.Request, b routing.Body, want string) {
	t.Helper()
	if got := chosen(t, table, r, b); got != want {
		t.Errorf("%s %s %v with %q: got %s, want %s", r.Method, r.RequestURI, r.Header, b.Prefix, got, want)
	}
}
