package replay

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// epoch is when virtual time begins. It is fixed, as all that follows must be
// the same each time.
var epoch = time.Unix(0, 0)

// Admission plays a trace against the admission rules. Its error is Mistakes where
// the trace asks for what the box does not have.
func Admission(box *Box, trace *Trace) (*Log, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	d, err := newController(p)
	if err != nil {
		return nil, err
	}
	return &d.log, d.play()
}

// OneTenant plays a trace against the same rules with fairness off: all
// requests are one tenant's.
func OneTenant(box *Box, trace *Trace) (*Log, error) {
	unfair := *box
	unfair.Fair = false
	return Admission(&unfair, trace)
}

// controller is one run of the rules.
type controller struct {
	*plan
	rules   *admission.Scheduler
	log     Log
	coming  agenda
	shared  *shared   // nil: work slows nothing down
	card    *readCard // nil: nothing is read
	waiting map[*admission.Ticket]int32
	now     time.Duration
	ticks   int                  // in a row without a step of time
	refused *admission.Rejection // the last; nil: none was
	// atRest is called after each event; nil: nothing.
	atRest func() error
}

func newController(p *plan) (*controller, error) {
	rules, err := admission.NewScheduler(p.box.Admission, epoch)
	if err != nil {
		return nil, err
	}
	d := &controller{plan: p, rules: rules, card: newReadCard(p.box), waiting: map[*admission.Ticket]int32{}}
	if p.box.Slower != nil {
		d.shared = &shared{plan: p}
	}
	d.log.Events = make([]Event, 0, 2*len(p.trace.Rows))
	return d, nil
}

// play goes from event to event until nothing is left.
func (d *controller) play() error {
	for next := 0; ; {
		at, what, run := d.upcoming(next)
		if what == nothing {
			return d.finish()
		}
		if what != tick || at > d.now {
			d.ticks = 0
		}
		d.now = max(d.now, at)
		switch what {
		case ending:
			if run != nil {
				d.happen(d.shared.end(d.now, run))
			} else {
				d.happen(d.coming.pop())
			}
		case tick:
			if d.ticks++; d.ticks > 1000 {
				return fmt.Errorf("replay: the rules want to be asked again and again at %v", d.now)
			}
			d.rules.Tick(d.now)
		case arrival:
			d.arrive(int32(next))
			next++
		case reading:
			d.read()
		}
		if what == ending || what == arrival {
			d.card.stir(d.now)
		}
		d.decided()
		if what == ending && len(d.waiting) > 0 {
			d.card.ask(d.now)
		}
		d.ordered()
		if d.atRest != nil {
			if err := d.atRest(); err != nil {
				return err
			}
		}
	}
}

// event is what happens next.
type event uint8

const (
	nothing event = iota // all is over
	ending               // work ends, or a client leaves
	tick                 // the rules want to be asked
	reading              // the cards are read
	arrival
)

// upcoming is the first event, where row next of the trace is the next to arrive. Of
// those at one moment it is, in this order: 1. the end of work or a client's leaving,
// 2. the clock, 3. a reading, 4. an arrival. The run is the one that ends, where work
// slows down other work.
func (d *controller) upcoming(next int) (at time.Duration, what event, run *sharedRun) {
	at = never
	// 1
	if len(d.coming) > 0 {
		at, what = d.coming[0].at, ending
	}
	if d.shared != nil {
		if r, end := d.shared.next(); r != nil && end <= at {
			at, what, run = end, ending, r
		}
	}
	// 2
	if due, ok := d.rules.Next(); ok && due < at {
		at, what, run = due, tick, nil
	}
	// 4, which a reading at the same time precedes
	if next < len(d.trace.Rows) && d.trace.Rows[next].At < at {
		at, what, run = d.trace.Rows[next].At, arrival, nil
	}
	// 3
	if due := d.card.next(at, d.rules.Idle()); due < at || due == at && what == arrival {
		at, what, run = due, reading, nil
	}
	return at, what, run
}

// read takes a reading of each card.
func (d *controller) read() {
	for _, r := range d.card.readings(d.now) {
		d.rules.Observe(d.now, r)
	}
	d.rules.Measured() // demands are the trace's: they are not learned
}

func (d *controller) arrive(request int32) {
	row := &d.trace.Rows[request]
	t := new(admission.Ticket)
	d.rules.Submit(d.now, t, d.request(row, epoch))
	if r := t.Rejection(); r != nil {
		d.refused = r
		d.log.refuse(d.now, request, r.Code)
	} else if replica, ok := t.Granted(); ok {
		d.start(t, request, replica)
	} else {
		d.waiting[t] = request
		if row.Leave > 0 {
			d.coming.push(appointment{at: row.At + row.Leave, request: request, ticket: t, leave: true})
		}
	}
}

