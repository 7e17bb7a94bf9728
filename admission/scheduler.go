package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/queue"
)

// Scheduler is the rules as plain data. It is not safe for concurrent use.
//
// Every time it is given is the desk's age: how long ago the epoch was. Ages
// must not go backwards. A call that changes a ticket's state other than the
// one it was given appends that ticket to Decided.
type Scheduler struct {
	epoch time.Time

	devices  []*device
	classes  []*class
	backends []*backend
	replicas []*replica
	accounts []*account

	deviceIndex  map[string]int
	classIndex   map[string]*class
	backendIndex map[string]*backend

	queue  queue.Queue[Ticket]
	shapes map[shapeKey]*shape
	recent recent
	active []*shape // those with waiting tickets, by rank

	live    usage
	running []*Ticket // by predicted end
	policy  Tenants
	starts  uint64 // how many were granted; orders them

	strict       *Ticket
	strictSince  uint64 // starts when it became strict
	profile      []mark
	reservations int    // in the profile
	inTheWay     uint64 // whose reservation barred what was looked at last
	scratch      usage
	beside       usage // the strict head's world; see besideStrict
	besideValid  bool
	passes       uint64
	recheck      time.Duration // when a prediction that bars somebody runs out

	refuseAll *Rejection // set while draining
	decided   []*Ticket

	swappable bool     // some backend can be made to let go
	unraveled bool     // in this pass, so that it begins anew
	orders    []*order // under way
	issued    []Order  // not yet told of
	lastOrder uint64

	measured []taken // not yet told of
}

// shapeKey is one distinct demand.
type shapeKey struct {
	class, backend int
	vram           Bytes
	alone          bool
}

// shape is one distinct demand with its queue. Tens of them exist, so what is
// done for each shape at each event stays cheap however long the queue is.
type shape struct {
	queue.Shape[Ticket]
	class   *class
	backend *backend
	vram    Bytes
	alone   bool // nothing runs beside it on its GPUs

	// The head is sticky: once found blocked it stays until it starts or
	// leaves, so that a change in the order of tenants cannot orphan its
	// reservation.
	head         *Ticket
	blockedSince time.Duration
	block        block
	reserved     time.Duration // predicted start; forever: none
	keptFor      uint64        // whose reservation its head would move, if that blocks it
	first        *Ticket       // its eldest, as of this pass
	unfit        uint64        // the pass that found it not to fit even with everything ended
}

// Decided are the tickets that a call has granted or refused beside the one it
// was given, in the order in which that happened. Each is told once; the slice
// is valid until the next call.
func (s *Scheduler) Decided() []*Ticket {
	d := s.decided
	s.decided = s.decided[:0]
	return d
}

// Submit asks for the right to run. Afterwards the ticket is granted, refused
// or waiting.
func (s *Scheduler) Submit(now time.Duration, t *Ticket, r Request) {
	s.queue.Arrive(now, &t.Entry, t)
	if r.Raised > 0 {
		r.VRAM = s.within(&r)
	}
	sh := s.recent.find(&r)
	var c *class
	var b *backend
	if sh != nil {
		c, b = sh.class, sh.backend
	} else {
		c, b = s.classIndex[r.Class], s.backendIndex[r.Backend]
	}
	if c == nil || b == nil {
		t.refuse(&Rejection{Code: CodeBackendUnavailable, Class: r.Class, Position: -1,
			Detail: fmt.Sprintf("class %q or backend %q is not configured", r.Class, r.Backend)})
		return
	}
	t.position = int32(c.waiting.Len())
	t.Size, t.Boost = int64(r.Size), c.cfg.Boost+r.Boost
	t.p50, t.p95 = max(1, r.Estimate.P50), max(1, r.Estimate.P50, r.Estimate.P95)
	t.Expires = forever
	if c.cfg.QueueTimeout > 0 {
		t.Expires = now + c.cfg.QueueTimeout
	}
	if !r.Deadline.IsZero() {
		// From here on it could not be met, whatever is free.
		if last := r.Deadline.Sub(s.epoch) - t.p50; last < t.Expires {
			t.Expires, t.deadline = max(last, now-1), true
		}
	}
	if rejection := s.atTheDoor(now, t, c, b, r.VRAM); rejection != nil {
		c.refused++
		t.refuse(rejection)
		return
	}
	if sh == nil {
		sh = s.shapeOf(c, b, r.VRAM, r.Alone)
		s.recent.add(sh)
	}
	t.shape = sh
	t.Tenant = s.queue.Tenant(r.Tenant)
	// With nobody waiting there is nobody to be fair to, and no profile to
	// work out.
	if s.queue.Len() == 0 && !c.paused && s.usable(b) {
		s.predict(now)
		if r, _ := s.pickNow(sh, now); r != nil {
			s.start(now, t, r)
			return
		}
	}
	if full := s.queueFull(now, t, c, b); full != nil {
		c.refused++
		t.refuse(full)
		return
	}
	s.enqueue(t)
	// If it is not the eldest the head of its shape is blocked, and a longer
	// queue behind it frees nothing.
	if sh.Eldest() == t {
		s.pass(now)
		// Its own grant is the caller's result, not a decision about another.
		s.decided = slices.DeleteFunc(s.decided, func(d *Ticket) bool { return d == t })
	}
	if t.state == stateWaiting {
		here := s.blockOf(t).blocked()
		t.stay = &Stay{First: here, Last: here, Expected: s.estimateStart(now, sh, sh.Len()-1, t.p50) - now}
	}
}

