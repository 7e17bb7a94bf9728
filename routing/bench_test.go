package routing_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

// benchmarkRoute finds and decides, as a proxy does for each request, behind
// 20 rules that do not match.
func benchmarkRoute(b *testing.B, body string, rules ...routing.RouteConfig) {
	var all []routing.RouteConfig
	for i := range 20 {
		all = append(all, light("", path(fmt.Sprintf("/v1/other%d/{x}", i))))
	}
	table := aTable(b, append(all, rules...)...)
	r, seen := posted(b, "/v1/images/generations", body, "Content-Type: application/json")
	b.ReportAllocs()
	for b.Loop() {
		candidates, err := table.Find(r)
		if err != nil {
			b.Fatal(err)
		}
		if !candidates.NeedBody() {
			_, err = candidates.Decide(r, routing.Body{})
		} else {
			_, err = candidates.Decide(r, seen)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// aKiB is a body of 1 KiB with what an image request has.
var aKiB = `{"model":"flux","n":4,"size":"1024x1024","steps":28,"guidance":3.5,"user":"me","seed":7,"prompt":"` + strings.Repeat("a cat ", 150) + `"}`

func BenchmarkTableRouteByPath(b *testing.B) {
	benchmarkRoute(b, aKiB, heavy("it", path("/v1/images/generations")))
}

func BenchmarkTableRouteByWhen(b *testing.B) {
	benchmarkRoute(b, aKiB,
		light("caption", routing.MatchConfig{Path: routing.Texts{"/v1/images/generations"}, When: `body.model == "flux-caption"`}),
		heavy("it", path("/v1/images/generations")))
}

func BenchmarkTableRouteWithDemand(b *testing.B) {
	it := heavy("it", path("/v1/images/generations"))
	it.VRAM = "gib(18) + gib(1) * num(body.n, 1) * megapixels(body.size, 1)"
	benchmarkRoute(b, aKiB, it)
}

// BenchmarkTableManyRoutes has a thousand routes that differ in one thing, of which the
// last one matches.
func BenchmarkTableManyRoutes(b *testing.B) {
	for name, match := range map[string]func(i int) routing.MatchConfig{
		"path": func(i int) routing.MatchConfig { return path(fmt.Sprintf("/v1/images/generations%d", i)) },
		"host": func(i int) routing.MatchConfig { return routing.MatchConfig{Host: fmt.Sprintf("box%d", i)} },
		"model": func(i int) routing.MatchConfig {
			return routing.MatchConfig{Path: routing.Texts{"/v1/images/generations"}, Model: routing.Texts{fmt.Sprintf("m%d", i)}}
		},
	} {
		for _, routes := range []int{1, 1000} {
			b.Run(fmt.Sprintf("%s-%d", name, routes), func(b *testing.B) {
				var rules []routing.RouteConfig
				for i := range routes {
					rules = append(rules, light("", match(1000-routes+i)))
				}
				table := aTable(b, rules...)
				target := "/v1/images/generations"
				if name == "path" {
					target += "999"
				}
				r, seen := posted(b, target, strings.Replace(aKiB, "flux", "m999", 1), "Host: box999", "Content-Type: application/json")
				b.ReportAllocs()
				for b.Loop() {
					candidates, err := table.Find(r)
					if err != nil {
						b.Fatal(err)
					}
					if _, err = candidates.Decide(r, seen); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
