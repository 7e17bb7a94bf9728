package memory

import (
	"errors"
	"testing"
	"time"
)

// plain is a ledger of one GPU of 48 GiB, played by hand.
type plain struct {
	t     *testing.T
	l     *Ledger
	now   time.Duration
	names []string
}

// holder is a backend with its figures.
type holder struct {
	name    string
	weights Bytes
	returns bool
}

func newPlain(t *testing.T, of ...holder) *plain {
	p := &plain{t: t, l: new(Ledger)}
	g := p.l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB, Reads: true})
	for _, h := range of {
		p.l.AddAccount(Place{Backend: h.name, GPU: g, Weights: h.weights, Returns: h.returns})
		p.names = append(p.names, h.name)
	}
	return p
}

func (p *plain) account(name string) int {
	for a, n := range p.names {
		if n == name {
			return a
		}
	}
	p.t.Fatalf("there is no %s", name)
	return -1
}

// reads is a reading of the total, half a second later.
func (p *plain) reads(used Bytes) {
	p.now += 500 * time.Millisecond
	p.l.Observe(p.now, p.now, Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml"})
}

// sees is a reading with the processes of backends and others.
func (p *plain) sees(used Bytes, of map[string]Bytes) {
	p.now += 500 * time.Millisecond
	r := Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml", Processes: []Process{}}
	for _, name := range append(p.names, "others") {
		if n, ok := of[name]; ok {
			x := Process{PID: len(r.Processes) + 1, Name: name, Used: n, Backend: name}
			if name == "others" {
				x.Backend = ""
			}
			r.Processes = append(r.Processes, x)
		}
	}
	p.l.Observe(p.now, p.now, r)
}

func (p *plain) start(name string, demand Bytes) *Run {
	p.now += time.Millisecond
	r := &Run{Accounts: []int{p.account(name)}, Demand: demand}
	p.l.Start(p.now, r)
	return r
}

func (p *plain) end(r *Run, o Outcome) { p.ends(r, Result{Outcome: o}) }

func (p *plain) ends(r *Run, res Result) {
	p.now += time.Millisecond
	p.l.End(p.now, r, res)
}

// holds wants the interval of an account.
func (p *plain) holds(name string, low, high Bytes) {
	p.t.Helper()
	if h := p.l.Accounts[p.account(name)]; h.Low != low || h.High != high {
		p.t.Errorf("at %v %s holds %v to %v, want %v to %v; the card is %+v", p.now, name, h.Low, h.High, low, high, p.l.GPUs[0])
	}
}

// rest wants the interval of the unmanaged rest.
func (p *plain) rest(low, high Bytes) {
	p.t.Helper()
	if t := p.l.GPUs[0]; t.XLow != low || t.XHigh != high {
		p.t.Errorf("at %v %v to %v are unmanaged, want %v to %v", p.now, t.XLow, t.XHigh, low, high)
	}
}

func (p *plain) loaded(name string, want presence) {
	p.t.Helper()
	if got := p.l.accounts[p.account(name)].loaded; got != want {
		p.t.Errorf("at %v %s is loaded: %v, want %v", p.now, name, got, want)
	}
}

func (p *plain) fits(name string, demand Bytes, want bool) {
	p.t.Helper()
	a := p.account(name)
	need, free, ok := p.l.Fits(&p.l.State, a, demand, p.now)
	if ok = ok && (!p.l.Closed(0, p.now) || p.l.Adds(&p.l.State, a, demand, p.now) == 0); ok != want {
		p.t.Errorf("at %v %v more on %s fit: %v, want %v; it needs %v of %v", p.now, demand, name, ok, want, need, free)
	}
}

// served runs one request whose reading shows so much, and its end so much.
func (p *plain) served(name string, demand, during, after Bytes) {
	r := p.start(name, demand)
	p.reads(during)
	p.end(r, Good)
	for end := p.now + lateTime; p.now <= end; {
		p.reads(after)
	}
}

// The rows of what each event does to an account, in order.

func TestFirstReadingOfAnAccountWithoutFigure(t *testing.T) {
	p := newPlain(t, holder{"keeps", 4 * GiB, false}, holder{"returns", 10 * GiB, true})
	p.reads(30 * GiB)
	p.holds("keeps", 0, 30*GiB) // it may have any cache
	p.holds("returns", 0, 10*GiB)
	p.loaded("keeps", unknown)
	p = newPlain(t, holder{"returns", 10 * GiB, true})
	p.reads(6 * GiB)
	p.holds("returns", 0, 6*GiB)
}

func TestFirstReadingOfTheUnmanagedRest(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(30 * GiB)
	p.rest(0, 30*GiB)
	p.reads(30 * GiB)
	p.rest(20*GiB, 30*GiB) // what no account can hold is no other backend's
}

func TestBeforeTheFirstReadingNothingFits(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.fits("a", 0, false)
	if !p.l.Closed(0, p.now) {
		t.Error("the card takes work")
	}
	p.reads(0)
	p.fits("a", 0, true)
}

func TestAProcessFigureIsWhatItsAccountHolds(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 10 * GiB, true})
	p.sees(30*GiB, map[string]Bytes{"a": 12 * GiB})
	p.holds("a", 12*GiB, 12*GiB)
	p.holds("b", 0, 10*GiB) // it is inferred beside
	p.sees(30*GiB, map[string]Bytes{"a": 3 * GiB})
	p.holds("a", 3*GiB, 3*GiB)
	p.sees(27*GiB, map[string]Bytes{}) // it is gone
	p.holds("a", 0, 0)
}

