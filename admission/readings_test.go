package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/internal/race"
)

// pair is two backends on a card that is read: flux with weights of 4 GiB, and vqa
// with a slot of its class less than it is asked for.
func pair() Config {
	return Config{GPUs: []GPU{readCard("g0")}, Classes: []Class{classOf("heavy", 1), classOf("light", 4)},
		Backends: []Backend{engineOf("flux", 4*GiB, true), engineOf("vqa", 0, true)}}
}

// The profile reaches as far as the estimates, not only as far as a reading is
// good for.
func TestAReservationReachesFurtherThanAReading(t *testing.T) {
	b := newRig(t, pair())
	b.reads(0)
	b.submit("heavy", "flux", 20*GiB)
	next := b.submit("heavy", "flux", 20*GiB)
	b.runs(next, false)
	w, _ := b.s.Explain(b.now, next.ID())
	if got := w.EstimatedStart.Sub(time.Unix(0, 0)); got != 10*time.Second {
		t.Errorf("it is expected to start after %v, want 10 s", got)
	}
	b.runs(b.submit("light", "vqa", 10*GiB), true)
}

// Without readings there is no rest: rules 5 to 7 of trial.go are off.
func TestACardThatIsNotReadNeverRests(t *testing.T) {
	cfg := pair()
	cfg.GPUs[0].Reads = false
	b := newRig(t, cfg)
	b.submit("light", "flux", 30*GiB)
	head := b.submit("heavy", "flux", 20*GiB)
	b.at(11)
	b.reason(head, ReasonResources)
	b.runs(b.submit("light", "vqa", GiB), true)
}

// Without readings an unknown demand runs alone: a card that cannot be read is not
// a standstill.
func TestAnUnknownDemandRunsAloneWhereTheCardIsNotRead(t *testing.T) {
	cfg := pair()
	cfg.GPUs[0].Reads = false
	b := newRig(t, cfg)
	first := b.ask(Request{Class: "heavy", Backend: "flux", Unknown: true})
	b.at(60)
	b.runs(first, true)
}

// What is asked of a backend whose last replica a reload has taken out, and that
// works still, goes to the new one.
func TestARequestAfterAReloadGoesToTheNewReplica(t *testing.T) {
	b := newRig(t, replicated("a@g0"))
	first := b.submit("heavy", "flux", 10*GiB)
	b.runs(first, true)
	b.reconfigure(replicated("b@g1"))
	b.runs(b.submit("heavy", "flux", 10*GiB), true)
}

// What bars a class or a backend says nothing of memory.
func TestWhatIsPausedHoldsNoMemoryInItsReason(t *testing.T) {
	b := newRig(t, pair())
	b.reads(0)
	b.submit("light", "vqa", GiB)
	b.s.SetPaused(b.now, "heavy", true)
	w, _ := b.s.Explain(b.now, b.submit("heavy", "flux", GiB).ID())
	if w.Reason != ReasonPaused || len(w.Holders) > 0 || len(w.Keepers) > 0 {
		t.Errorf("it is %+v, want no holder", w)
	}
}

// A reading that fails on a card without a sensor closes it for 30 s at most.
func TestACardThatCannotBeReadAnyMoreOpensByTheClock(t *testing.T) {
	for _, reads := range []bool{true, false} {
		cfg := pair()
		cfg.GPUs[0].Reads = reads
		b := newRig(t, cfg)
		b.reads(0)
		b.at(6)
		b.s.Observe(b.now, Reading{GPU: "g0", Err: errors.New("the driver does not answer")})
		x := b.submit("heavy", "flux", 10*GiB)
		b.runs(x, false)
		b.reason(x, ReasonCapacityReduced)
		b.at(29)
		if due, ok := b.s.Next(); ok {
			b.until(due)
		}
		if _, runs := x.Granted(); !runs || b.now != memory.UnknownAfter {
			t.Errorf("reads %v: it runs at %v: %v, want at 30 s", reads, b.now, runs)
		}
	}
}

func TestNothingStartsBeforeTheFirstReading(t *testing.T) {
	b := newRig(t, pair())
	x := b.submit("heavy", "flux", 10*GiB)
	b.runs(x, false)
	b.reason(x, ReasonCapacityReduced)
	b.at(1)
	b.reads(0)
	b.runs(x, true)

	b = newRig(t, pair()) // it never comes
	x = b.submit("heavy", "flux", 10*GiB)
	b.at(1.9)
	b.runs(x, false)
	b.at(2)
	b.runs(x, true)
}

func TestReadingsThatStopHoldWhatAddsMemory(t *testing.T) {
	for _, hold := range []bool{false, true} {
		cfg := pair()
		cfg.GPUs[0].Hold = hold
		b := newRig(t, cfg)
		b.reads(0)
		b.at(6)
		x := b.submit("heavy", "flux", 10*GiB)
		b.runs(x, false)
		b.reason(x, ReasonCapacityReduced)
		b.at(31)
		b.runs(x, !hold)
	}
}

