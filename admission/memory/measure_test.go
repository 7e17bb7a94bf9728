package memory

import (
	"testing"
	"time"
)

// measured wants what was told since it was last asked.
func (p *plain) measured(want ...Bytes) {
	p.t.Helper()
	var got []Bytes
	for _, m := range p.l.Measured() {
		got = append(got, m.Seen)
	}
	if len(got) != len(want) {
		p.t.Fatalf("at %v measured %v, want %v", p.now, got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			p.t.Fatalf("at %v measured %v, want %v", p.now, got, want)
		}
	}
}

// lets time pass with readings of the same total.
func (p *plain) lets(d time.Duration, used Bytes) {
	for end := p.now + d; p.now <= end; {
		p.reads(used)
	}
}

func TestARunIsMeasuredByTotalsWhileNothingElseMoves(t *testing.T) {
	p := newPlain(t, holder{"a", 4 * GiB, true}, holder{"b", 0, true})
	p.reads(0)
	p.served("a", 0, 4*GiB, 4*GiB)
	p.l.Measured()
	r := p.start("a", 10*GiB)
	p.lets(2*time.Second, 12*GiB)
	p.end(r, Good)
	p.lets(4*time.Second, 4*GiB)
	p.measured(8 * GiB)

	r = p.start("a", 10*GiB)
	p.reads(10 * GiB)
	other := p.start("b", 10*GiB)
	p.reads(18 * GiB)
	p.end(other, Good)
	p.end(r, Good)
	p.lets(4*time.Second, 4*GiB)
	p.measured() // whose was what nobody can tell
}

func TestARunThatFailedIsNotMeasured(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true})
	p.reads(0)
	r := p.start("a", 10*GiB)
	p.lets(2*time.Second, 10*GiB)
	p.end(r, Failed)
	p.lets(4*time.Second, 0)
	p.measured()
}

func TestARunBesideAnUnloadIsNotMeasured(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true}, holder{"b", 8 * GiB, true})
	p.reads(0)
	p.served("b", 0, 8*GiB, 8*GiB)
	p.l.Measured()
	r := p.start("a", 10*GiB)
	p.reads(18 * GiB)
	p.l.Unloading(p.now, p.account("b"))
	p.reads(10 * GiB)
	p.end(r, Good)
	p.lets(4*time.Second, 0)
	p.measured()
}

func TestAShortRunOfABackendThatKeepsIsMeasuredAfterwards(t *testing.T) {
	p := newPlain(t, holder{"a", 0, false})
	p.sees(0, map[string]Bytes{"a": 0})
	r := p.start("a", 10*GiB)
	p.end(r, Good) // no reading came while it ran
	p.measured()
	p.sees(11*GiB, map[string]Bytes{"a": 11 * GiB})
	p.measured() // whether it keeps that is not seen yet
	p.sees(11*GiB, map[string]Bytes{"a": 11 * GiB})
	p.measured(11 * GiB)
	p.sees(11*GiB, map[string]Bytes{"a": 11 * GiB})
	p.measured()
}

// Keeps or returns is seen, not believed.
func TestWhatABackendKeepsIsSeen(t *testing.T) {
	for _, x := range []struct {
		declared, keeps bool
	}{{true, true}, {true, false}, {false, true}, {false, false}} {
		p := newPlain(t, holder{"a", 2 * GiB, x.declared})
		p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
		p.end(p.start("a", 0), Good)
		p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
		r := p.start("a", 10*GiB)
		for range 3 {
			p.sees(12*GiB, map[string]Bytes{"a": 12 * GiB})
		}
		p.end(r, Good)
		left := Bytes(2 * GiB)
		if x.keeps {
			left = 12 * GiB
		}
		for range 4 {
			p.sees(left, map[string]Bytes{"a": left})
		}
		if d := p.l.DescribeAccount(0); !d.Seen || d.Keeps != x.keeps {
			t.Errorf("declared to return: %v, keeps: %v: it is said to be %+v", x.declared, x.keeps, d)
		}
	}
}

func TestTwoReadingsDoNotTellWhetherABackendKeeps(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, true})
	p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
	r := p.start("a", 10*GiB)
	for range 2 {
		p.sees(12*GiB, map[string]Bytes{"a": 12 * GiB})
	}
	p.end(r, Good)
	for range 4 {
		p.sees(12*GiB, map[string]Bytes{"a": 12 * GiB})
	}
	if d := p.l.DescribeAccount(0); d.Seen {
		t.Errorf("it is said to be %+v, want nothing to be seen", d)
	}
}

