package admission

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// name says what a head waits for, beyond what bars it. The first that applies:
//
//  1. what bars it is not memory;
//  2. memory is being freed for it;
//  3. its GPU comes to rest for it;
//  4. another backend's turn, or what was freed for another;
//  5. a lone run, which may take all that is left;
//  6. processes that are not ours, or a card that is smaller or cannot be read;
//  7. nothing that runs, that can be unloaded or tried will make room, for TrialAfter;
//  8. a trial, of what it holds or of what it needs, or of a card that was full and cannot be read;
//  9. running work.
func (s *Scheduler) name(now time.Duration, sh *shape, k block) block {
	l := s.box.ledger
	if !k.memory() { // 1
		return k
	}
	long := now-sh.blockedSince >= l.TrialAfter(k.gpu)
	switch {
	case s.box.residency.UnloadsFor(sh.head): // 2
		k.reason = ReasonReclaiming
	case k.gpu < len(s.rests) && s.rests[k.gpu] == sh.head: // 3
		k.reason = ReasonRest
	case sh.turn.of != nil: // 4
		k.reason = ReasonTurn
	case s.turns.reservedFor(s.box, sh) != nil: // 4
		k.reason, sh.reservedFor = ReasonReservedForOther, s.turns.reservedFor(s.box, sh).ID()
	case k.reason == ReasonResources && l.LoneRun(k.gpu) != nil: // 5
		k.reason = ReasonLoneRun
	case k.reason == ReasonLoneRun || k.reason == ReasonUnmanagedMemory || k.reason == ReasonCapacityReduced: // 6
	case long && l.Quiet(k.gpu) && l.AtRest(k.gpu, now), long && s.shapes.stuck(s, now, sh): // 7
		k.reason = ReasonNotByItself
	case k.reason == ReasonResources && l.Quiet(k.gpu) && (s.box.doubt(sh, now) != memory.NoDoubt || isFull(l, k.gpu, now)): // 8
		k.reason = ReasonTrial
	}
	return k
}

// isFull says that a GPU which cannot be read was full when a run was last tried there.
func isFull(l *memory.Ledger, g int, now time.Duration) bool {
	_, _, is := l.Full(g, now)
	return is
}

// doubt says what a trial of a shape's head on its first replica could settle.
func (b *box) doubt(sh *shape, now time.Duration) memory.Doubt {
	r := sh.backend.replicas[0]
	if len(r.accounts) == 0 {
		return memory.NoDoubt
	}
	if sh.unknown || b.ledger.WeightsUnknown(r.accounts[0]) {
		return memory.DoubtDemand
	}
	return b.ledger.InDoubt(b.live.memory, r.accounts[0], b.demand(sh, r, 0), sh.key.own, sh.measured, true, sh.known, now)
}

// stuck says that the head of a shape would not fit even if all work had ended and
// all had been unloaded that can be, and that no trial is due.
func (x *shapes) stuck(s *Scheduler, now time.Duration, sh *shape) bool {
	if r, _ := s.rests.may(s, now, sh); r != nil || sh.known.Until(now) > now || s.box.doubt(sh, now) != memory.NoDoubt {
		return false
	}
	u, m := &s.profile.scratch, s.box.residency
	s.box.copyRead(u, now)
	for _, t := range s.running {
		s.box.give(u, t.shape, t.replica, &t.run)
	}
	for _, v := range m.Replicas {
		if m.MayUnload(v) || m.Moves(v) {
			m.PredictUnload(u.memory, v)
		}
	}
	for _, r := range sh.backend.replicas {
		fits := len(r.accounts) > 0
		for i, a := range r.accounts {
			fits = fits && s.box.fitsMemory(u, sh, r, i, a, now) == noBar
		}
		if fits {
			return false
		}
	}
	return true
}

