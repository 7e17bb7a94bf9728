package admission

import (
	"slices"
	"time"
)

// mark is a moment in the profile at which a run is predicted to end or a
// reservation to begin or end.
type mark struct {
	at    time.Duration
	shape *shape
	to    *replica
	start bool
	by    uint64   // the ticket's id
	freed *replica // has let go by then; shape and to mean nothing
}

// minRemaining keeps the prediction for overdue work from being looked at in
// ever shorter steps.
const minRemaining = time.Millisecond

// pass starts what may start now and writes a reservation for every head that
// may not. Starting work only takes capacity away, so that without
// reservations once through is enough; at rest another pass grants nothing.
func (s *Scheduler) pass(now time.Duration) {
	s.recheck = forever
	s.expire(now)
	if len(s.orders) > 0 {
		s.settleOrders(now)
	}
	if s.queue.Len() == 0 {
		if s.swappable {
			s.restore(now)
		}
		s.profile, s.reservations = s.profile[:0], 0
		return
	}
	s.passes++
	s.recheck = min(s.recheck, s.resting(now))
	s.predict(now)
again:
	s.profile, s.reservations = s.profile[:0], 0
	s.chooseStrict(now)
	for _, sh := range s.active {
		sh.first = sh.Eldest()
	}
	slices.SortFunc(s.active, s.ranked)
	blocked, beside, elsewhere := false, false, false
	stale := false // what some head is said to wait for
	for i := 0; i < len(s.active); {
		sh := s.active[i]
		if b, barred := s.barred(sh); barred {
			// No head, and so no reservation: what cannot run bars nobody.
			sh.head, sh.reserved, sh.block = nil, forever, b
			i++
			continue
		}
		t := sh.head
		if t == nil {
			t = sh.Next()
		}
		to, at, b := s.earliest(now, t)
		if to != nil && at == now {
			wasStrict := s.strict == t
			if t.stay != nil {
				t.stay.Last, t.stay.Steps = s.blockOf(t).blocked(), t.steps
			}
			s.leave(t)
			s.start(now, t, to)
			s.besideValid = false
			if len(s.profile) > 0 {
				s.mark(mark{at: t.end, shape: sh, to: to, by: t.ID()})
			}
			s.decided = append(s.decided, t)
			if wasStrict {
				goto again // another head may be due for protection
			}
			stale, beside = stale || blocked, beside || elsewhere
			s.settle(i, sh)
			continue
		}
		if sh.head == nil {
			sh.head, sh.blockedSince = t, now
		}
		blocked = true
		sh.block, sh.reserved, sh.keptFor = b, at, s.inTheWay
		if s.swappable && s.swap(now, sh) {
			to, at, _ = s.earliest(now, t)
			sh.reserved = at
		}
		if s.unraveled {
			s.unraveled = false
			goto again
		}
		t.step(now, sh.block.reason)
		if to != nil {
			s.reserve(now, t, to, at)
			elsewhere = elsewhere || len(sh.backend.replicas) > 1
		}
		// Two things change the outcome with no event: the prediction that bars
		// it may run out, and protection moves it to the front.
		if b.reason == ReasonReservedForOther && len(s.running) > 0 {
			s.recheck = min(s.recheck, s.running[0].end)
		}
		if due := sh.blockedSince + sh.class.cfg.StrictAfter; due > now {
			s.recheck = min(s.recheck, due)
		}
		i++
	}
	if beside {
		// What started beside a reservation may lead its head to another
		// replica, and so make room that was held for it.
		goto again
	}
	if stale {
		s.refresh(now)
	}
}

// refresh says anew what bars the heads now, after others have started beside
// their reservations.
func (s *Scheduler) refresh(now time.Duration) {
	for _, sh := range s.active {
		if sh.head == nil {
			continue
		}
		if free, b := s.pickNow(sh, now); free == nil {
			sh.block = b
		} else {
			sh.block = s.kept(sh, free)
		}
		s.nameReclaim(sh)
	}
}

// kept is the block of a shape that would fit now on a replica, if the room
// were not kept for another.
func (s *Scheduler) kept(sh *shape, free *replica) block {
	b := block{reason: ReasonReservedForOther}
	if len(free.accounts) > 0 {
		a := free.accounts[0]
		g := s.accounts[a].gpu
		b.resource = s.devices[g].cfg.Name
		b.need, b.free = int64(s.extra(&s.live, a, sh.vram)), int64(s.room(&s.live, g))
	}
	return b
}

// barred says that a shape may not run at all for now, whatever is free.
func (s *Scheduler) barred(sh *shape) (block, bool) {
	switch b := sh.backend; {
	case sh.class.paused:
		return block{reason: ReasonPaused, resource: sh.class.label}, true
	case b.draining:
		return block{reason: ReasonDraining, resource: b.label}, true
	case !b.available():
		return block{reason: ReasonBackendUnavailable, resource: b.label}, true
	}
	return block{}, false
}

func (s *Scheduler) usable(b *backend) bool { return !b.draining && b.available() }