// A card that is lost takes no work, whatever its ledger says.
func TestALostCardTakesNoWork(t *testing.T) {
	b := newRig(t, pair())
	b.reads(0)
	b.s.Observe(b.now, Reading{GPU: "g0", Lost: true, Err: errors.New("GPU is lost")})
	x := b.submit("heavy", "flux", 10*GiB)
	b.runs(x, false)
	b.at(60)
	b.runs(x, false)
	if !b.gpu().Lost {
		t.Errorf("the card is %+v, want it lost", b.gpu())
	}
	b.reads(0)
	b.runs(x, true)
}

func TestWhatProcessesHoldIsTheirs(t *testing.T) {
	b := newRig(t, swapBox())
	see := func(of map[string]Bytes) {
		sum := Bytes(0)
		for _, n := range of {
			sum += n
		}
		b.seesProcesses(sum, of)
	}
	see(map[string]Bytes{"flux": GiB, "captions": GiB, "llm": 30 * GiB, "train.py": 10 * GiB})
	if g := b.gpu(); g.Booked != 32*GiB || g.Unmanaged != 10*GiB || g.Unattributed > 100*MiB {
		t.Fatalf("booked %v, unmanaged %v, unattributed %v; want 32 and 10 GiB and next to nothing", g.Booked, g.Unmanaged, g.Unattributed)
	}
	chat := b.submit("chat", "llm", 0)
	b.runs(chat, true)
	b.end(chat)
	b.after(1)
	// It is killed behind our back, and the next reading shows it.
	see(map[string]Bytes{"flux": GiB, "captions": GiB, "train.py": 10 * GiB})
	if g := b.gpu(); g.Booked != 2*GiB || g.Unmanaged != 10*GiB {
		t.Fatalf("booked %v, unmanaged %v; want 2 and 10 GiB", g.Booked, g.Unmanaged)
	}
}

// Where the driver names the processes that are in the way, the wait is theirs:
// there is no trial for it.
func TestARequestWaitsForProcessesThatAreNotOurs(t *testing.T) {
	b := newRig(t, pair())
	b.seesProcesses(34*GiB, map[string]Bytes{"flux": 4 * GiB, "vqa": 0, "train.py": 30 * GiB})
	x := b.submit("heavy", "flux", 20*GiB)
	for range 120 {
		b.after(.5)
		b.seesProcesses(34*GiB, map[string]Bytes{"flux": 4 * GiB, "vqa": 0, "train.py": 30 * GiB})
	}
	b.runs(x, false)
	b.reason(x, ReasonUnmanagedMemory)
	b.after(.5)
	b.seesProcesses(4*GiB, map[string]Bytes{"flux": 4 * GiB, "vqa": 0})
	b.runs(x, true)
}

// Work of unknown demand runs alone, at rest, and is measured.
func TestAnUnknownDemandRunsAloneAndIsMeasured(t *testing.T) {
	b := newRig(t, pair())
	for range 3 {
		b.after(.5)
		b.reads(0)
	}
	x := b.ask(Request{Class: "heavy", Backend: "flux", Unknown: true})
	b.runs(x, true)
	other := b.submit("light", "vqa", GiB)
	b.runs(other, false)
	b.reason(other, ReasonLoneRun)
	b.readsFor(3, 14*GiB)
	b.end(x)
	b.runs(other, false) // until a reading a second after its end
	b.readsFor(1.5, 4*GiB)
	b.runs(other, true)
	if m := b.s.Measured(); len(m) != 1 || m[0].Ticket != x || m[0].Seen != 10*GiB {
		t.Errorf("measured %+v, want 10 GiB", m)
	}
}

// Two on one account cannot be told apart, and neither is measured.
func TestRunsOfOneAccountAreNotMeasuredBesideEachOther(t *testing.T) {
	b := newRig(t, pair())
	b.seesProcesses(0, map[string]Bytes{"vqa": 0, "flux": 0})
	one, other := b.submit("light", "vqa", 10*GiB), b.submit("light", "vqa", 10*GiB)
	for range 4 {
		b.after(.5)
		b.seesProcesses(20*GiB, map[string]Bytes{"vqa": 20 * GiB, "flux": 0})
	}
	b.end(one)
	b.end(other)
	for range 4 {
		b.after(.5)
		b.seesProcesses(0, map[string]Bytes{"vqa": 0, "flux": 0})
	}
	if m := b.s.Measured(); len(m) > 0 {
		t.Errorf("measured %+v, want nothing", m)
	}
}

