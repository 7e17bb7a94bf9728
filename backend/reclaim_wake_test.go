package backend

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Times are those of a bubble, in which a minute's wait takes none.

func TestWakeWaitsForAsLongAsItsContextLasts(t *testing.T) {
	server := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "loading weights", http.StatusServiceUnavailable)
	}
	inBubble(t, server, func(t *testing.T, b *bench) {
		b.hooks.prepare(ReclaimConfig{Probe: "GET /health"}, "")
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		err := b.Wake(ctx, false)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnreachable) ||
			!strings.Contains(err.Error(), "not ready") || !strings.Contains(err.Error(), "GET /health: 503 Service Unavailable: loading weights") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(b.start); took != 90*time.Second {
			t.Errorf("it took %v, want 90s", took)
		}
	})
}

func TestAProbeThatHangsIsAskedAgain(t *testing.T) {
	asked := 0
	server := func(_ http.ResponseWriter, r *http.Request) {
		if asked++; asked < 3 {
			<-r.Context().Done()
		}
	}
	inBubble(t, server, func(t *testing.T, b *bench) {
		b.hooks.prepare(ReclaimConfig{Probe: "GET /health", Timeout: 30 * time.Second}, "")
		if err := b.Wake(t.Context(), false); err != nil || asked != 3 {
			t.Errorf("got %v after %d", err, asked)
		}
		if took, want := time.Since(b.start), 2*mostProbe+3*firstPause; took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
	})
}

// A name that cannot be looked up for a moment says nothing of the engine.
func TestOnlyARefusedConnectionIsADeath(t *testing.T) {
	for reason, dead := range map[error]bool{syscall.ECONNREFUSED: true, syscall.ENOENT: true, &net.DNSError{Err: "no such host"}: false,
		syscall.EMFILE: false} {
		inBubble(t, answering, func(t *testing.T, b *bench) {
			b.hooks.prepare(ReclaimConfig{Probe: "GET /health"}, "")
			b.transport.Load().DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: reason}
			}
			if got := b.Died(t.Context(), nil); got != dead {
				t.Errorf("%v: dead %v, want %v", reason, got, dead)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := b.Wake(ctx, false); errors.Is(err, ErrRefused) != dead {
				t.Errorf("%v: woken with %v, want ErrRefused: %v", reason, err, dead)
			}
		})
	}
}

func TestAnEngineThatWasStartedMayTakeItsTimeToListen(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.hooks.prepare(ReclaimConfig{Probe: "GET /health"}, "")
		b.pipes.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := b.Wake(ctx, true)
		if !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want that nothing listens", err)
		}
		if took := time.Since(b.start); took != time.Minute {
			t.Errorf("it took %v, want 1m", took)
		}
		// One that should be there is not waited for.
		if err := b.Wake(t.Context(), false); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want that nothing listens", err)
		}
		if took := time.Since(b.start); took != time.Minute {
			t.Errorf("it took %v, want 1m", took)
		}
	})
}
