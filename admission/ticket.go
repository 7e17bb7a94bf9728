package admission

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/queue"
)

// Ticket is a request's place in the scheduler, from Submit until it has ended
// or been refused. The caller allocates it, so that a grant costs nothing
// more; its zero value is ready for Submit. It must not be copied or reused.
type Ticket struct {
	queue.Entry[Ticket] // as the queue knows it

	state ticketState
	// deadline says that it expires because of its deadline.
	deadline bool
	stuck    bool  // it has been told that nothing will make room by itself
	learns   bool  // the demand is not declared
	position int32 // in its class, on arrival

	run memory.Run

	shape    *shape
	p50, p95 time.Duration

	wait *waiting // nil: it never queued

	replica *replica      // on which it runs
	order   uint64        // of starts, for strict heads
	end     time.Duration // predicted
	ran     ran           // beside what it runs

	rejection *Rejection
	history   *History // the Controller's; nil: nothing is learned
}

// waiting is what a ticket needs in the queue and no other does.
type waiting struct {
	queue.Place[Ticket]
	met      bool          // it was still there after its Submit
	stay     *Stay         // what it met; nil: it has been behind others since its arrival
	expected time.Duration // Stay.Expected

	ready  chan struct{} // the Controller's: closed when the state leaves waiting
	origin *Origin       // the Request's
}

// origin is what a waiting ticket's caller knows it by; nil: nothing.
func (t *Ticket) origin() *Origin {
	if t.wait == nil {
		return nil
	}
	return t.wait.origin
}

// stayed is what a ticket that waits has met in the queue.
func (t *Ticket) stayed() *Stay {
	w := t.wait
	if w.stay == nil {
		w.stay = &Stay{First: behind.blocked(), Last: behind.blocked(), Expected: w.expected}
	}
	return w.stay
}

// Step is a reason to wait, and when it began to be the one.
type Step struct {
	At     time.Duration // after the arrival
	Reason Reason
	// Resource names what blocks it, as in Waiter. Backend is the one that is being
	// unloaded for it; empty: none.
	Resource, Backend string
}

// maxSteps bounds what is remembered of one wait: the first.
const maxSteps = 16

// step notes what a head waits for. It gives the note, or nil where that is the same
// as before.
func (t *Ticket) step(now time.Duration, k block) *Step {
	stay := t.stayed()
	n := len(stay.Steps)
	if n >= maxSteps || n > 0 && stay.Steps[n-1].Reason == k.reason {
		return nil
	}
	stay.Steps = append(stay.Steps, Step{At: now - t.Arrived(), Reason: k.reason, Resource: k.resource})
	return &stay.Steps[n]
}

type ticketState uint8

const (
	stateNew ticketState = iota
	stateWaiting
	stateRunning
	stateOver
)

// Granted says that the ticket has the right to run, and on which replica.
func (t *Ticket) Granted() (replica int, ok bool) {
	if t.state != stateRunning {
		return 0, false
	}
	return t.replica.number, true
}

// Company is beside the work of which classes a ticket that has ended ran for most of
// its time; none: it was alone. known is false where neither can be said.
func (t *Ticket) Company() (classes []string, known bool) {
	if t.ran.beside == 0 {
		return nil, false
	}
	for i, c := range t.shape.class.box.classes {
		if t.ran.beside&^alone>>i&1 == 1 {
			classes = append(classes, c.cfg.Name)
		}
	}
	return classes, true
}

// move gives a ticket the shape that takes the place of its own, and the replica that
// takes the place of the one on which it runs; nil: it runs on none.
func (t *Ticket) move(sh *shape, to *replica) { t.shape, t.replica = sh, to }

// Waiting says that the ticket is in the queue.
func (t *Ticket) Waiting() bool { return t.state == stateWaiting }

// own is the demand before learning changed it.
func (t *Ticket) own() Bytes { return t.shape.key.own }

// Rejection is why the ticket was refused; nil where it was not.
func (t *Ticket) Rejection() *Rejection { return t.rejection }

// Waited is how long it stood in the queue.
func (t *Ticket) Waited() time.Duration {
	switch {
	case t.rejection != nil:
		return t.rejection.Waited
	case t.ran.granted != nil:
		return t.run.Started - t.Arrived()
	}
	return 0
}

// forever stands for no limit; far enough to add to without overflow.
const forever = queue.Forever
