package proxy_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

const (
	queueID    = "00112233445566778899aabbccddeeff"
	otherID    = "ffeeddccbbaa99887766554433221100"
	queueRoute = "/.well-known/anteroom/queue/"
)

// placed is what a client is told of its place.
type placed struct {
	State    string
	Class    string
	Position *int
	Reason   string
	Detail   string
	Waited   int64  `json:"waited_ms"`
	Wait     *int64 `json:"estimated_wait_ms"`
	Code     string
	text     string
	status   int
}

func (b *box) place(id string) (p placed) {
	b.t.Helper()
	res, text := b.do("GET", queueRoute+id, "")
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		b.t.Fatalf("GET %s: %s: %v", id, text, err)
	}
	if res.Header.Get("Cache-Control") != "no-store" {
		b.t.Errorf("the place of %s may be kept: %v", id, res.Header)
	}
	p.text, p.status = text, res.StatusCode
	return p
}

// sendWith sends a heavy request with an id and gives the ids of the 103 answers, and
// the status in the end.
func (b *box) sendWith(ctx context.Context, id string) (hints, status <-chan string) {
	told, done := make(chan string, 10), make(chan string, 1)
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		told <- http.StatusText(code) + " " + header.Get("X-Anteroom-Queue-Id")
		return nil
	}}
	r := b.request(httptrace.WithClientTrace(ctx, trace), "POST", "/heavy", "x", "X-Anteroom-Queue-Id", id)
	go func() {
		res, err := b.client.Do(r)
		if err != nil {
			done <- err.Error()
			return
		}
		defer res.Body.Close()
		io.Copy(io.Discard, res.Body)
		done <- res.Status + " " + res.Header.Get("X-Anteroom-Queue-Id")
	}()
	return told, done
}

func TestAWaitingClientAsksForItsPlace(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	_, first := b.sendWith(t.Context(), otherID)
	arrived := <-m.arrived
	if got := arrived.Header.Get("X-Anteroom-Queue-Id"); got != "" {
		t.Errorf("the backend is told the id %s", got)
	}
	if p := b.place(otherID); p.State != "running" || p.Class != "heavy" || p.Position != nil {
		t.Errorf("the running one is told %s", p.text)
	}
	hints, second := b.sendWith(t.Context(), strings.ToUpper(queueID))
	if got := <-hints; got != "Early Hints "+queueID {
		t.Errorf("its client is told %q, want 103 with the id", got)
	}
	eventually(t, "its place is known", func() bool { return b.place(queueID).Position != nil })
	p := b.place(queueID)
	if p.State != "waiting" || *p.Position != 0 || p.Reason == "" || p.Detail == "" || p.Wait == nil || p.status != 200 {
		t.Errorf("it is told %s", p.text)
	}
	for _, secret := range []string{"slow", "127.0.0.1", "tenant", "blocked_by", "vram", "backend\"", otherID} {
		if strings.Contains(p.text, secret) {
			t.Errorf("it is told of %q: %s", secret, p.text)
		}
	}
	m.let <- struct{}{}
	<-m.arrived
	if got := <-first; got != "200 OK " {
		t.Errorf("the first got %q", got)
	}
	eventually(t, "the second runs", func() bool { return b.place(queueID).State == "running" })
	m.let <- struct{}{}
	if got := <-second; got != "200 OK " {
		t.Errorf("the second got %q", got)
	}
	for _, id := range []string{queueID, otherID, "", "x", queueID[:8], strings.Repeat("0", 32), queueID + "/x"} {
		if p := b.place(id); p.status != 404 || p.Code != "no_request" {
			t.Errorf("of %q it is told %d %s, want 404 no_request", id, p.status, p.text)
		}
	}
}

// TestAPlaceIsForgotten with its request, however that ends.
func TestAPlaceIsForgotten(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	_, first := b.sendWith(t.Context(), otherID)
	<-m.arrived
	ctx, leave := context.WithCancel(t.Context())
	_, second := b.sendWith(ctx, queueID)
	eventually(t, "it waits", func() bool { return b.place(queueID).State == "waiting" })
	leave()
	<-second
	eventually(t, "it is forgotten", func() bool { return b.place(queueID).status == 404 })
	m.let <- struct{}{}
	<-first
}

func TestAnIDThatCouldBeGuessedIsRefused(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	for _, ids := range [][]string{{"1"}, {queueID[:30]}, {strings.Repeat("z", 32)}, {strings.Repeat("ab", 65)}, {""}, {queueID, otherID}} {
		var headers []string
		for _, id := range ids {
			headers = append(headers, "X-Anteroom-Queue-Id", id)
		}
		if res, text := b.do("POST", "/light/x", "x", headers...); res.StatusCode != 400 ||
			!strings.Contains(text, "hexadecimal") && !strings.Contains(text, "want one") {
			t.Errorf("%q: %s %s, want 400", ids, res.Status, text)
		}
	}
	if m.total.Load() != 0 {
		t.Error("a request was sent on")
	}
}

// TestAPageReadsItsPlace where its origin may.
func TestAPageReadsItsPlace(t *testing.T) {
	b := open(t, newModel(t), func(s *proxy.Setup) { s.Proxy.CORS.Origins = []string{"https://app.example.com"} })
	for origin, want := range map[string]string{"https://app.example.com": "https://app.example.com", "https://evil.example": ""} {
		res, _ := b.do("GET", queueRoute+queueID, "", "Origin", origin)
		if got := res.Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s is allowed %q, want %q", origin, got, want)
		}
	}
}

// BenchmarkPlace asks for places while 10,000 requests wait: of one of them, and of an
// id that is not known.
func BenchmarkPlace(b *testing.B) {
	m := newModel(b)
	x := open(b, m, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Queue.Limit = 20000 })
	})
	x.sendWith(b.Context(), otherID)
	<-m.arrived
	x.controller.Pause("light")
	for range 10000 {
		go x.controller.Admit(b.Context(), admission.Request{Class: "light", Backend: "quick", VRAM: admission.GiB})
	}
	x.sendWith(b.Context(), queueID)
	eventually(b, "all wait", func() bool { return x.waiting() == 10001 })
	for name, id := range map[string]string{"waits": queueID, "unknown": strings.Repeat("0", 32)} {
		b.Run(name, func(b *testing.B) {
			r := httptest.NewRequest("GET", queueRoute+id, nil)
			for b.Loop() {
				x.handler.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
}
