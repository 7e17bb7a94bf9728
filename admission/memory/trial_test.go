package memory

import (
	"testing"
	"time"
)

// What makes a GPU count as at rest.
func TestAGPUIsAtRest(t *testing.T) {
	rests := func(p *plain, want bool) {
		t.Helper()
		if got := p.l.AtRest(0, p.now); got != want {
			t.Errorf("at %v it is at rest: %v, want %v", p.now, got, want)
		}
	}
	t.Run("when three readings agree", func(t *testing.T) {
		p := newPlain(t, holder{"a", GiB, false})
		p.reads(GiB)
		p.reads(4 * GiB)
		p.reads(4 * GiB)
		rests(p, false)
		p.reads(4 * GiB)
		rests(p, true)
	})
	t.Run("although a process comes or goes meanwhile", func(t *testing.T) {
		p := newPlain(t, holder{"a", GiB, false}, holder{"b", GiB, false})
		p.reads(GiB)
		p.l.Gone(p.now, 1)
		p.reads(GiB)
		p.l.Back(p.now, 1)
		p.reads(GiB)
		rests(p, true)
	})
	t.Run("when six do not", func(t *testing.T) {
		p := newPlain(t, holder{"a", GiB, false})
		for n := range Bytes(5) {
			p.reads(n * GiB)
		}
		rests(p, false)
		p.reads(9 * GiB)
		rests(p, true)
	})
}

// A trial that fails had the room that the reading after it shows.
func TestTheRoomOfATrialThatFailed(t *testing.T) {
	p := newPlain(t, holder{"a", 4 * GiB, true})
	for range 3 {
		p.sees(4*GiB, map[string]Bytes{"a": 4 * GiB})
	}
	r := &Run{Demand: 46 * GiB, Accounts: []int{0}, Kind: Trial, Case: new(Case)}
	p.l.Start(p.now, r)
	// A neighbour comes.
	p.now += 100 * time.Millisecond
	p.l.End(p.now, r, Result{Outcome: OutOfMemory})
	if r.Case.TooSmall != 48*GiB {
		t.Errorf("%v was too small, want what it had as it started", r.Case.TooSmall)
	}
	p.sees(24*GiB, map[string]Bytes{"a": 4 * GiB, "others": 20 * GiB})
	if r.Case.TooSmall != 28*GiB {
		t.Errorf("%v was too small, want what the neighbour has left", r.Case.TooSmall)
	}
}

// It is not known on which GPU a run on two GPUs failed: the one with the least room counts.
func TestTheRoomOnTwoGPUs(t *testing.T) {
	l := new(Ledger)
	for g, used := range []Bytes{12 * GiB, 40 * GiB} {
		name := []string{"g0", "g1"}[g]
		l.AddGPU(0, GPU{Name: name, Memory: 48 * GiB, Reads: true})
		l.AddAccount(Place{Backend: "wide", GPU: g, Weights: 2 * GiB})
		if g == 0 {
			l.AddAccount(Place{Backend: "other", GPU: g, Weights: 12 * GiB})
		}
		l.Observe(0, 0, Reading{GPU: name, Total: 48 * GiB, Used: used})
	}
	l.SetLoaded(0, 1, true) // what g0 holds is another's, and it is not known whose g1's is
	l.Observe(time.Second, time.Second, Reading{GPU: "g0", Total: 48 * GiB, Used: 12 * GiB})
	r := &Run{Demand: 30 * GiB, Accounts: []int{0, 2}, Kind: Trial, Case: new(Case)}
	l.Start(time.Second, r)
	l.End(2*time.Second, r, Result{Outcome: OutOfMemory})
	if r.Case.TooSmall != 8*GiB {
		t.Errorf("%v was too small, want what was free of g1", r.Case.TooSmall)
	}
}

// A room that was too small is tried again when the penalty ends, unless it is sure how
// much of it there was.
func TestAFailureIsNotHeldAgainstARoomForEver(t *testing.T) {
	for _, sure := range []bool{false, true} {
		p := newPlain(t, holder{"a", 4 * GiB, true}, holder{"b", 4 * GiB, false})
		read := func() {
			if sure {
				p.sees(14*GiB, map[string]Bytes{"a": 4 * GiB, "b": 10 * GiB})
			} else {
				p.reads(14 * GiB)
			}
		}
		read()
		read()
		r := &Run{Demand: 46 * GiB, Accounts: []int{0}, Kind: Trial, Case: new(Case)}
		p.l.Start(p.now, r)
		p.now += time.Second
		p.l.End(p.now, r, Result{Outcome: OutOfMemory})
		for range 4 {
			read()
		}
		doubt := func() Doubt { return p.l.InDoubt(&p.l.State, 0, 46*GiB, 46*GiB, false, false, r.Case, p.now) }
		if got := doubt(); got != NoDoubt {
			t.Errorf("sure %v: in doubt (%v) after it, want the room to be too small", sure, got)
		}
		p.now += 10 * DefaultTrialAfter
		read()
		if got := doubt() != NoDoubt; got == sure {
			t.Errorf("sure %v: in doubt %v after the penalty", sure, got)
		}
	}
}

// After twice TrialAfter all that is in use may be a backend's own, but not where it was
// seen to free what it held.
func TestWhatWasSeenToBeFreedIsNotInDoubt(t *testing.T) {
	for _, freed := range []bool{false, true} {
		p := newPlain(t, holder{"a", 20 * GiB, true})
		p.reads(20 * GiB)
		p.served("a", 4*GiB, 24*GiB, 20*GiB)
		p.l.Unloading(p.now, 0)
		left := 20 * GiB
		if freed {
			left = 0
		}
		p.reads(20 * GiB)
		p.reads(left)
		p.l.Unloaded(p.now, 0, false)
		for range 6 { // a neighbour is there, or what was not freed
			p.reads(30 * GiB)
		}
		c := &Case{TooSmall: 20 * GiB, sure: true}
		want := DoubtHeld
		if freed {
			want = NoDoubt
		}
		if got := p.l.InDoubt(&p.l.State, 0, 10*GiB, 10*GiB, false, true, c, p.now); got != want {
			t.Errorf("freed %v: in doubt is %v, want %v; it is %+v", freed, got, want, p.l.Accounts[0])
		}
	}
}

// A process that has come or gone may have moved memory: the GPU is soon read again.
func TestAProcessThatComesOrGoesIsReadSoon(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true})
	busy := func(when string, want bool) {
		t.Helper()
		if got := p.l.Busy("g0"); got != want {
			t.Errorf("%s it is busy: %v, want %v", when, got, want)
		}
	}
	p.reads(20 * GiB)
	busy("at rest", false)
	p.l.Gone(p.now, 0)
	busy("after its end", true)
	p.reads(0)
	busy("after a reading", false)
	p.l.Back(p.now, 0)
	busy("after its return", true)
}

// An unload waits for a reading that shows what the work before it has left: else what
// that returned would count as freed.
func TestAnUnloadWaitsForAReading(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true})
	p.reads(20 * GiB)
	p.end(p.start("a", 4*GiB), Good)
	p.l.Unloading(p.now, 0)
	if p.l.UnloadReady(0) {
		t.Error("it is ready before a reading")
	}
	p.reads(20 * GiB)
	if !p.l.UnloadReady(0) {
		t.Error("it is not ready after a reading")
	}
}
