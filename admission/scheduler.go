package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/queue"
)

// Scheduler is the rules as plain data. It is not safe for concurrent use.
//
// Every time it is given is an age: how long ago the epoch was. Ages must not go
// backwards. A call that changes a ticket's state other than the one it was
// given appends that ticket to Decided.
type Scheduler struct {
	epoch   time.Time
	box     *box
	policy  Tenants
	queue   queue.Queue[Ticket]
	shapes  shapes
	running runs
	starts  uint64 // how many were granted; orders them

	profile profile
	strict  strict
	rests   rests
	turns   turns
	recheck time.Duration // when the passing of time may change what a pass decides

	refuseAll *Rejection // set while draining
	news      news
}

// NewScheduler makes the rules for a machine. The epoch is when its age is zero.
func NewScheduler(cfg Config, epoch time.Time) (*Scheduler, error) {
	return newScheduler(cfg, epoch, 0)
}

func newScheduler(cfg Config, epoch time.Time, now time.Duration) (*Scheduler, error) {
	b, err := newBox(cfg, now)
	if err != nil {
		return nil, err
	}
	s := &Scheduler{epoch: epoch, box: b, policy: cfg.Tenants, shapes: shapes{all: map[shapeKey]*shape{}}, recheck: forever}
	s.queue.Reset(cfg.Tenants.Weights)
	return s, nil
}

// Decided are the tickets that a call has granted or refused beside the one it
// was given, in the order in which that happened. Each is told once; the slice
// is valid until the next call.
func (s *Scheduler) Decided() []*Ticket {
	return s.news.takeDecided()
}

// Stuck are the requests that have begun to wait for what nothing of ours will
// do: ReasonNotByItself. Each is told once; the slice is valid until the next
// call.
func (s *Scheduler) Stuck() []Waiter {
	return s.news.takeStuck()
}

// Submit asks for the right to run. Afterwards the ticket is granted, refused
// or waiting.
func (s *Scheduler) Submit(now time.Duration, t *Ticket, r Request) { s.submit(now, t, &r) }

// submit is Submit of a request that is not copied; it is only read.
func (s *Scheduler) submit(now time.Duration, t *Ticket, r *Request) {
	s.queue.Arrive(now, &t.Entry, t)
	sh := s.shapes.find(r)
	var c *class
	var b *backend
	if sh != nil {
		c, b = sh.class, sh.backend
	} else {
		c, b = s.box.byClass[r.Class], s.box.byBackend[r.Backend]
	}
	if c == nil || b == nil {
		t.refuse(&Rejection{Code: CodeBackendUnavailable, Class: r.Class, Position: -1,
			Detail: fmt.Sprintf("class %q or backend %q is not configured", r.Class, r.Backend)})
		return
	}
	t.position = int32(c.waiting.Len())
	t.Boost = c.cfg.Boost + r.Boost
	t.p50, t.p95 = max(1, r.Estimate.P50), max(1, r.Estimate.P50, r.Estimate.P95)
	t.ran.table = r.Beside
	expires, late := forever, (*Rejection)(nil)
	if c.cfg.QueueTimeout > 0 {
		expires = now + c.cfg.QueueTimeout
	}
	if !r.Deadline.IsZero() {
		// From here on it could not be met, whatever is free.
		if last := r.Deadline.Sub(s.epoch) - r.Fastest; last < expires {
			expires, t.deadline = max(last, now-1), true
			late = s.running.unmeetable(now, last, &s.box.live, c, b, r)
		}
	}
	if rejection := s.atTheDoor(c, b, r, late); rejection != nil {
		c.refused++
		t.refuse(rejection)
		return
	}
	if sh == nil {
		sh = s.shapes.of(c, b, r)
	}
	sh.setDemand(s.box, r.VRAM, r.Unknown)
	t.shape = sh
	t.Tenant = s.queue.Tenant(r.Tenant)
	// With an empty queue there is no tenant to be fair to, and no profile to work
	// out.
	if _, barred := sh.barred(); s.queue.Len() == 0 && !barred {
		if to := s.pick(sh, now, nil); to != nil {
			s.start(now, t, to)
			return
		}
	}
	if full := s.queueFull(now, t, c, r.Size); full != nil {
		c.refused++
		t.refuse(full)
		return
	}
	t.wait = &waiting{Place: queue.Place[Ticket]{Expires: expires, Size: int64(r.Size)}}
	s.enqueue(t)
	// If it is not the eldest the head of its shape is blocked, and a longer
	// queue behind it frees nothing.
	if sh.Eldest() == t {
		s.pass(now)
		s.news.leaveOut(t)
	}
	if t.state == stateWaiting {
		here := s.blockOf(t)
		t.wait.met, t.wait.expected = true, s.estimateStart(now, sh, sh.Len()-1, t.p50)-now
		if t.wait.stay != nil || here.reason != ReasonBehind {
			stay := t.stayed()
			stay.First, stay.Last, stay.Expected = here.blocked(), here.blocked(), t.wait.expected
		}
	}
}

