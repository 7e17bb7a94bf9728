package admission

import (
	"cmp"
	"slices"
	"time"
)

// What the desk says of itself. Nothing here changes the books, and nothing is
// worked out twice: the reasons are those of the last pass.

// blockOf is what a waiting ticket waits for.
func (s *Scheduler) blockOf(t *Ticket) block {
	sh := t.shape
	if sh.head == t {
		return sh.block
	}
	if b, barred := s.barred(sh); barred {
		return b
	}
	return block{reason: ReasonBehind, resource: "the head of its queue"}
}

// maxScan bounds how far a position is counted.
const maxScan = 256

// positionInClass counts who of the class is before a waiting ticket; far from
// the front the position on arrival stands for it.
func (s *Scheduler) positionInClass(t *Ticket) int {
	n := 0
	for x := range t.shape.class.waiting.All() {
		if x == t {
			return n
		}
		if n == maxScan {
			break
		}
		n++
	}
	return max(n, int(t.position))
}

// parallel is how many requests of a shape can run at once on an empty box.
func (s *Scheduler) parallel(sh *shape) int {
	if sh.alone {
		return 1
	}
	n := sh.class.cfg.Slots
	if k := sh.backend.cfg.Slots; k > 0 {
		n = min(n, k*len(sh.backend.replicas))
	}
	if sh.vram > 0 {
		memory := 0
		for _, r := range sh.backend.replicas {
			fit := n
			for _, i := range r.accounts {
				a := s.accounts[i]
				if most := s.devices[a.gpu].ceiling(); most > 0 {
					fit = min(fit, int((most-a.resident)/sh.vram))
				}
			}
			memory += fit
		}
		n = min(n, memory)
	}
	return max(1, n)
}

// estimateStart is when the ticket that is n-th of its shape (0 is next) may
// be expected to start.
func (s *Scheduler) estimateStart(now time.Duration, sh *shape, n int, p50 time.Duration) time.Duration {
	head := now
	switch {
	case sh.head != nil && sh.reserved < forever:
		head = max(now, sh.reserved)
	case sh.head != nil:
		head = now + p50 // nothing in sight
		if len(s.running) > 0 {
			head = max(head, s.running[0].end)
		}
	}
	return head + time.Duration(n)*p50/time.Duration(s.parallel(sh))
}

// estimateWait is how long a new arrival of a shape should expect to wait.
func (s *Scheduler) estimateWait(now time.Duration, sh *shape, p50 time.Duration) time.Duration {
	if sh.Len() == 0 {
		if to, _ := s.pickNow(sh, now); to != nil {
			return 0
		}
		for _, t := range s.running {
			if t.shape.class == sh.class {
				return max(minRemaining, t.end-now)
			}
		}
		return p50
	}
	return s.estimateStart(now, sh, sh.Len(), p50) - now
}

// Queue describes the first limit waiting requests (0: all), in order of
// arrival.
func (s *Scheduler) Queue(now time.Duration, limit int) []Waiter {
	var all []Waiter
	for _, c := range s.classes {
		position := 0
		for t := range c.waiting.All() {
			if limit > 0 && position == limit {
				break
			}
			all = append(all, s.describe(now, t, position))
			position++
		}
	}
	slices.SortFunc(all, func(a, b Waiter) int { return cmp.Compare(a.ID, b.ID) })
	if limit > 0 && len(all) > limit {
		all = all[:limit]
	}
	return all
}

// Explain describes one waiting request; false: nobody of that id waits.
func (s *Scheduler) Explain(now time.Duration, id uint64) (Waiter, bool) {
	t, position := s.find(id)
	if t == nil {
		return Waiter{}, false
	}
	return s.describe(now, t, position), true
}

func (s *Scheduler) find(id uint64) (*Ticket, int) {
	for _, c := range s.classes {
		position := 0
		for t := range c.waiting.All() {
			if t.ID() == id {
				return t, position
			}
			position++
		}
	}
	return nil, 0
}

func (s *Scheduler) describe(now time.Duration, t *Ticket, position int) Waiter {
	sh := t.shape
	b := s.blockOf(t)
	w := Waiter{
		ID: t.ID(), Class: sh.class.cfg.Name, Backend: sh.backend.cfg.Name, Tenant: t.Tenant.Name(),
		VRAM: sh.vram, Arrived: s.epoch.Add(t.Arrived()), Waited: now - t.Arrived(),
		Position: position, Reason: b.reason, Resource: b.resource, Need: b.need, Free: b.free,
		Strict: s.strict == t, InFlow: t.InFlow(maxScan),
	}
	before := 0
	if h := sh.head; h != t {
		before = sh.Ahead(&t.Entry, maxScan)
		if h != nil && t.Before(&h.Entry) {
			before++ // a head stays the head, whoever comes that ranks before it
		}
	}
	if _, barred := s.barred(sh); !barred && (before > 0 || sh.reserved < forever) {
		w.EstimatedStart = s.epoch.Add(s.estimateStart(now, sh, before, t.p50))
	}
	switch b.reason {
	case ReasonReservedForOther:
		w.ReservedFor = sh.keptFor
	case ReasonClassSlots, ReasonBackendSlots, ReasonResources, ReasonCapacityReduced:
		w.Holders = s.holders(b)
	}
	if b.reason == ReasonResources || b.reason == ReasonCapacityReduced {
		w.Keepers = s.keepers(now, sh, b)
	}
	return w
}

