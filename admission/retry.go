package admission

import (
	"slices"
	"time"
)

// A request that has run out of memory is tried once more. It waits for a reading
// since its failure. From then on it stops no other request, and waits only while
// its client is better off so: for memory that is certain to come free, for what
// running work may free beside, or for what processes which are not ours hold. An odd
// one waits for none of these: others of its route do well in what there is. One that
// lacked what others held, as the answer said, waits for them in any case.

// givesUp says that the head of a shape is a second try whose client is to have
// the answer of the first, since memory bars it, and nothing that is under way
// makes room by that time.
func (sh *shape) givesUp(b *box, at, now time.Duration, k block) bool {
	if !sh.key.retry || !k.memory() {
		return false
	}
	t := sh.head
	unread := slices.ContainsFunc(sh.backend.replicas, func(r *replica) bool {
		return slices.ContainsFunc(r.accounts, func(a int) bool { return !b.ledger.ReadSince(b.ledger.GPUOf(a), t.Arrived(), now) })
	})
	switch {
	case unread:
		return false
	case sh.key.lacked:
		return false
	case sh.key.odd > 0:
		return true
	}
	if at < forever || k.reason == ReasonLoneRun || k.reason == ReasonUnmanagedMemory || k.reason == ReasonCapacityReduced || b.residency.OrdersFor(t) {
		return false
	}
	// What runs beside it may free more at its end than is certain.
	return !slices.ContainsFunc(sh.backend.replicas, func(r *replica) bool {
		return slices.ContainsFunc(r.accounts, func(a int) bool { return !b.ledger.Quiet(b.ledger.GPUOf(a)) })
	})
}

// giveUp is the refusal of a second try. Its client does not see it.
func giveUp(k block) *Rejection {
	return &Rejection{Code: CodeNeverFits, Reason: k.reason, Detail: "it ran out of memory, and there is no room to try it again: " + k.String()}
}
