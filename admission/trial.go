package admission

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// A head that memory blocks gets on by the first of these rules that applies, at
// each event and each reading. The numbers are those of the code.
//
//  1. It fits: it starts (backfill.go).
//  2. It fits once what idle backends surely hold is gone: they are unloaded.
//  3. Some of the memory in use may be its own: it starts alone.
//  4. It fits once what idle backends may hold at most is gone: they are unloaded.
//  5. Processes that are not ours are in its way: it waits for them.
//  6. It has waited for TrialAfter, and its GPUs are not at rest: a rest, if it could
//     start at rest. Nothing new starts there until what runs has ended and three
//     readings agree. One rest at a time on a GPU, for the head that waits
//     longest; the next for the same head after TrialAfter, and each after that after
//     twice as long.
//  7. It has waited for TrialAfter and its GPUs are at rest: a trial, alone, if
//     what it holds or what it needs is in doubt. An unknown demand is tried
//     without the wait. After twice TrialAfter all is in doubt that neither the
//     driver nor an answer has told.
//  8. Idle backends that were not told to unload are. Otherwise nothing of ours
//     will make room, and it waits for others.

// resolve does what can be done about a head that memory blocks. It returns the
// replica on which the head is to start, with its run prepared; nil: it waits.
func (s *Scheduler) resolve(now time.Duration, sh *shape) *replica {
	t := sh.head
	if s.box.residency.OrdersFor(t) {
		return nil
	}
	patience := now - sh.blockedSince
	s.turns.before(s, now, sh)
	for _, most := range [...]bool{false, true} {
		if s.unload(now, sh, residency.Want{Most: most}) { // 2, 4
			return nil
		}
		if most {
			break
		}
		if r := s.startsOn(now, sh, memory.Alone, s.fitsAlone); r != nil { // 3
			return r
		}
	}
	if patience >= max(0, sh.class.cfg.StrictAfter) && !s.box.takesTurns(sh) && s.unload(now, sh, residency.Want{Most: true, Busy: true}) {
		return nil
	}
	onTrial := func(now time.Duration, sh *shape, r *replica) bool {
		return !sh.key.retry && s.box.atRest(r, now) && s.tries(now, sh, r, s.box.live.memory)
	}
	if r := s.startsOn(now, sh, memory.Trial, onTrial); r != nil { // 5, 7
		return r
	}
	if patience >= s.box.trialAfter(sh) && slices.ContainsFunc(sh.backend.replicas, func(r *replica) bool { return s.box.atRest(r, now) }) {
		s.unloadIdle(now, sh) // 8
	}
	return nil
}

// startsOn gives the first replica that takes a head's run of that kind; one that
// sleeps is woken for it.
func (s *Scheduler) startsOn(now time.Duration, sh *shape, kind memory.Kind, may func(time.Duration, *shape, *replica) bool) *replica {
	for _, r := range sh.backend.replicas {
		if len(r.accounts) == 0 || s.box.residency.Runs(r.home) {
			continue
		}
		if s.box.slotsFree(&s.box.live, sh, r) != noBar {
			continue
		}
		if s.rests.bar(s.box, sh, r) != noBar || !s.rests.holds(s.box, sh.head, r) && s.turns.other(s.box, sh.head, r) != nil || !may(now, sh, r) {
			continue
		}
		if r.home.State.Sleeps() {
			s.box.residency.Wake(now, r.home, sh.head, sh.known)
			return nil
		}
		sh.head.run.Kind = kind
		return r
	}
	return nil
}

// fitsAlone says that a head fits on a replica if some of the memory in use is
// its own, and that no run or reservation is in the way of its being alone.
func (s *Scheduler) fitsAlone(now time.Duration, sh *shape, r *replica) bool {
	l := s.box.ledger
	for i, a := range r.accounts {
		if sh.unknown || l.WeightsUnknown(a) || l.LoneRun(l.GPUOf(a)) != nil || l.Barred(sh.known, a, now) ||
			!l.FitsAlone(s.box.live.memory, a, s.box.demand(sh, r, i), now) {
			return false
		}
	}
	if s.rests.holds(s.box, sh.head, r) {
		return true
	}
	s.profile.lay(s, now)
	may := (s.strict.head == nil || s.strict.head == sh.head) && !s.profile.reservesOn(s.box, r, now+sh.head.p95+time.Second)
	s.profile.barsAlone = s.profile.barsAlone || !may
	return may
}

