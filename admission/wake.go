package admission

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// bringBack orders that a sleeping replica is woken, for which the caller has
// found room, or that the return of one that died is waited for. It books what
// the replica will hold.
func (s *Scheduler) bringBack(now time.Duration, kind OrderKind, r *replica, head *Ticket) {
	o := s.newOrder(now, kind, r, head)
	o.given = true
	r.stance = waking
	for i, a := range r.accounts {
		h, acc := &s.live.holdings[a], s.accounts[a]
		s.crowd(acc.gpu, a)
		p := placeBefore{held: h.kept}
		will := max(h.kept, r.heldBefore(i))
		if kind == Wake {
			will = max(will, acc.resident)
			p.claimed = s.claim(r, i, will-h.kept, nil, o)
		}
		o.places = append(o.places, p)
		s.live.booked[acc.gpu] += will - h.kept
		h.kept = will
		o.Bytes += will
		acc.seen = true
	}
	s.issued = append(s.issued, o.Order)
}

// heldBefore is what the replica held on its i-th GPU before it let go.
func (r *replica) heldBefore(i int) Bytes {
	if i < len(r.held) {
		return r.held[i]
	}
	return 0
}

// wakeFor brings back the replica that a head waits for.
func (s *Scheduler) wakeFor(now time.Duration, sh *shape) {
	for _, r := range sh.backend.replicas {
		if r.stance != asleep || r.order != nil {
			continue
		}
		if b, _ := s.fits(&s.live, sh, r, now); b.reason != ReasonWaking {
			continue
		}
		if now < r.wakeAfter {
			s.recheck = min(s.recheck, r.wakeAfter)
			continue
		}
		s.bringBack(now, Wake, r, sh.head)
		return
	}
}

// restore brings a sleeping replica back while nobody waits, the one that was
// asked for most, if it fits into the room that is there.
func (s *Scheduler) restore(now time.Duration) {
	if s.refuseAll != nil {
		return
	}
	var best *replica
	for _, r := range s.replicas {
		if r.stance != asleep || r.order != nil || r.backend.gone || r.byHand || r.wanted(now) < restWanted {
			continue
		}
		if at := max(r.since+s.residency(now, r), r.wakeAfter); now < at {
			s.recheck = min(s.recheck, at)
			continue
		}
		if _, bars := s.barsWake(now, r); !bars && (best == nil || r.wanted(now) > best.wanted(now)) {
			best = r
		}
	}
	if best != nil {
		s.bringBack(now, Wake, best, nil)
	}
}

// barsWake says what bars the waking of a replica for nobody's request.
func (s *Scheduler) barsWake(now time.Duration, r *replica) (block, bool) {
	for i, a := range r.accounts {
		acc := s.accounts[a]
		need, free := max(acc.resident, r.heldBefore(i))-s.live.holdings[a].kept, s.room(&s.live, acc.gpu)
		why := s.closed(&s.live, acc.gpu, need, now)
		if why == ReasonNone && need > free {
			why = ReasonResources
		}
		if why != ReasonNone {
			return block{why, s.devices[acc.gpu].cfg.Name, int64(max(1, need)), int64(free)}, true
		}
	}
	return block{}, false
}

// ErrNoBackend says that a backend is not configured.
var ErrNoBackend = errors.New("admission: there is no backend")

// ReclaimByHand makes all replicas of a backend let go, pinned or not, when
// what runs there has ended. It fails where none of them can, and says why.
func (s *Scheduler) ReclaimByHand(now time.Duration, name string) error {
	b := s.backendIndex[name]
	switch {
	case b == nil:
		return fmt.Errorf("%w %q", ErrNoBackend, name)
	case !b.cfg.Reclaims:
		return fmt.Errorf("admission: backend %q cannot be made to let go: want backends.%s.reclaim", name, name)
	}
	done := false
	var why error
	for _, r := range b.replicas {
		holds := slices.ContainsFunc(r.accounts, func(a int) bool { return s.keeps(a) > 0 })
		switch {
		case r.order != nil && r.order.Kind == Reclaim:
			done = true // is under way
		case r.order != nil:
			why = fmt.Errorf("admission: backend %q is coming back: want another try when it is there", name)
		case r.stance == asleep && !holds:
			why = fmt.Errorf("admission: backend %q sleeps already, and holds nothing", name)
		default:
			done, r.byHand = true, true
			s.empty(now, r, nil)
		}
	}
	s.pass(now)
	if done {
		return nil
	}
	return why
}

// WakeByHand brings back the replicas of a backend that sleep. It fails where
// there is no room, or where one is letting go.
func (s *Scheduler) WakeByHand(now time.Duration, name string) error {
	b := s.backendIndex[name]
	if b == nil {
		return fmt.Errorf("%w %q", ErrNoBackend, name)
	}
	for _, r := range b.replicas {
		if r.order != nil && r.order.Kind == Reclaim {
			return fmt.Errorf("admission: backend %q is letting go: want another try when it has", name)
		}
		if r.stance != asleep || r.order != nil {
			continue
		}
		if b, bars := s.barsWake(now, r); bars {
			return fmt.Errorf("admission: backend %q cannot be woken now: %v", name, b)
		}
		r.byHand = false
		s.bringBack(now, Wake, r, nil)
	}
	s.pass(now)
	return nil
}

// SetLoaded tells what a replica's own word is on whether it holds its weights,
// as found at the start of the desk: they are then not an outsider's. mustWake
// says of one that does not that it sleeps.
func (s *Scheduler) SetLoaded(now time.Duration, name string, replica int, loaded, mustWake bool) bool {
	b := s.backendIndex[name]
	if b == nil || replica < 0 || replica >= len(b.replicas) {
		return false
	}
	r := b.replicas[replica]
	if r.stance != awake || r.order != nil || s.live.replicas[r.index] > 0 {
		return false
	}
	if !loaded {
		if mustWake {
			r.stance, r.since = asleep, now
		}
		s.pass(now)
		return true
	}
	for _, a := range r.accounts {
		acc, h := s.accounts[a], &s.live.holdings[a]
		d := s.devices[acc.gpu]
		if acc.learns && acc.resident == 0 {
			acc.unknownLoad = true
		}
		if acc.seen || h.kept >= acc.resident {
			continue
		}
		more := acc.resident - h.kept
		h.kept += more
		s.live.booked[acc.gpu] += more
		mine := min(d.unclaimed, more)
		d.unclaimed -= mine
		d.outside -= mine
		acc.seen = true
	}
	s.pass(now)
	return true
}