func TestFiguresOfAllTellWhatIsUnmanaged(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 10 * GiB, true})
	p.sees(30*GiB, map[string]Bytes{"a": 12 * GiB, "b": 8 * GiB, "others": 10 * GiB})
	p.rest(10*GiB, 10*GiB+driverUse)
	// The list and the total are not taken at one moment: the larger counts.
	p.sees(20*GiB, map[string]Bytes{"a": 12 * GiB, "b": 8 * GiB, "others": 10 * GiB})
	if u := p.l.GPUs[0].Used; u != 30*GiB {
		t.Errorf("%v are in use, want the 30 that the processes hold", u)
	}
}

func TestTotalRisesActive(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true})
	p.reads(0)
	p.start("a", 10*GiB)
	p.reads(6 * GiB)
	if h := p.l.Accounts[0]; h.High > 10*GiB || h.Peak != 10*GiB {
		t.Errorf("it holds %+v, want no more than its figure", h)
	}
	p.reads(16 * GiB) // more than its figure: it cannot be told whose
	if h := p.l.Accounts[0]; h.High < 16*GiB {
		t.Errorf("it holds %+v, want 16 GiB to be possible", h)
	}
}

func TestTotalRisesUnmanaged(t *testing.T) {
	t.Run("while nothing of ours is active", func(t *testing.T) {
		p := newPlain(t, holder{"a", 0, true})
		p.reads(0)
		p.reads(0)
		p.reads(10 * GiB)
		p.rest(10*GiB, 10*GiB)
		p.holds("a", 0, 0)
	})
	t.Run("beside work it may be, and need not", func(t *testing.T) {
		p := newPlain(t, holder{"a", 0, true})
		p.reads(0)
		p.start("a", 4*GiB)
		p.reads(10 * GiB)
		p.rest(0, 6*GiB)
	})
}

func TestTotalFallsActive(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.holds("a", 10*GiB, 10*GiB)
	p.start("a", 5*GiB)
	p.start("b", 5*GiB)
	p.reads(20 * GiB)
	p.reads(13 * GiB)
	p.holds("a", 10*GiB, 13*GiB) // its weights at least: it is surely loaded
}

func TestTotalFallsIdle(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.loaded("a", loaded)
	p.reads(3 * GiB) // no active account explains 7 GiB
	p.holds("a", 3*GiB, 3*GiB)
	p.loaded("a", unknown)
	// A small fall leaves it loaded.
	p = newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.reads(8 * GiB)
	p.loaded("a", loaded)
}