// available says that some replica takes work.
func (b *backend) available() bool {
	for _, r := range b.replicas {
		if r.probes != 0 || r.stance == asleep || r.stance == waking {
			return true
		}
	}
	return false
}

// ranked orders heads: the strict one first, then by the arrival of the
// shape's eldest less its class's boost, then by order of arrival. It goes by
// the eldest and not by the fair head, or a younger head of another class
// would reserve first.
func (s *Scheduler) ranked(a, b *shape) int {
	if s.strict != nil && a != b {
		if a == s.strict.shape {
			return -1
		}
		if b == s.strict.shape {
			return 1
		}
	}
	if a.first.Before(&b.first.Entry) {
		return -1
	}
	return 1
}

// settle moves the shape at position i behind those that now rank before it,
// after its head has started.
func (s *Scheduler) settle(i int, sh *shape) {
	if i >= len(s.active) || s.active[i] != sh {
		return // it has nothing left to wait
	}
	sh.first = sh.Eldest()
	for i+1 < len(s.active) && s.ranked(s.active[i+1], sh) < 0 {
		s.active[i], s.active[i+1] = s.active[i+1], s.active[i]
		i++
	}
}

// predict moves the ends of overdue work into the future: it is never counted
// as free. What has taken much longer than expected is expected to take a
// tenth longer still.
func (s *Scheduler) predict(now time.Duration) {
	overdue := 0
	for overdue < len(s.running) && s.running[overdue].end <= now {
		t := s.running[overdue]
		elapsed := now - t.started
		t.end = now + max(t.p95-elapsed, elapsed/10, minRemaining)
		overdue++
	}
	if overdue > 0 {
		slices.SortFunc(s.running, endsBefore)
	}
}

// chooseStrict chooses the head that is protected without believing any estimate:
// one at a time, the longest blocked first.
func (s *Scheduler) chooseStrict(now time.Duration) {
	s.besideValid = false
	if t := s.strict; t != nil {
		if _, barred := s.barred(t.shape); !barred && s.strictFits(now) {
			return
		}
		s.strict = nil
	}
	ended := false
	for {
		var longest *shape
		for _, sh := range s.active {
			if sh.head == nil || now-sh.blockedSince < sh.class.cfg.StrictAfter || sh.class.cfg.StrictAfter < 0 {
				continue
			}
			if _, barred := s.barred(sh); barred || sh.unfit == s.passes {
				continue
			}
			if longest == nil || sh.blockedSince < longest.blockedSince ||
				sh.blockedSince == longest.blockedSince && sh.head.ID() < longest.head.ID() {
				longest = sh
			}
		}
		if longest == nil {
			return
		}
		if !ended {
			s.scratch.copyFrom(&s.live)
			for _, t := range s.running {
				s.give(&s.scratch, t.shape, t.replica)
			}
			ended = true
		}
		for _, r := range longest.backend.replicas {
			if _, ok := s.fits(&s.scratch, longest, r, now); ok {
				s.strict, s.strictSince, s.besideValid = longest.head, s.starts, false
				return
			}
		}
		// It would not fit even with everything ended: an outsider or a
		// neighbour's kept memory is in its way, and barring others is no help.
		longest.unfit = s.passes
	}
}

// strictFits says whether the strict head still fits once all that ran
// when it became strict has ended, beside what has been started since.
func (s *Scheduler) strictFits(now time.Duration) bool {
	s.afterStrict()
	for _, r := range s.strict.shape.backend.replicas {
		if _, ok := s.fits(&s.beside, s.strict.shape, r, now); ok {
			return true
		}
	}
	return false
}

// afterStrict works out the world in which all that ran when the head
// became strict has ended, and what was started since still runs.
func (s *Scheduler) afterStrict() {
	if s.besideValid {
		return
	}
	s.beside.copyFrom(&s.live)
	for _, t := range s.running {
		if t.order <= s.strictSince {
			s.give(&s.beside, t.shape, t.replica)
		}
	}
	s.besideValid = true
}

// besideStrict says whether a start of sh on r leaves the strict head a
// replica to start on when all that ran as it became strict has ended. No estimate
// is asked.
func (s *Scheduler) besideStrict(now time.Duration, sh *shape, r *replica) bool {
	h := s.strict
	if h == nil || h.shape == sh && sh.head == h {
		return true
	}
	s.afterStrict()
	// The start is booked first, and then the head asked for. The other way
	// round, work that needs nothing more than its backend keeps would always
	// fit, and the head might need the GPU to be idle.
	s.scratch.copyFrom(&s.beside)
	s.take(&s.scratch, sh, r)
	for _, hr := range h.shape.backend.replicas {
		if _, ok := s.fits(&s.scratch, h.shape, hr, now); ok {
			return true
		}
	}
	s.inTheWay = h.ID()
	return false
}

