package queue

import (
	"slices"
	"time"
)

// Where all entries of a group have one timeout, its list has them in the order in
// which they expire. So an entry that expires no sooner than those of its group that
// came before it stays where it is, and only the others are in a heap: those with a
// deadline, and those that came after a timeout was made shorter.

// inOrder is the index in the heap of an entry that is not in it.
const inOrder = -1

// pushExpiry takes note of an entry that expires and has just joined its group.
func (q *Queue[T]) pushExpiry(e *Entry[T], g *Group[T]) {
	if g.timed != nil && e.Expires < g.latest {
		q.expiries.push(e)
		return
	}
	e.heap, g.latest = inOrder, e.Expires
	if g.timed == nil {
		g.timed = e
		q.timed = append(q.timed, g)
	}
}

// removeExpiry forgets an entry that expires and is about to leave its group. Of the
// entries of a group each is passed over once at the most.
func (q *Queue[T]) removeExpiry(e *Entry[T], g *Group[T]) {
	if e.heap != inOrder {
		q.expiries.remove(e)
		return
	}
	if g.timed != e {
		return
	}
	x := e.links[inGroup].next
	for x != nil && (x.Expires >= Forever || x.heap != inOrder) {
		x = x.links[inGroup].next
	}
	if g.timed = x; x == nil {
		i := slices.Index(q.timed, g)
		q.timed = slices.Delete(q.timed, i, i+1)
	}
}

// soonest is the entry that expires first; nil: none does.
func (q *Queue[T]) soonest() *Entry[T] {
	var first *Entry[T]
	if len(q.expiries) > 0 {
		first = q.expiries[0].entry
	}
	for _, g := range q.timed {
		if e := g.timed; first == nil || e.Expires < first.Expires || e.Expires == first.Expires && e.id < first.id {
			first = e
		}
	}
	return first
}

// Expired returns the waiting entry that expired first, at the latest now, and
// leaves it in the queue. Nil: there is none.
func (q *Queue[T]) Expired(now time.Duration) *T {
	if e := q.soonest(); e != nil && e.Expires <= now {
		return e.owner
	}
	return nil
}

// NextExpiry is when the next waiting entry expires. Forever: none does.
func (q *Queue[T]) NextExpiry() time.Duration {
	if e := q.soonest(); e != nil {
		return e.Expires
	}
	return Forever
}

// expiries is a binary heap of waiting entries that expire, soonest first. Each
// knows its index, so that leaving early is logarithmic too.
type expiries[T any] []expiry[T]

// expiry has the key of its entry beside it, so that the heap is compared in its own
// memory.
type expiry[T any] struct {
	at    time.Duration
	entry *Entry[T]
}

func (h *expiries[T]) push(e *Entry[T]) {
	e.heap = int32(len(*h))
	*h = append(*h, expiry[T]{e.Expires, e})
	h.up(int(e.heap))
}

func (h *expiries[T]) remove(e *Entry[T]) {
	old := *h
	last := len(old) - 1
	i := int(e.heap)
	old.swap(i, last)
	old[last] = expiry[T]{}
	*h = old[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h expiries[T]) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].entry.heap, h[j].entry.heap = int32(i), int32(j)
}

// sooner breaks ties by arrival, so that the order of expiry is the same
// whatever the heap went through.
func (h expiries[T]) sooner(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].entry.id < h[j].entry.id
}

func (h expiries[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.sooner(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h expiries[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h.sooner(child+1, child) {
			child++
		}
		if !h.sooner(child, i) {
			return
		}
		h.swap(i, child)
		i = child
	}
}