// explainMemory fills in what a head waits for where memory bars it.
func explainMemory(s *Scheduler, now time.Duration, sh *shape, k block, w *Waiter) {
	l := s.box.ledger
	w.Keepers = s.box.keepers(s.epoch, now, sh, k)
	state := l.Describe(k.gpu, now)
	switch k.reason {
	case ReasonTurn:
		w.Turn = &Turn{Backend: sh.turn.of.Backend, Replica: sh.turn.of.Replica, Ends: s.epoch.Add(sh.turn.ends)}
		w.Detail = fmt.Sprintf("backend %s keeps %s until its turn ends, and is unloaded then", w.Turn.Backend, k.resource)
	case ReasonLoneRun, ReasonRest:
		if r := l.LoneRun(k.gpu); r != nil {
			if t, ok := r.Owner.(*Ticket); ok {
				w.LoneRun = t.ID()
				w.Detail = fmt.Sprintf("request %d of backend %s runs alone on %s: nobody knows yet what it takes", t.ID(), t.shape.backend.cfg.Name, k.resource)
			}
		}
	case ReasonUnmanagedMemory, ReasonNotByItself:
		for _, p := range state.Processes {
			if p.Backend == "" && p.Used > 0 {
				w.Processes = append(w.Processes, p)
			}
		}
		slices.SortStableFunc(w.Processes, func(a, b Process) int { return int(min(1, max(-1, b.Used-a.Used))) })
		w.Detail = inTheWay(k.resource, w.Keepers, w.Processes)
		if w.Detail == "" && state.Unmanaged > 0 {
			w.Detail = fmt.Sprintf("%v of %s are held by processes of no backend", state.Unmanaged, k.resource)
		}
	}
	if again, _, is := l.Full(k.gpu, now); is && (k.reason == ReasonTrial || k.reason == ReasonNotByItself || k.reason == ReasonResources) {
		w.TrialAt = s.epoch.Add(again)
		w.Detail = fmt.Sprintf("%s cannot be read, and a run found it full: the next is tried at %s", k.resource, w.TrialAt.Format(time.TimeOnly))
	}
	if doubt := s.box.doubt(sh, now); doubt != memory.NoDoubt && (k.reason == ReasonTrial || k.reason == ReasonRest || k.reason == ReasonResources) {
		w.TrialAt = s.epoch.Add(trialDue(s, now, sh, k.gpu))
		w.Doubt = [...]string{memory.DoubtHeld: "held", memory.DoubtDemand: "demand"}[doubt]
		w.Detail = fmt.Sprintf("what %s is uncertain: it is tried alone once %s is at rest",
			map[memory.Doubt]string{memory.DoubtHeld: "backend " + w.Backend + " holds already", memory.DoubtDemand: "the request needs"}[doubt], k.resource)
	}
}

// trialDue is when the head of a shape may be tried on a GPU, as far as can be told.
func trialDue(s *Scheduler, now time.Duration, sh *shape, g int) time.Duration {
	l := s.box.ledger
	due := now
	if again, _, is := l.Full(g, now); is {
		due = again
	} else if !sh.unknown {
		due = max(due, sh.blockedSince+l.TrialAfter(g))
	}
	for _, t := range s.running {
		if slices.ContainsFunc(t.replica.accounts, func(a int) bool { return l.GPUOf(a) == g }) {
			due = max(due, t.end)
		}
	}
	return due
}

// inTheWay says in a sentence what holds the memory of a GPU.
func inTheWay(gpu string, keepers []Keeper, others []Process) string {
	var all []string
	for _, k := range keepers {
		held, why := k.High.String(), "has no reclaim"
		if k.Low < k.High {
			held = fmt.Sprintf("%v to %v", k.Low, k.High)
		}
		if k.Reclaims {
			why = "was asked to unload and freed nothing"
		} else if k.Pinned {
			why = "is pinned"
		}
		all = append(all, fmt.Sprintf("backend %s retains %s of %s and %s", k.Backend, held, gpu, why))
	}
	for _, p := range others {
		all = append(all, fmt.Sprintf("%s (PID %d) of no backend holds %v of %s", p.Name, p.PID, p.Used, gpu))
	}
	return strings.Join(all, "; ")
}