func TestTotalFallsUnmanaged(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true})
	p.reads(0)
	p.reads(0)
	p.reads(30 * GiB)
	p.reads(5 * GiB)
	p.rest(5*GiB, 5*GiB)
	// It counts as free when three readings have shown it.
	for _, want := range []Bytes{30 * GiB, 30 * GiB, 5 * GiB} {
		if used := p.l.GPUs[0].Used; used != want {
			t.Errorf("at %v %v are in use, want %v", p.now, used, want)
		}
		p.reads(5 * GiB)
	}
}

func TestARunHasEndedSinceTheLastReading(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, true})
	p.reads(0)
	r := p.start("a", 10*GiB)
	p.reads(12 * GiB)
	if p.end(r, Good); p.l.Accounts[0].Peak != 12*GiB {
		t.Errorf("its peak is %v, want it to stay until a reading", p.l.Accounts[0].Peak)
	}
	p.reads(12 * GiB) // not returned yet
	if h := p.l.Accounts[0]; h.Low > 12*GiB || h.Peak != 0 {
		t.Errorf("it holds %+v", h)
	}
	for range 3 {
		p.reads(2 * GiB)
	}
	p.holds("a", 2*GiB, 2*GiB)
}

func TestARunHasEndedOnABackendSeenToReturn(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, true})
	p.reads(0)
	p.l.accounts[0].seenReturns = 2
	r := p.start("a", 10*GiB)
	p.reads(12 * GiB)
	p.end(r, Good)
	p.reads(12 * GiB) // a neighbour came as it ended
	if x := p.l.GPUs[0].XHigh; x < 10*GiB {
		t.Errorf("%v at most are unmanaged, want the 10 GiB that did not come back to be possible", x)
	}
}

func TestTheTotalNarrowsTheAccounts(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 20 * GiB, false})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	r := p.start("b", 4*GiB)
	p.reads(30 * GiB)
	p.reads(30 * GiB)
	if h := p.l.Accounts[1]; h.High > 24*GiB {
		t.Errorf("b holds %+v, want 24 GiB at most", h)
	}
	p.end(r, Good)
	for range 3 {
		p.reads(30 * GiB)
	}
	p.holds("b", 20*GiB, 20*GiB)
}

func TestTheTotalNarrowsTheUnmanagedRest(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(40 * GiB)
	p.served("a", 0, 40*GiB, 40*GiB)
	p.rest(30*GiB, 30*GiB)
	p.holds("a", 10*GiB, 10*GiB)
}

func TestMoreThanThereIsIsNeverReadAsSmallerWeights(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true}, holder{"b", 10 * GiB, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.served("b", 0, 20*GiB, 20*GiB)
	p.reads(5 * GiB) // one of them died, or both
	sum := p.l.Accounts[0].Low + p.l.Accounts[1].Low
	if sum > 5*GiB || p.l.Weights(0) != 10*GiB || p.l.Weights(1) != 10*GiB {
		t.Errorf("they surely hold %v of 5, with weights of %v and %v", sum, p.l.Weights(0), p.l.Weights(1))
	}
	p.loaded("a", unknown)
	p.loaded("b", unknown)
	p.rest(0, p.l.GPUs[0].XHigh)
}

func TestTheStartOfARunRaisesWhatItsAccountMayHold(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, true})
	p.reads(0)
	p.start("a", 10*GiB)
	if h := p.l.Accounts[0]; h.Peak != 12*GiB || h.High != 12*GiB || h.Low != 0 {
		t.Errorf("it is %+v, want a peak of 12 GiB", h)
	}
	p.start("a", 10*GiB)
	if h := p.l.Accounts[0]; h.Peak != 22*GiB || h.High != 22*GiB {
		t.Errorf("it is %+v, want a peak of 22 GiB", h)
	}
}

func TestAGoodEndShowsThatItIsLoaded(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(30 * GiB)
	r := p.start("a", 0)
	p.end(r, Good)
	p.loaded("a", loaded)
	p.reads(30 * GiB)
	if h := p.l.Accounts[0]; h.Low != 10*GiB {
		t.Errorf("it is %+v, want its weights at least", h)
	}
}

