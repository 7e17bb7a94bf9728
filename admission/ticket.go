package admission

import "time"

// Ticket is a request's place in the scheduler, from Submit until it has ended
// or been refused. The caller allocates it, so that a grant costs nothing
// more; its zero value is ready for Submit. It must not be copied or reused.
type Ticket struct {
	id    uint64
	state ticketState
	// deadline says that it expires because of its deadline.
	deadline bool
	teaches  bool // what it took is worth learning from
	failed   bool // its end does not say that the weights are there
	unserved bool // it took no memory

	shape  *shape
	flow   *flow
	tenant *tenant
	size   Bytes
	boost  time.Duration // its class's and its own

	p50, p95 time.Duration
	arrived  time.Duration // as the desk's age, like every time in here
	expires  time.Duration // leaves the queue by itself; never: forever
	heap     int32         // index in the expiry heap
	position int32         // in its class, on arrival

	links [listKinds]link

	waited time.Duration // until the grant or the refusal
	stay   *Stay         // what it met in the queue; nil: it never queued
	steps  []Step        // of it, so far

	replica *replica // whose books it is in
	granted *replica // what replica was at the grant; Reconfigure leaves it alone
	started time.Duration
	order   uint64        // of starts, for hardening
	end     time.Duration // predicted
	share   float64       // the largest fraction of any one resource that it takes
	charge  float64       // what its tenant paid in advance

	rejection *Rejection
	ready     chan struct{} // the Controller's; closed when the state leaves waiting
	history   *History      // the Controller's; nil: nothing is learned
	own       Bytes         // the Controller's: the demand before learning raised it
}

// Step is a reason to wait, and when it began to be the one.
type Step struct {
	At     time.Duration // after the arrival
	Reason Reason
}

// maxSteps bounds what is remembered of one wait: the first.
const maxSteps = 16

// step notes what a head waits for, if that is something else than before.
func (t *Ticket) step(now time.Duration, why Reason) {
	if n := len(t.steps); n < maxSteps && (n == 0 || t.steps[n-1].Reason != why) {
		t.steps = append(t.steps, Step{now - t.arrived, why})
	}
}

type ticketState uint8

const (
	stateNew ticketState = iota
	stateWaiting
	stateRunning
	stateOver
)

// ID is unique within the scheduler and given in order of arrival.
func (t *Ticket) ID() uint64 { return t.id }

// Granted says that the ticket has the right to run, and on which replica.
func (t *Ticket) Granted() (replica int, ok bool) {
	if t.state != stateRunning {
		return 0, false
	}
	return t.replica.number, true
}

// Rejection is why the ticket was refused; nil where it was not.
func (t *Ticket) Rejection() *Rejection { return t.rejection }

// Waited is how long it stood in the queue.
func (t *Ticket) Waited() time.Duration { return t.waited }

// forever stands for no limit; far enough to add to without overflow.
const forever = time.Duration(1 << 61)

// A waiting ticket is in three lists at once, all in order of arrival.
const (
	inFlow = iota
	inLevel
	inClass
	listKinds
)

type link struct{ prev, next *Ticket }

// list is a doubly linked list through the tickets themselves: leaving from
// the middle is as cheap as from the front, and no list node is allocated.
type list struct {
	first, last *Ticket
	length      int
}

func (l *list) push(t *Ticket, kind int) {
	t.links[kind] = link{prev: l.last}
	if l.last == nil {
		l.first = t
	} else {
		l.last.links[kind].next = t
	}
	l.last = t
	l.length++
}

func (l *list) remove(t *Ticket, kind int) {
	k := t.links[kind]
	if k.prev == nil {
		l.first = k.next
	} else {
		k.prev.links[kind].next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		k.next.links[kind].prev = k.prev
	}
	t.links[kind] = link{}
	l.length--
}

// expiries is a binary heap of the waiting tickets that may expire, soonest
// first. Each knows its index, so leaving early is logarithmic too.
type expiries []*Ticket

func (h *expiries) push(t *Ticket) {
	t.heap = int32(len(*h))
	*h = append(*h, t)
	h.up(int(t.heap))
}

func (h *expiries) remove(t *Ticket) {
	old := *h
	last := len(old) - 1
	i := int(t.heap)
	old.swap(i, last)
	old[last] = nil
	*h = old[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h expiries) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = int32(i), int32(j)
}

// sooner breaks ties by arrival, so that the order of expiry is the same
// whatever the heap went through.
func (h expiries) sooner(i, j int) bool {
	if h[i].expires != h[j].expires {
		return h[i].expires < h[j].expires
	}
	return h[i].id < h[j].id
}

func (h expiries) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.sooner(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h expiries) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h.sooner(child+1, child) {
			child++
		}
		if !h.sooner(child, i) {
			return
		}
		h.swap(i, child)
		i = child
	}
}
