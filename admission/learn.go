package admission

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission/history"
	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// What a run teaches. The Ledger measures, and the Histories learn: here is told
// which run teaches what.
//
//  1. A good run tells how long it took, beside what, and in how much room it did.
//  2. A run that was measured tells how much it took.
//  3. An out-of-memory answer raises the figure, or, where the request is odd,
//     that of its own second try. A second try that fails tells no more, unless its
//     answer says that it needs more than its route is booked with by now.
//  4. Whatever was learned counts at once for what waits, and what an out-of-memory
//     answer has told before another request starts.

// learn tells a ticket's History how its run ended. Where it has run out of memory
// it says what a second try is to ask for; nil: nothing of its own.
func (t *Ticket) learn(at time.Time, now time.Duration, res Result) (again *secondTry) {
	h := t.history
	least, most, weights := t.run.Room()
	switch res.Outcome {
	case Done: // 1
		h.Learn(t.own(), now-t.run.Started)
		if classes, known := t.Company(); known {
			h.LearnBeside(t.own(), now-t.run.Started, classes)
		}
		h.LearnRoom(at, t.own(), most, weights, t.run.Kind == memory.Trial)
	case OutOfMemory: // 3
		if t.shape.key.retry && (t.shape.key.odd > 0 || t.needed(res) <= weights+h.Figure(t.own(), t.learns).Booked) {
			break
		}
		again = &secondTry{lacked: res.ledger().Lacked(weights + t.run.Asked() + t.beside())}
		again.figure, again.isOdd = h.Exhausted(at, t.own(),
			history.Failure{Booked: t.run.Asked(), Room: res.room(least, t.beside()), Weights: weights, Said: t.needed(res)})
	}
	return again
}

// secondTry is what a request that ran out of memory is to ask for. One that is odd
// says nothing of its route. One that lacked memory lacked what others held.
type secondTry struct {
	figure Bytes
	isOdd  bool
	lacked bool
}

// needed is what the out-of-memory answer of a ticket's run says that it needs, weights
// included; zero: it does not say.
func (t *Ticket) needed(res Result) Bytes {
	room, _, weights := t.run.Room()
	return res.needed(room, weights, t.run.Asked(), t.beside())
}

// beside is the demand of the runs of its backend beside which a ticket's run has ended.
func (t *Ticket) beside() Bytes {
	if c := t.run.Case; c != nil {
		return c.Beside
	}
	return 0
}

// needed is what a run of the demand asked needs, which could have had that room,
// weights included. What its process has in use, the runs beside it have taken too:
// each is taken to have its share of what is not weights, in proportion to its demand.
func (r Result) needed(room, weights, asked, beside Bytes) Bytes {
	switch {
	case r.Tried <= 0:
		return 0
	case r.InUse > 0:
		taken := r.InUse + r.Tried - weights
		if beside <= 0 || taken <= 0 {
			return r.InUse + r.Tried
		}
		share := float64(max(1, asked)) / float64(max(1, asked)+beside)
		return weights + max(r.Tried, Bytes(float64(taken)*share))
	case r.Free > 0 && r.Free < room:
		return room - r.Free + r.Tried
	}
	return 0
}

// room is the memory that a run could have at the least, weights included, of which no more
// than that was expected: by its answer no more than its process had, and what was free, less
// the demand of the runs beside it. Others may have taken more since it started.
func (r Result) room(least, beside Bytes) Bytes {
	if r.InUse > 0 && r.Free > 0 {
		return max(0, min(least, r.InUse+r.Free-beside))
	}
	return least
}

// learnPeak tells a ticket's History what its run took.
func (t *Ticket) learnPeak(at time.Time, m memory.Measurement) { // 2
	if t.history != nil {
		t.history.LearnPeak(at, t.own(), m)
	}
}

// relearned gives what waits beside a ticket the figure that is known now. A second try
// keeps one that is larger.
func (t *Ticket) relearned(now time.Duration, s *Scheduler) { // 4
	vram, unknown := t.history.Demand(t.own(), t.learns)
	s.SetDemand(now, t, vram, unknown, t.history.Measured(t.own()))
}
