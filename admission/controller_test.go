package admission

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func testConfig() Config {
	c := benchConfig(1, 4)
	for i := range c.Classes {
		c.Classes[i].QueueLimit = 3
		c.Classes[i].QueueTimeout = time.Minute
	}
	return c
}

func open(t *testing.T, cfg Config) *Controller {
	t.Helper()
	c, err := NewController(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func admit(t *testing.T, c *Controller, r Request) *Grant {
	t.Helper()
	g, err := c.Admit(context.Background(), r)
	if err != nil {
		t.Fatalf("Admit(%s) = %v, want a grant", r.Class, err)
	}
	return g
}

// refused gives the refusal of an error, and fails the test where it is none.
func refused(t *testing.T, err error) *Rejection {
	t.Helper()
	var r *Rejection
	if !errors.As(err, &r) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return r
}

// later starts Admit in the background; the result is there when it has ended.
func later(ctx context.Context, c *Controller, r Request) <-chan result {
	out := make(chan result, 1)
	go func() {
		g, err := c.Admit(ctx, r)
		out <- result{g, err}
	}()
	return out
}

type result struct {
	grant *Grant
	err   error
}

func pending(ch <-chan result) bool {
	synctest.Wait()
	return len(ch) == 0
}

func TestLightOvertakesAWaitingHeavy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		second := later(t.Context(), c, benchHeavy)
		if !pending(second) {
			t.Fatal("two heavy requests run at once on one slot")
		}
		light := admit(t, c, benchLight)
		if light.Waited() != 0 {
			t.Errorf("the light one waited %v, want not at all", light.Waited())
		}
		time.Sleep(18 * time.Second)
		first.Release(Result{Outcome: Done})
		r := <-second
		if r.err != nil || r.grant.Waited() != 18*time.Second || r.grant.Reason() != ReasonClassSlots {
			t.Errorf("second heavy: %v, waited %v for %q; want 18s for class_slots", r.err, r.grant.Waited(), r.grant.Reason())
		}
		if s := r.grant.Stay(); s == nil || s.First != s.Last || s.First.Resource != "class heavy" || s.Expected != 18*time.Second {
			t.Errorf("it met %+v, want the slot of class heavy, for 18s", s)
		}
		if light.Stay() != nil {
			t.Errorf("the light one met %+v, want nothing", light.Stay())
		}
		r.grant.Release(Result{Outcome: Done})
		light.Release(Result{Outcome: Done})
		if s := c.Snapshot(); s.GPUs[0].Booked != 0 {
			t.Errorf("%v is still booked at rest", s.GPUs[0].Booked)
		}
	})
}

func TestALeavingClientIsNeverGranted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		ctx, leave := context.WithCancel(t.Context())
		second := later(ctx, c, benchHeavy)
		synctest.Wait()
		third := later(t.Context(), c, benchHeavy)
		if !pending(second) || !pending(third) {
			t.Fatal("the queue does not hold")
		}
		leave()
		if r := refused(t, (<-second).err); r.Code != CodeClientCancelled {
			t.Errorf("code %s, want client_cancelled", r.Code)
		}
		first.Release(Result{Outcome: Done})
		if r := <-third; r.err != nil {
			t.Errorf("the one behind got %v, want a grant", r.err)
		} else {
			r.grant.Release(Result{Outcome: Done})
		}
	})
}

