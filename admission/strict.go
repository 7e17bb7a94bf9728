package admission

import "time"

// strict is the head that is protected without believing any estimate: one at a
// time, the one that has been blocked for longest.
type strict struct {
	head   *Ticket
	after  uint64 // how many had started when it became strict
	beside usage  // what is taken once all that ran then has ended
	valid  bool   // beside
}

// is says that a ticket is the strict head.
func (x *strict) is(t *Ticket) bool { return x.head != nil && x.head == t }

// protect makes a ticket the strict head that became so after a number of starts.
func (x *strict) protect(t *Ticket, after uint64) { x.head, x.after, x.valid = t, after, false }

// left takes note that a ticket does not wait any more.
func (x *strict) left(t *Ticket) {
	if x.head == t {
		x.head = nil
	}
}

// choose keeps the strict head, or chooses another.
func (x *strict) choose(s *Scheduler, now time.Duration) {
	x.valid = false
	if t := x.head; t != nil {
		if _, barred := t.shape.barred(); !barred && x.fits(s, now) {
			return
		}
		x.head = nil
	}
	ended := false
	for {
		longest := x.longest(s, now)
		if longest == nil {
			return
		}
		u := &s.profile.scratch
		if !ended {
			s.box.copyRead(u, now)
			for _, t := range s.running {
				s.box.give(u, t.shape, t.replica, &t.run)
			}
			ended = true
		}
		for _, r := range longest.backend.replicas {
			if !s.box.failed(longest, r, now) && s.box.fits(u, longest, r, now) == noBar && !s.turns.bars(s, now, longest, r) {
				x.protect(longest.head, s.starts)
				longest.class.counts.Strict++
				return
			}
		}
		// It would not fit even with everything ended: unmanaged memory, what another
		// backend retains, or what was freed for another head is in its way, and
		// barring others is no help.
		longest.unfit = s.profile.passes
	}
}

// longest is the shape whose head may become strict and has been blocked for
// longest, without those that choose has found unfit; nil: there is none.
func (x *strict) longest(s *Scheduler, now time.Duration) (longest *shape) {
	for _, sh := range s.shapes.active {
		if sh.head == nil || sh.key.retry || now-sh.blockedSince < sh.class.cfg.StrictAfter || sh.class.cfg.StrictAfter < 0 {
			continue
		}
		if _, barred := sh.barred(); barred || sh.unfit == s.profile.passes {
			continue
		}
		if longest == nil || sh.blockedSince < longest.blockedSince ||
			sh.blockedSince == longest.blockedSince && sh.head.ID() < longest.head.ID() {
			longest = sh
		}
	}
	return longest
}

// fits says whether the strict head still fits once all that ran when it
// became strict has ended, beside what has been started since, and what was freed for
// another head.
func (x *strict) fits(s *Scheduler, now time.Duration) bool {
	x.prepare(s, now)
	for _, r := range x.head.shape.backend.replicas {
		if !s.box.failed(x.head.shape, r, now) && s.box.fits(&x.beside, x.head.shape, r, now) == noBar && !s.turns.bars(s, now, x.head.shape, r) {
			return true
		}
	}
	return false
}

// prepare works out what is taken once all that ran when the head became
// strict has ended, and what was started since still runs.
func (x *strict) prepare(s *Scheduler, now time.Duration) {
	if x.valid {
		return
	}
	s.box.copyRead(&x.beside, now)
	for _, t := range s.running {
		if t.order <= x.after {
			s.box.give(&x.beside, t.shape, t.replica, &t.run)
		}
	}
	x.valid = true
}

// allows says whether a start of sh on r leaves the strict head a replica
// to start on when all that ran as it became strict has ended. No estimate is
// asked.
func (x *strict) allows(s *Scheduler, now time.Duration, sh *shape, r *replica) bool {
	h := x.head
	if h == nil || h.shape == sh && sh.head == h {
		return true
	}
	x.prepare(s, now)
	// The start is booked first, and then the head asked for. The other way
	// round, work that needs nothing more than its backend retains would always
	// fit, and the head might need the GPU to be idle.
	u := &s.profile.scratch
	u.copyFrom(&x.beside)
	s.box.take(u, sh, r, now)
	for _, hr := range h.shape.backend.replicas {
		if s.box.fits(u, h.shape, hr, now) == noBar {
			return true
		}
	}
	s.profile.barredBy(h)
	return false
}
