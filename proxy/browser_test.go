package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestAPageCanReadWhyItIsRefused, where its origin is named.
func TestAPageCanReadWhyItIsRefused(t *testing.T) {
	const page = "http://localhost:3000"
	for _, c := range []struct {
		origins []string
		origin  string
		want    string
	}{
		{[]string{page}, page, page},
		{[]string{"https://a", "HTTP://LOCALHOST:3000"}, page, page},
		{[]string{"*"}, page, "*"},
		{[]string{"https://a"}, page, ""},
		{nil, page, ""},
		{[]string{"*"}, "", ""},
	} {
		b := openAt(t, unheard, func(s *proxy.Setup) {
			s.Proxy.CORS.Origins = c.origins
		})
		headers := []string{"Origin", c.origin}
		if c.origin == "" {
			headers = nil
		}
		for _, path := range []string{"/heavy", "/nowhere"} {
			res, body := b.do("POST", path, "{}", headers...)
			if got := res.Header.Get("Access-Control-Allow-Origin"); res.StatusCode < 400 || got != c.want {
				t.Errorf("%q from %q: %d %s allows %q, want %q", c.origins, c.origin, res.StatusCode, body, got, c.want)
			}
			if exposes := strings.Contains(res.Header.Get("Access-Control-Expose-Headers"), "Retry-After"); exposes != (c.want != "") {
				t.Errorf("%q from %q: exposes %q", c.origins, c.origin, res.Header.Get("Access-Control-Expose-Headers"))
			}
			if credentials := res.Header.Get("Access-Control-Allow-Credentials") == "true"; credentials != (c.want == page) {
				t.Errorf("%q from %q: credentials: %v", c.origins, c.origin, credentials)
			}
		}
		res, _ := b.do("OPTIONS", "/heavy", "", append(headers, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers",
			"content-type")...)
		allowed := res.StatusCode == 204 && res.Header.Get("Access-Control-Allow-Methods") == "POST" &&
			res.Header.Get("Access-Control-Allow-Headers") == "content-type"
		if allowed != (c.want != "") || !allowed && res.StatusCode < 400 {
			t.Errorf("%q from %q: the preflight is answered with %d %v", c.origins, c.origin, res.StatusCode, res.Header)
		}
	}
}

// TestABackendsOwnAnswerToAPreflightStands while its class has no room.
func TestABackendsOwnAnswerToAPreflightStands(t *testing.T) {
	m := newModel(t)
	defer close(m.let)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "OPTIONS" {
			w.Header().Set("Access-Control-Allow-Origin", "http://backend")
			return
		}
		m.ServeHTTP(w, r)
	}), func(s *proxy.Setup) {
		s.Proxy.CORS.Origins = []string{"*"}
		class(s, "heavy", func(c *routing.ClassConfig) { c.Queue.Limit = 0 })
	})
	go b.client.Do(b.request(t.Context(), "POST", "/heavy", "{}"))
	<-m.arrived
	res, _ := b.do("OPTIONS", "/heavy", "", "Origin", "http://page", "Access-Control-Request-Method", "POST")
	if got := res.Header.Get("Access-Control-Allow-Origin"); res.StatusCode != 200 || got != "http://backend" {
		t.Errorf("got %d that allows %q, want the backend's answer", res.StatusCode, got)
	}
	if res, _ := b.do("POST", "/heavy", "{}", "Origin", "http://page"); res.StatusCode != 429 || res.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("got %d %v, want 429 that a page can read", res.StatusCode, res.Header)
	}
}

func TestAContentTypeIsNeverMadeUp(t *testing.T) {
	b := openAt(t, rawBackend(t, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 22\r\n\r\n<html>{\"a\": 1}</html>\n"))
	for _, method := range []string{"GET", "POST"} {
		res, body := b.do(method, "/light/x", "")
		if _, ok := res.Header["Content-Type"]; ok || len(body) != 22 {
			t.Errorf("%s: got %q with %v", method, body, res.Header)
		}
	}
	empty := openAt(t, rawBackend(t, "HTTP/1.1 200 OK\r\nContent-Type:\r\nContent-Length: 2\r\n\r\nok"))
	if res, _ := empty.do("GET", "/light/x", ""); res.Header["Content-Type"] == nil || res.Header.Get("Content-Type") != "" {
		t.Errorf("an empty one came as %q", res.Header["Content-Type"])
	}
}

// TestATunnelWhoseBackendHasSaidAllGoesOnTheOtherWay has the backend close its
// half.
func TestATunnelWhoseBackendHasSaidAllGoesOnTheOtherWay(t *testing.T) {
	got := make(chan string, 1)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, brw := upgraded(t, w)
		defer c.Close()
		io.WriteString(c, "bye")
		c.(interface{ CloseWrite() error }).CloseWrite()
		all, _ := io.ReadAll(brw)
		got <- string(all)
	}))
	c, r := b.raw("GET /light/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v, %v, want 101", res, err)
	}
	if all, err := io.ReadAll(r); err != nil || string(all) != "bye" {
		t.Fatalf("got %q, %v, want bye and the end of that half", all, err)
	}
	io.WriteString(c, "still here")
	c.(interface{ CloseWrite() error }).CloseWrite()
	if all := <-got; all != "still here" {
		t.Errorf("the backend got %q afterwards", all)
	}
}
