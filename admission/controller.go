package admission

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Controller is the scheduler in a live process: the Scheduler under one mutex, with
// one timer and a channel for each waiter. All methods may be called at once
// from any goroutine; none but Admit and Drain blocks.
type Controller struct {
	clock Clock
	wall  bool // clock is the wall clock
	epoch time.Time
	speed float64 // how many times faster its time runs

	mu    sync.Mutex
	rules *Scheduler    // guarded by mu
	timer Timer         // guarded by mu; nil: none was ever needed
	armed time.Duration // when the timer fires; guarded by mu
	empty chan struct{} // closed when a drain has nothing left; guarded by mu

	attend func(Order)   // guarded by mu; nil: orders are lost
	read   func(string)  // guarded by mu; nil: no reader is asked
	warn   func(Waiter)  // guarded by mu; nil: nothing is told
	seen   chan struct{} // closed at the next reading; guarded by mu; nil: no caller waits for it
}

// NewController opens a controller for the box that cfg describes. It refuses a
// configuration whose names do not resolve.
func NewController(cfg Config) (*Controller, error) {
	clock := cfg.Clock
	if clock == nil {
		clock = WallClock{}
	}
	epoch := clock.Now()
	rules, err := NewScheduler(cfg, epoch)
	if err != nil {
		return nil, err
	}
	speed := cfg.Speed
	if speed == 0 {
		speed = 1
	}
	_, wall := clock.(WallClock)
	return &Controller{clock: clock, wall: wall, epoch: epoch, speed: speed, rules: rules, armed: forever}, nil
}

// age is the time the scheduler knows. It is monotonic: a step of the wall
// clock moves no wait and no deadline.
func (c *Controller) age() time.Duration {
	if c.wall && c.speed == 1 {
		return time.Since(c.epoch) // half of what time.Now costs: it reads the monotonic clock alone
	}
	return c.since(c.clock.Now())
}

// since is the age at a moment of the clock.
func (c *Controller) since(t time.Time) time.Duration {
	if c.speed == 1 {
		return t.Sub(c.epoch)
	}
	return time.Duration(float64(t.Sub(c.epoch)) * c.speed)
}

// Grant is the right to run. It is given back by Release, once, when the work
// has ended.
type Grant struct {
	ticket     Ticket
	controller *Controller
}

// Admit asks for the right to run and blocks until it is given or refused, or
// ctx ends. Any error is a *Rejection. A nil error comes with a Grant that the
// caller must give back by Release when the work has ended.
func (c *Controller) Admit(ctx context.Context, r Request) (*Grant, error) {
	if ctx.Err() != nil {
		return nil, &Rejection{Code: CodeClientCancelled, Class: r.Class, Position: -1}
	}
	if !r.Deadline.IsZero() {
		r.Deadline = c.epoch.Add(c.since(r.Deadline))
	}
	g := &Grant{controller: c}
	g.ticket.history, g.ticket.learns = r.History, r.Learn
	if r.History != nil {
		if r.Case == nil {
			r.Case = r.History.Case(r.VRAM - r.Raised)
		}
		r.Estimate = r.History.Estimate(r.VRAM-r.Raised, r.Estimate)
		r.Beside = r.History.Beside(r.VRAM - r.Raised)
		if !r.Deadline.IsZero() {
			r.Fastest = r.History.Fastest(r.VRAM - r.Raised)
		}
	}
	t := &g.ticket
	c.mu.Lock()
	c.rules.submit(c.age(), t, &r)
	if t.state == stateWaiting {
		t.wait.ready, t.wait.origin = make(chan struct{}), r.Origin
	}
	c.settle()
	if t.state != stateWaiting {
		c.readStart(t)
		rejection := t.rejection
		c.mu.Unlock()
		if rejection != nil {
			return nil, rejection
		}
		return g, nil
	}
	c.mu.Unlock()

	if r.Holds != nil {
		r.Holds.Rest()
	}
	if c.clock.Wait(ctx, t.wait.ready) == nil {
		// state and rejection do not change any more but by our own Release or
		// an operator's, and closing ready orders their writes before this.
		if t.rejection != nil {
			return nil, t.rejection
		}
		if ctx.Err() == nil {
			return g, nil
		}
	}
	// The caller is gone. Whether it is still waiting is settled under the
	// lock: either it leaves the queue, or it was granted a moment before and
	// the grant goes straight back. It is never both and never neither.
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.age()
	if !c.rules.Leave(now, t, CodeClientCancelled) {
		c.rules.End(now, t, Result{Outcome: Unreached})
	}
	c.settle()
	if t.rejection != nil {
		return nil, t.rejection
	}
	return nil, &Rejection{ID: t.ID(), Code: CodeClientCancelled, Class: r.Class, Position: int(t.position), Waited: t.Waited()}
}