// atTheDoor refuses what need not ask for room at all.
func (s *Scheduler) atTheDoor(now time.Duration, t *Ticket, c *class, b *backend, vram Bytes) *Rejection {
	if s.refuseAll != nil {
		r := *s.refuseAll
		r.Class = c.cfg.Name
		return &r
	}
	if t.deadline && t.Expires < now {
		return &Rejection{Code: CodeDeadlineUnmeetable, Class: c.cfg.Name, Position: -1,
			Detail: fmt.Sprintf("the work alone takes about %v, longer than the deadline allows", t.p50.Round(time.Millisecond))}
	}
	if detail, never := s.neverFits(b, vram); never {
		return &Rejection{Code: CodeNeverFits, Class: c.cfg.Name, Position: -1, Detail: detail}
	}
	return nil
}

// neverFits says whether no replica could take the demand even on an empty
// card, going by the configured size and not by a momentary shrink.
func (s *Scheduler) neverFits(b *backend, vram Bytes) (detail string, never bool) {
	for _, r := range b.replicas {
		fits := true
		for _, i := range r.accounts {
			a := s.accounts[i]
			d := s.devices[a.gpu]
			most := d.ceiling()
			if most > 0 && a.resident+vram > most {
				fits = false
				detail = fmt.Sprintf("%v on top of the %v that backend %s holds is more than the %v that %s can ever give",
					vram, a.resident, b.cfg.Name, most, d.cfg.Name)
			}
		}
		if fits {
			return "", false
		}
	}
	return detail, true
}

// queueFull refuses what would have to wait where there is no place to wait.
func (s *Scheduler) queueFull(now time.Duration, t *Ticket, c *class, b *backend) *Rejection {
	var detail string
	switch {
	case c.waiting.Len() >= c.cfg.QueueLimit:
		detail = fmt.Sprintf("%d requests of class %s are waiting, which is its limit", c.waiting.Len(), c.cfg.Name)
	case s.policy.QueueLimit > 0 && t.Tenant.Name() != "" && t.Tenant.Waiting() >= s.policy.QueueLimit:
		return &Rejection{Code: CodeTenantQuota, Class: c.cfg.Name, Position: -1, RetryAfter: s.estimateWait(now, t.shape, t.p50),
			Detail: fmt.Sprintf("%d requests of tenant %q are waiting, which is the limit for each", t.Tenant.Waiting(), t.Tenant.Name())}
	case c.cfg.QueueBytes > 0 && Bytes(c.waiting.Size()+t.Size) > c.cfg.QueueBytes:
		detail = fmt.Sprintf("the bodies of class %s's queue may take %v together, and %v are taken", c.cfg.Name, c.cfg.QueueBytes, Bytes(c.waiting.Size()))
	default:
		return nil
	}
	return &Rejection{Code: CodeQueueFull, Class: c.cfg.Name, Position: -1, Detail: detail,
		RetryAfter: s.estimateWait(now, t.shape, t.p50)}
}

func (t *Ticket) refuse(r *Rejection) {
	t.state = stateOver
	t.rejection = r
}

