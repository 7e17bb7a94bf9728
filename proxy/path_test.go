package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestAPathIsForwardedAsItWasSent has spellings that Go's own client would
// change, over connections that are written by hand.
func TestAPathIsForwardedAsItWasSent(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.RequestURI) })
	rest := func(s *proxy.Setup) {
		s.Routing.Routes = append(s.Routing.Routes, routing.RouteConfig{Name: "rest", Match: routing.MatchConfig{Path: routing.Texts{"/**"}},
			Class: "light", Backend: "quick"})
	}
	for _, protocol := range []string{"http", "h2c"} {
		b := open(t, echo, rest, func(s *proxy.Setup) {
			setBackend(s, "quick", func(c *backend.Config) { c.Protocol = protocol })
		})
		for _, target := range []string{
			"/api/userdata/workflows%2Fa.json", "/api/userdata/workflows%2fa.json?overwrite=true", "/file=https://host/a.png", "//a", "/a//b",
			"/a/./b", "/a/../b",
			"/a%252Fb", `/a\b`, "/a%5Cb", "/a;b=c", "/a%3Bb", "/a|b", "/a\"b", "/a^b", "/{a}", "/%61", "/%7Ea", "/a%20b", "/a+b", "/%E9",
			"/gr%C3%B6%C3%9Fe", "/größe", "/a'b", "/a(b)", "/a?", "/?a=1;b=%zz", "/",
		} {
			c := dial(t, b)
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: box\r\n\r\n", target)
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatalf("%s: %v", target, err)
			}
			got, _ := io.ReadAll(res.Body)
			if res.StatusCode != 200 || string(got) != target {
				t.Errorf("%s: %s: the backend got %d %s", protocol, target, res.StatusCode, got)
			}
			c.Close()
		}
	}
}

func TestAnAbsoluteTargetIsForwardedAsItsPath(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.RequestURI, r.Host) }),
		func(s *proxy.Setup) {
			setBackend(s, "quick", func(c *backend.Config) { c.PreserveHost = true })
		})
	for target, want := range map[string]string{"http://box/light/a%2Fb?c=d": "/light/a%2Fb?c=d box", "https://box:8443/light/x": "/light/x box:8443"} {
		_, r := b.raw("POST " + target + " HTTP/1.1\r\nHost: box\r\nContent-Length: 0\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := io.ReadAll(res.Body); string(got) != want {
			t.Errorf("%s: got %d %q, want %q", target, res.StatusCode, got, want)
		}
	}
}

// TestRefusalsAtTheDoorSayWhy has one request for each code.
func TestRefusalsAtTheDoorSayWhy(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s %s reached the backend", r.Method, r.URL) }),
		func(s *proxy.Setup) {
			setBackend(s, "quick", func(c *backend.Config) { c.Reclaim.Preset = "comfyui" })
			s.Routing.Routes = append(s.Routing.Routes,
				routing.RouteConfig{Name: "a", Match: routing.MatchConfig{Path: routing.Texts{"/chat"}, When: `body.model == "a"`}, Class: "light",
					Backend: "quick"},
				routing.RouteConfig{Name: "b", Match: routing.MatchConfig{Path: routing.Texts{"/chat"}, When: `body.model == "b"`}, Class: "heavy",
					Backend: "slow"},
				routing.RouteConfig{Name: "rest", Match: routing.MatchConfig{Path: routing.Texts{"/**"}}, Class: "light", Backend: "quick"},
				routing.RouteConfig{Name: "other", Match: routing.MatchConfig{Path: routing.Texts{"/free/**"}, When: `header["x-a"] == "b"`},
					Class: "heavy", Backend: "slow"})
		})
	for _, c := range []struct {
		path, body, code, says string
		status                 int
	}{
		{"/heavy%2F..%2Fpass/x", "", "ambiguous_path", "different routes", 400},
		{"/chat", `{"model":"a","model":"b"}`, "ambiguous_body", "body.model: the key comes twice", 400},
		{"/free", "", "control_route", "no route opens it", 403},
	} {
		res, body := b.do("POST", c.path, c.body)
		if res.StatusCode != c.status || !strings.Contains(body, c.code) || !strings.Contains(body, c.says) || res.Header.Get("Retry-After") != "" {
			t.Errorf("POST %s: got %d %s, want %d %s that says %q", c.path, res.StatusCode, body, c.status, c.code, c.says)
		}
	}
}
