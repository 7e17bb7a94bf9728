package admission

import (
	"cmp"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// runs are the tickets that run, by predicted end.
type runs []*Ticket

func endsBefore(a, b *Ticket) int {
	return cmp.Or(cmp.Compare(a.end, b.end), cmp.Compare(a.ID(), b.ID()))
}

func (x *runs) insert(t *Ticket) {
	i, _ := slices.BinarySearchFunc(*x, t, endsBefore)
	*x = slices.Insert(*x, i, t)
}

func (x *runs) remove(t *Ticket) {
	i, ok := slices.BinarySearchFunc(*x, t, endsBefore)
	if !ok {
		panic("admission: a running ticket is not in the list of running tickets")
	}
	*x = slices.Delete(*x, i, i+1)
}

// predict moves the ends of overdue work into the future: it is never counted
// as free. What has taken much longer than expected is expected to take a
// tenth longer still.
func (x runs) predict(now time.Duration) {
	overdue := 0
	for overdue < len(x) && x[overdue].end <= now {
		t := x[overdue]
		elapsed := now - t.run.Started
		t.end = now + max(t.p95-elapsed, elapsed/10, minRemaining)
		overdue++
	}
	if overdue > 0 {
		slices.SortFunc(x, endsBefore)
	}
}

// endOn is when what runs on a replica is predicted to end; now: nothing runs.
func (x runs) endOn(h *residency.Replica, now time.Duration) time.Duration {
	last := now
	for _, t := range x {
		if t.replica.home == h {
			last = max(last, t.end)
		}
	}
	return last
}