func (s *Scheduler) shapeOf(c *class, b *backend, vram Bytes, alone bool) *shape {
	key := shapeKey{c.index, b.index, vram, alone}
	sh := s.shapes[key]
	if sh == nil {
		sh = &shape{Shape: queue.Shape[Ticket]{Group: &c.waiting}, class: c, backend: b, vram: vram, alone: alone, reserved: forever}
		s.shapes[key] = sh
		s.trimShapes()
	}
	return sh
}

// maxIdleShapes bounds how many shapes without waiting work are remembered:
// demands come from requests, and a client may send ever new ones.
const maxIdleShapes = 1024

func (s *Scheduler) trimShapes() {
	if len(s.shapes) <= maxIdleShapes+len(s.active) {
		return
	}
	for k, sh := range s.shapes {
		if sh.Len() == 0 {
			delete(s.shapes, k)
		}
	}
}

// enqueue puts a ticket into its shape's queue.
func (s *Scheduler) enqueue(t *Ticket) {
	sh := t.shape
	// A shape that was trimmed while this ticket was being looked at lives on.
	s.shapes[shapeKey{sh.class.index, sh.backend.index, sh.vram, sh.alone}] = sh
	t.state = stateWaiting
	s.queue.Push(&t.Entry, &sh.Shape)
	if sh.Len() == 1 {
		s.active = append(s.active, sh)
	}
}

// leave takes a ticket out of every queue and says whether what is left may
// now be ordered differently.
func (s *Scheduler) leave(t *Ticket) (matters bool) {
	sh := t.shape
	matters = sh.head == t || sh.Eldest() == t
	s.queue.Remove(&t.Entry)
	if sh.head == t {
		sh.head = nil
		sh.reserved = forever
	}
	if s.strict == t {
		s.strict = nil
	}
	if sh.Len() == 0 {
		s.active = slices.DeleteFunc(s.active, func(x *shape) bool { return x == sh })
	}
	return matters
}

// start grants a ticket that is in no queue.
func (s *Scheduler) start(now time.Duration, t *Ticket, r *replica) {
	t.state = stateRunning
	t.replica, t.granted = r, r
	t.started = now
	s.starts++
	t.order = s.starts
	if s.swappable {
		s.began(now, r)
	}
	for i := range r.accounts {
		s.claim(r, i, s.needs(&s.live, t.shape, r, i), t, nil)
	}
	s.take(&s.live, t.shape, r)
	s.follow(t, r)
	t.shape.class.granted++
	s.queue.Charge(&t.Entry, s.share(t), t.p50)
	t.end = now + t.p50
	s.insertRunning(t)
}

// share is the largest fraction of any one resource that a ticket takes.
func (s *Scheduler) share(t *Ticket) float64 {
	share := 1 / float64(t.shape.class.cfg.Slots)
	for _, a := range t.replica.accounts {
		if c := s.devices[s.accounts[a].gpu].capacity(); c > 0 {
			share = max(share, min(1, float64(t.shape.vram)/float64(c)))
		}
	}
	return share
}

func (s *Scheduler) insertRunning(t *Ticket) {
	i, _ := slices.BinarySearchFunc(s.running, t, endsBefore)
	s.running = slices.Insert(s.running, i, t)
}

func endsBefore(a, b *Ticket) int {
	if a.end != b.end {
		if a.end < b.end {
			return -1
		}
		return 1
	}
	if a.ID() < b.ID() {
		return -1
	}
	if a.ID() > b.ID() {
		return 1
	}
	return 0
}

// End gives a grant back. It reports whether the ticket held one.
func (s *Scheduler) End(now time.Duration, t *Ticket) bool {
	if t.state != stateRunning {
		return false
	}
	t.state = stateOver
	i, ok := slices.BinarySearchFunc(s.running, t, endsBefore)
	if !ok {
		panic("admission: a running ticket is not in the list of running tickets")
	}
	s.running = slices.Delete(s.running, i, i+1)
	if t.unserved {
		s.giveUnused(t)
	} else {
		s.give(&s.live, t.shape, t.replica)
	}
	s.assure(t)
	t.replica.ended = now
	s.unfollow(now, t)
	s.queue.Correct(&t.Entry, now-t.started)
	s.pass(now)
	return true
}

