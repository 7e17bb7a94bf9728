package admission

import (
	"slices"
	"time"
)

// minRemaining keeps the prediction for overdue work from being looked at in
// ever shorter steps.
const minRemaining = time.Millisecond

// pass starts what may start now and writes a reservation for every head that
// may not. It runs after every event:
//
//  1. What has waited for too long leaves; what drains and is idle is unloaded.
//  2. The predicted ends of overdue work move into the future.
//  3. The strict head is chosen, and the heads are ordered.
//  4. Each head in turn starts if it fits without moving a reservation. Else its
//     reservation is written, and what can be done about its memory is begun.
//  5. Rests begin and end. What bars each head is said anew.
//
// A start can change more than the room it takes: which head is strict, to which replica
// another head goes, when a reservation begins, and what a backend retains. So the
// pass begins again at 3 after a start or the end of a rest, until there is none.
func (s *Scheduler) pass(now time.Duration) {
	s.recheck = forever
	s.expire(now) // 1
	m := s.box.residency
	m.Recheck = forever
	m.Settle(now)
	if s.queue.Len() == 0 {
		if s.refuseAll == nil {
			m.Restore(now)
		}
		s.profile.reset()
		s.recheck = min(s.recheck, m.Recheck)
		return
	}
	s.running.predict(now) // 2
	s.box.ledger.Predict(now)
	for again := true; again; {
		if again = s.heads(now); again {
			s.running.late(s, now)
		}
	}
	s.refresh(now) // 5
	s.recheck = min(s.recheck, m.Recheck)
	if at, ok := s.box.ledger.Next(now); ok {
		s.recheck = min(s.recheck, at)
	}
}

// heads is 3 to 5 of pass. It reports whether they are to be done again.
func (s *Scheduler) heads(now time.Duration) (again bool) {
	s.profile.reset()
	s.profile.passes++
	s.turns.settle(s, now)
	s.strict.choose(s, now) // 3
	s.shapes.rank(s.strict.head)
	started := false
	for i := 0; i < len(s.shapes.active); { // 4
		sh := s.shapes.active[i]
		if k, barred := sh.barred(); barred {
			// No head, and so no reservation: what cannot run bars nothing.
			sh.noHead()
			sh.block = k
			i++
			continue
		}
		t := sh.head
		if t == nil {
			t = sh.Next()
		}
		to, at, k := s.earliest(now, t, i > 0 && !s.profile.acts(s, i))
		starts := to != nil && at == now
		if !starts {
			to, at, starts = sh.hold(s, now, t, to, at, k)
		}
		if !starts && sh.givesUp(s.box, at, now, k) {
			s.evict(now, t, giveUp(k), t.positionInClass())
			s.news.decide(t)
			continue
		}
		if starts {
			wasStrict := s.strict.is(t)
			s.countStart(t, s.shapes.active[:i])
			s.leaveQueue(now, t, to)
			if wasStrict {
				return true
			}
			started = true
			s.shapes.settle(i, sh, s.strict.head)
			s.profile.acting = len(s.shapes.active)
			continue
		}
		if to != nil {
			s.profile.reserve(t, to, at)
		}
		sh.lookAgain(s, now, k)
		i++
	}
	return s.rests.update(s, now) || started // 5
}

// hold notes why a head does not start, and begins what can be done about its memory. It
// gives the replica and the time of its reservation. starts says that there is a replica
// on which it may start all the same.
func (sh *shape) hold(s *Scheduler, now time.Duration, t *Ticket, to *replica, at time.Duration, k block) (
	_ *replica, _ time.Duration, starts bool) {
	if sh.head == nil {
		sh.setHead(t, now)
	}
	sh.block, sh.reserved, sh.reservedFor, sh.turn = k, at, s.profile.inTheWay, waitsTurn{}
	switch {
	case k.reason == ReasonWaking:
		s.wake(now, sh)
	case k.memory():
		if r := s.resolve(now, sh); r != nil {
			return r, at, true
		}
		if s.box.residency.UnloadsFor(t) {
			to, at, _ = s.earliest(now, t, false)
			sh.reserved = at
		}
	}
	return to, at, false
}

// lookAgain sets when the next pass is due for a head that waits. Three things change the
// outcome with no event: the prediction that bars it, or its being alone, may run out, and
// being strict moves it to the front.
func (sh *shape) lookAgain(s *Scheduler, now time.Duration, k block) {
	if (k.reason == ReasonReservedForOther || s.profile.barsAlone) && len(s.running) > 0 {
		s.recheck = min(s.recheck, s.running[0].end)
	}
	if due := sh.known.Until(now); due > now && k.memory() {
		s.recheck = min(s.recheck, due)
	}
	if due := sh.blockedSince + sh.class.cfg.StrictAfter; due > now {
		s.recheck = min(s.recheck, due)
	}
}

// countStart notes how a waiting ticket comes to start, with those that rank before its
// shape.
func (s *Scheduler) countStart(t *Ticket, before []*shape) {
	counts := &t.shape.class.counts
	if slices.ContainsFunc(before, func(sh *shape) bool { return sh.head != nil }) {
		counts.Backfilled++
	}
	if slices.ContainsFunc(s.box.classes, func(c *class) bool {
		first := c.waiting.First()
		return first != nil && first.Arrived() < t.Arrived()
	}) {
		counts.Overtook++
	}
}

