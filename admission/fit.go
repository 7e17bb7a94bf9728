package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// usage is what is taken of every resource at one moment: now, or at a moment
// that the profile predicts. The same rules read and change both.
type usage struct {
	memory   *memory.State
	lone     []*memory.Run // that bars a GPU, by GPU; nil: as the ledger says now
	classes  []int         // running, by class
	replicas []int         // running, by replica
	reserves []int         // running, by reserve
}

// copyLive makes u a copy of what is taken now.
func (b *box) copyLive(u *usage, now time.Duration) {
	u.copyFrom(&b.live)
	u.lone = u.lone[:0]
	for g := range b.live.memory.GPUs {
		var r *memory.Run
		if b.ledger.Bars(g, now) {
			r = b.ledger.LoneRun(g)
		}
		u.lone = append(u.lone, r)
	}
}

// copyRead makes u a copy of what will be taken once the GPUs have been read after
// the runs that have ended.
func (b *box) copyRead(u *usage, now time.Duration) {
	b.copyLive(u, now)
	for a := range u.memory.Accounts {
		if _, ok := b.ledger.Ended(a); ok {
			b.ledger.Read(u.memory, a)
		}
	}
}

func (u *usage) copyFrom(v *usage) {
	if u.memory == nil {
		u.memory = new(memory.State)
	}
	u.memory.CopyFrom(v.memory)
	u.lone = append(u.lone[:0], v.lone...)
	u.classes = append(u.classes[:0], v.classes...)
	u.replicas = append(u.replicas[:0], v.replicas...)
	u.reserves = append(u.reserves[:0], v.reserves...)
}

// count adds n runs to every count of slots.
func (u *usage) count(sh *shape, r *replica, n int) {
	u.classes[sh.class.index] += n
	u.replicas[r.index] += n
	for _, e := range r.reserves {
		if e.class == sh.class.index {
			u.reserves[e.count] += n
		}
	}
}

// freeSlots is how many more of a class a replica with slots could run: what
// other classes have reserved and do not use is not free.
func (u *usage) freeSlots(sh *shape, r *replica) int {
	free := sh.backend.cfg.Slots - u.replicas[r.index]
	for _, e := range r.reserves {
		if e.class != sh.class.index {
			free -= max(0, e.slots-u.reserves[e.count])
		}
	}
	return free
}

// take predicts a start of shape sh on replica r.
func (b *box) take(u *usage, sh *shape, r *replica, now time.Duration) {
	u.count(sh, r, 1)
	for i, a := range r.accounts {
		b.ledger.Take(u.memory, a, b.demand(sh, r, i), now)
	}
}

// give predicts the end of a run of shape sh on replica r, which may have been
// started with another demand than its shape's.
func (b *box) give(u *usage, sh *shape, r *replica, run *memory.Run) {
	u.count(sh, r, -1)
	for i, a := range r.accounts {
		demand := b.demand(sh, r, i)
		if run != nil {
			demand = run.Demand
			if g := b.ledger.GPUOf(a); g < len(u.lone) && u.lone[g] == run {
				u.lone[g] = nil
			}
		}
		b.ledger.Give(u.memory, a, demand)
	}
}

// holdsMore says that a replica holds more at a moment than now.
func (b *box) holdsMore(u *usage, r *replica) bool {
	return slices.ContainsFunc(r.accounts, func(a int) bool { return u.memory.Accounts[a].Low > b.live.memory.Accounts[a].Low })
}

// demand is what a start of shape sh adds to the weights on the i-th GPU of a
// replica.
func (b *box) demand(sh *shape, r *replica, i int) Bytes {
	return b.residency.Demand(r.home, i, sh.vram)
}

// block is what bars a start.
type block struct {
	reason     Reason
	resource   string
	need, free int64
	gpu        int // that bars it by its memory; -1: none does
}

func (k block) blocked() Blocked { return Blocked{k.reason, k.resource, k.need, k.free} }

// memory says that a head is barred by memory alone.
func (k block) memory() bool { return k.gpu >= 0 }

