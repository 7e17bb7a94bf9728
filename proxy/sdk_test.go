package proxy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestASDKIsToldNotToSendAgainWhatMayStillRun. OpenAI's and Anthropic's send
// every 5xx again unless they are told not to.
func TestASDKIsToldNotToSendAgainWhatMayStillRun(t *testing.T) {
	check := func(b *box, path string, status int, want string) {
		t.Helper()
		res, body := b.do("POST", path, "{}")
		if got := res.Header.Get("X-Should-Retry"); res.StatusCode != status || got != want {
			t.Errorf("got %d %s with X-Should-Retry %q, want %d and %q", res.StatusCode, body, got, status, want)
		}
	}
	check(openAt(t, rawBackend(t, "")), "/light/x", 502, "false") // backend_protocol
	check(openAt(t, nobody), "/light/x", 502, "")                 // backend_unreachable: it was never sent
	for _, path := range []string{"/slow/x", "/light/x"} {        // execution_timeout: it goes on, or is cut
		unhurried(t, func(t *testing.T, limit time.Duration) bool {
			m := newModel(t)
			b := open(t, m, func(s *proxy.Setup) {
				class(s, "light", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
			})
			res, body := b.do("POST", path, "{}")
			if !m.reached() {
				return false
			}
			if got := res.Header.Get("X-Should-Retry"); res.StatusCode != 504 || got != "false" {
				t.Errorf("%s: got %d %s with X-Should-Retry %q, want 504 and false", path, res.StatusCode, body, got)
			}
			return true
		})
	}
}

// TestAClientsTimeoutOfAStreamEndsAtItsFirstByte on a card that is idle, with work
// that was never seen to take less than the client would wait for the first byte.
func TestAClientsTimeoutOfAStreamEndsAtItsFirstByte(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusTeapot) // a run that failed teaches nothing
	}), func(s *proxy.Setup) {
		s.Proxy.Trusted = []string{"127.0.0.1/32"}
		rest := s.Routing.Routes[3]
		rest.Name, rest.Match.Path = "rest", routing.Texts{"/**"}
		s.Routing.Routes = append(s.Routing.Routes, rest)
		class(s, "light", func(c *routing.ClassConfig) { c.Estimate = time.Second })
	})
	var seen admission.History
	seen.Learn(512*admission.MiB, 20*time.Second)
	learned, err := json.Marshal(&seen)
	if err != nil {
		t.Fatal(err)
	}
	b.handler.Recall(proxy.Memory{Routes: []proxy.RouteMemory{{Backend: "quick", Route: "rest", Class: "light", Path: "/**",
		Learned: learned}}}, time.Now())
	for _, c := range []struct {
		path, body, accept string
		want               int
	}{
		{"/v1/chat/completions", `{"model":"m","stream":false}`, "", 429},
		{"/v1/chat/completions", `{"model":"m"}`, "", 429},
		{"/v1/chat/completions", `{"model":"m","stream":"true"}`, "", 429},
		{"/v1/messages", `{"a":"` + string(make([]byte, 2<<20)) + `"}`, "", 429},
		{"/api/chat", `{"model":"m","stream":false}`, "", 429},
		{"/v1/chat/completions", `{"model":"m","stream":true}`, "", 418},
		{"/v1/x", "", "text/event-stream", 418},
		{"/api/chat", `{"model":"m"}`, "", 418}, // Ollama's
		{"/v1beta/models/g:streamGenerateContent", `{}`, "", 418},
	} {
		headers := []string{"X-Stainless-Timeout", "10"}
		if c.accept != "" {
			headers = append(headers, "Accept", c.accept)
		}
		if res, body := b.do("POST", c.path, c.body, headers...); res.StatusCode != c.want || (c.want == 429) != (res.Header.Get("Retry-After") != "") {
			t.Errorf("%s %.40s: got %d %s, to come back in %q s, want %d", c.path, c.body, res.StatusCode, body, res.Header.Get("Retry-After"), c.want)
		}
	}
}