// settle wakes those whose turn came or went, and arms the timer. It is called
// under mu after everything that may have changed the books.
func (c *Controller) settle() {
	for _, t := range c.rules.Decided() {
		close(t.wait.ready)
		c.readStart(t)
	}
	for _, m := range c.rules.Measured() {
		m.Ticket.learnPeak(time.Now(), m.Measurement)
	}
	if orders := c.rules.Orders(); c.attend != nil {
		for _, o := range orders {
			if t, _ := c.rules.box.waiting(o.For); t != nil {
				o.Origin = t.origin()
			}
			c.attend(o)
		}
	}
	if stuck := c.rules.Stuck(); c.warn != nil {
		for _, w := range stuck {
			c.warn(w)
		}
	}
	if next, ok := c.rules.Next(); ok && next < c.armed {
		c.armed = next
		in := time.Duration(float64(next-c.age()) / c.speed)
		if c.timer == nil {
			c.timer = c.clock.AfterFunc(in, c.tick)
		} else {
			c.timer.Reset(in)
		}
	}
	if c.empty != nil && c.rules.Idle() {
		if c.timer != nil {
			c.timer.Stop()
		}
		close(c.empty)
		c.empty = nil
	}
}

func (c *Controller) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = forever
	c.rules.Tick(c.age())
	c.settle()
}

// change runs one event of the scheduler and what follows from it.
func (c *Controller) change(event func(now time.Duration) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	ok := event(c.age())
	c.settle()
	return ok
}

// Precheck says what is certain before a request's body has been read: that
// the controller is draining, or that the class's queue is full. Nil: ask Admit.
func (c *Controller) Precheck(class, backend string) *Rejection {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Precheck(c.age(), class, backend)
}

// Reconfigure swaps rules and limits. The queue, the ledger and running work
// stay; work of a class or backend that is gone finishes under its old rules,
// and what waits for one is refused with CodeBackendUnavailable. After an
// error nothing has changed.
func (c *Controller) Reconfigure(cfg Config) error {
	var err error
	c.change(func(now time.Duration) bool {
		err = c.rules.Reconfigure(now, cfg)
		return err == nil
	})
	return err
}

// SetAvailable says how much of a backend's replica may be used: -1 all its
// slots, 0 nothing (breaker open, unhealthy), n at most n at once (half-open
// probes). What is not configured is ignored.
func (c *Controller) SetAvailable(backend string, replica, slots int) {
	c.change(func(now time.Duration) bool { return c.rules.SetAvailable(now, backend, replica, slots) })
}

// SetBackendDraining stops or resumes new work for a backend. It reports
// whether the backend exists.
func (c *Controller) SetBackendDraining(backend string, draining bool) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetDraining(now, backend, draining) })
}

// SetResident says what a replica holds while idle; see Scheduler.SetResident.
func (c *Controller) SetResident(backend string, replica int, gpu string, n Bytes) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetResident(now, backend, replica, gpu, n) })
}

// Pause stops a class's grants; its queue stays and its timeouts go on. It
// reports whether the class exists.
func (c *Controller) Pause(class string) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetPaused(now, class, true) })
}

// Resume undoes Pause.
func (c *Controller) Resume(class string) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetPaused(now, class, false) })
}

// Observe takes a reading of a card.
func (c *Controller) Observe(r Reading) {
	c.change(func(now time.Duration) bool {
		if !r.At.IsZero() {
			r.At = c.epoch.Add(c.since(r.At))
		}
		c.rules.Observe(now, r)
		if c.seen != nil {
			close(c.seen)
			c.seen = nil
		}
		return true
	})
}

// Cancel takes a waiter out of the queue; its Admit returns
// CodeCancelledByOperator. It reports whether the waiter was there.
func (c *Controller) Cancel(id uint64) bool {
	return c.change(func(now time.Duration) bool {
		t, _ := c.rules.box.waiting(id)
		if t == nil || !c.rules.Leave(now, t, CodeCancelledByOperator) {
			return false
		}
		close(t.wait.ready)
		return true
	})
}

// ReleaseGrant gives a running grant back by hand, for work that an operator
// knows to be over; the holder's own Release then does nothing. It reports
// whether the grant was running.
func (c *Controller) ReleaseGrant(id uint64) bool {
	return c.change(func(now time.Duration) bool {
		for _, t := range c.rules.running {
			if t.ID() == id {
				return c.rules.End(now, t, Result{Outcome: Aborted})
			}
		}
		return false
	})
}

// Forget forgets all that a History has learned. What waits goes by what was
// declared from then on.
func (c *Controller) Forget(h *History) {
	c.change(func(now time.Duration) bool {
		h.Forget()
		for _, sh := range slices.Clone(c.rules.shapes.active) {
			if t := sh.Eldest(); t != nil && t.history == h {
				t.relearned(now, c.rules)
			}
		}
		return true
	})
}

// Snapshot describes the books at one moment.
func (c *Controller) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Snapshot(c.age())
}

// Queue describes the first limit waiting requests (0: all), in order of
// arrival.
func (c *Controller) Queue(limit int) []Waiter {
	c.mu.Lock()
	all, f := listWaiting(c.rules, c.age(), limit)
	c.mu.Unlock()
	return f.expect(firsts(all, limit))
}