func (d *controller) start(t *admission.Ticket, request int32, replica int) {
	row := &d.trace.Rows[request]
	d.log.start(d.now, request, replica)
	if d.card != nil {
		d.card.start(d.route(row).class, d.route(row).backend, replica, d.vram(row))
	}
	if d.shared != nil {
		d.shared.add(d.now, appointment{request: request, replica: replica, ticket: t, started: d.now}, row, replica)
		return
	}
	end, fate := d.run(row, d.now)
	d.coming.push(appointment{at: end, request: request, replica: replica, ticket: t, fate: fate, started: d.now})
}

// happen is the end of work, or a client's leaving.
func (d *controller) happen(a appointment) {
	if a.order.ID != 0 {
		d.moved(a.order)
		return
	}
	if !a.leave {
		d.log.end(d.now, a.request, a.fate)
		row := &d.trace.Rows[a.request]
		learns := d.box.Learn && a.fate == Completed
		if learns {
			d.route(row).history.Learn(d.vram(row), d.now-a.started)
		}
		if d.card != nil {
			d.card.end(d.route(row).class, d.route(row).backend, a.replica, d.vram(row))
		}
		d.rules.End(d.now, a.ticket, admission.Result{})
		if classes, known := a.ticket.Company(); learns && known {
			d.route(row).history.LearnBeside(d.vram(row), d.now-a.started, classes)
		}
	} else if d.rules.Leave(d.now, a.ticket, admission.CodeClientCancelled) {
		delete(d.waiting, a.ticket)
		d.log.left(d.now, a.request)
	}
}

// ordered carries out what the rules order. Each unload succeeds after a while,
// and a wake takes as long as its size takes to load.
func (d *controller) ordered() {
	for _, o := range d.rules.Orders() {
		took := admission.UnloadTime
		if o.Kind == admission.Wake {
			took = time.Duration(float64(o.Bytes) / float64(admission.LoadRate) * float64(time.Second))
			d.moves(Loaded, o)
		}
		d.coming.push(appointment{at: d.now + took, request: int32(o.ID), order: o})
	}
}

// moved is the end of an order.
func (d *controller) moved(o admission.Order) {
	if o.Kind == admission.Wake {
		d.rules.Loaded(d.now, o.ID, admission.Ended{})
		return
	}
	d.moves(Freed, o)
	d.rules.Unloaded(d.now, o.ID, admission.Ended{MustWake: d.box.Wakes[o.Backend]})
}

// moves says that a replica frees its memory or takes it again.
func (d *controller) moves(what What, o admission.Order) {
	d.log.moved(d.now, what, d.backend(o), o.Replica)
	if d.card != nil {
		d.card.move(what, d.backend(o), o.Replica)
	}
}

func (d *controller) backend(o admission.Order) int {
	return slices.IndexFunc(d.box.Admission.Backends, func(b admission.Backend) bool { return b.Name == o.Backend })
}

// decided takes note of what the last event brought the others.
func (d *controller) decided() {
	for _, t := range d.rules.Decided() {
		request := d.waiting[t]
		delete(d.waiting, t)
		if r := t.Rejection(); r != nil {
			d.refused = r
			d.log.refuse(d.now, request, r.Code)
		} else if replica, ok := t.Granted(); ok {
			d.start(t, request, replica)
		}
	}
}

// finish writes down what still waits when nothing will happen any more.
func (d *controller) finish() error {
	if len(d.waiting) == 0 {
		return nil
	}
	still := make([]bool, len(d.trace.Rows))
	for _, request := range d.waiting {
		still[request] = true
	}
	for request, waits := range still {
		if waits {
			d.log.refuse(d.now, int32(request), codeNeverStarted)
		}
	}
	return nil
}

// appointment is something that will happen to a request, or the end of an order.
type appointment struct {
	at      time.Duration
	request int32
	leave   bool // its client leaves, if it still waits; else its work ends
	fate    Fate
	started time.Duration
	replica int // that it runs on
	ticket  *admission.Ticket
	order   admission.Order // its ID is 0: there is none
}

// agenda is a binary heap of appointments: the soonest first, work that ends
// before clients that leave and those before orders, then in order of arrival.
type agenda []appointment

func (h agenda) before(i, j int) bool {
	a, b := &h[i], &h[j]
	if a.at != b.at {
		return a.at < b.at
	}
	if a.leave != b.leave {
		return b.leave
	}
	if ordered := b.order.ID != 0; ordered != (a.order.ID != 0) {
		return ordered
	}
	return a.request < b.request
}

func (h *agenda) push(a appointment) {
	*h = append(*h, a)
	s := *h
	for i := len(s) - 1; i > 0; {
		parent := (i - 1) / 2
		if !s.before(i, parent) {
			break
		}
		s[i], s[parent] = s[parent], s[i]
		i = parent
	}
}

func (h *agenda) pop() appointment {
	s := *h
	first, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = appointment{}
	s = s[:last]
	*h = s
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return first
		}
		if child+1 < last && s.before(child+1, child) {
			child++
		}
		if !s.before(child, i) {
			return first
		}
		s[i], s[child] = s[child], s[i]
		i = child
	}
}
