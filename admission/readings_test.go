package admission

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A trace of a real shared card has a sample each 57 s; 29 % of them are
// more than 1 GiB from the one before, 2.1 % more than 10 GiB, up to 36 GiB.
// Some fall to nothing, some say more than the card has.
const (
	traceEvery   = 57 * time.Second
	traceSamples = 1516 // a day
	traceMoves   = traceSamples * 290 / 1000
	traceJumps   = traceSamples * 21 / 1000
	traceHighest = 46 * GiB
	traceLargest = 36 * GiB
)

// traceOf makes a trace like that one: what others hold.
func traceOf(seed uint64) []Bytes {
	draw := rand.New(rand.NewPCG(seed, 57))
	between := func(low, high Bytes) Bytes { return low + Bytes(draw.Int64N(int64(high-low+1))) }
	kinds := make([]byte, traceSamples)
	for i := range traceMoves {
		kinds[i] = 'm'
	}
	for i := range traceJumps {
		kinds[i] = 'j'
	}
	draw.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	level, largest := Bytes(0), false
	trace := []Bytes{level}
	for _, kind := range kinds {
		var step Bytes
		furthest := min(traceLargest, max(level, traceHighest-level))
		switch kind {
		case 'j':
			step = between(10*GiB+1, furthest)
			if !largest && level <= 10*GiB {
				step, largest = traceLargest, true
			} else if level > 10*GiB && level <= traceLargest && draw.IntN(2) == 0 {
				step = level // to nothing
			}
		case 'm':
			step = between(GiB+1, 10*GiB)
		default:
			step = between(0, GiB)
		}
		down := level-step >= 0
		if up := level+step <= traceHighest; down && up && step != level {
			down = draw.IntN(100) < 65
		}
		if down {
			step = -step
		}
		level += step
		trace = append(trace, level)
	}
	return trace
}

func TestTheTraceIsLikeTheOneOnRecord(t *testing.T) {
	for seed := range uint64(20) {
		var moves, jumps, nothing int
		var largest Bytes
		trace := traceOf(seed)
		for i, level := range trace[1:] {
			step := max(level-trace[i], trace[i]-level)
			if step > GiB {
				moves++
			}
			if step > 10*GiB {
				jumps++
				if level == 0 {
					nothing++
				}
			}
			largest = max(largest, step)
			if level < 0 || level > traceHighest {
				t.Fatalf("seed %d: sample %d is %v", seed, i, level)
			}
		}
		if moves != traceMoves || jumps != traceJumps || largest != traceLargest || nothing == 0 {
			t.Errorf("seed %d: %d moves, %d jumps, the largest %v, %d to nothing", seed, moves, jumps, largest, nothing)
		}
	}
}

// shared plays work of ours on a card that others use, and checks each
// decision against what the readings said. Its books are its own.
type shared struct {
	t    *testing.T
	draw *rand.Rand
	s    *Scheduler
	now  time.Duration

	others  Bytes
	waiting map[*Ticket]load
	running map[*Ticket]load
	gone    []load // ended, and their memory not free yet

	capacity Bytes   // the last good reading's total
	excess   []Bytes // of each good reading: what was used and not ours
	hold     []Bytes // of each good reading: what others did hold, as far as it let that be seen
	outside  Bytes
	fellAt   int // how many good readings there were when outside last fell

	arrivals                [2]time.Duration // of the next heavy and the next light one
	granted                 [2]int
	heldUp                  int // readings at which work waited for others alone
	falls, absurd, readings int
}

// load is a request's work: how much it takes, how long it runs, how long after
// its start its memory shows on the card and after its end still does.
type load struct {
	heavy             int // 1: it is
	vram              Bytes
	takes, load, free time.Duration
	end               time.Duration
	shows, gone       time.Duration
}

const (
	sharedTotal, sharedReserve = 48 * GiB, GiB
	// agreeing is how many readings in a row must say that others hold less.
	agreeing = 3
)

func newShared(t *testing.T, seed uint64) *shared {
	cfg := benchConfig(1, 8)
	for i := range cfg.Classes {
		cfg.Classes[i].QueueTimeout = 0 // for ever: any refusal is one too many
	}
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	w := &shared{t: t, draw: rand.New(rand.NewPCG(seed, 1)), s: s, waiting: map[*Ticket]load{}, running: map[*Ticket]load{}, capacity: sharedTotal}
	w.observe(Reading{Total: sharedTotal})
	return w
}