// atTheDoor refuses what need not ask for memory at all. late is the refusal of one whose
// deadline cannot be met; nil: it can.
func (s *Scheduler) atTheDoor(c *class, b *backend, q *Request, late *Rejection) *Rejection {
	if s.refuseAll != nil {
		r := *s.refuseAll
		r.Class = c.cfg.Name
		return &r
	}
	if late != nil {
		return late
	}
	if detail, never := s.box.neverFits(b, q.VRAM-q.Raised); never {
		return &Rejection{Code: CodeNeverFits, Class: c.cfg.Name, Position: -1, Detail: detail}
	}
	return nil
}

// queueFull refuses what would have to wait where there is no place to wait.
func (s *Scheduler) queueFull(now time.Duration, t *Ticket, c *class, size Bytes) *Rejection {
	var detail string
	switch {
	case c.waiting.Len() >= c.cfg.QueueLimit:
		detail = fmt.Sprintf("%d requests of class %s are waiting, which is its limit", c.waiting.Len(), c.cfg.Name)
	case s.policy.QueueLimit > 0 && t.Tenant.Name() != "" && t.Tenant.Waiting() >= s.policy.QueueLimit:
		return &Rejection{Code: CodeTenantQuota, Class: c.cfg.Name, Position: -1, RetryAfter: s.estimateWait(now, t.shape, t.p50),
			Detail: fmt.Sprintf("%d requests of tenant %q are waiting, which is the limit for each", t.Tenant.Waiting(), t.Tenant.Name())}
	case c.cfg.QueueBytes > 0 && Bytes(c.waiting.Size())+size > c.cfg.QueueBytes:
		detail = fmt.Sprintf("the bodies of class %s's queue may take %v together, and %v are taken", c.cfg.Name, c.cfg.QueueBytes, Bytes(c.waiting.Size()))
	default:
		return nil
	}
	return &Rejection{Code: CodeQueueFull, Class: c.cfg.Name, Position: -1, Detail: detail,
		RetryAfter: s.estimateWait(now, t.shape, t.p50)}
}

func (t *Ticket) refuse(r *Rejection) {
	r.ID = t.ID()
	t.state = stateOver
	t.rejection = r
}

// enqueue puts a ticket into its shape's queue.
func (s *Scheduler) enqueue(t *Ticket) {
	t.state = stateWaiting
	if t.deadline {
		t.shape.class.dated++
	}
	s.queue.Push(&t.Entry, &t.wait.Place, &t.shape.Shape)
	s.shapes.joined(t.shape)
}

// leave takes a ticket out of every queue and says whether what is left may
// now be ordered differently.
func (s *Scheduler) leave(t *Ticket) (matters bool) {
	sh := t.shape
	matters = sh.head == t || sh.Eldest() == t
	if t.deadline {
		sh.class.dated--
	}
	s.queue.Remove(&t.wait.Place)
	s.shapes.left(sh, t)
	s.strict.left(t)
	return matters
}

// start grants a ticket that is in no queue.
func (s *Scheduler) start(now time.Duration, t *Ticket, r *replica) {
	t.state = stateRunning
	t.replica, t.ran.granted = r, r
	s.starts++
	t.order = s.starts
	s.box.residency.Started(now, r.home)
	t.run.Owner = t
	t.run.Accounts, t.run.Demand, t.run.Unknown, t.run.Case = r.accounts, s.box.runDemand(t.shape, r), t.shape.unknown, t.shape.known
	if t.run.Kind != memory.Fitting {
		t.run.Unknown = t.run.Unknown || slices.ContainsFunc(r.accounts, s.box.ledger.WeightsUnknown)
	}
	s.box.ledger.Start(now, &t.run)
	s.box.live.count(t.shape, r, 1)
	t.shape.class.granted++
	s.queue.Charge(&t.Entry, s.box.share(t), t.p50)
	moved := s.box.company.count(s.box, now, t, 1)
	s.box.company.begin(s.box, now, t)
	s.running.insert(t, now+t.ran.pace)
	if moved {
		s.running.repace(s.box, now)
	}
}

// SetDemand takes what has become known of the demand of a ticket's route and
// size: the tickets that wait for it have it from now on. measured says that it
// rests on process figures of a backend that is seen to keep its memory.
func (s *Scheduler) SetDemand(now time.Duration, t *Ticket, vram Bytes, unknown, measured bool) {
	changed := t.shape.relearned(s.box, vram, unknown, measured)
	for _, sh := range s.shapes.active {
		if sh != t.shape && sh.known == t.shape.known && sh.key.own == t.shape.key.own && (!sh.key.retry || vram > sh.vram) {
			changed = sh.relearned(s.box, vram, unknown, measured) || changed
		}
	}
	if changed {
		s.pass(now)
	}
}