func TestAGrantThatRacesItsClientGoesBack(t *testing.T) {
	// The client leaves and the slot comes free at the same instant; whichever
	// wins, nothing may stay booked.
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, testConfig())
			first := admit(t, c, benchHeavy)
			ctx, leave := context.WithCancel(t.Context())
			second := later(ctx, c, benchHeavy)
			synctest.Wait()
			go leave()
			go first.Release(Result{Outcome: Done})
			synctest.Wait()
			if r := <-second; r.err == nil {
				r.grant.Release(Result{Outcome: Done})
			}
			s := c.Snapshot()
			if s.Classes[0].Running != 0 || s.Classes[0].Queued != 0 || s.GPUs[0].Booked != 0 {
				t.Fatalf("left over: %+v", s)
			}
		})
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		var queued []<-chan result
		for range 3 {
			ch := later(t.Context(), c, benchHeavy)
			synctest.Wait()
			queued = append(queued, ch)
		}
		_, err := c.Admit(t.Context(), benchHeavy)
		r := refused(t, err)
		if r.Code != CodeQueueFull || r.RetryAfter <= 0 {
			t.Errorf("got %s, retry after %v; want queue_full and a time", r.Code, r.RetryAfter)
		}
		if p := c.Precheck("heavy", "flux"); p == nil || p.Code != CodeQueueFull {
			t.Errorf("Precheck = %v, want queue_full", p)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		for i, ch := range queued {
			if r := refused(t, (<-ch).err); r.Code != CodeQueueTimeout || r.Waited != time.Minute || r.Reason == ReasonNone {
				t.Errorf("waiter %d: %+v, want queue_timeout after 1m with a reason", i, r)
			}
		}
		first.Release(Result{Outcome: Done})
	})
}

func TestWhatNeverFitsIsRefusedAtTheDoor(t *testing.T) {
	c := open(t, testConfig())
	big := benchHeavy
	big.VRAM = 48 * GiB // fits the card, not what the reserve leaves of it
	_, err := c.Admit(t.Context(), big)
	if r := refused(t, err); r.Code != CodeNeverFits || r.Detail == "" {
		t.Errorf("got %+v, want never_fits with its figures", r)
	}
}

func TestDrain(t *testing.T) {
	for _, serve := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, testConfig())
			first := admit(t, c, benchHeavy)
			second := later(t.Context(), c, benchHeavy)
			synctest.Wait()
			drained := make(chan error, 1)
			go func() { drained <- c.Drain(t.Context(), serve) }()
			synctest.Wait()
			if _, err := c.Admit(t.Context(), benchLight); refused(t, err).Code != CodeDraining {
				t.Errorf("a new one got %v, want draining", err)
			}
			first.Release(Result{Outcome: Done})
			r := <-second
			if serve {
				if r.err != nil {
					t.Fatalf("the queued one got %v, want to be served", r.err)
				}
				r.grant.Release(Result{Outcome: Done})
			} else if refused(t, r.err).Code != CodeDraining {
				t.Errorf("the queued one got %v, want draining", r.err)
			}
			if err := <-drained; err != nil {
				t.Errorf("Drain = %v", err)
			}
		})
	}
}

func TestPauseHoldsAClassAndNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		c.Pause("heavy")
		heavy := later(t.Context(), c, benchHeavy)
		if !pending(heavy) {
			t.Fatal("a paused class was granted")
		}
		if q := c.Queue(0); len(q) != 1 || q[0].Reason != ReasonPaused {
			t.Errorf("queue %+v, want one that waits because it is paused", q)
		}
		admit(t, c, benchLight).Release(Result{Outcome: Done})
		c.Resume("heavy")
		r := <-heavy
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.grant.Release(Result{Outcome: Done})
	})
}

func TestAnUnavailableBackendHoldsNoReservation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		c.SetAvailable("flux", 0, 0)
		heavy := later(t.Context(), c, benchHeavy)
		if !pending(heavy) {
			t.Fatal("an unavailable backend was granted")
		}
		// The heavy one's room is not held for it.
		wide := benchLight
		wide.VRAM = 30 * GiB
		g := admit(t, c, wide)
		g.Release(Result{Outcome: Done})
		c.SetAvailable("flux", 0, 1)
		r := <-heavy
		second := later(t.Context(), c, benchHeavy)
		if !pending(second) {
			t.Fatal("a half-open backend got a second probe")
		}
		r.grant.Release(Result{Outcome: Done})
		(<-second).grant.Release(Result{Outcome: Done})
	})
}

func TestAReloadKeepsQueueAndRunningWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		second := later(t.Context(), c, benchHeavy)
		light := later(t.Context(), c, benchLight)
		synctest.Wait()
		cfg := testConfig()
		cfg.Classes[0].Slots = 2
		cfg.GPUs[0].Memory = 80 * GiB
		if err := c.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		r := <-second // now there is room and a slot for two
		if r.err != nil {
			t.Fatal(r.err)
		}
		third := later(t.Context(), c, benchHeavy)
		synctest.Wait()
		cfg.Classes = cfg.Classes[1:] // heavy is gone
		if err := c.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		if rej := refused(t, (<-third).err); rej.Code != CodeBackendUnavailable {
			t.Errorf("a waiter of a class that is gone got %s", rej.Code)
		}
		if s := c.Snapshot(); s.GPUs[0].Booked != 68*GiB+512*MiB {
			t.Errorf("booked %v while two heavies and a light run, want 68.5GiB", s.GPUs[0].Booked)
		}
		first.Release(Result{Outcome: Done})
		r.grant.Release(Result{Outcome: Done})
		(<-light).grant.Release(Result{Outcome: Done})
		if s := c.Snapshot(); s.GPUs[0].Booked != 0 {
			t.Errorf("%v is still booked at rest", s.GPUs[0].Booked)
		}
		if err := c.Reconfigure(Config{Backends: []Backend{{Name: "x", Replicas: []Replica{{Places: []Place{{GPU: "nowhere"}}}}}}}); err == nil {
			t.Error("a configuration that does not resolve was taken")
		}
	})
}

func TestAnOperatorCancelsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		first := admit(t, c, benchHeavy)
		second := later(t.Context(), c, benchHeavy)
		synctest.Wait()
		third := later(t.Context(), c, benchHeavy)
		synctest.Wait()
		w := c.Queue(0)
		if len(w) != 2 || w[0].Reason != ReasonClassSlots || len(w[0].Holders) != 1 || w[0].Holders[0] != first.ID() || w[1].Reason != ReasonBehind {
			t.Fatalf("queue %+v: want the first behind the class's slot and the second behind the first", w)
		}
		if !c.Cancel(w[0].ID) || c.Cancel(w[0].ID) {
			t.Error("Cancel does not take a waiter out exactly once")
		}
		if r := refused(t, (<-second).err); r.Code != CodeCancelledByOperator {
			t.Errorf("got %s", r.Code)
		}
		if !c.ReleaseGrant(first.ID()) || c.ReleaseGrant(first.ID()) {
			t.Error("ReleaseGrant does not release exactly once")
		}
		r := <-third
		first.Release(Result{Outcome: Done}) // the holder's own, late: must not free the third's slot
		fourth := later(t.Context(), c, benchHeavy)
		if !pending(fourth) {
			t.Fatal("a second release freed another request's slot")
		}
		r.grant.Release(Result{Outcome: Done})
		(<-fourth).grant.Release(Result{Outcome: Done})
	})
}

func TestAHistoryLearnsFromWorkThatEnded(t *testing.T) {
	const enough = 8 // runs before a History believes them
	near := func(got, want time.Duration) bool { return max(got-want, want-got) <= want/10 }
	synctest.Test(t, func(t *testing.T) {
		c := open(t, testConfig())
		var h History
		ask := Request{Class: "light", Backend: "vqa", VRAM: GiB, Estimate: Estimate{P50: time.Minute}, History: &h}
		run := func(took time.Duration, o Outcome) *Grant {
			g, err := c.Admit(context.Background(), ask)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(took)
			g.Release(Result{Outcome: o})
			return g
		}
		for range enough {
			run(time.Second, Failed)
			run(2*time.Second, Aborted)
		}
		if n := len(h.Learned()); n != 0 {
			t.Fatalf("it learnt from work that failed or was cut short: %v", h.Learned())
		}
		for range enough {
			run(3*time.Second, Done).Release(Result{Outcome: Done}) // the second counts for nothing
		}
		if l := h.Learned(); len(l) != 1 || l[0].Runs != enough || !near(l[0].Estimate.P50, 3*time.Second) {
			t.Fatalf("it learnt %+v from %d runs of 3 s", l, enough)
		}
		g, err := c.Admit(context.Background(), ask)
		if err != nil {
			t.Fatal(err)
		}
		r := c.Running()[0]
		if left := r.EstimatedEnd.Sub(r.Started); !near(left, 3*time.Second) {
			t.Errorf("the next one is expected to take %v, want 3 s", left)
		}
		g.Release(Result{Outcome: Done})
	})
}