// Leave takes a waiting ticket out: its client went away, or an operator
// cancelled it. It reports whether the ticket was waiting.
func (s *Scheduler) Leave(now time.Duration, t *Ticket, code Code) bool {
	if t.state != stateWaiting {
		return false
	}
	s.dismiss(now, t, &Rejection{Code: code})
	return true
}

// dismiss refuses a waiting ticket and lets the others move up.
func (s *Scheduler) dismiss(now time.Duration, t *Ticket, r *Rejection) {
	if s.evict(now, t, r, int(t.position)) {
		s.pass(now)
	}
}

// evict takes a waiting ticket out with a refusal; the caller passes if it
// reports that the order may have changed.
func (s *Scheduler) evict(now time.Duration, t *Ticket, r *Rejection, position int) (matters bool) {
	r.Class, r.Position = t.shape.class.cfg.Name, position
	last := s.blockOf(t)
	if r.Reason == ReasonNone {
		r.Reason = last.reason
	}
	if t.stay != nil {
		t.stay.Last, t.stay.Steps = last.blocked(), t.steps
		r.Stay = t.stay
	}
	matters = s.leave(t)
	r.Waited = now - t.Arrived()
	t.shape.class.refused++
	t.refuse(r)
	return matters
}

// Tick does what is due by now: expiries, and starts that a prediction barred
// which has since run out. Call it no later than Next says.
func (s *Scheduler) Tick(now time.Duration) {
	s.pass(now)
}

func (s *Scheduler) expire(now time.Duration) {
	for t := s.queue.Expired(now); t != nil; t = s.queue.Expired(now) {
		r := &Rejection{Code: CodeQueueTimeout, Detail: s.blockOf(t).String()}
		if t.deadline {
			r.Code = CodeDeadlineUnmeetable
		} else {
			r.RetryAfter = s.estimateWait(now, t.shape, t.p50)
		}
		s.evict(now, t, r, s.positionInClass(t))
		s.decided = append(s.decided, t)
	}
}

// Next is when Tick must be called if nothing else happens before; false:
// never.
func (s *Scheduler) Next() (time.Duration, bool) {
	next := min(s.recheck, s.queue.NextExpiry())
	return next, next < forever
}

// Observe takes a reading of a card.
func (s *Scheduler) Observe(now time.Duration, r Reading) {
	if s.observe(now, r) && (s.queue.Len() > 0 || s.swappable) {
		s.pass(now)
	}
}

// SetAvailable says how much of a backend's replica may be used: -1 all its
// slots, 0 nothing, n at most n at once. It reports whether there is one.
func (s *Scheduler) SetAvailable(now time.Duration, name string, replica, slots int) bool {
	b := s.backendIndex[name]
	return s.change(now, b != nil && replica >= 0 && replica < len(b.replicas), func() { b.replicas[replica].probes = max(-1, slots) })
}

// SetDraining stops or resumes new work for a backend.
func (s *Scheduler) SetDraining(now time.Duration, name string, draining bool) bool {
	return s.change(now, s.backendIndex[name] != nil, func() { s.backendIndex[name].draining = draining })
}

// SetPaused stops or resumes a class's grants; its queue stays.
func (s *Scheduler) SetPaused(now time.Duration, name string, paused bool) bool {
	return s.change(now, s.classIndex[name] != nil, func() { s.classIndex[name].paused = paused })
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
	if queued {
		s.refuseWaiting(now, func(*Ticket) *Rejection { copy := r; return &copy })
	}
}

// refuseWaiting refuses the waiting tickets for which why gives a refusal.
func (s *Scheduler) refuseWaiting(now time.Duration, why func(*Ticket) *Rejection) {
	for _, c := range s.classes {
		position := 0
		for t := range c.waiting.All() {
			if r := why(t); r != nil {
				s.evict(now, t, r, position)
				s.decided = append(s.decided, t)
			}
			position++
		}
	}
}

// Idle says that nothing waits and nothing runs.
func (s *Scheduler) Idle() bool { return s.queue.Len() == 0 && len(s.running) == 0 }

// Precheck says what is certain of a new arrival before its demand is known;
// nil: nothing.
func (s *Scheduler) Precheck(now time.Duration, className, backendName string) *Rejection {
	c, b := s.classIndex[className], s.backendIndex[backendName]
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
