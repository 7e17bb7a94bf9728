package history

import (
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

const gib = memory.GiB

// learnt is a History with n runs of a demand that took so much.
func learnt(n int, vram memory.Bytes, keeps bool, took ...memory.Bytes) *History {
	h := new(History)
	for i := range n {
		h.peak(vram, took[i%len(took)], 0, keeps)
		h.Learn(vram, 0)
	}
	return h
}

// then is when all of it happened.
var then = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// peak is a run that was measured by totals.
func (h *History) peak(vram, took, weights memory.Bytes, keeps bool) {
	h.LearnPeak(then, vram, memory.Measurement{Seen: took, Weights: weights, Keeps: keeps, Grew: true})
}

// full is a run that ran out of memory.
func (h *History) full(vram, booked, room, weights, said memory.Bytes) (again memory.Bytes, isOdd bool) {
	return h.Exhausted(then, vram, Failure{booked, room, weights, said})
}

// good are n runs that ended well in so much room.
func (h *History) good(n int, vram, room memory.Bytes) {
	for range n {
		h.LearnRoom(then, then.Add(1), vram, room, 0, false)
	}
}

func wantDemand(t *testing.T, h *History, vram memory.Bytes, learn bool, want memory.Bytes, isUnknown bool) {
	t.Helper()
	booked, is := h.Demand(vram, learn)
	if max(booked-want, want-booked) > want/100 || is != isUnknown {
		t.Errorf("%v is booked with %v, unknown: %v; want %v, %v; known is %+v", vram, booked, is, want, isUnknown, h.Learned())
	}
}

// One test for each row of the rules of Demand and of what is learned.
func TestADemandIsLearned(t *testing.T) {
	const returns, keeps = false, true
	t.Run("more than it was seen: 3 % above that at once", func(t *testing.T) {
		wantDemand(t, learnt(1, 10*gib, returns, 30*gib), 10*gib, false, 30*gib*103/100, false)
	})
	t.Run("four such runs on a backend seen to keep lower a declared figure", func(t *testing.T) {
		wantDemand(t, learnt(enoughPeaks-1, 10*gib, keeps, 5*gib), 10*gib, false, 10*gib, false)
		wantDemand(t, learnt(enoughPeaks, 10*gib, keeps, 4*gib, 5*gib), 10*gib, false, 5*gib*103/100, false)
	})
	t.Run("a backend that returns its memory never lowers a declared figure", func(t *testing.T) {
		h := learnt(20, 10*gib, returns, 3*gib)
		wantDemand(t, h, 10*gib, false, 10*gib, false)
		if p := h.Learned()[0].Peak; p.Most != 3*gib || p.Runs != 20 {
			t.Errorf("it shows %+v, want what was seen beside", p)
		}
	})
	t.Run("a good trial in less room than declared", func(t *testing.T) {
		h := new(History)
		h.LearnRoom(then, then.Add(1), 34*gib, 26*gib, 0, true)
		wantDemand(t, h, 34*gib, false, 26*gib, false)
		h.peak(34*gib, 28*gib, 0, false)
		wantDemand(t, h, 34*gib, false, 28*gib*103/100, false)
	})
	t.Run("the room of a trial holds the weights too", func(t *testing.T) {
		h := new(History)
		h.LearnRoom(then, then.Add(1), 34*gib, 26*gib, 10*gib, true)
		wantDemand(t, h, 34*gib, false, 16*gib, false)
	})
	t.Run("nothing declared: unknown, then the largest seen and 25 %", func(t *testing.T) {
		h := new(History)
		wantDemand(t, h, gib, true, gib, true)
		h.peak(gib, 20*gib, 0, returns)
		h.peak(gib, 16*gib, 0, returns)
		wantDemand(t, h, gib, true, 25*gib, false)
	})
	t.Run("nothing declared: 3 % once it is seen to keep", func(t *testing.T) {
		h := learnt(1, gib, returns, 20*gib)
		h.peak(gib, 20*gib, 0, keeps)
		wantDemand(t, h, gib, true, 20*gib*103/100, false)
	})
	t.Run("of the last eight runs: a model that was exchanged is forgotten", func(t *testing.T) {
		h := learnt(3, 0, keeps, 40*gib)
		for range maxPeaks - 1 {
			h.peak(0, 5*gib, 0, keeps)
		}
		wantDemand(t, h, 0, true, 40*gib*103/100, false)
		h.peak(0, 5*gib, 0, keeps)
		wantDemand(t, h, 0, true, 5*gib*103/100, false)
		if p := h.Learned()[0].Peak; p.Most != 5*gib || p.Runs != 3+maxPeaks {
			t.Errorf("it shows %+v", p)
		}
	})
	t.Run("when weights move each demand moves the other way", func(t *testing.T) {
		h := learnt(enoughPeaks, 0, keeps, 34*gib)
		h.peak(0, 12*gib, 22*gib, keeps)
		wantDemand(t, h, 0, true, 12*gib*103/100, false)
	})
	t.Run("each demand for itself", func(t *testing.T) {
		wantDemand(t, learnt(20, 10*gib, keeps, 30*gib), 11*gib, true, 11*gib, true)
	})
}

func TestARunThatEndsForWantOfMemory(t *testing.T) {
	t.Run("raises the figure to what its answer says that it needs", func(t *testing.T) {
		h := new(History)
		h.full(10*gib, 10*gib, 40*gib, 0, 20*gib) // in use and tried
		wantDemand(t, h, 10*gib, false, 20*gib*102/100, false)
	})
	t.Run("which holds the weights too", func(t *testing.T) {
		h := new(History)
		h.full(10*gib, 10*gib, 40*gib, 8*gib, 20*gib)
		wantDemand(t, h, 10*gib, false, 12*gib+20*gib*2/100, false)
	})
	t.Run("without a word to a quarter more than was seen", func(t *testing.T) {
		h := learnt(1, 10*gib, false, 12*gib)
		h.full(10*gib, 13*gib, 8*gib, 0, 0)
		wantDemand(t, h, 10*gib, false, 15*gib, false)
	})
	t.Run("never to less than is declared", func(t *testing.T) {
		h := new(History)
		h.full(10*gib, 10*gib, 8*gib, 0, 0)
		wantDemand(t, h, 10*gib, false, 10*gib, false)
	})
	t.Run("or to the room that it had", func(t *testing.T) {
		h := new(History)
		h.full(10*gib, 10*gib, 30*gib, 0, 0)
		if booked, _ := h.Demand(10*gib, false); booked < 30*gib || booked > 31*gib {
			t.Errorf("%v is booked, want what was too little and no more than a little above", booked)
		}
	})
	t.Run("makes a demand that nobody declared known", func(t *testing.T) {
		h := new(History)
		h.full(0, 10*gib, 10*gib, 0, 20*gib)
		wantDemand(t, h, 0, true, 20*gib*102/100, false)
	})
	t.Run("unless it had no more room than the weights of its backend take", func(t *testing.T) {
		h := new(History)
		if again, _ := h.full(0, 0, 7*gib, 20*gib, 0); again != 0 {
			t.Errorf("a second try is to ask for %v, want nothing of its own", again)
		}
		wantDemand(t, h, 0, true, 0, true)
	})
	t.Run("falls again after three good runs, then six, then twelve", func(t *testing.T) {
		h := new(History)
		for raise := range 3 {
			h.full(10*gib, 10*gib, 12*gib, 0, 0)
			// In so much room that none of them makes the next failure odd.
			h.good(goodRuns<<raise-1, 10*gib, 40*gib)
			wantDemand(t, h, 10*gib, false, 12*gib*102/100, false)
			h.good(1, 10*gib, 40*gib)
			wantDemand(t, h, 10*gib, false, 10*gib, false)
		}
	})
	t.Run("and not after runs that had begun before it was raised", func(t *testing.T) {
		var h History
		h.full(10*gib, 10*gib, 12*gib, 0, 20*gib)
		for range goodRuns {
			h.LearnRoom(then.Add(time.Minute), then.Add(-time.Second), 10*gib, 40*gib, 0, false)
		}
		wantDemand(t, &h, 10*gib, false, 20*gib+20*gib/50, false)
		h.good(goodRuns, 10*gib, 40*gib)
		wantDemand(t, &h, 10*gib, false, 10*gib, false)
	})
	t.Run("falls again after a good trial", func(t *testing.T) {
		h := new(History)
		h.full(10*gib, 10*gib, 8*gib, 0, 0)
		h.LearnRoom(then, then.Add(1), 10*gib, 11*gib, 0, true)
		wantDemand(t, h, 10*gib, false, 10*gib, false)
	})
	t.Run("an odd request raises nothing", func(t *testing.T) {
		h := new(History)
		h.good(3, 10*gib, 12*gib)
		h.full(10*gib, 10*gib, 12*gib, 0, 40*gib)
		wantDemand(t, h, 10*gib, false, 10*gib, false)
		if p := h.Learned()[0].Peak; p.OutOfMemory != 1 {
			t.Errorf("it shows %+v, want the failure to be counted", p)
		}
	})
	t.Run("is not odd where others had more room", func(t *testing.T) {
		h := new(History)
		h.good(3, 10*gib, 30*gib)
		h.full(10*gib, 10*gib, 12*gib, 0, 0)
		wantDemand(t, h, 10*gib, false, 12*gib*102/100, false)
	})
	t.Run("of one client does not make the route dear for more than some dozen runs", func(t *testing.T) {
		h := new(History)
		for range 5 {
			h.full(10*gib, 10*gib, 8*gib, 0, 0)
		}
		if p := h.Learned()[0].Peak; p.OutOfMemory != 5 {
			t.Errorf("it shows %+v", p)
		}
		h.good(48, 10*gib, 40*gib)
		wantDemand(t, h, 10*gib, false, 10*gib, false)
	})
}

func TestAFigureIsMeasured(t *testing.T) {
	for _, x := range []struct{ keeps, exact, want bool }{{true, true, true}, {true, false, false}, {false, true, false}} {
		h := new(History)
		for n := range enoughPeaks {
			if h.Measured(gib) {
				t.Errorf("%+v: it is measured after %d runs", x, n)
			}
			h.LearnPeak(then, gib, memory.Measurement{Seen: gib, Keeps: x.keeps, Exact: x.exact, Grew: true})
		}
		if h.Measured(gib) != x.want {
			t.Errorf("%+v: it is measured: %v", x, !x.want)
		}
		if h.full(gib, gib, gib, 0, 2*gib); h.Measured(gib) {
			t.Errorf("%+v: it is measured although a run ran out of memory since", x)
		}
	}
}

// What is known of trials stays with the demand, and is one for each of them.
func TestTheCaseOfADemandStays(t *testing.T) {
	h := new(History)
	if a := h.Case(gib); a == nil || a != h.Case(gib) || a == h.Case(2*gib) {
		t.Error("a demand has not one case of its own")
	}
}

// What totals showed once may have been a neighbour's.
func TestWhatTotalsShowedOnceFades(t *testing.T) {
	const vram = gib
	t.Run("after sixteen good runs", func(t *testing.T) {
		h := learnt(1, vram, false, 20*gib)
		h.good(fades-1, vram, 40*gib)
		wantDemand(t, h, vram, false, 20*gib*103/100, false)
		h.good(1, vram, 40*gib)
		wantDemand(t, h, vram, false, vram, false)
	})
	t.Run("four times as late where another run confirms it", func(t *testing.T) {
		h := learnt(2, vram, false, 20*gib, 19*gib)
		h.good(fadesMore*fades-1, vram, 40*gib)
		wantDemand(t, h, vram, false, 20*gib*103/100, false)
		h.good(1, vram, 40*gib)
		wantDemand(t, h, vram, false, vram, false)
	})
	t.Run("or an answer of a full card", func(t *testing.T) {
		h := learnt(1, vram, false, 20*gib)
		h.full(vram, vram, 3*gib, 0, 0)
		h.good(fadesMore*fades-1, vram, 40*gib)
		wantDemand(t, h, vram, false, 20*gib*103/100, false)
		h.good(1, vram, 40*gib)
		wantDemand(t, h, vram, false, vram, false)
	})
	t.Run("not what the driver said of its processes", func(t *testing.T) {
		h := new(History)
		h.LearnPeak(then, vram, memory.Measurement{Seen: 20 * gib, Exact: true, Grew: true})
		h.good(200, vram, 40*gib)
		wantDemand(t, h, vram, false, 20*gib*103/100, false)
	})
	t.Run("where nothing is declared, the next run is measured", func(t *testing.T) {
		h := learnt(1, vram, false, 20*gib)
		h.Demand(vram, true)
		h.good(fades, vram, 40*gib)
		wantDemand(t, h, vram, true, 25*gib, true)
		h.peak(vram, 2*gib, 0, false)
		wantDemand(t, h, vram, true, 25*gib/10, false)
	})
}

// Three runs in a row that added nothing to what a backend keeps.
func TestRunsThatAddNothingLowerAFigure(t *testing.T) {
	const vram = 30 * gib
	flat := func(h *History, n int, held memory.Bytes) {
		for range n {
			h.LearnPeak(then, vram, memory.Measurement{Seen: held, Exact: true, Keeps: true})
		}
	}
	h := new(History)
	h.LearnPeak(then, vram, memory.Measurement{Seen: 4 * gib, Exact: true, Keeps: true, Grew: true})
	flat(h, enoughFlat-1, 6*gib)
	wantDemand(t, h, vram, false, vram, false)
	flat(h, 1, 6*gib)
	wantDemand(t, h, vram, false, 6*gib*103/100, false)
	// More is seen: that counts at once.
	h.LearnPeak(then, vram, memory.Measurement{Seen: 10 * gib, Exact: true, Keeps: true, Grew: true})
	wantDemand(t, h, vram, false, vram, false)
	flat(h, enoughFlat, 6*gib)
	wantDemand(t, h, vram, false, 10*gib*103/100, false)
	h.full(vram, 11*gib, 12*gib, 0, 0)
	wantDemand(t, h, vram, false, vram, false) // they say nothing any more
}

// A request that fails where others do well is odd, as long as fewer have failed
// since than did well.
func TestOddRequestsDoNotHideAModelThatWasExchanged(t *testing.T) {
	h := new(History)
	h.good(2, gib, 12*gib)
	for n, want := range []bool{true, true, false} {
		if again, isOdd := h.full(gib, gib, 12*gib, 0, 0); isOdd != want || again < 12*gib {
			t.Errorf("failure %d in a row is odd: %v, want %v; a second try has %v", n+1, isOdd, want, again)
		}
	}
	wantDemand(t, h, gib, false, 12*gib*102/100, false)
}

// Answers of requests that had started before a figure was raised do not raise it
// once more.
func TestWhatHadStartedBeforeARaiseDoesNotCount(t *testing.T) {
	h := new(History)
	for range 5 {
		h.full(gib, gib, 12*gib, 0, 0)
	}
	if f := h.Figure(gib, false); f.ComesDownAfter != goodRuns {
		t.Errorf("it comes down after %d runs, want %d", f.ComesDownAfter, goodRuns)
	}
	for n := range 5 {
		f := h.Figure(gib, false)
		if most := min(goodRuns<<n, mostGoodRuns); f.ComesDownAfter > most {
			t.Errorf("after %d raises it comes down after %d runs, want %d", n+1, f.ComesDownAfter, most)
		}
		h.full(gib, f.Booked, 12*gib, 0, 0)
	}
	h.good(mostGoodRuns, gib, 40*gib)
	wantDemand(t, h, gib, false, gib, false)
	h.good(mostGoodRuns, gib, 40*gib)
	h.full(gib, gib, 12*gib, 0, 0)
	if f := h.Figure(gib, false); f.ComesDownAfter != goodRuns {
		t.Errorf("a long time after them it comes down after %d runs, want %d", f.ComesDownAfter, goodRuns)
	}
}