// earliest finds when and where a head can start without moving anybody's
// reservation. A nil replica: not in sight. The block says what bars it now.
func (s *Scheduler) earliest(now time.Duration, t *Ticket) (*replica, time.Duration, block) {
	sh := t.shape
	free, b := s.pickNow(sh, now)
	if free != nil {
		if s.reservations == 0 && (s.strict == nil || s.strict == t) {
			return free, now, block{}
		}
		if best := s.pick(sh, now, func(r *replica) bool {
			return s.besideStrict(now, sh, r) && s.walk(t, r, now) == now
		}); best != nil {
			return best, now, block{}
		}
		b = s.kept(sh, free)
	}
	var to *replica
	at := forever
	for _, r := range sh.backend.replicas {
		w := s.walk(t, r, now)
		if w == now && free != nil {
			// The profile would allow it now and the strict head does not;
			// that ends with the head's own start, which no estimate dates.
			continue
		}
		if w < at {
			to, at = r, w
		}
	}
	return to, at, b
}

// pickNow gives the best replica on which a shape fits now, or what bars it on
// the last one tried.
func (s *Scheduler) pickNow(sh *shape, now time.Duration) (*replica, block) {
	var why block
	best := s.pick(sh, now, func(*replica) bool { return true })
	if best == nil {
		for _, r := range sh.backend.replicas {
			b, _ := s.fits(&s.live, sh, r, now)
			if why.reason == ReasonNone || actionable(b) >= actionable(why) {
				why = b
			}
		}
	}
	return best, why
}

// actionable ranks blocks by what can be done about them: a wake, then room.
func actionable(b block) int {
	switch b.reason {
	case ReasonWaking:
		return 2
	case ReasonResources, ReasonCapacityReduced:
		return 1
	}
	return 0
}

// pick chooses among the replicas that fit now and are allowed: the one that
// already holds its model, which shows in the smaller extra, then the one with
// most room.
func (s *Scheduler) pick(sh *shape, now time.Duration, allowed func(*replica) bool) *replica {
	var best *replica
	var bestExtra, bestRoom Bytes
	if only := sh.backend.replicas; len(only) == 1 {
		if _, ok := s.fits(&s.live, sh, only[0], now); ok && allowed(only[0]) {
			best = only[0]
		}
		return best
	}
	for _, r := range sh.backend.replicas {
		if _, ok := s.fits(&s.live, sh, r, now); !ok || !allowed(r) {
			continue
		}
		var extra, room Bytes
		for i, a := range r.accounts {
			extra += s.extra(&s.live, a, sh.vram)
			free := s.room(&s.live, s.accounts[a].gpu)
			if i == 0 || free < room {
				room = free
			}
		}
		if best == nil || extra < bestExtra || extra == bestExtra && room > bestRoom {
			best, bestExtra, bestRoom = r, extra, room
		}
	}
	return best
}

// walk goes through the profile and gives the first moment from which the
// ticket fits on a replica for as long as it is expected to hold it; forever
// if there is none. Where it would fit now and not for so long, inTheWay says
// whose reservation it would move.
func (s *Scheduler) walk(t *Ticket, r *replica, now time.Duration) time.Duration {
	s.layProfile(now)
	u := &s.scratch
	u.copyFrom(&s.live)
	from := forever
	if _, ok := s.fits(u, t.shape, r, now); ok {
		from = now
	}
	last := uint64(0) // whose reservation began last
	for i := 0; i < len(s.profile); {
		at := s.profile[i].at
		if from < forever && at >= from+t.p95 {
			return from
		}
		for i < len(s.profile) && s.profile[i].at == at {
			switch m := s.profile[i]; {
			case m.freed != nil:
				s.letGo(u, m.freed)
			case m.start:
				s.take(u, m.shape, m.to)
				last = m.by
			default:
				s.give(u, m.shape, m.to)
			}
			i++
		}
		if _, ok := s.fits(u, t.shape, r, now); !ok {
			if from == now {
				s.inTheWay = last
			}
			from = forever
		} else if from == forever {
			from = at
		}
	}
	return from
}

// layProfile begins the profile with the predicted ends of what runs and with
// what is being made to let go, unless this pass has done so already.
func (s *Scheduler) layProfile(now time.Duration) {
	if len(s.profile) > 0 {
		return
	}
	for _, t := range s.running {
		s.profile = append(s.profile, mark{at: t.end, shape: t.shape, to: t.replica, by: t.ID()})
	}
	for _, o := range s.orders {
		if o.Kind == Reclaim {
			s.mark(mark{at: s.due(now, o), freed: o.replica})
		}
	}
}

// reserve writes a reservation into the profile.
func (s *Scheduler) reserve(now time.Duration, t *Ticket, to *replica, at time.Duration) {
	s.layProfile(now)
	s.reservations++
	s.mark(mark{at: at, shape: t.shape, to: to, start: true, by: t.ID()})
	s.mark(mark{at: at + t.p95, shape: t.shape, to: to, by: t.ID()})
}

// mark inserts in order of time; what ends at a moment comes before what
// starts at it.
func (s *Scheduler) mark(m mark) {
	i, _ := slices.BinarySearchFunc(s.profile, m, func(a, b mark) int {
		if a.at != b.at {
			if a.at < b.at {
				return -1
			}
			return 1
		}
		if a.start == b.start {
			return -1
		}
		if b.start {
			return -1
		}
		return 1
	})
	s.profile = slices.Insert(s.profile, i, m)
}