// By process figures a run is measured whatever runs beside it.
func TestARunIsMeasuredByItsProcesses(t *testing.T) {
	b := newRig(t, pair())
	see := func(flux, vqa Bytes) {
		b.after(.5)
		b.seesProcesses(flux+vqa, map[string]Bytes{"flux": flux, "vqa": vqa})
	}
	see(4*GiB, 0)
	one, other := b.submit("heavy", "flux", 10*GiB), b.submit("light", "vqa", 10*GiB)
	see(9*GiB, 4*GiB)
	see(12*GiB, 8*GiB)
	see(12*GiB, 9*GiB)
	b.end(one)
	b.end(other)
	see(4*GiB, 0)
	var seen []string
	for _, m := range b.s.Measured() {
		seen = append(seen, fmt.Sprint(m.Ticket.shape.backend.cfg.Name, " ", m.Seen))
	}
	if slices.Sort(seen); !slices.Equal(seen, []string{"flux 8GiB", "vqa 9GiB"}) {
		t.Errorf("measured %v, want flux 8 GiB and vqa 9 GiB", seen)
	}
}

// A trace of a real shared card has a sample each 57 s; 29 % of them are more than
// 1 GiB from the one before, 2.1 % more than 10 GiB, up to 36 GiB. Some fall to
// nothing, some say more than the card has.
const (
	traceEvery   = 57 * time.Second
	traceSamples = 1516 // a day
	traceHighest = 46 * GiB
)

// traceOf makes a trace like that one: what others hold.
func traceOf(seed uint64) []Bytes {
	draw := rand.New(rand.NewPCG(seed, 57))
	level := Bytes(0)
	trace := []Bytes{level}
	for range traceSamples {
		low, high := Bytes(0), GiB
		switch n := draw.IntN(1000); {
		case n < 21:
			low, high = 10*GiB, 36*GiB
		case n < 290:
			low, high = GiB, 10*GiB
		}
		by := low + Bytes(draw.Int64N(int64(high-low)))
		if down := draw.IntN(100) < 55; down {
			by = -by
		}
		level = min(traceHighest, max(0, level+by))
		trace = append(trace, level)
	}
	return trace
}

// Others use the card as on record, and one reading in fifty is absurd. Each start
// that has to fit does, by what the last good reading showed of the neighbours, and
// when they have gone all that waits runs.
func TestANeighbourAsOnRecordIsNeverOverlooked(t *testing.T) {
	for seed := range uint64(race.Some(4)) {
		cfg := benchConfig(1, 8)
		cfg.GPUs[0].Name, cfg.GPUs[0].Reads = "g0", true
		for i := range cfg.Classes {
			cfg.Classes[i].QueueTimeout = 0
		}
		for i := range cfg.Backends {
			cfg.Backends[i].Replicas[0].Places[0].GPU = "g0"
		}
		c := newCard(t, cfg, map[string]*engine{"flux": {takes: 34 * GiB, runs: 15 * time.Second, lazy: true},
			"vqa": {takes: 512 * MiB, runs: 1500 * time.Millisecond, lazy: true}})
		c.figures = seed%2 == 1
		draw := rand.New(rand.NewPCG(seed, 1))
		trace := traceOf(seed)
		c.read()
		held, absurd := 0, 0
		next := [2]time.Duration{}
		for c.now < 90*time.Minute {
			// What comes while ours run may not fit beside them, and is not looked at.
			before := c.others
			c.others = 0
			if c.others = min(trace[int(c.now/traceEvery)], c.size-c.used()); c.others > before {
				c.read() // what comes after the last reading is not the fault of a start
			}
			c.play(step, nil)
			if next[0] <= c.now {
				next[0] = c.now + time.Duration(draw.IntN(4000))*time.Millisecond
				c.want("light", "vqa", 512*MiB)
			}
			if next[1] <= c.now && len(c.waits) < 50 {
				next[1] = c.now + time.Duration(draw.IntN(80000))*time.Millisecond
				c.want("heavy", "flux", 34*GiB)
			}
			if draw.IntN(250) == 0 {
				absurd++
				c.s.Observe(c.now, []Reading{{GPU: "g0", Total: c.size, Used: c.size + GiB}, {GPU: "g0"},
					{GPU: "g0", Err: errors.New("no answer")}}[draw.IntN(3)])
				c.settle()
			}
			if len(c.waits) > 0 && c.engines["flux"].busy == 0 {
				held++
			}
		}
		c.others = 0
		for range 4000 {
			if len(c.waits) == 0 {
				break
			}
			c.play(time.Second, nil)
		}
		if len(c.waits) > 0 {
			t.Errorf("seed %d: %d wait still, long after the neighbours have gone", seed, len(c.waits))
		}
		// With totals alone some are trials of memory that may have been its own.
		if failed := c.failed["flux"] + c.failed["vqa"]; failed > c.lone || c.figures && failed > 0 {
			t.Errorf("seed %d: %d out of memory, and %d ran alone", seed, failed, c.lone)
		}
		if c.served["flux"] < 30 || held < 50 || absurd < 50 {
			t.Errorf("seed %d: %d images, %d steps at which some waited for neighbours, %d absurd readings: that proves little", seed,
				c.served["flux"], held, absurd)
		}
		t.Logf("seed %d: %v served, %v out of memory, %d alone, %d held, %d absurd", seed, c.served, c.failed, c.lone, held, absurd)
	}
}