func (w *shared) upTo(d time.Duration) time.Duration { return time.Duration(w.draw.Int64N(int64(d))) }

func (w *shared) ours() (sum Bytes) {
	for _, j := range w.running {
		sum += j.vram
	}
	return sum
}

// submit asks for a heavy or a light one.
func (w *shared) submit(heavy int) {
	r := benchLight
	j := load{heavy: heavy, takes: time.Second + w.upTo(time.Second), load: w.upTo(time.Second), free: w.upTo(time.Second)}
	if heavy == 1 {
		r = benchHeavy
		j.takes, j.load, j.free = 15*time.Second+w.upTo(10*time.Second), w.upTo(10*time.Second), w.upTo(5*time.Second)
	}
	j.vram = r.VRAM
	t := new(Ticket)
	w.waiting[t] = j
	w.s.Submit(w.now, t, r)
	if _, ok := t.Granted(); ok {
		w.starts(t)
	} else if t.Rejection() != nil {
		w.t.Fatalf("%v: refused: %v", w.now, t.Rejection())
	}
	w.decided()
}

func (w *shared) decided() {
	for _, t := range w.s.Decided() {
		if t.Rejection() != nil {
			w.t.Fatalf("%v: refused: %v", w.now, t.Rejection())
		}
		w.starts(t)
	}
}

func (w *shared) starts(t *Ticket) {
	j := w.waiting[t]
	delete(w.waiting, t)
	j.shows, j.end = w.now+j.load, w.now+j.takes
	w.running[t] = j
	w.granted[j.heavy]++
	for _, excess := range w.excess[max(0, len(w.excess)-agreeing):] {
		if sum := w.ours() + excess; sum > w.capacity-sharedReserve {
			w.t.Fatalf("%v: over-admitted: with this start ours have %v, and of the last readings one had %v of others: the card has %v",
				w.now, w.ours(), excess, w.capacity)
		}
	}
}

// play runs until a moment, with requests arriving if load is set.
func (w *shared) play(until time.Duration, load bool) {
	for {
		next, what := until, func() {}
		if load {
			for heavy, every := range []time.Duration{4 * time.Second, 80 * time.Second} {
				if at := w.arrivals[heavy]; at < next {
					next, what = at, func() {
						w.arrivals[heavy] = w.now + w.upTo(every) + 1
						w.submit(heavy)
					}
				}
			}
		}
		var first *Ticket
		for t, j := range w.running {
			if j.end < next || first != nil && j.end == next && t.ID() < first.ID() {
				first, next = t, j.end
			}
		}
		if first != nil {
			what = func() {
				j := w.running[first]
				delete(w.running, first)
				j.gone = w.now + j.free
				w.gone = append(w.gone, j)
				w.s.End(w.now, first)
				w.decided()
			}
		}
		if due, ok := w.s.Next(); ok && due < next {
			next, what = max(w.now, due), func() {
				w.s.Tick(w.now)
				w.decided()
			}
		}
		w.now = max(w.now, next)
		what()
		if next == until {
			return
		}
	}
}

// used is what the card shows.
func (w *shared) used() Bytes {
	used := w.others
	for _, j := range w.running {
		if j.shows <= w.now {
			used += j.vram
		}
	}
	left := w.gone[:0]
	for _, j := range w.gone {
		if j.gone > w.now {
			used += j.vram
			left = append(left, j)
		}
	}
	w.gone = left
	return min(used, sharedTotal)
}

func (w *shared) state() GPUState { return w.s.Snapshot(w.now).GPUs[0] }