// End gives a grant back. It reports whether the ticket held one. What an out-of-memory
// answer says counts before another request starts.
func (s *Scheduler) End(now time.Duration, t *Ticket, res Result) bool {
	if t.state != stateRunning {
		return false
	}
	t.state = stateOver
	s.running.remove(t)
	s.box.live.count(t.shape, t.replica, -1)
	s.box.company.end(s.box, now, t)
	if s.box.company.count(s.box, now, t, -1) {
		s.running.repace(s.box, now)
	}
	s.box.residency.Ended(now, t.replica.home)
	s.box.ledger.End(now, &t.run, res.ledger())
	s.queue.Correct(&t.Entry, now-t.run.Started)
	if res.Outcome == OutOfMemory && t.history != nil {
		t.ran.again = t.learn(s.epoch.Add(now), now, res)
		t.relearned(now, s)
	}
	s.pass(now)
	return true
}

// Leave takes a waiting ticket out: its client went away, or an operator
// cancelled it. It reports whether the ticket was waiting.
func (s *Scheduler) Leave(now time.Duration, t *Ticket, code Code) bool {
	if t.state != stateWaiting {
		return false
	}
	if s.evict(now, t, &Rejection{Code: code}, int(t.position)) {
		s.pass(now) // the others move up
	}
	return true
}

// evict takes a waiting ticket out with a refusal; the caller passes if it
// reports that the order may have changed.
func (s *Scheduler) evict(now time.Duration, t *Ticket, r *Rejection, position int) (matters bool) {
	r.Class, r.Position = t.shape.class.cfg.Name, position
	last := s.blockOf(t)
	if r.Reason == ReasonNone {
		r.Reason = last.reason
	}
	if t.wait.met || t.wait.stay != nil {
		r.Stay = t.stayed()
		r.Stay.Last = last.blocked()
	}
	matters = s.leave(t)
	r.Waited = now - t.Arrived()
	t.shape.class.refused++
	t.refuse(r)
	return matters
}

// Tick does what is due by now: expiries, and starts that a prediction barred
// which has since run out. Call it no later than Next says.
func (s *Scheduler) Tick(now time.Duration) { s.pass(now) }

func (s *Scheduler) expire(now time.Duration) {
	for t := s.queue.Expired(now); t != nil; t = s.queue.Expired(now) {
		expired(s, now, t)
	}
}

// expired takes out a ticket that has waited for too long.
func expired(s *Scheduler, now time.Duration, t *Ticket) {
	r := &Rejection{Code: CodeQueueTimeout, Detail: s.blockOf(t).String(), RetryAfter: s.estimateWait(now, t.shape, t.p50)}
	if t.deadline {
		r.Code = CodeDeadlineUnmeetable
	}
	s.evict(now, t, r, t.positionInClass())
	s.news.decide(t)
}

// Next is when Tick must be called if nothing else happens before; false:
// never.
func (s *Scheduler) Next() (time.Duration, bool) {
	next := min(s.recheck, s.queue.NextExpiry())
	return next, next < forever
}

// Observe takes a reading of a card.
func (s *Scheduler) Observe(now time.Duration, r Reading) {
	begun := now
	if !r.At.IsZero() {
		begun = min(now, r.At.Sub(s.epoch))
	}
	if s.box.ledger.Observe(now, begun, r) {
		s.pass(now)
	}
}

// SetAvailable says how much of a backend's replica may be used: -1 all its
// slots, 0 nothing, n at most n at once. It reports whether there is one.
func (s *Scheduler) SetAvailable(now time.Duration, name string, replica, slots int) bool {
	r := s.box.find(name, replica)
	return s.change(now, r != nil, func() { r.limit(slots) })
}

// SetThere says whether the process of a replica is there: that its port refuses,
// or that it answers again. One that is not there holds no memory and its
// runs have failed. It reports whether there is such a replica.
func (s *Scheduler) SetThere(now time.Duration, name string, replica int, there bool) bool {
	r := s.box.find(name, replica)
	return s.change(now, r != nil, func() {
		for _, a := range r.accounts {
			if there {
				if s.box.ledger.Back(now, a) {
					r.home.Retry()
				}
			} else {
				s.box.ledger.Gone(now, a)
			}
		}
	})
}

// SetDraining stops or resumes new work for a backend.
func (s *Scheduler) SetDraining(now time.Duration, name string, draining bool) bool {
	b := s.box.byBackend[name]
	return s.change(now, b != nil, func() { b.draining = draining })
}

