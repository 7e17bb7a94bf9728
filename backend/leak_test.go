package backend

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"
)

// TestTheConfigurationChoosesTheClient: http.Transport has two goroutines for each
// connection, beside the one that waits in it, and the lean one has none.
func TestTheConfigurationChoosesTheClient(t *testing.T) {
	for transport, want := range map[string]int{"": 0, "lean": 0, "standard": 3} {
		if alwaysStandard {
			want = 3
		}
		arrived, answer := make(chan struct{}), make(chan struct{})
		server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-answer }))
		b, err := New(t.Context(), "it", Config{URL: server.URL, Transport: transport, Breaker: BreakerConfig{Failures: 1, Open: time.Hour}}, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		asked := make(chan error)
		go func() { _, _, err := b.Ask(t.Context(), Call{Method: "GET", Target: "/"}, "", nil); asked <- err }()
		<-arrived
		if got := ours(); got != want {
			t.Errorf("transport %q: %d goroutines, want %d", transport, got, want)
		}
		close(answer)
		if err := <-asked; err != nil {
			t.Error(err)
		}
		b.Close()
		server.Close()
		for ours() > 0 {
			runtime.Gosched()
		}
	}
}

func TestACloseLeavesNoGoroutine(t *testing.T) {
	for name, protocol := range map[string]string{"HTTP/1": "http", "HTTP/2": "h2c"} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewUnstartedServer(http.HandlerFunc(answering))
			server.Config.Protocols = new(http.Protocols)
			server.Config.Protocols.SetHTTP1(true)
			server.Config.Protocols.SetUnencryptedHTTP2(true)
			server.Start()
			defer server.Close()
			ctx, cancel := context.WithCancel(t.Context())
			b, err := New(ctx, "it", Config{
				URL: server.URL, Protocol: protocol,
				Health: HealthConfig{Path: "/", Every: time.Hour}, Breaker: BreakerConfig{Failures: 1, Open: time.Hour},
			}, func(int) {})
			if err != nil {
				t.Fatal(err)
			}
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.Base().String()+"/500", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := b.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			b.TripBreaker() // its timer runs, and its probes
			cancel()
			b.Close()
			// What ends is told to end, and needs its turn of the processor. If
			// it does not, the test hangs, and go test shows what is left.
			for left := 1; left > 0; runtime.Gosched() {
				if left = ours(); protocol == "h2c" {
					b.Close() // a stream is gone a moment after its last byte
				}
			}
		})
	}
}

// ours counts the goroutines that a backend has begun: its own, and those of
// its connections.
func ours() (n int) {
	stacks := make([]byte, 1<<20)
	for stack := range bytes.SplitSeq(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		for _, name := range []string{"backend.(*Server).checkHealth", "backend.(*breaker).", "http.(*persistConn).", "http1.(*upload)", "http1.(*Transport).connect(", "http.(*http2ClientConn)."} {
			if bytes.Contains(stack, []byte(name)) {
				n++
				break
			}
		}
	}
	return n
}
