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

// place is that of a ticket in the list, whether or not it is there.
func (x runs) place(t *Ticket) int {
	i, j := 0, len(x)
	for i < j {
		if m := int(uint(i+j) >> 1); x[m].end < t.end || x[m].end == t.end && x[m].ID() < t.ID() {
			i = m + 1
		} else {
			j = m
		}
	}
	return i
}

// insert takes a ticket that starts, with the end that is predicted.
func (x *runs) insert(t *Ticket, end time.Duration) {
	t.end = end
	i := x.place(t)
	*x = append(*x, nil)
	copy((*x)[i+1:], (*x)[i:])
	(*x)[i] = t
}

func (x *runs) remove(t *Ticket) {
	i, last := x.place(t), len(*x)-1
	if i > last || (*x)[i] != t {
		panic("admission: a running ticket is not in the list of running tickets")
	}
	copy((*x)[i:], (*x)[i+1:])
	(*x)[last] = nil
	*x = (*x)[:last]
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

// repace moves the predicted ends of what runs in another company from now on.
func (x runs) repace(b *box, now time.Duration) {
	moved := false
	for _, t := range x {
		if t.ran.table == nil {
			continue
		}
		if pace := b.company.expect(b, t); pace != t.ran.pace {
			t.end = now + time.Duration(float64(max(0, t.end-now))*float64(pace)/float64(t.ran.pace))
			t.ran.pace, moved = pace, true
		}
	}
	if moved {
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

// nextOf is when the next run of a class is predicted to end; forever: none runs.
func (x runs) nextOf(c *class) time.Duration {
	for _, t := range x {
		if t.shape.class == c {
			return t.end
		}
	}
	return forever
}