// tries says that a trial of a head on a replica would settle a doubt, in the
// state st of the ledger, and that the head has waited for long enough.
func (s *Scheduler) tries(now time.Duration, sh *shape, r *replica, st *memory.State) bool {
	l, known := s.box.ledger, sh.known
	for i, a := range r.accounts {
		if sh.unknown || l.WeightsUnknown(a) {
			if l.Barred(known, a, now) || !l.Roomier(known, a, now-sh.blockedSince >= 2*l.TrialAfter(l.GPUOf(a)), now) {
				return false
			}
			continue
		}
		if now-sh.blockedSince < l.TrialAfter(l.GPUOf(a)) {
			return false
		}
		demand := s.box.demand(sh, r, i)
		if _, _, ok := l.Fits(st, a, demand, now); !ok && l.InDoubt(st, a, demand, sh.key.own, sh.measured,
			now-sh.blockedSince >= 2*l.TrialAfter(l.GPUOf(a)), known, now) == memory.NoDoubt {
			return false
		}
	}
	return true
}

// unload tells idle backends to unload so that a head fits. It reports whether
// some are.
func (s *Scheduler) unload(now time.Duration, sh *shape, w residency.Want) bool {
	w.Demand = sh.vram
	if sh.unknown {
		return false
	}
	if sh.reserved < forever {
		w.ReadyAt = sh.reserved
	}
	w.Spared = func(v *residency.Replica) bool { return s.shapes.wanted(v, sh) }
	for _, r := range sh.backend.replicas {
		if h := r.home; h.State != residency.Loaded && !h.State.Sleeps() || r.probes == 0 && !h.State.Sleeps() || s.turns.other(s.box, sh.head, r) != nil {
			continue
		}
		if turn := s.box.turnOf(r); turn > 0 {
			w.Until = func(v *residency.Replica) time.Duration { return s.turns.until(s, now, sh, v, turn) }
		}
		victims := s.box.residency.Victims(now, r.home, w)
		for _, v := range victims {
			s.box.residency.Drain(now, v, sh.head)
		}
		if len(victims) > 0 {
			s.turns.claim(s, now, sh.head, r)
			return true
		}
		s.turns.waits(s, now, sh, r, w)
	}
	return false
}

// unloadIdle tells one idle replica on a head's GPUs to unload, whatever it is
// believed to hold: the head's own last.
func (s *Scheduler) unloadIdle(now time.Duration, sh *shape) {
	m, l := s.box.residency, s.box.ledger
	var own *residency.Replica
	for _, r := range sh.backend.replicas {
		if !s.box.atRest(r, now) || s.rests.bar(s.box, sh, r) != noBar || s.turns.other(s.box, sh.head, r) != nil {
			continue // another head comes first: for that the GPU rests, or memory was freed
		}
		for _, v := range m.Replicas {
			if !m.MayUnload(v) || m.Runs(v) || m.Holds(v) == 0 || !s.turns.gives(s, now, sh, r, v) {
				continue
			}
			near := slices.ContainsFunc(v.Accounts, func(a int) bool {
				return l.Quiet(l.GPUOf(a)) && slices.ContainsFunc(r.accounts, func(b int) bool { return l.GPUOf(a) == l.GPUOf(b) })
			})
			if v == r.home {
				own = v
			} else if near {
				m.Drain(now, v, sh.head)
				s.turns.claim(s, now, sh.head, r)
				return
			}
		}
	}
	if own != nil && own.State == residency.Loaded {
		m.Drain(now, own, sh.head)
	}
}

// wake brings back the replica that a head waits for.
func (s *Scheduler) wake(now time.Duration, sh *shape) {
	for _, r := range sh.backend.replicas {
		if !r.home.State.Sleeps() {
			continue
		}
		if s.box.fits(&s.box.live, sh, r, now) == barSleeps {
			s.box.residency.Wake(now, r.home, sh.head, nil)
			return
		}
	}
}

// rests are the heads for which a GPU is at rest, or is coming to it, by GPU;
// nil: none.
type rests []*Ticket

// pastRests are the rests for a head that have ended without its start.
type pastRests struct {
	of    *Ticket
	n     int
	ended time.Duration // the last of them
	used  Bytes         // then
	over  bool          // the one that lasts has come to nothing: its backend could not be woken
}

// bar says that a rest for another head keeps a shape from starting on a replica.
func (x rests) bar(b *box, sh *shape, r *replica) bar {
	for i, a := range r.accounts {
		if g := b.ledger.GPUOf(a); g < len(x) && x[g] != nil && x[g] != sh.head {
			return barRest | bar(i)<<8
		}
	}
	return noBar
}

