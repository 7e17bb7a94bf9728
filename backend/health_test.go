package backend

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// checked is a server whose health can be set. It notes what it was asked for.
type checked struct {
	status atomic.Int32 // 0: holds the answer back
	asked  chan string
}

func (c *checked) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/health" {
		answering(w, r)
		return
	}
	select {
	case c.asked <- r.Method + " " + r.RequestURI:
	default:
	}
	status := c.status.Load()
	if status == 0 {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(int(status))
}

// checkEvery begins health checks as New does, which cannot know of the
// test's pipes.
func (b *bench) checkEvery(every time.Duration) (stop func()) {
	b.Config.Health = HealthConfig{Path: "/health", Every: every}
	ctx, cancel := context.WithCancel(b.t.Context())
	go b.checkHealth(ctx)
	return cancel
}

func TestTwoFailedChecksMakeABackendUnhealthyAndOneGoodOneHealthy(t *testing.T) {
	for name, bad := range map[string]int32{"an error": 500, "not found": 404, "no answer": 0} {
		t.Run(name, func(t *testing.T) {
			server := &checked{}
			inBubble(t, server.serve, func(t *testing.T, b *bench) {
				server.asked = make(chan string, 100)
				server.status.Store(200)
				stop := b.checkEvery(4 * time.Second)
				defer stop()
				b.wait(9 * time.Second) // at 0, 4 and 8
				if len(server.asked) != 3 || <-server.asked != "GET /health" || !b.Healthy() {
					t.Errorf("asked %d times, healthy: %v", len(server.asked), b.Healthy())
				}
				server.status.Store(bad)
				b.wait(4 * time.Second) // at 12
				server.status.Store(204)
				b.wait(4 * time.Second) // at 16
				if !b.Healthy() {
					t.Error("a single failure counted")
				}
				server.status.Store(bad)
				b.wait(4 * time.Second) // at 20
				if !b.Healthy() {
					t.Error("two failures counted that did not follow each other")
				}
				b.wait(8 * time.Second) // at 24, the end of which may come at 28
				if b.Healthy() {
					t.Error("still healthy")
				}
				b.wantState("open")
				server.status.Store(200)
				b.wait(8 * time.Second)
				if !b.Healthy() {
					t.Error("still not healthy")
				}
				if told := b.heard(); len(told) != 2 || told[0].slots != 0 || told[1].slots != -1 {
					t.Errorf("told %v, want none, then all", told)
				}
				b.wantState("closed")
			})
		})
	}
}

func TestAnUnreachableBackendIsUnhealthy(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.pipes.Close()
		stop := b.checkEvery(4 * time.Second)
		defer stop()
		b.wait(5 * time.Second)
		if b.Healthy() {
			t.Error("still healthy")
		}
		b.wantTold(word{0, 4 * time.Second})
	})
}

func TestAnEngineThatWorksInTheThreadThatWouldAnswerIsHealthy(t *testing.T) {
	server := &checked{}
	inBubble(t, server.serve, func(t *testing.T, b *bench) {
		server.asked = make(chan string, 100)
		server.status.Store(200)
		stop := b.checkEvery(4 * time.Second)
		defer stop()
		ctx, leave := context.WithCancel(t.Context())
		go b.RoundTrip(b.request(ctx, "/hold", nil))
		b.wait(time.Second)
		server.status.Store(0) // no answer
		b.wait(time.Minute)
		if !b.Healthy() {
			t.Error("it is unhealthy while it works")
		}
		leave()
		b.wait(time.Minute)
		if b.Healthy() {
			t.Error("it is healthy while it does not work, nor answer")
		}
	})
}

func TestACheckThatTheProxyCannotMakeIsNoFailure(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.transport.Load().DialContext = func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.EMFILE}
		}
		stop := b.checkEvery(time.Second)
		defer stop()
		b.wait(time.Minute)
		if !b.Healthy() {
			t.Error("it is unhealthy because the proxy has no descriptor left")
		}
		b.wantTold()
	})
}

func TestHealthChecksEndWithTheirContext(t *testing.T) {
	server := &checked{}
	inBubble(t, server.serve, func(t *testing.T, b *bench) {
		server.asked = make(chan string, 100)
		server.status.Store(200)
		stop := b.checkEvery(time.Second)
		b.wait(2500 * time.Millisecond)
		stop()
		b.wait(time.Minute)
		if len(server.asked) != 3 {
			t.Errorf("asked %d times", len(server.asked))
		}
		// One that is under way says nothing.
		server.status.Store(0)
		stop = b.checkEvery(time.Second)
		b.wait(1500 * time.Millisecond)
		stop()
		b.wait(time.Minute)
		b.wantTold()
	})
}

func TestABackendChecksItsHealthFromTheStart(t *testing.T) {
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.RequestURI:
		default:
		}
	}))
	defer server.Close()
	b, err := New(t.Context(), "it", Config{
		URL: server.URL + "/", Health: HealthConfig{Path: "/health?deep=1", Every: time.Hour}, Breaker: BreakerConfig{Failures: 1, Open: time.Hour},
	}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if got := <-asked; got != "/health?deep=1" {
		t.Errorf("asked for %s", got)
	}
	if got := b.Base().String(); got != server.URL {
		t.Errorf("the base is %s, want %s", got, server.URL)
	}
}