func (k block) String() string {
	switch {
	case k.resource == "":
		return string(k.reason)
	case k.memory():
		return fmt.Sprintf("%s: %s: needs %v of %v that are available", k.resource, k.reason, Bytes(k.need), Bytes(max(0, k.free)))
	case k.reason == ReasonClassSlots || k.reason == ReasonBackendSlots:
		return fmt.Sprintf("%s: %d free", k.resource, k.free)
	}
	return fmt.Sprintf("%s: %s", k.resource, k.reason)
}

// bar is what bars a start, as a number: whether anything does is asked for every
// moment of the profile, and what exactly only where a head is told of it. One that
// concerns a GPU has the place of its account on the replica in the upper byte.
type bar uint16

const (
	noBar bar = iota
	barClassSlots
	barReclaiming
	barLoading
	barBackendSlots
	barProbes
	barSleeps
	barTurn
	barRest    // from here on of a GPU
	barUnknown // from here on of its memory
	barClosed
	barLoneRun
	barMemory
)

func (k bar) kind() bar    { return k & 0xff }
func (k bar) account() int { return int(k >> 8) }

// memory says that a start is barred by memory alone.
func (k bar) memory() bool { return k.kind() >= barUnknown }

// waking says that the replica has to be loaded, or is being loaded.
func (k bar) waking() bool { return k == barSleeps || k == barLoading }

// fits says whether a start of shape sh on replica r is within every capacity,
// and if not what bars it first:
//
//  1. the slots of its class;
//  2. its replica is being unloaded or loaded;
//  3. the slots of its replica, and the probes of an open breaker;
//  4. on each of its GPUs, memory: see fitsMemory;
//  5. its replica has to be woken.
func (b *box) fits(u *usage, sh *shape, r *replica, now time.Duration) bar {
	if k := b.slotsFree(u, sh, r); k != noBar {
		return k
	}
	for i, a := range r.accounts { // 4
		if k := b.fitsMemory(u, sh, r, i, a, now); k != noBar {
			return k | bar(i)<<8
		}
	}
	if r.home.State.Sleeps() { // 5
		return barSleeps
	}
	return noBar
}

// slotsFree is 1 to 3 of fits.
func (b *box) slotsFree(u *usage, sh *shape, r *replica) bar {
	c, x := sh.class, sh.backend
	if u.classes[c.index] >= c.cfg.Slots { // 1
		return barClassSlots
	}
	switch r.home.State { // 2
	case residency.Draining, residency.Unloading:
		return barReclaiming
	case residency.Loading:
		return barLoading
	}
	if x.cfg.Slots > 0 && u.freeSlots(sh, r) < 1 { // 3
		return barBackendSlots
	}
	if r.probes >= 0 && u.replicas[r.index] >= r.probes && !r.home.State.Sleeps() {
		return barProbes
	}
	return noBar
}

// fitsMemory says whether a start fits on the i-th GPU of a replica, and if not
// what bars it first:
//
//  1. an unknown demand never fits;
//  2. what adds no memory always does;
//  3. the GPU cannot be read;
//  4. a lone run is under way;
//  5. too little memory is available.
func (b *box) fitsMemory(u *usage, sh *shape, r *replica, i, a int, now time.Duration) bar {
	if sh.unknown || b.ledger.WeightsUnknown(a) { // 1
		return barUnknown
	}
	g, demand := b.ledger.GPUOf(a), b.demand(sh, r, i)
	if closed, bars := b.ledger.Closed(g, now), u.lone == nil && b.ledger.Bars(g, now) || u.lone != nil && u.lone[g] != nil; closed || bars {
		switch {
		case b.ledger.Adds(u.memory, a, demand, now) == 0: // 2
			return noBar
		case closed: // 3
			return barClosed
		}
		return barLoneRun // 4
	}
	if _, _, ok := b.ledger.Fits(u.memory, a, demand, now); !ok { // 5
		return barMemory
	}
	return noBar
}