// Three runs back to back, of which none could be told what the one before has
// left, without a fall between them. Each was read three times: fewer readings may
// all have come beside its peak, and what they show is not what it takes.
func TestRunsBackToBackShowThatABackendKeeps(t *testing.T) {
	for name, x := range map[string]struct {
		runs  int
		falls int // in the run before which it falls; 0: in none
		grows Bytes
		reads int // of each run
		want  bool
	}{
		"three":                        {4, 0, 10 * GiB, 3, true},
		"two":                          {3, 0, 10 * GiB, 3, false},
		"three with a fall":            {4, 3, 10 * GiB, 3, false},
		"a fall, and three after that": {7, 3, 10 * GiB, 3, true},
		"hardly any growth":            {6, 0, 200 * MiB, 3, false},
		"a peak may have been missed":  {6, 0, 10 * GiB, 2, false},
	} {
		p := newPlain(t, holder{"a", 2 * GiB, true})
		p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
		p.end(p.start("a", 0), Good)
		for range 3 {
			p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
		}
		for n := range x.runs {
			r := p.start("a", 10*GiB)
			if x.falls > 0 && n == x.falls-1 {
				p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
			}
			for range x.reads {
				p.sees(2*GiB+x.grows, map[string]Bytes{"a": 2*GiB + x.grows})
			}
			p.end(r, Good)
		}
		if d := p.l.DescribeAccount(0); d.Keeps != x.want || d.Keeps && !d.Seen {
			t.Errorf("%s: it is said to be %+v, want that it keeps: %v", name, d, x.want)
		}
	}
}

// Runs that add nothing to what a backend keeps, after one that grew, took no more
// than it holds. After an unload that is not known any more.
func TestRunsThatAddNothingAreAnUpperBound(t *testing.T) {
	p := newPlain(t, holder{"a", 2 * GiB, false})
	run := func(held Bytes) []Measurement {
		r := p.start("a", 10*GiB)
		for range 3 {
			p.sees(held, map[string]Bytes{"a": held})
		}
		p.end(r, Good)
		for range 4 {
			p.sees(held, map[string]Bytes{"a": held})
		}
		return p.l.Measured()
	}
	p.sees(2*GiB, map[string]Bytes{"a": 2 * GiB})
	run(2 * GiB)
	if m := run(6 * GiB); len(m) != 1 || !m[0].Grew || m[0].Seen != 4*GiB {
		t.Errorf("the first gives %+v, want 4 GiB that it grew by", m)
	}
	if m := run(6 * GiB); len(m) != 1 || m[0].Grew || m[0].Seen != 4*GiB {
		t.Errorf("the second gives %+v, want 4 GiB at most", m)
	}
	p.l.Unloading(p.now, 0)
	p.sees(0, map[string]Bytes{})
	p.l.Unloaded(p.now, 0, false)
	p.l.Loading(p.now, 0, 2*GiB)
	p.sees(6*GiB, map[string]Bytes{"a": 6 * GiB})
	p.l.Loaded(p.now, 0, true)
	p.sees(6*GiB, map[string]Bytes{"a": 6 * GiB})
	if m := run(6 * GiB); len(m) != 0 {
		t.Errorf("after it was loaded anew one gives %+v, want nothing", m)
	}
}

// Weights rise above the declared ones where runs need a tenth more than the
// figures say, and what stays after them was seen twice.
func TestWeightsThatAreMoreThanDeclaredAreSeenTwice(t *testing.T) {
	for _, more := range []Bytes{4 * GiB, 500 * MiB} {
		p := newPlain(t, holder{"a", 6 * GiB, true})
		p.sees(0, map[string]Bytes{"a": 0})
		for i, want := range []Bytes{6 * GiB, 6 * GiB, 6 * GiB, 6*GiB + more} {
			if more < GiB {
				want = 6 * GiB
			}
			if w := p.l.Weights(0); w != want {
				t.Errorf("%v more: after %d runs its weights are %v, want %v", more, i, w, want)
			}
			r := p.start("a", 4*GiB)
			for range 3 {
				p.sees(10*GiB+more, map[string]Bytes{"a": 10*GiB + more})
			}
			p.end(r, Good)
			for range 4 {
				p.sees(6*GiB+more, map[string]Bytes{"a": 6*GiB + more})
			}
		}
	}
}