// Heads describes the first limit waiting requests of each class (0: all), in order of
// arrival: a long queue of one class hides no other.
func (c *Controller) Heads(limit int) []Waiter {
	c.mu.Lock()
	all, f := listWaiting(c.rules, c.age(), limit)
	c.mu.Unlock()
	return f.expect(all)
}

// Running describes what runs.
func (c *Controller) Running() []Running {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Running(c.age())
}

// Explain describes one waiting request; false: no request of that id waits.
func (c *Controller) Explain(id uint64) (Waiter, bool) {
	c.mu.Lock()
	w, f := oneWaiting(c.rules, c.age(), id)
	c.mu.Unlock()
	return f.expect(w)[0], f != nil
}

// Drain refuses new requests from now on, serves what is queued if serve is
// set and refuses it otherwise, and returns when nothing is left or ctx ends.
// It may be called again, to refuse what an earlier call let wait.
func (c *Controller) Drain(ctx context.Context, serve bool) error {
	refusal := Rejection{Code: CodeDraining, Position: -1, Detail: "the proxy is shutting down"}
	if deadline, ok := ctx.Deadline(); ok {
		refusal.RetryAfter = deadline.Sub(c.clock.Now())
	}
	c.mu.Lock()
	c.rules.RefuseNew(c.age(), refusal, !serve)
	if c.empty == nil {
		c.empty = make(chan struct{})
	}
	empty := c.empty
	c.settle()
	c.mu.Unlock()
	return c.clock.Wait(ctx, empty)
}

// ID is unique in the process; it is the request's id in Queue, too.
func (g *Grant) ID() uint64 { return g.ticket.ID() }

// Replica is the place of the replica to use in its backend's list, as of the
// grant: a Reconfigure since then may have moved it.
func (g *Grant) Replica() int { return g.ticket.ran.granted.number }

// ReplicaName is the name of the replica to use.
func (g *Grant) ReplicaName() string { return g.ticket.ran.granted.name }

// Position is how many of its class were waiting before it on arrival.
func (g *Grant) Position() int { return int(g.ticket.position) }

// Waited is how long it stood in the queue.
func (g *Grant) Waited() time.Duration { return g.ticket.Waited() }

// Estimate is how long its work was expected to take, as of its arrival.
func (g *Grant) Estimate() time.Duration { return g.ticket.p50 }

// Reason is what it last waited for; empty where it did not wait.
func (g *Grant) Reason() Reason {
	if stay := g.Stay(); stay != nil {
		return stay.Last.Reason
	}
	return ReasonNone
}

// Booked is the demand that it was started with.
func (g *Grant) Booked() Bytes { return g.ticket.run.Asked() }

// Retry makes of a request like the one that was granted, after Release with
// OutOfMemory, the one for a second try: with the figure that the failure has
// raised, of its route or, where the request is odd, of itself alone.
func (g *Grant) Retry(r Request) Request {
	own := r.VRAM - r.Raised
	again := g.ticket.ran.again
	if r.Retry, r.Lacked, r.Odd = true, false, false; again == nil {
		return r
	}
	r.Lacked, r.Odd = again.lacked, again.isOdd
	r.VRAM = max(r.VRAM, again.figure)
	r.Raised, r.Unknown = r.VRAM-own, r.Unknown && again.figure == 0
	return r
}

// Stay is what it met in the queue; nil where it did not wait.
func (g *Grant) Stay() *Stay {
	if g.ticket.wait == nil {
		return nil
	}
	return g.ticket.wait.stay
}

// Release gives the grant back, at the end of the work and not before: memory
// and slots are free for others from here on. Later calls do nothing. Safe
// from any goroutine.
//
// The result says what the request's History learns from it.
func (g *Grant) Release(res Result) {
	c, t := g.controller, &g.ticket
	c.mu.Lock()
	now := c.age()
	ended := c.rules.End(now, t, res)
	if ended {
		c.readAfter(t, res)
		c.settle()
	}
	c.mu.Unlock()
	if ended && t.history != nil && res.Outcome != OutOfMemory {
		t.learn(time.Now(), now, res)
		c.change(func(now time.Duration) bool { t.relearned(now, c.rules); return true })
	}
}

// readStart asks for a reading of the GPUs of a run that has just started and whose
// demand is not known. It is called under mu.
func (c *Controller) readStart(t *Ticket) {
	if c.read != nil && t.state == stateRunning && t.run.Unknown {
		c.readOf(t)
	}
}

// readAfter asks for a reading of the GPUs on which a run has ended, if a request
// waits, or if it ran out of memory: a second try waits for one, and what filled the
// card may soon be gone. It is called under mu.
func (c *Controller) readAfter(t *Ticket, res Result) {
	if c.read != nil && (c.rules.queue.Len() > 0 || res.Outcome == OutOfMemory) {
		c.readOf(t)
	}
}

func (c *Controller) readOf(t *Ticket) {
	for _, a := range t.run.Accounts {
		l := c.rules.box.ledger
		c.read(l.Name(l.GPUOf(a)))
	}
}
