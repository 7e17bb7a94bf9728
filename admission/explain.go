package admission

import (
	"cmp"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// What the scheduler says of itself. Nothing here changes its state, and nothing
// is worked out twice: the reasons are those of the last pass.

// blockOf is what a waiting ticket waits for.
func (s *Scheduler) blockOf(t *Ticket) block {
	sh := t.shape
	if sh.head == t {
		return sh.block
	}
	if k, barred := sh.barred(); barred {
		return k
	}
	return behind
}

// behind is what bars a ticket that is not the head of its shape.
var behind = block{reason: ReasonBehind, resource: "the head of its queue", gpu: -1}

// maxScan bounds how far a position is counted.
const maxScan = 256

// positionInClass counts how many of the class are before a waiting ticket; far
// from the front the position on arrival stands for it.
func (t *Ticket) positionInClass() int {
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

// parallel is how many requests of a shape can run at once on an empty machine.
func (b *box) parallel(sh *shape) int {
	if sh.unknown {
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
				if most := b.ledger.Ceiling(b.ledger.GPUOf(i)); most > 0 {
					fit = min(fit, int((most-b.ledger.Weights(i))/sh.vram))
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
		if sh.block.memory() {
			if again, _, is := s.box.ledger.Full(sh.block.gpu, now); is {
				head = max(head, again)
			}
		}
	}
	return head + time.Duration(n)*p50/time.Duration(s.box.parallel(sh))
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
	all, f := listWaiting(s, now, limit)
	return f.expect(firsts(all, limit))
}

// firsts are the first limit of a list; 0: all.
func firsts(all []Waiter, limit int) []Waiter {
	if limit > 0 && len(all) > limit {
		return all[:limit]
	}
	return all
}

// listWaiting describes the first limit waiting requests of each class (0: all), in
// order of arrival, without expected starts, and gives the forecast that knows them.
func listWaiting(s *Scheduler, now time.Duration, limit int) ([]Waiter, *forecast) {
	var all []Waiter
	for _, c := range s.box.classes {
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
	if len(all) == 0 {
		return nil, nil
	}
	return all, newForecast(s, now)
}

// Explain describes one waiting request; false: no request of that id waits.
func (s *Scheduler) Explain(now time.Duration, id uint64) (Waiter, bool) {
	w, f := oneWaiting(s, now, id)
	return f.expect(w)[0], f != nil
}

// oneWaiting is Explain without the expected start, and the forecast that knows it;
// nil: no request of that id waits.
func oneWaiting(s *Scheduler, now time.Duration, id uint64) ([]Waiter, *forecast) {
	t, position := s.box.waiting(id)
	if t == nil {
		return []Waiter{{}}, nil
	}
	return []Waiter{s.describe(now, t, position)}, newForecast(s, now)
}

// waiting finds a waiting ticket and its position in its class; nil: there is none.
func (b *box) waiting(id uint64) (*Ticket, int) {
	for _, c := range b.classes {
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
	k := s.blockOf(t)
	w := Waiter{
		ID: t.ID(), Class: sh.class.cfg.Name, Backend: sh.backend.cfg.Name, Tenant: t.Tenant.Name(),
		VRAM: sh.vram, Declared: sh.key.own, Arrived: s.epoch.Add(t.Arrived()), Waited: now - t.Arrived(),
		Position: position, Reason: k.reason, Resource: k.resource, Need: k.need, Free: k.free,
		Strict: s.strict.is(t), InFlow: t.wait.InFlow(maxScan), Origin: t.origin(),
	}
	switch {
	case k.reason == ReasonReservedForOther:
		w.ReservedFor = sh.reservedFor
	case k.reason == ReasonClassSlots || k.reason == ReasonBackendSlots || k.memory():
		w.Holders = s.running.holding(s.box, k)
	}
	if k.memory() {
		explainMemory(s, now, sh, k, &w)
	}
	return w
}

// keepers are the idle replicas of other backends that may hold memory of the GPU
// that blocks a shape.
func (b *box) keepers(epoch time.Time, now time.Duration, sh *shape, k block) []Keeper {
	var all []Keeper
	for _, r := range b.replicas {
		for _, a := range r.accounts {
			h := b.live.memory.Accounts[a]
			if b.ledger.GPUOf(a) != k.gpu || r.backend == sh.backend || b.live.replicas[r.index] > 0 || h.High == 0 {
				continue
			}
			keeper := Keeper{Backend: r.backend.cfg.Name, Replica: r.number, Low: h.Low, High: h.High, Reclaims: r.home.Reclaims && !r.home.Pinned,
				Pinned: r.home.Reclaims && r.home.Pinned}
			if until := b.residency.LeaveUntil(now, r.home); keeper.Reclaims && until > now {
				keeper.Until = epoch.Add(until)
			}
			all = append(all, keeper)
		}
	}
	return all
}

// holding are the running tickets that hold a blocked resource.
func (x runs) holding(b *box, k block) []uint64 {
	var ids []uint64
	for _, t := range x {
		holds := k.resource == t.shape.class.label || k.resource == t.shape.backend.label
		for _, a := range t.replica.accounts {
			holds = holds || b.ledger.GPUOf(a) == k.gpu
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
			VRAM: t.shape.vram, Replica: t.replica.number, Waited: t.Waited(), Started: s.epoch.Add(t.run.Started), Elapsed: now - t.run.Started,
			EstimatedEnd: s.epoch.Add(t.end),
		})
	}
	return all
}

func describeReplica(h *residency.Replica, epoch time.Time) ReplicaState {
	state := ReplicaState{Residency: h.State.String(), Swaps: h.Swaps, Failures: h.Failures, Note: h.Note}
	if h.Since > 0 {
		state.Since = epoch.Add(h.Since)
	}
	if h.NotBefore > 0 {
		state.NotBefore = epoch.Add(h.NotBefore)
	}
	return state
}

// Snapshot describes the ledger, the classes and the backends. What is gone from
// the configuration is left out.
func (s *Scheduler) Snapshot(now time.Duration) Snapshot {
	snap := Snapshot{At: s.epoch.Add(now), Draining: s.refuseAll != nil}
	for g := range s.box.live.memory.GPUs {
		state := GPUState{GPUState: s.box.ledger.Describe(g, now), Swaps: s.box.residency.SwapsIn(now, g, time.Minute)}
		if state.Observed >= 0 {
			state.ObservedAt = s.epoch.Add(state.ReadAt)
		}
		snap.GPUs = append(snap.GPUs, state)
	}
	for i, c := range s.box.classes {
		if c.gone {
			continue
		}
		state := ClassState{
			Name: c.cfg.Name, Slots: c.cfg.Slots, Running: s.box.live.classes[i], Queued: c.waiting.Len(),
			QueueLimit: c.cfg.QueueLimit, QueuedBytes: Bytes(c.waiting.Size()), Paused: c.paused, Granted: c.granted, Refused: c.refused, Counts: c.counts,
		}
		if first := c.waiting.First(); first != nil {
			state.OldestWait = now - first.Arrived()
		}
		snap.Classes = append(snap.Classes, state)
	}
	for _, b := range s.box.backends {
		if b.gone {
			continue
		}
		state := BackendState{Name: b.cfg.Name, Slots: b.cfg.Slots, Available: b.available(), Draining: b.draining, Pinned: b.cfg.Pinned}
		for _, r := range b.replicas {
			state.Running += s.box.live.replicas[r.index]
			state.Replicas = append(state.Replicas, describeReplica(r.home, s.epoch))
			for _, a := range r.accounts {
				state.Accounts = append(state.Accounts, s.box.ledger.DescribeAccount(a))
			}
		}
		for _, sh := range s.shapes.active {
			if sh.backend == b {
				state.Queued += sh.Len()
			}
		}
		snap.Backends = append(snap.Backends, state)
	}
	return snap
}
