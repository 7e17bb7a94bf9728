package backend

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var errTimeout = &net.OpError{Op: "dial", Net: "tcp", Err: os.ErrDeadlineExceeded}

// visit lets so many requests go through a gate at once, each of which dials as
// http.Transport does where there is no idle connection, and gives how many failed.
func visit(g *gate, requests int, dial dial) (failed int64) {
	var all sync.WaitGroup
	var errs atomic.Int64
	for range requests {
		all.Go(func() {
			if err := g.enter(context.Background()); err != nil {
				errs.Add(1)
				return
			}
			defer g.leave()
			if _, err := dial(context.Background(), "tcp", "box:1"); err != nil {
				errs.Add(1)
			}
		})
	}
	all.Wait()
	return errs.Load()
}

// A thousand at once wait for each other for longer than a connection may take.
func TestFewConnectionsAreMadeAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		var now, most atomic.Int64
		dial := g.counting(func(context.Context, string, string) (net.Conn, error) {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(4 * time.Second)
			now.Add(-1)
			c, _ := net.Pipe()
			return c, nil
		})
		began := time.Now()
		hold := func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			time.Sleep(time.Minute) // its answer takes long, so that no connection is idle
			return c, err
		}
		if failed := visit(&g, 1000, hold); failed != 0 || most.Load() != mostDials {
			t.Errorf("%d of 1000 failed and %d were made at once, want none and %d", failed, most.Load(), mostDials)
		}
		if took := time.Since(began) - time.Minute; took <= 2*connectTime {
			t.Errorf("all took %v: want more than %v, else nothing is shown", took, 2*connectTime)
		}
		if g.open != 1000 || g.inside != 0 {
			t.Errorf("%d connections are counted with %d requests, want 1000 with none", g.open, g.inside)
		}
	})
}

// Where connections are there, no request waits.
func TestAnOpenConnectionIsAPlace(t *testing.T) {
	var g gate
	dial := g.counting(func(context.Context, string, string) (net.Conn, error) { c, _ := net.Pipe(); return c, nil })
	var open []net.Conn
	for range 10 {
		c, _ := dial(t.Context(), "tcp", "box:1")
		open = append(open, c)
	}
	for range 10 + mostDials {
		if err := g.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.enter(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("one more got %v, want to wait until its client leaves", err)
	}
	for range 10 + mostDials {
		g.leave()
	}
	for _, c := range open {
		c.Close()
		c.Close() // counts once
	}
	if g.open != 0 || g.inside != 0 || g.waiting.Len() != 0 {
		t.Errorf("%d connections, %d requests and %d that wait are counted, want none", g.open, g.inside, g.waiting.Len())
	}
}

// A host that takes no packets costs the requests that wait for their turn no more
// time than those that have it.
func TestNoRequestWaitsForAHostThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		dial := g.counting(patient(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, errTimeout
		}))
		began := time.Now()
		if failed := visit(&g, 1000, dial); failed != 1000 || time.Since(began) > 2*connectTime {
			t.Errorf("%d of 1000 failed after %v, want all within %v", failed, time.Since(began), 2*connectTime)
		}
	})
}

func TestAConnectionIsTriedAgainWithinItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		first error
		after time.Duration // of a try
		tries int64         // within connectTime where none comes about
	}{
		"where packets were dropped":             {errTimeout, tryTime, 4},
		"where the queue of a socket is full":    {&net.OpError{Op: "dial", Err: syscall.EAGAIN}, time.Second, 5},
		"not where nothing listens":              {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, 0, 1},
		"not where the proxy has no descriptors": {&net.OpError{Op: "dial", Err: syscall.EMFILE}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var tries, well atomic.Int64 // well is the try that is
				well.Store(2)
				connect := patient(func(ctx context.Context, _, _ string) (net.Conn, error) {
					if tries.Add(1) == well.Load() {
						return nil, nil
					}
					select {
					case <-ctx.Done():
					case <-time.After(c.after):
					}
					return nil, c.first
				})
				if _, err := connect(t.Context(), "tcp", "box:1"); (err == nil) != (c.tries > 1) {
					t.Errorf("got %v after %d tries", err, tries.Load())
				}
				well.Store(0)
				tries.Store(0)
				began := time.Now()
				if _, err := connect(t.Context(), "tcp", "box:1"); !errors.Is(err, c.first) || tries.Load() != c.tries || time.Since(began) > connectTime {
					t.Errorf("got %v after %d tries in %v, want %v after %d within %v", err, tries.Load(), time.Since(began), c.first, c.tries, connectTime)
				}
			})
		})
	}
}
