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
func (q *Queue[T]) pushExpiry(p *Place[T], g *Group[T]) {
	if g.timed != nil && p.Expires < g.latest {
		q.expiries.push(p)
		return
	}
	p.heap, g.latest = inOrder, p.Expires
	if g.timed == nil {
		g.timed = p
		q.timed = append(q.timed, g)
	}
}

// removeExpiry forgets an entry that expires and is about to leave its group. Of the
// entries of a group each is passed over once at the most.
func (q *Queue[T]) removeExpiry(p *Place[T], g *Group[T]) {
	if p.heap != inOrder {
		q.expiries.remove(p)
		return
	}
	if g.timed != p {
		return
	}
	x := p.links[inGroup].next
	for x != nil && (x.Expires >= Forever || x.heap != inOrder) {
		x = x.links[inGroup].next
	}
	if g.timed = x; x == nil {
		i := slices.Index(q.timed, g)
		q.timed = slices.Delete(q.timed, i, i+1)
	}
}

// soonest is the entry that expires first; nil: none does.
func (q *Queue[T]) soonest() *Place[T] {
	var first *Place[T]
	if len(q.expiries) > 0 {
		first = q.expiries[0].place
	}
	for _, g := range q.timed {
		if p := g.timed; first == nil || p.Expires < first.Expires || p.Expires == first.Expires && p.entry.id < first.entry.id {
			first = p
		}
	}
	return first
}

// Expired returns the waiting entry that expired first, at the latest now, and
// leaves it in the queue. Nil: there is none.
func (q *Queue[T]) Expired(now time.Duration) *T {
	if p := q.soonest(); p != nil && p.Expires <= now {
		return p.entry.owner
	}
	return nil
}

// NextExpiry is when the next waiting entry expires. Forever: none does.
func (q *Queue[T]) NextExpiry() time.Duration {
	if p := q.soonest(); p != nil {
		return p.Expires
	}
	return Forever
}

// ExpireBefore adds the waiting entries that expire before a moment to a list, in no
// particular order.
func (q *Queue[T]) ExpireBefore(at time.Duration, list []*T) []*T {
	list = q.expiries.before(0, at, list)
	for _, g := range q.timed {
		for p := g.timed; p != nil; p = p.links[inGroup].next {
			if p.heap != inOrder {
				continue
			}
			if p.Expires >= at {
				break
			}
			list = append(list, p.entry.owner)
		}
	}
	return list
}

// expiries is a binary heap of waiting entries that expire, soonest first. Each
// knows its index, so that leaving early is logarithmic too.
type expiries[T any] []expiry[T]

// expiry has the key of its entry beside it, so that the heap is compared in its own
// memory.
type expiry[T any] struct {
	at    time.Duration
	place *Place[T]
}

func (h *expiries[T]) push(p *Place[T]) {
	p.heap = int32(len(*h))
	*h = append(*h, expiry[T]{p.Expires, p})
	h.up(int(p.heap))
}

func (h *expiries[T]) remove(p *Place[T]) {
	old := *h
	last := len(old) - 1
	i := int(p.heap)
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
	h[i].place.heap, h[j].place.heap = int32(i), int32(j)
}

// sooner breaks ties by arrival, so that the order of expiry is the same
// whatever the heap went through.
func (h expiries[T]) sooner(i, j int) bool {
	if h[i].at != h[j].at {
		return h[i].at < h[j].at
	}
	return h[i].place.entry.id < h[j].place.entry.id
}

// before adds those from a place on that expire before a moment.
func (h expiries[T]) before(i int, at time.Duration, list []*T) []*T {
	if i >= len(h) || h[i].at >= at {
		return list
	}
	return h.before(2*i+2, at, h.before(2*i+1, at, append(list, h[i].place.entry.owner)))
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