func TestAGoodEndOfALoneRunShowsWhatItKept(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true}, holder{"b", 8 * GiB, true}) // it keeps, whatever is declared
	p.reads(34 * GiB)
	r := &Run{Accounts: []int{0}, Demand: 34 * GiB, Kind: Alone}
	p.l.Start(p.now, r)
	for range 4 {
		p.reads(34 * GiB)
	}
	p.end(r, Good)
	for range 3 {
		p.reads(34 * GiB)
	}
	// The other keeps room for its weights.
	if h := p.l.Accounts[0]; h.Low != 26*GiB {
		t.Errorf("it is %+v, want 26 GiB at least to be its own", h)
	}
	p.fits("a", 26*GiB, true) // and so the next adds less
}

func TestAFailedRunLeavesOpenWhetherItIsLoaded(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.end(p.start("a", 0), Failed)
	p.loaded("a", unknown)
	p.reads(0)
	p.holds("a", 0, 0)
}

func TestOutOfMemoryLeavesOpenWhatItHolds(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	p.end(p.start("a", 8*GiB), OutOfMemory)
	if h := p.l.Accounts[0]; h.Low != 0 {
		t.Errorf("it is %+v, want nothing for sure", h)
	}
	p.loaded("a", unknown)
	p.ends(p.start("a", 8*GiB), Result{Outcome: OutOfMemory, InUse: 12 * GiB, Tried: 8 * GiB})
	p.holds("a", 12*GiB, 12*GiB) // it said so
}

func TestALoadIsBookedWithItsWeights(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.l.Loading(p.now, 0, 20*GiB)
	if h := p.l.Accounts[0]; h.Peak != 20*GiB || h.Low != 0 {
		t.Errorf("it is %+v, want a peak of its weights", h)
	}
	p.fits("b", 30*GiB, false)
	p.reads(15 * GiB)
	p.rest(0, 0) // it is its load
	p.l.Loaded(p.now, 0, true)
	p.reads(20 * GiB)
	p.reads(20 * GiB)
	p.holds("a", 20*GiB, 20*GiB)
}

func TestAnUnloadFreesWhatAReadingShows(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true})
	p.reads(0)
	p.served("a", 0, 20*GiB, 20*GiB)
	p.l.Unloading(p.now, 0)
	p.reads(2 * GiB) // a residue stays
	if freed, enough, known := p.l.Freed(0); freed != 18*GiB || !enough || !known {
		t.Errorf("%v were freed, enough: %v, known: %v", freed, enough, known)
	}
	p.l.Unloaded(p.now, 0, false)
	p.reads(2 * GiB)
	p.holds("a", 0, 0) // it was seen to be freed; the residue belongs to no backend
	p.rest(0, 2*GiB)
	p.loaded("a", absent)

	p = newPlain(t, holder{"a", 20 * GiB, true}) // one that lies
	p.reads(0)
	p.served("a", 0, 20*GiB, 20*GiB)
	p.l.Unloading(p.now, 0)
	p.reads(20 * GiB)
	p.l.Unloaded(p.now, 0, false)
	p.reads(20 * GiB)
	p.holds("a", 20*GiB, 20*GiB) // nothing else can hold it
	p.loaded("a", unknown)
}

func TestWhatIsGoneHoldsNothingAndItsMemoryIsFreeWhenItIsRead(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.served("a", 0, 20*GiB, 20*GiB)
	p.l.Gone(p.now, 0)
	p.holds("a", 0, 0)
	p.fits("b", 40*GiB, false)
	p.reads(0)
	p.fits("b", 40*GiB, true)
}