// A reading between a load and the first run shows the weights.
func TestAReadingAfterALoadShowsTheWeights(t *testing.T) {
	l := new(Ledger)
	g := l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB, Reads: true})
	l.AddAccount(Place{Backend: "a", GPU: g, Learn: true})
	p := &plain{t: t, l: l, names: []string{"a"}}
	p.sees(GiB, map[string]Bytes{"a": GiB})
	l.Loading(p.now, 0, 0)
	p.sees(20*GiB, map[string]Bytes{"a": 20 * GiB})
	p.now += time.Millisecond
	l.Loaded(p.now, 0, true)
	p.sees(22*GiB, map[string]Bytes{"a": 22 * GiB})
	if w := l.Weights(0); w != 22*GiB || l.WeightsUnknown(0) {
		t.Errorf("its weights are %v, unknown: %v; want 22 GiB", w, l.WeightsUnknown(0))
	}
}

// Weights below the declared ones are believed when two runs have left as much.
func TestWeightsThatAreLessThanDeclaredAreSeenTwice(t *testing.T) {
	p := newPlain(t, holder{"a", 10 * GiB, true})
	p.sees(0, map[string]Bytes{"a": 0})
	for i, want := range []Bytes{10 * GiB, 10 * GiB, 6 * GiB} {
		if w := p.l.Weights(0); w != want {
			t.Errorf("after %d runs its weights are %v, want %v", i, w, want)
		}
		r := p.start("a", 4*GiB)
		p.sees(8*GiB, map[string]Bytes{"a": 8 * GiB})
		p.end(r, Good)
		for range 4 {
			p.sees(6*GiB, map[string]Bytes{"a": 6 * GiB})
		}
	}
}

func TestWeightsThatNobodyDeclaredAreLearned(t *testing.T) {
	l := new(Ledger)
	g := l.AddGPU(0, GPU{Name: "g0", Memory: 48 * GiB, Reads: true})
	l.AddAccount(Place{Backend: "a", GPU: g, Learn: true, Returns: true})
	p := &plain{t: t, l: l, names: []string{"a"}}
	p.sees(0, map[string]Bytes{"a": 0})
	if !l.WeightsUnknown(0) {
		t.Error("its weights are known before it ran")
	}
	for range 2 {
		r := &Run{Accounts: []int{0}, Unknown: true, Kind: Trial}
		p.now += time.Millisecond
		l.Start(p.now, r)
		for range 4 {
			p.sees(34*GiB, map[string]Bytes{"a": 34 * GiB})
		}
		p.end(r, Good)
		for range 4 {
			p.sees(22*GiB, map[string]Bytes{"a": 22 * GiB})
		}
	}
	if w := l.Weights(0); w != 22*GiB || l.WeightsUnknown(0) {
		t.Errorf("its weights are %v, want the 22 GiB that stay", w)
	}
	if l.SetWeights(0, 20*GiB); l.Weights(0) != 20*GiB {
		t.Error("what was learned earlier is not taken")
	}
	q := newPlain(t, holder{"a", 4 * GiB, true})
	if q.l.SetWeights(0, GiB) || q.l.Weights(0) != 4*GiB {
		t.Error("declared weights are learned")
	}
}

// A run of unknown demand has the largest room there is, and a quarter more than it
// was seen to take once it has had its time alone.
func TestARunOfUnknownDemandIsBoundedWhenItHasHadItsTime(t *testing.T) {
	p := newPlain(t, holder{"a", 4 * GiB, true}, holder{"b", 0, true})
	p.sees(4*GiB, map[string]Bytes{"a": 4 * GiB})
	r := &Run{Accounts: []int{0}, Unknown: true, Kind: Trial}
	p.l.Start(p.now, r)
	if r.Demand != 44*GiB || !p.l.Bars(0, p.now) {
		t.Errorf("its demand is %v, and it bars others: %v; want all there is", r.Demand, p.l.Bars(0, p.now))
	}
	for end := p.now + DefaultTrialAfter; p.now <= end; {
		p.sees(12*GiB, map[string]Bytes{"a": 12 * GiB})
	}
	p.sees(12*GiB, map[string]Bytes{"a": 12 * GiB})
	if r.Demand != 10*GiB || p.l.Bars(0, p.now) {
		t.Errorf("its demand is %v, and it bars others: %v; want a quarter above 8 GiB, and no more bar", r.Demand, p.l.Bars(0, p.now))
	}
	p.fits("b", 34*GiB, true)
	p.fits("b", 35*GiB, false)
}