// holds says that the GPUs of a replica rest for a head.
func (x rests) holds(b *box, t *Ticket, r *replica) bool {
	return !slices.ContainsFunc(r.accounts, func(a int) bool { g := b.ledger.GPUOf(a); return g >= len(x) || x[g] != t })
}

// update ends rests and begins one (6). It reports whether one has ended or begun, so
// that requests may start that could not.
func (x *rests) update(s *Scheduler, now time.Duration) bool {
	for len(*x) < len(s.box.live.memory.GPUs) {
		*x = append(*x, nil)
	}
	ended := x.end(s, now)
	next, on := x.next(s, now)
	if next == nil {
		return ended
	}
	for _, a := range on.accounts {
		(*x)[s.box.ledger.GPUOf(a)] = next.head
	}
	return true
}

// end ends the rests for heads that have left or started, and those that have shown that
// their head cannot start. It reports whether there is one.
func (x rests) end(s *Scheduler, now time.Duration) (ended bool) {
	l := s.box.ledger
	for _, t := range x {
		if t == nil {
			continue
		}
		_, barred := t.shape.barred()
		settled := true
		for g := range x {
			settled = settled && (x[g] != t || l.AtRest(g, now) && l.LoneRun(g) == nil)
		}
		past := &t.shape.rests
		if t.state != stateWaiting || t.shape.head != t || barred || settled || past.over {
			if past.of != t {
				*past = pastRests{of: t}
			}
			past.n++
			past.ended, past.used, past.over = now, 0, false
			for g := range x {
				if x[g] == t {
					x[g] = nil
					past.used += s.box.live.memory.GPUs[g].Used
				}
			}
			ended = true
		}
	}
	return ended
}

// next is the head that has been blocked for longest of those for which a rest is due,
// and the replica whose GPUs are to rest; nil: there is none.
func (x rests) next(s *Scheduler, now time.Duration) (next *shape, on *replica) {
	for _, sh := range s.shapes.active {
		t := sh.head
		if t == nil || sh.key.retry || !sh.block.memory() || next != nil && sh.blockedSince >= next.blockedSince {
			continue
		}
		wait := s.box.trialAfter(sh)
		due, again := sh.blockedSince+wait, time.Duration(0)
		if now < due {
			s.recheck = min(s.recheck, due) // for a trial, if not for a rest
		}
		past := &sh.rests
		if past.of == t {
			due, again = past.ended+wait, past.ended+wait<<min(max(0, past.n-1), 10)
		}
		if now < due {
			s.recheck = min(s.recheck, due)
			continue
		}
		// Where less is in use by now than the last rest has shown, the next may be
		// worth it.
		if r, used := x.may(s, now, sh); r != nil {
			if now < again && used > past.used-restMoved {
				s.recheck = min(s.recheck, again)
			} else {
				next, on = sh, r
			}
		}
	}
	return next, on
}

// unwoken ends the rests for heads of a replica that could not be woken.
func (x rests) unwoken(home *residency.Replica) {
	for _, t := range x {
		if t != nil && slices.ContainsFunc(t.shape.backend.replicas, func(r *replica) bool { return r.home == home }) {
			t.shape.rests.over = true
		}
	}
}

// restMoved is by how much less must be in use at rest for a rest to be tried
// anew before its time.
const restMoved = 256 * MiB

// may gives a replica on which a head could start if its GPUs were at rest, where
// they are not, and what would be in use there; nil: there is none.
func (x rests) may(s *Scheduler, now time.Duration, sh *shape) (*replica, Bytes) {
	l, u := s.box.ledger, &s.profile.scratch
	for _, r := range sh.backend.replicas {
		if h := r.home.State; h != residency.Loaded && !h.Sleeps() || r.probes == 0 {
			continue
		}
		rested, closed, used := true, false, Bytes(0)
		s.box.copyLive(u, now)
		for _, a := range r.accounts {
			g := l.GPUOf(a)
			closed = closed || x[g] != nil || !l.Seen(g, now)
			rested = rested && l.AtRest(g, now)
			l.Settle(u.memory, g)
			used += u.memory.GPUs[g].Used
		}
		if rested || closed {
			continue
		}
		fits := true
		for i, a := range r.accounts {
			demand := s.box.demand(sh, r, i)
			_, _, ok := l.Fits(u.memory, a, demand, now)
			fits = fits && (ok || !l.Barred(sh.known, a, now) && l.FitsAlone(u.memory, a, demand, now))
		}
		if fits || s.tries(now, sh, r, u.memory) {
			return r, used
		}
	}
	return nil, 0
}