func TestWhatIsBackMayLoad(t *testing.T) {
	p := newPlain(t, holder{"a", 20 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.served("a", 0, 20*GiB, 20*GiB)
	p.l.Gone(p.now, 0)
	p.reads(0)
	p.l.Back(p.now, 0)
	p.holds("a", 0, 20*GiB)
	p.loaded("a", unknown)
	p.reads(20 * GiB) // it loads by itself
	p.rest(0, 0)
	p.reads(20 * GiB)
	if h := p.l.Accounts[0]; h.High < 20*GiB {
		t.Errorf("it is %+v, want what has come to be its own", h)
	}
}

func TestWithoutAReadingForFiveSecondsNothingStartsThatAddsMemory(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(0)
	p.served("a", 0, 10*GiB, 10*GiB)
	was := p.l.State
	p.now += staleAfter
	p.fits("a", 10*GiB, true)
	p.now += time.Millisecond
	if !p.l.Closed(0, p.now) || !p.l.Describe(0, p.now).Stale {
		t.Error("the card takes work although it has not been read for 5 s")
	}
	p.fits("a", 0, true) // adds nothing
	if p.l.GPUs[0] != was.GPUs[0] || p.l.Accounts[0] != was.Accounts[0] {
		t.Errorf("the state has changed to %+v", p.l.State)
	}
}

// What the table does not say.

func TestReadingsThatMakeNoSenseChangeNothing(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.reads(10 * GiB)
	was := p.l.GPUs[0]
	for _, r := range []Reading{
		{GPU: "g0", Total: 48 * GiB, Used: 60 * GiB}, {GPU: "g0"}, {GPU: "g0", Total: 48 * GiB, Used: -1},
		{GPU: "g0", Err: errors.New("the driver does not answer")}, {GPU: "g0", Lost: true, Err: errors.New("GPU is lost")},
	} {
		p.l.Observe(p.now, p.now, r)
		if p.l.GPUs[0] != was || p.l.Describe(0, p.now).Err == "" || p.l.Describe(0, p.now).Lost != r.Lost {
			t.Errorf("after %+v the card is %+v", r, p.l.Describe(0, p.now))
		}
	}
	if p.l.Observe(p.now, p.now, Reading{GPU: "g1"}) {
		t.Error("a card that is not configured is known")
	}
}

func TestACardThatCannotBeReadIsHeldOrLeftToTheLedger(t *testing.T) {
	for _, hold := range []bool{false, true} {
		l := new(Ledger)
		l.AddAccount(Place{Backend: "a", GPU: l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB, Reads: true, Hold: hold}), Returns: true})
		fits := func(now time.Duration) bool {
			_, _, ok := l.Fits(&l.State, 0, 10*GiB, now)
			return ok && !l.Closed(0, now)
		}
		if fits(0) || fits(firstWait-1) {
			t.Error("something fits before the first reading was waited for")
		}
		if at, ok := l.Next(0); !ok || at != firstWait {
			t.Errorf("the ledger is to be looked at again at %v, %v; want %v", at, ok, firstWait)
		}
		if fits(firstWait) == hold {
			t.Errorf("hold %v: after the first reading did not come, 10 GiB fit: %v", hold, !hold)
		}
		l.Observe(3*time.Second, 3*time.Second, Reading{GPU: "g0", Total: 48 * GiB, Used: 20 * GiB})
		late := 3*time.Second + UnknownAfter
		if fits(late-1) || fits(late) == hold {
			t.Errorf("hold %v: when readings stop, 10 GiB fit after %v: %v, %v", hold, UnknownAfter, fits(late-1), fits(late))
		}
		if !hold { // the last known unmanaged memory counts
			if _, _, ok := l.Fits(&l.State, 0, 30*GiB, late); ok {
				t.Error("what was unmanaged at the last reading does not count")
			}
		}
	}
}

func TestACardWithoutASensorIsLeftToTheLedger(t *testing.T) {
	l := new(Ledger)
	l.AddAccount(Place{Backend: "a", GPU: l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB}), Weights: 4 * GiB})
	r := &Run{Accounts: []int{0}, Demand: 10 * GiB}
	l.Start(0, r)
	l.End(time.Second, r, Result{})
	if h := l.Accounts[0]; h.High != 14*GiB || h.Peak != 0 {
		t.Errorf("it is %+v, want what the run took to be kept", h)
	}
	never := &Run{Accounts: []int{0}, Demand: 20 * GiB}
	l.Start(2*time.Second, never)
	l.End(3*time.Second, never, Result{Outcome: Unserved})
	if h := l.Accounts[0]; h.High != 14*GiB {
		t.Errorf("it is %+v, want nothing more: the run never came to its backend", h)
	}
}