// leaveQueue starts a waiting ticket on a replica.
func (s *Scheduler) leaveQueue(now time.Duration, t *Ticket, to *replica) {
	if t.wait.met || t.wait.stay != nil {
		t.stayed().Last = s.blockOf(t).blocked()
	}
	s.leave(t)
	s.start(now, t, to)
	s.strict.valid = false
	s.profile.started(t)
	s.news.decide(t)
}

// refresh says anew what bars the heads, after all have had their turn.
func (s *Scheduler) refresh(now time.Duration) {
	for _, sh := range s.shapes.active {
		if sh.head == nil {
			continue
		}
		free, k := s.pickNow(sh, now)
		if free != nil {
			k = s.box.reserved(sh, free, now)
		}
		sh.block = s.name(now, sh, k)
		if step := sh.head.step(now, sh.block); step != nil && step.Reason == ReasonReclaiming {
			step.Backend = s.box.residency.UnloadedFor(sh.head)
		}
		if sh.block.reason == ReasonNotByItself && !sh.head.stuck {
			sh.head.stuck = true
			_, position := s.box.waiting(sh.head.ID())
			s.news.stick(s.describe(now, sh.head, position))
		}
	}
}

// acts says that a reservation of the head at place i or of one behind it can make a
// difference in this pass: some of these heads may start, or wait for something other
// than slots.
func (p *profile) acts(s *Scheduler, i int) bool {
	for p.acting = min(p.acting, len(s.shapes.active)); p.acting > i; p.acting-- {
		sh := s.shapes.active[p.acting-1]
		if _, barred := sh.barred(); !barred && !s.box.lacksSlots(sh) {
			return true
		}
	}
	return false
}

// lacksSlots says that slots bar a shape on every replica.
func (b *box) lacksSlots(sh *shape) bool {
	return !slices.ContainsFunc(sh.backend.replicas, func(r *replica) bool {
		switch b.slotsFree(&b.live, sh, r) {
		case barClassSlots, barBackendSlots, barProbes:
			return false
		}
		return true
	})
}

// earliest finds when and where a head can start without moving another's
// reservation. A nil replica: not in sight. The block says what bars it now.
//
// idle says that its reservation would make no difference. It is not worked out then,
// and the time is the next end of a run of its class.
func (s *Scheduler) earliest(now time.Duration, t *Ticket, idle bool) (*replica, time.Duration, block) {
	sh := t.shape
	free, k := s.pickNow(sh, now)
	if idle {
		return nil, s.running.nextOf(sh.class), k
	}
	if free != nil {
		if s.profile.reservations == 0 && (s.strict.head == nil || s.strict.head == t) {
			return free, now, block{gpu: -1}
		}
		if best := s.pick(sh, now, func(r *replica) bool {
			return len(r.accounts) > 0 && s.rests.holds(s.box, t, r) || s.strict.allows(s, now, sh, r) && s.profile.keeps(s, t, r, now)
		}); best != nil {
			return best, now, block{gpu: -1}
		}
		k = s.box.reserved(sh, free, now)
	}
	var to *replica
	at := forever
	for _, r := range sh.backend.replicas {
		if s.box.failed(sh, r, now) {
			continue
		}
		w := s.profile.walk(s, t, r, now)
		if w == now {
			// The profile would allow it now, and something else does not: the
			// strict head, or a rest. That ends with another's start, which no
			// estimate dates. Once a reservation is closer than its run is long, it
			// has one behind that.
			s.recheck = min(s.recheck, s.profile.nowUntil)
			continue
		}
		if w < at {
			to, at = r, w
		}
	}
	return to, at, k
}

// pickNow gives the best replica on which a shape fits now, or what bars it on
// the one where most can be done about it.
func (s *Scheduler) pickNow(sh *shape, now time.Duration) (*replica, block) {
	if len(sh.backend.replicas) > 1 {
		if best := s.pick(sh, now, nil); best != nil {
			return best, block{gpu: -1}
		}
	}
	why, on := noBar, (*replica)(nil)
	for _, r := range sh.backend.replicas {
		if k := s.startable(sh, r, now); on == nil || actionable(k) >= actionable(why) {
			why, on = k, r
		}
	}
	if why == noBar {
		return on, block{gpu: -1}
	}
	return nil, s.box.block(&s.box.live, sh, on, why, now)
}

// startable says whether a shape fits on a replica now and no rest bars it.
func (s *Scheduler) startable(sh *shape, r *replica, now time.Duration) bar {
	k := s.box.fits(&s.box.live, sh, r, now)
	switch {
	case k != noBar && !k.waking():
		return k
	case len(s.turns) > 0 && s.turns.bars(s, now, sh, r):
		return barTurn
	case k != noBar:
		return k
	}
	return s.rests.bar(s.box, sh, r)
}

// actionable ranks what bars a start by what can be done about it: a wake, then memory.
func actionable(k bar) int {
	switch {
	case k.waking():
		return 2
	case k.memory():
		return 1
	}
	return 0
}

// pick chooses among the replicas that fit now and are allowed: the one that
// already holds its model, which shows in the smaller need, then the one with
// most memory available. A nil function allows all.
func (s *Scheduler) pick(sh *shape, now time.Duration, allowed func(*replica) bool) *replica {
	var best *replica
	var bestNeed, bestFree Bytes
	only := len(sh.backend.replicas) == 1
	for _, r := range sh.backend.replicas {
		if s.startable(sh, r, now) != noBar || allowed != nil && !allowed(r) {
			continue
		}
		if only {
			return r
		}
		need, free := s.box.room(sh, r, now)
		if best == nil || need < bestNeed || need == bestNeed && free > bestFree {
			best, bestNeed, bestFree = r, need, free
		}
	}
	return best
}