// observe passes a reading on and checks what became of it.
func (w *shared) observe(r Reading) {
	r.GPU, r.At = "gpu0", time.Unix(0, 0).Add(w.now)
	before := w.state()
	if before.Booked != w.ours() {
		w.t.Fatalf("%v: %v booked, ours have %v", w.now, before.Booked, w.ours())
	}
	if before.Outside != w.outside {
		w.t.Fatalf("%v: what others hold went from %v to %v without a reading", w.now, w.outside, before.Outside)
	}
	good := r.Err == nil && r.Total > 0 && r.Used <= r.Total
	excess := max(0, r.Used-before.Booked)
	if good {
		w.capacity = r.Total
		w.excess = append(w.excess, excess)
		w.hold = append(w.hold, min(w.others, r.Used))
	} else {
		w.absurd++
	}
	w.readings++
	w.s.Observe(w.now, r)
	w.outside = w.state().Outside
	w.decided()
	switch {
	case !good && w.outside != before.Outside:
		w.t.Fatalf("%v: %+v changed what others hold from %v to %v", w.now, r, before.Outside, w.outside)
	case good && w.outside < excess:
		w.t.Fatalf("%v: others are taken to hold %v, the reading says %v", w.now, w.outside, excess)
	case w.outside < before.Outside:
		w.falls++
		if n := len(w.excess) - w.fellAt; n < agreeing {
			w.t.Fatalf("%v: it fell from %v to %v, %d readings after the last fall, want %d or more", w.now, before.Outside, w.outside, n, agreeing)
		}
		w.fellAt = len(w.excess)
		// Work of ours that still loads must not pass for others' leaving.
		for _, hold := range w.hold[len(w.hold)-agreeing:] {
			if w.outside < hold {
				w.t.Fatalf("%v: it fell from %v to %v, but others hold %v", w.now, before.Outside, w.outside, hold)
			}
		}
	}
	if len(w.running) == 0 && len(w.waiting) > 0 {
		w.heldUp++
	}
}

// read takes a reading, one in fifty of them absurd.
func (w *shared) read() {
	r := Reading{Total: sharedTotal, Used: w.used()}
	switch w.draw.IntN(200) {
	case 0:
		r.Used = r.Total + Bytes(1+w.draw.Int64N(int64(36*GiB)))
	case 1:
		r.Total, r.Used = 0, 0
	case 2:
		r.Used = 0
	case 3:
		r = Reading{Err: errors.New("the driver does not answer")}
	}
	w.observe(r)
}

func TestRealReadingsNeverMakeItOverAdmitOrOscillate(t *testing.T) {
	for name, c := range map[string]struct {
		every time.Duration // readings
		lasts time.Duration
		held  int // readings at which work waits for others alone, at least
	}{
		"as far apart as the samples": {traceEvery, traceSamples * traceEvery, 50},
		"at the sensor's pace":        {500 * time.Millisecond, 90 * time.Minute, 50},
	} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%s/%d", name, seed), func(t *testing.T) {
				trace := traceOf(seed)
				w := newShared(t, seed)
				for w.now < c.lasts {
					w.others = trace[int(w.now/traceEvery)]
					w.play(w.now+c.every, true)
					w.read()
				}
				// When the others have gone, what waits runs, and all of it ends.
				w.others = 0
				for range 100_000 {
					if len(w.waiting)+len(w.running) == 0 {
						break
					}
					w.play(w.now+c.every, false)
					w.observe(Reading{Total: sharedTotal, Used: w.used()})
				}
				t.Logf("%d readings, %d absurd; what others hold fell %d times; %d heavy and %d light granted; held up at %d readings",
					w.readings, w.absurd, w.falls, w.granted[1], w.granted[0], w.heldUp)
				if !w.s.Idle() {
					t.Errorf("%d wait and %d run long after the others have gone", len(w.waiting), len(w.running))
				}
				if w.falls < 5 || w.granted[1] < 50 || w.heldUp < c.held || w.absurd < 5 {
					t.Error("that proves little")
				}
			})
		}
	}
}

func TestReadingsThatFlapHoldBackWhatNeedsTheRoomAndNothingElse(t *testing.T) {
	w := newShared(t, 1)
	for i := range 2000 {
		w.others = Bytes((i+1)%2) * 36 * GiB // here one moment, gone the next
		w.observe(Reading{Total: sharedTotal, Used: w.used()})
		if i%3 == 0 {
			w.observe(Reading{Err: errors.New("the driver does not answer")})
		}
		if w.outside < 36*GiB {
			t.Fatalf("%v: what others hold fell to %v, want 36 GiB that stay", w.now, w.outside)
		}
		w.play(w.now+500*time.Millisecond, true)
	}
	if w.granted[1] != 0 || len(w.waiting) == 0 {
		t.Errorf("%d heavy were granted and %d wait, want them to wait", w.granted[1], len(w.waiting))
	}
	if w.granted[0] < 400 {
		t.Errorf("%d light ones were granted, want them to go on", w.granted[0])
	}
}