// A process that is gone holds nothing, and no reading will ever show it. It may go while
// a run of its own is under way.
func TestWhatIsGoneIsFreeOnACardWithoutASensor(t *testing.T) {
	l := new(Ledger)
	l.AddAccount(Place{Backend: "a", GPU: l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB})})
	for at := time.Second; at < 10*time.Second; at += 3 * time.Second {
		if _, _, ok := l.Fits(&l.State, 0, 40*GiB, at); !ok {
			t.Fatalf("at %v 40 GiB do not fit: %+v, %+v", at, l.GPUs[0], l.Accounts[0])
		}
		r := &Run{Accounts: []int{0}, Demand: 40 * GiB}
		l.Start(at, r)
		l.Gone(at+time.Second, 0)
		l.End(at+time.Second, r, Result{Outcome: Unserved})
		l.Back(at+2*time.Second, 0)
	}
}

func TestWhatNeverCameToItsServerTookNothing(t *testing.T) {
	p := newPlain(t, holder{"a", 30 * GiB, true})
	p.reads(0)
	p.end(p.start("a", 4*GiB), Unserved)
	p.reads(0)
	p.holds("a", 0, 0)
	if h := p.l.Accounts[0]; h.Peak != 0 || h.Late != 0 {
		t.Errorf("it is left with %+v", h)
	}
}

func TestACardThatShrinksHasLess(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true})
	p.reads(0)
	p.now += time.Second
	p.l.Observe(p.now, p.now, Reading{GPU: "g0", Total: 24 * GiB, Used: 0})
	p.fits("a", 30*GiB, false)
	if p.l.Capacity(0) != 24*GiB || p.l.Ceiling(0) != 48*GiB {
		t.Errorf("its capacity is %v, and could ever be %v; want 24 and 48 GiB", p.l.Capacity(0), p.l.Ceiling(0))
	}
	p.reads(0)
	p.fits("a", 30*GiB, true)
}

func TestARunOnSeveralGPUsCountsOnEach(t *testing.T) {
	l := new(Ledger)
	run := &Run{Demand: 10 * GiB}
	for _, name := range []string{"g0", "g1"} {
		g := l.AddGPU(0, GPU{Name: name, Memory: 24 * GiB, Reads: true})
		run.Accounts = append(run.Accounts, l.AddAccount(Place{Backend: "wide", GPU: g, Weights: 2 * GiB, Returns: true}))
		l.Observe(0, 0, Reading{GPU: name, Total: 24 * GiB})
	}
	l.Start(time.Second, run)
	for a := range l.Accounts {
		if h := l.Accounts[a]; h.Runs != 1 || h.Peak != 12*GiB {
			t.Errorf("account %d is %+v", a, h)
		}
	}
	l.End(2*time.Second, run, Result{})
	for a := range l.Accounts {
		if h := l.Accounts[a]; h.Runs != 0 || h.Running != 0 {
			t.Errorf("account %d is left with %+v", a, h)
		}
	}
}

func TestAFigureAboveWhatARunAskedForRaisesItsDemandAtOnce(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, true}, holder{"b", 0, true})
	p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
	r := p.start("a", 10*GiB)
	p.sees(20*GiB, map[string]Bytes{"a": 20 * GiB})
	if h := p.l.Accounts[0]; r.Demand != 18*GiB || h.Peak != 20*GiB {
		t.Errorf("its demand is %v, and its account %+v; want 18 of 20 GiB", r.Demand, h)
	}
	p.end(r, Good)
	if h := p.l.Accounts[0]; h.Running != 0 {
		t.Errorf("its account is left with %+v", h)
	}
}

// Each bound of what fits holds by itself: the first where beliefs are old, the
// second while several grow at once.
func TestWhatFitsGoesByTheSmallerOfTwoBounds(t *testing.T) {
	p := newPlain(t, holder{"a", 0, false}, holder{"b", 0, true})
	p.reads(30 * GiB) // any of it may be a's, or unmanaged
	p.fits("b", 18*GiB, true)
	p.fits("b", 18*GiB+1, false)

	p = newPlain(t, holder{"a", 0, true}, holder{"b", 0, true}, holder{"c", 0, true})
	p.reads(0)
	p.start("a", 10*GiB)
	p.start("b", 10*GiB)
	p.reads(10 * GiB) // it is not known which of them has grown
	p.fits("c", 28*GiB, true)
	p.fits("c", 28*GiB+1, false)
}
