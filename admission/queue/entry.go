package queue

import "time"

// Entry is the part of a request that the queue needs, whether or not it waits. It is
// embedded in the caller's own type T, so that a request is one allocation. It must
// not be copied once it has arrived.
//
// The caller sets the exported fields before Push and leaves them alone while
// the entry waits.
type Entry[T any] struct {
	Tenant *Tenant[T] // from Queue.Tenant
	// Boost is how much earlier than its arrival it ranks; negative: later.
	Boost time.Duration

	owner   *T
	id      uint64
	arrived time.Duration
	charge  float64 // what its tenant paid in advance
	share   float32 // as given to Charge
}

// Place is where an entry waits. Most requests never wait, so it is apart from the
// Entry. It must not be copied while its entry waits.
//
// The caller sets the exported fields before Push and leaves them alone while
// the entry waits.
type Place[T any] struct {
	// Expires is when Expired returns the entry. Forever: never.
	Expires time.Duration
	// Size is what it adds to Group.Size, in bytes of a request body.
	Size int64

	entry *Entry[T]
	flow  *flow[T] // nil until Push
	links [listKinds]link[T]
	heap  int32 // index in the expiry heap; inOrder: it is not there
}

// Stand makes an entry that does not wait stand for another in a copy of its queue,
// with its number, arrival and charge.
func (e *Entry[T]) Stand(of *Entry[T], owner *T, tenant *Tenant[T]) {
	e.id, e.arrived, e.share, e.charge, e.owner, e.Tenant, e.Boost = of.id, of.arrived, of.share, of.charge, owner, tenant, of.Boost
}

// ID is the entry's number, unique within the queue and given in order of
// arrival. Zero: it has not arrived.
func (e *Entry[T]) ID() uint64 { return e.id }

// Arrived is when it arrived.
func (e *Entry[T]) Arrived() time.Duration { return e.arrived }

// Before says that an entry ranks before another: by arrival less boost, then
// by number.
func (e *Entry[T]) Before(f *Entry[T]) bool {
	if a, b := e.arrived-e.Boost, f.arrived-f.Boost; a != b {
		return a < b
	}
	return e.id < f.id
}

// before is Before of the entries.
func (p *Place[T]) before(q *Place[T]) bool { return p.entry.Before(q.entry) }

// InFlow counts the entries before a waiting entry in its flow, up to limit.
func (p *Place[T]) InFlow(limit int) int {
	n := 0
	for x := p.flow.waiting.first; x != nil && x != p && n < limit; x = x.links[inFlow].next {
		n++
	}
	return n
}

// A waiting entry is in three lists at once, all in order of arrival.
const (
	inFlow = iota
	inLevel
	inGroup
	listKinds
)

type link[T any] struct{ prev, next *Place[T] }

// list is a doubly linked list through the places themselves: leaving from the
// middle costs the same as from the front, and no list node is allocated.
type list[T any] struct {
	first, last *Place[T]
	length      int
}

func (l *list[T]) push(p *Place[T], kind int) {
	p.links[kind] = link[T]{prev: l.last}
	if l.last == nil {
		l.first = p
	} else {
		l.last.links[kind].next = p
	}
	l.last = p
	l.length++
}

func (l *list[T]) remove(p *Place[T], kind int) {
	k := p.links[kind]
	if k.prev == nil {
		l.first = k.next
	} else {
		k.prev.links[kind].next = k.next
	}
	if k.next == nil {
		l.last = k.prev
	} else {
		k.next.links[kind].prev = k.prev
	}
	p.links[kind] = link[T]{}
	l.length--
}