// SetPaused stops or resumes a class's grants; its queue stays.
func (s *Scheduler) SetPaused(now time.Duration, name string, paused bool) bool {
	c := s.box.byClass[name]
	return s.change(now, c != nil, func() { c.paused = paused })
}

func (s *Scheduler) change(now time.Duration, exists bool, do func()) bool {
	if exists {
		do()
		s.pass(now)
	}
	return exists
}

// RefuseNew refuses every new request from now on with the given refusal, and
// with queued what waits as well.
func (s *Scheduler) RefuseNew(now time.Duration, r Rejection, queued bool) {
	s.refuseAll = &r
	if !queued {
		return
	}
	for _, c := range s.box.classes {
		position := 0
		for t := range c.waiting.All() {
			refusal := r
			s.evict(now, t, &refusal, position)
			s.news.decide(t)
			position++
		}
	}
}

// Idle says that nothing waits and nothing runs.
func (s *Scheduler) Idle() bool { return s.queue.Len() == 0 && len(s.running) == 0 }

// Precheck says what is certain of a new arrival before its demand is known;
// nil: nothing.
func (s *Scheduler) Precheck(now time.Duration, className, backendName string) *Rejection {
	c, b := s.box.byClass[className], s.box.byBackend[backendName]
	if c == nil || b == nil {
		return nil
	}
	if s.refuseAll != nil {
		r := *s.refuseAll
		r.Class = className
		return &r
	}
	if c.waiting.Len() < c.cfg.QueueLimit || c.waiting.Len() == 0 {
		return nil
	}
	last := c.waiting.Last()
	return &Rejection{Code: CodeQueueFull, Class: className, Position: -1,
		Detail:     fmt.Sprintf("%d requests of class %s are waiting, which is its limit", c.waiting.Len(), className),
		RetryAfter: s.estimateWait(now, last.shape, last.p50)}
}

// Orders are what is to be done about the residency of backends that no earlier
// call told of. The slice is valid until the next call.
func (s *Scheduler) Orders() []Order { return s.box.residency.Orders() }

// Unloaded ends an order to unload. It reports whether there was such an order.
func (s *Scheduler) Unloaded(now time.Duration, id uint64, e Ended) bool {
	ok := s.box.residency.Unloaded(now, id, e)
	s.pass(now)
	return ok
}

// Loaded ends an order to wake, or to wait for a return. It reports whether there
// was such an order.
func (s *Scheduler) Loaded(now time.Duration, id uint64, e Ended) bool {
	home := s.box.residency.Ordered(id)
	ok := s.box.residency.Loaded(now, id, e)
	if ok && e.Failed {
		s.rests.unwoken(home)
	}
	s.pass(now)
	return ok
}

// UnloadByHand unloads all replicas of a backend, pinned or not, when what runs
// there has ended. It fails where none of them can be, and says why.
func (s *Scheduler) UnloadByHand(now time.Duration, name string) error {
	homes, err := s.box.homes(name)
	if err == nil {
		err = s.box.residency.UnloadByHand(now, name, homes)
		s.pass(now)
	}
	return err
}

// WakeByHand wakes the replicas of a backend that sleep. It fails where there is
// no room, or where one is being unloaded.
func (s *Scheduler) WakeByHand(now time.Duration, name string) error {
	homes, err := s.box.homes(name)
	if err == nil {
		err = s.box.residency.WakeByHand(now, name, homes)
		s.pass(now)
	}
	return err
}

// SetLoaded takes a backend's own word on whether a replica holds its weights;
// mustWake says of one that does not that it sleeps. It reports whether the word
// was taken.
func (s *Scheduler) SetLoaded(now time.Duration, name string, replica int, is, mustWake bool) bool {
	r := s.box.find(name, replica)
	ok := r != nil && s.box.residency.SetLoaded(now, r.home, is, mustWake)
	return s.change(now, ok, func() {})
}

// SetResident takes what was learned earlier of what a replica holds on a GPU
// while it is loaded and idle. It reports whether its configuration leaves that
// to be learned.
func (s *Scheduler) SetResident(now time.Duration, name string, replica int, gpu string, n Bytes) bool {
	r := s.box.find(name, replica)
	if r == nil {
		return false
	}
	for _, a := range r.accounts {
		if s.box.ledger.Name(s.box.ledger.GPUOf(a)) == gpu {
			return s.change(now, s.box.ledger.SetWeights(a, n), func() {})
		}
	}
	return false
}

// Measured is what a ticket's run was measured to take.
type Measured struct {
	Ticket *Ticket
	memory.Measurement
}

// Measured are the measurements of runs that ended well, which no earlier call
// told of.
func (s *Scheduler) Measured() []Measured {
	var all []Measured
	for _, m := range s.box.ledger.Measured() {
		if t, ok := m.Run.Owner.(*Ticket); ok {
			all = append(all, Measured{t, m})
		}
	}
	return all
}
