package proxy_test

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// TestASDKIsToldNotToSendAgainWhatMayStillRun. OpenAI's and Anthropic's send
// every 5xx again unless they are told not to.
func TestASDKIsToldNotToSendAgainWhatMayStillRun(t *testing.T) {
	m := newModel(t)
	defer close(m.let)
	late := open(t, m, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.ExecutionTimeout = 20 * time.Millisecond })
	})
	for name, c := range map[string]struct {
		b      *box
		path   string
		status int
		want   string
	}{
		"execution_timeout, it goes on":   {late, "/slow/x", 504, "false"},
		"execution_timeout, it is cut":    {late, "/light/x", 504, "false"},
		"backend_protocol":                {openAt(t, rawBackend(t, "")), "/light/x", 502, "false"},
		"backend_unreachable, never sent": {openAt(t, nobody(t)), "/light/x", 502, ""},
	} {
		res, body := c.b.do("POST", c.path, "{}")
		if got := res.Header.Get("X-Should-Retry"); res.StatusCode != c.status || got != c.want {
			t.Errorf("%s: got %d %s with X-Should-Retry %q, want %d and %q", name, res.StatusCode, body, got, c.status, c.want)
		}
	}
}

// TestAClientsTimeoutOfAStreamEndsAtItsFirstByte on a card that is idle, with work
// that takes longer than the client would wait for the first byte.
func TestAClientsTimeoutOfAStreamEndsAtItsFirstByte(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }), func(s *proxy.Setup) {
		s.Proxy.Trusted = []string{"127.0.0.1/32"}
		rest := s.Routing.Routes[3]
		rest.Name, rest.Match.Path = "rest", routing.Texts{"/**"}
		s.Routing.Routes = append(s.Routing.Routes, rest)
		class(s, "light", func(c *routing.ClassConfig) { c.Estimate = 20 * time.Second })
	})
	for _, c := range []struct {
		path, body, accept string
		want               int
	}{
		{"/v1/chat/completions", `{"model":"m","stream":true}`, "", 200},
		{"/v1/chat/completions", `{"model":"m","stream":false}`, "", 429},
		{"/v1/chat/completions", `{"model":"m"}`, "", 429},
		{"/v1/chat/completions", `{"model":"m","stream":"true"}`, "", 429},
		{"/v1/messages", `{"a":"` + string(make([]byte, 2<<20)) + `"}`, "", 429},
		{"/v1/x", "", "text/event-stream", 200},
		{"/api/chat", `{"model":"m"}`, "", 200}, // Ollama's
		{"/api/chat", `{"model":"m","stream":false}`, "", 429},
		{"/v1beta/models/g:streamGenerateContent", `{}`, "", 200},
	} {
		headers := []string{"X-Stainless-Timeout", "10"}
		if c.accept != "" {
			headers = append(headers, "Accept", c.accept)
		}
		if res, body := b.do("POST", c.path, c.body, headers...); res.StatusCode != c.want {
			t.Errorf("%s %.40s: got %d %s, want %d", c.path, c.body, res.StatusCode, body, c.want)
		}
	}
}
