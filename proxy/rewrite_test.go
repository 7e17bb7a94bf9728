package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// Two web pages behind one listener: what a route takes off the path and puts in front
// of it, its headers, and the calls that control the engine, which stay closed under
// the other path.
func TestARouteRewritesPathAndHeaders(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s a=%q b=%q", r.Method, r.RequestURI, r.Header.Get("X-A"), r.Header.Get("X-B"))
	}), func(s *proxy.Setup) {
		setBackend(s, "quick", func(c *backend.Config) { c.Preset = "comfyui"; *c = c.Resolve(); c.Health.Path = "" })
		s.Routing.Routes = append([]routing.RouteConfig{
			{Name: "ui", Match: routing.MatchConfig{Path: routing.Texts{"/comfy/**"}}, Pass: true, Backend: "quick", StripPrefix: "/comfy",
				Headers: routing.HeadersConfig{Add: map[string]string{"x-a": "set"}, Remove: []string{"x-b"}}},
			{Name: "deep", Match: routing.MatchConfig{Path: routing.Texts{"/one/two/**"}}, Pass: true, Backend: "quick", StripPrefix: "/one/two",
				AddPrefix: "/api"},
		}, s.Routing.Routes...)
	})
	ask := func(method, target string) (int, string) {
		r, _ := http.NewRequest(method, b.url+"/", nil)
		path, query, _ := strings.Cut(target, "?")
		r.URL.Opaque, r.URL.RawQuery = path, query
		r.Header.Set("X-A", "client")
		r.Header.Set("X-B", "client")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	for target, want := range map[string]string{
		"/comfy/view?filename=a%20b": `GET /view?filename=a%20b a="set" b=""`,
		"/comfy":                     `GET / a="set" b=""`,
		"/comfy/":                    `GET / a="set" b=""`,
		"/comfy/a%2Fb/c":             `GET /a%2Fb/c a="set" b=""`,
		"/c%6fmfy/x":                 `GET /x a="set" b=""`,
		"/one/two/x/y":               `GET /api/x/y a="client" b="client"`,
	} {
		if status, got := ask("GET", target); status != 200 || got != want {
			t.Errorf("%s: %d %s, want %s", target, status, got, want)
		}
	}
	for _, target := range []string{"/comfy/free", "/comfy/api/free", "/one/two/free", "/comfy/%66ree"} {
		if status, got := ask("POST", target); status != http.StatusForbidden {
			t.Errorf("POST %s: %d %s, want 403", target, status, got)
		}
	}
}