// After an out-of-memory answer of a lone run there is no other, until what told
// of it has changed.
func TestAFailureOnTheSameEvidenceIsNotRepeated(t *testing.T) {
	fails := func(t *testing.T) (*plain, *Case) {
		p := newPlain(t, holder{"a", 0, true}, holder{"b", 20 * GiB, true})
		p.reads(0)
		p.served("b", 0, 20*GiB, 20*GiB)
		c := new(Case)
		r := &Run{Accounts: []int{0}, Demand: 34 * GiB, Kind: Trial, Case: c}
		p.l.Start(p.now, r)
		p.reads(40 * GiB)
		p.end(r, OutOfMemory)
		p.lets(2*time.Second, 20*GiB)
		if !p.l.Barred(c, 0, p.now) {
			t.Fatal("it may be tried at once again")
		}
		return p, c
	}
	t.Run("memory has become free", func(t *testing.T) {
		p, c := fails(t)
		p.lets(2*time.Second, 20*GiB-50*MiB)
		if !p.l.Barred(c, 0, p.now) {
			t.Error("50 MiB are free, and it may be tried again")
		}
		if p.lets(2*time.Second, 19*GiB); p.l.Barred(c, 0, p.now) {
			t.Error("a GiB is free, and it may not be tried again")
		}
	})
	t.Run("one of its runs was good", func(t *testing.T) {
		p, c := fails(t)
		r := &Run{Accounts: []int{0}, Demand: 10 * GiB, Case: c}
		p.l.Start(p.now, r)
		if p.end(r, Good); p.l.Barred(c, 0, p.now) {
			t.Error("it may not be tried again")
		}
	})
	t.Run("time has passed, twice as much each time", func(t *testing.T) {
		p, c := fails(t)
		wait := 10 * DefaultTrialAfter
		for range 8 {
			ended := p.now
			if !p.l.Barred(c, 0, ended+wait-5*time.Second) || p.l.Barred(c, 0, ended+wait) {
				t.Fatalf("it is barred at %v: %v, and at %v: %v", wait-5*time.Second, p.l.Barred(c, 0, ended+wait-5*time.Second), wait,
					p.l.Barred(c, 0, ended+wait))
			}
			p.now += wait
			p.reads(20 * GiB)
			r := &Run{Accounts: []int{0}, Demand: 34 * GiB, Kind: Trial, Case: c}
			p.l.Start(p.now, r)
			p.end(r, OutOfMemory)
			wait = min(2*wait, time.Hour)
		}
	})
}

// The same beside a neighbour. What a trial returns as it fails is a fall like any
// other, of which the neighbour's part is not known.
func TestAFailureBesideANeighbourIsNotRepeated(t *testing.T) {
	p := newPlain(t, holder{"a", 0, true})
	p.lets(2*time.Second, 20*GiB)
	p.rest(20*GiB, 20*GiB)
	c := new(Case)
	r := &Run{Accounts: []int{0}, Demand: 34 * GiB, Kind: Trial, Case: c}
	p.l.Start(p.now, r)
	p.reads(40 * GiB)
	p.end(r, OutOfMemory)
	for range 10 {
		if p.reads(20 * GiB); !p.l.Barred(c, 0, p.now) {
			t.Fatalf("at %v it may be tried again, and nothing has changed: %+v", p.now, *c)
		}
	}
}

// A run that ran out of memory keeps others as large from what its account holds
// for three times TrialAfter, and not until one of them has ended well.
func TestWhatRanOutOfMemoryKeepsOthersFromItForAWhile(t *testing.T) {
	p := newPlain(t, holder{"a", 4 * GiB, false})
	held := map[string]Bytes{"a": 40 * GiB}
	p.sees(40*GiB, held)
	p.end(p.start("a", 30*GiB), OutOfMemory)
	failed := p.now
	for p.now-failed < shortFor*DefaultTrialAfter-time.Second {
		p.sees(40*GiB, held)
		p.fits("a", 30*GiB, false)
	}
	if at, ok := p.l.Next(p.now); !ok || at != failed+shortFor*DefaultTrialAfter {
		t.Errorf("what fits changes next at %v (%v), want %v", at, ok, failed+shortFor*DefaultTrialAfter)
	}
	for range 4 {
		p.sees(40*GiB, held)
	}
	p.fits("a", 30*GiB, true)
}