// block says in full what bars a start of shape sh on replica r.
func (b *box) block(u *usage, sh *shape, r *replica, k bar, now time.Duration) block {
	c, x := sh.class, sh.backend
	switch k.kind() {
	case barClassSlots:
		return block{ReasonClassSlots, c.label, 1, int64(c.cfg.Slots - u.classes[c.index]), -1}
	case barReclaiming:
		return block{ReasonReclaiming, x.label, 1, 0, -1}
	case barLoading, barSleeps:
		return block{ReasonWaking, x.label, 1, 0, -1}
	case barBackendSlots:
		return block{ReasonBackendSlots, x.label, 1, int64(u.freeSlots(sh, r)), -1}
	case barProbes:
		return block{ReasonBackendUnavailable, x.label, 1, 0, -1}
	case barTurn:
		return b.reserved(sh, r, now)
	case noBar:
		return block{gpu: -1}
	}
	i := k.account()
	a := r.accounts[i]
	g, demand := b.ledger.GPUOf(a), b.demand(sh, r, i)
	name := b.ledger.Name(g)
	switch k.kind() {
	case barUnknown:
		return block{ReasonTrial, name, int64(max(1, demand)), 0, g}
	case barClosed:
		return block{ReasonCapacityReduced, name, int64(b.ledger.Adds(u.memory, a, demand, now)), 0, g}
	case barLoneRun:
		return block{ReasonLoneRun, name, int64(b.ledger.Adds(u.memory, a, demand, now)), 0, g}
	case barRest:
		return block{ReasonRest, name, 1, 0, -1}
	}
	need, free, _ := b.ledger.Fits(u.memory, a, demand, now)
	reason := ReasonResources
	if b.ledger.Unmanaged(u.memory, a, demand, now) > 0 {
		reason = ReasonUnmanagedMemory
	} else if b.ledger.Ceiling(g)-b.ledger.Budget(g) >= need-free {
		reason = ReasonCapacityReduced
	}
	if _, certain, is := b.ledger.Full(g, now); is && !certain {
		free = min(free, 0) // all that is known of it
	}
	return block{reason, name, int64(need), int64(free), g}
}

// reserved is the block of a shape that would fit now on a replica, if the
// memory or slots were not reserved for another.
func (b *box) reserved(sh *shape, free *replica, now time.Duration) block {
	k := block{reason: ReasonReservedForOther, gpu: -1}
	if len(free.accounts) > 0 {
		a := free.accounts[0]
		k.resource = b.ledger.Name(b.ledger.GPUOf(a))
		k.need = int64(b.ledger.Adds(b.live.memory, a, b.demand(sh, free, 0), now))
		k.free = int64(b.ledger.Available(b.live.memory, b.ledger.GPUOf(a), now))
	}
	return k
}

// room is what a start would add on all GPUs of a replica, and the least that is
// available on one of them.
func (b *box) room(sh *shape, r *replica, now time.Duration) (need, free Bytes) {
	l := b.ledger
	for i, a := range r.accounts {
		need += l.Adds(b.live.memory, a, b.demand(sh, r, i), now)
		if f := l.Available(b.live.memory, l.GPUOf(a), now); i == 0 || f < free {
			free = f
		}
	}
	return need, free
}

// runDemand is the demand of a run of a shape on a replica, whatever GPU it is
// largest on.
func (b *box) runDemand(sh *shape, r *replica) Bytes {
	most := sh.vram
	for i := range r.accounts {
		most = max(most, b.demand(sh, r, i))
	}
	return most
}

// share is the largest fraction of any one resource that a ticket takes.
func (b *box) share(t *Ticket) float64 {
	share := t.shape.class.share
	for _, a := range t.replica.accounts {
		switch c := b.ledger.Capacity(b.ledger.GPUOf(a)); {
		case c == 0:
		case t.shape.vram >= c:
			return 1
		default:
			if x := float64(t.shape.vram) / float64(c); x > share {
				share = x
			}
		}
	}
	return share
}