// keepers are the idle replicas of others on the GPU that blocks a shape.
func (s *Scheduler) keepers(now time.Duration, sh *shape, b block) []Keeper {
	var all []Keeper
	for i, a := range s.accounts {
		r := a.backend.replicas[a.replica]
		if s.devices[a.gpu].cfg.Name != b.resource || a.backend == sh.backend || s.live.replicas[r.index] > 0 || s.live.holdings[i].kept == 0 {
			continue
		}
		k := Keeper{Backend: a.backend.cfg.Name, Replica: a.replica, Bytes: s.live.holdings[i].kept}
		if until := s.leaveUntil(now, r); a.backend.cfg.Reclaims && !a.backend.cfg.Pinned && until > now {
			k.Until = s.epoch.Add(until)
		}
		all = append(all, k)
	}
	return all
}

// holders are the running tickets that hold a blocked resource.
func (s *Scheduler) holders(b block) []uint64 {
	var ids []uint64
	for _, t := range s.running {
		holds := b.resource == t.shape.class.label || b.resource == t.shape.backend.label
		for _, a := range t.replica.accounts {
			holds = holds || s.devices[s.accounts[a].gpu].cfg.Name == b.resource
		}
		if holds {
			ids = append(ids, t.ID())
		}
	}
	slices.Sort(ids)
	return ids
}

// Running describes what runs, by predicted end.
func (s *Scheduler) Running(now time.Duration) []Running {
	all := make([]Running, 0, len(s.running))
	for _, t := range s.running {
		all = append(all, Running{
			ID: t.ID(), Class: t.shape.class.cfg.Name, Backend: t.shape.backend.cfg.Name, Tenant: t.Tenant.Name(),
			VRAM: t.shape.vram, Started: s.epoch.Add(t.started), Elapsed: now - t.started, EstimatedEnd: s.epoch.Add(t.end),
		})
	}
	return all
}

func (s *Scheduler) describeReplica(r *replica) ReplicaState {
	state := ReplicaState{Stance: stances[r.stance], Swaps: r.swaps, Failures: r.failures, Note: r.note}
	if r.since > 0 {
		state.Since = s.epoch.Add(r.since)
	}
	if r.notBefore > 0 {
		state.NotBefore = s.epoch.Add(r.notBefore)
	}
	return state
}

// Snapshot describes the books. What is gone from the configuration is left out.
func (s *Scheduler) Snapshot(now time.Duration) Snapshot {
	snap := Snapshot{At: s.epoch.Add(now), Draining: s.refuseAll != nil}
	for i, d := range s.devices {
		g := GPUState{
			Name: d.cfg.Name, Capacity: d.capacity(), Reserve: d.cfg.Reserve, Booked: s.live.booked[i],
			Outside: d.outside, Room: s.room(&s.live, i), Observed: d.observed, ObservedAt: d.last.At,
			Source: d.source, Lost: d.lost, Processes: slices.Clone(d.processes),
			Swaps: d.swapsIn(now, time.Minute),
		}
		if d.last.Err != nil {
			g.Err, g.Stale = d.last.Err.Error(), d.observed >= 0
		}
		if d.observed >= 0 {
			g.ObservedAt = s.epoch.Add(d.goodAt)
		}
		snap.GPUs = append(snap.GPUs, g)
	}
	for i, c := range s.classes {
		if c.gone {
			continue
		}
		state := ClassState{
			Name: c.cfg.Name, Slots: c.cfg.Slots, Running: s.live.classes[i], Queued: c.waiting.Len(),
			QueueLimit: c.cfg.QueueLimit, QueuedBytes: Bytes(c.waiting.Size()), Paused: c.paused, Granted: c.granted, Refused: c.refused,
		}
		if t := c.waiting.First(); t != nil {
			state.OldestWait = now - t.Arrived()
		}
		snap.Classes = append(snap.Classes, state)
	}
	for i, b := range s.backends {
		if b.gone {
			continue
		}
		state := BackendState{
			Name: b.cfg.Name, Slots: b.cfg.Slots, Running: s.live.backends[i],
			Available: b.available(), Draining: b.draining, Pinned: b.cfg.Pinned,
		}
		for _, r := range b.replicas {
			state.Replicas = append(state.Replicas, s.describeReplica(r))
			for _, a := range r.accounts {
				h, acc := s.live.holdings[a], s.accounts[a]
				atRest := Bytes(-1)
				if acc.atRestKnown {
					atRest = acc.atRest
				}
				state.Accounts = append(state.Accounts, AccountState{
					Replica: r.number, GPU: s.devices[acc.gpu].cfg.Name, Resident: acc.resident,
					Kept: h.kept, Running: h.running, Footprint: h.footprint(acc.resident),
					Learns: acc.learns, AtRest: atRest,
				})
			}
		}
		snap.Backends = append(snap.Backends, state)
	}
	return snap
}
