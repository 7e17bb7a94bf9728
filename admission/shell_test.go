package admission

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A bubble of synctest ends only when every goroutine in it has, so each of
// these holds as well that none is left.

func TestADrainThatTakesTooLongSaysSoAndASecondOneEndsTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		second := later(t.Context(), c, benchHeavy)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := c.Drain(ctx, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain = %v, want the context's error", err)
		}
		if !pending(second) {
			t.Fatal("the one that was to be served is not in the queue any more")
		}
		drained := make(chan error, 1)
		go func() { drained <- c.Drain(t.Context(), false) }()
		if r := refused(t, (<-second).err); r.Code != CodeDraining || r.Waited != 10*time.Second {
			t.Errorf("got %+v, want draining after 10s", r)
		}
		first.Release(Result{Outcome: Done})
		if err := <-drained; err != nil {
			t.Errorf("Drain = %v", err)
		}
	})
}

func TestADrainLeavesNoTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		second := later(t.Context(), c, benchHeavy) // arms the timer for its minute
		synctest.Wait()
		first.Release(Result{Outcome: Done})
		(<-second).grant.Release(Result{Outcome: Done})
		if err := c.Drain(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.timer.Stop() {
			t.Error("a timer was left")
		}
	})
}

func TestADeadlineIsMetOrRefusedOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		q := benchHeavy
		q.Deadline, q.Fastest = time.Now().Add(30*time.Second), 18*time.Second // it must begin in 12
		_, err := c.Admit(t.Context(), q)
		if r := refused(t, err); r.Code != CodeDeadlineUnmeetable || r.Waited != 12*time.Second {
			t.Errorf("got %s after %v, want deadline_unmeetable after 12s", r.Code, r.Waited)
		}
		first.Release(Result{Outcome: Done})
	})
}

func TestTheTimerStartsWhatOnlyTimeAllows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Classes[0].StrictAfter, cfg.Classes[1].StrictAfter = -1, -1
		c := open(t, cfg)
		light := func(gib int, runs time.Duration) Request {
			return Request{Class: "light", Backend: "vqa", VRAM: Bytes(gib) * GiB, Estimate: Estimate{P50: runs, P95: runs}}
		}
		long := admit(t, c, light(20, 10*time.Second)) // takes a minute in truth
		heavy := later(t.Context(), c, benchHeavy)
		synctest.Wait()
		time.Sleep(9500 * time.Millisecond)
		// Would hold its room past the 10 s at which the heavy one is expected.
		// That moment comes and moves, with no event but the timer's.
		short := later(t.Context(), c, light(14, time.Second))
		r := <-short
		if r.err != nil || r.grant.Waited() != 500*time.Millisecond || r.grant.Reason() != ReasonReservedForOther {
			t.Fatalf("got %+v, want a grant after 500ms, the room having been kept for the heavy one before", r)
		}
		r.grant.Release(Result{Outcome: Done})
		long.Release(Result{Outcome: Done})
		(<-heavy).grant.Release(Result{Outcome: Done})
	})
}

func TestWhoIsGoneBeforeItAsksIsNeverQueued(t *testing.T) {
	c := open(t, testConfig())
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := c.Admit(ctx, benchLight); refused(t, err).Code != CodeClientCancelled {
		t.Errorf("got %v, want client_cancelled", err)
	}
	if s := c.Snapshot(); s.Classes[1].Granted != 0 {
		t.Errorf("%d were granted", s.Classes[1].Granted)
	}
}

// Everything at once from many goroutines: nothing is lost, and at the end nothing
// is booked. The card is read all the time: what ends frees its memory when a
// reading shows it.
func TestNothingIsLostAmongManyGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		for i := range cfg.Classes {
			cfg.Classes[i].QueueLimit = 20
		}
		c := open(t, cfg)
		reading, stop := context.WithCancel(context.Background())
		defer stop()
		go func() {
			for every := time.Tick(100 * time.Millisecond); ; {
				c.Observe(Reading{GPU: "gpu0", Total: 48 * GiB})
				select {
				case <-every:
				case <-reading.Done():
					return
				}
			}
		}()
		var all sync.WaitGroup
		for seed := range uint64(16) {
			all.Go(func() {
				n := rand.New(rand.NewPCG(seed, 5)).IntN
				for range 300 {
					ctx, leave := context.WithCancel(context.Background())
					left := sync.WaitGroup{}
					if n(3) == 0 {
						left.Go(leave)
					}
					g, err := c.Admit(ctx, []Request{benchHeavy, benchLight, benchLight}[n(3)])
					switch n(12) {
					case 0:
						c.Pause("heavy")
					case 1:
						c.SetAvailable("vqa", 0, n(3))
					case 2:
						c.Observe(Reading{GPU: "gpu0", Total: 48 * GiB, Used: Bytes(n(9)) * GiB}) // a heavy one fits beside
					case 3:
						if err := c.Reconfigure(cfg); err != nil {
							t.Error(err)
						}
					case 4:
						for _, w := range c.Queue(3) {
							c.Explain(w.ID)
							c.Cancel(w.ID)
						}
					}
					c.Resume("heavy")
					c.SetAvailable("vqa", 0, -1)
					if err == nil {
						g.Release(Result{Outcome: Outcome(n(3))})
					}
					leave()
					left.Wait()
				}
			})
		}
		all.Wait()
		if err := c.Drain(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // of the bubble: readings settle what ended last
		s := c.Snapshot()
		if s.GPUs[0].Booked != 0 || s.Classes[0].Running+s.Classes[1].Running+s.Classes[0].Queued+s.Classes[1].Queued != 0 {
			t.Errorf("left over: %+v", s)
		}
	})
}
