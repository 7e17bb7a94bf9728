// Package queue holds the requests that wait and says which of them is next.
//
// An Entry is one request, and while it waits it has a Place in a Shape, the queue of all
// requests with the same demand, and counts in a Group, which is a class to the
// scheduler. Within a shape, a flow is the FIFO of one tenant at one priority.
// There are two orders:
//
//   - Rank: by arrival less boost, then by arrival. The key never changes, so
//     that nothing new passes an entry that has waited for its boost. Eldest
//     returns the first by rank.
//   - Fair: start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair
//     Queuing", SIGCOMM 1996). Each tenant has a virtual time at which its next
//     request would start, and is charged for what it starts. Next returns the
//     oldest entry of the flow whose tenant has the smallest virtual time.
//
// The package knows no memory, no slots, no replicas and no clock: a time is a
// duration since an epoch that the caller chooses. Nothing here is safe for
// concurrent use.
//
// Invariants: a waiting entry is in exactly one flow, one level, one group, and
// in the expiry heap if it expires out of the order of its group. Entries of one flow
// are in order of arrival. Push and Remove take logarithmic time in the number of
// flows of the shape and of entries in that heap, and allocate nothing for an entry.
//
// The package needs the standard library alone.
package queue

import (
	"fmt"
	"strings"
	"time"
)

// Forever stands for no limit. A time in use may be added to it without
// overflow.
const Forever = time.Duration(1 << 61)

// Queue is all that waits: its tenants and its expiries. T is what an Entry is
// embedded in. The zero value is an empty queue in which each tenant has the
// weight 1. A Queue may be moved by assignment; only one copy may be used.
type Queue[T any] struct {
	lastID   uint64
	waiting  int
	timed    []*Group[T] // those with entries that expire in their order
	expiries expiries[T] // the other entries that expire

	spare     *flow[T] // one that is empty, for the next; nil: there is none
	tenants   map[string]*Tenant[T]
	anonymous *Tenant[T]
	weights   map[string]float64
	virtual   float64 // the start tag of the request that started last
}

// Arrive numbers an entry that arrives now. Numbers begin at 1 and grow. The
// owner is what other methods return for the entry. An entry arrives once; its
// zero value may arrive anew.
func (q *Queue[T]) Arrive(now time.Duration, e *Entry[T], owner *T) {
	q.lastID++
	e.id, e.arrived, e.owner = q.lastID, now, owner
}

// Push puts an entry behind the others of its flow. The entry has arrived, does
// not wait, and has its Tenant and Boost set, and its place Expires and Size.
func (q *Queue[T]) Push(e *Entry[T], p *Place[T], sh *Shape[T]) {
	p.entry = e
	sh.Group.waiting.push(p, inGroup)
	sh.Group.size += p.Size
	sh.push(p)
	q.join(p, sh)
	q.waiting++
	if p.Expires < Forever {
		q.pushExpiry(p, sh.Group)
	}
}

// Remove takes a waiting entry out of its place.
func (q *Queue[T]) Remove(p *Place[T]) {
	sh := p.flow.shape
	if p.Expires < Forever {
		q.removeExpiry(p, sh.Group)
	}
	sh.Group.waiting.remove(p, inGroup)
	sh.Group.size -= p.Size
	sh.remove(p)
	q.part(p)
	q.waiting--
}

// Len is the number of waiting entries.
func (q *Queue[T]) Len() int { return q.waiting }

// Reset makes the queue empty and gives the tenants new weights; a tenant that
// is not listed, or whose weight is not positive, has 1. What tenants were
// charged, the virtual time and the numbers of entries stay. An entry that
// waited may be pushed again, after Group.Clear has taken it out of its lists.
func (q *Queue[T]) Reset(weights map[string]float64) {
	q.weights, q.waiting, q.timed, q.expiries = weights, 0, nil, nil
	for _, t := range q.tenants {
		t.flows, t.twins, t.waiting, t.weight = nil, 0, 0, q.weight(t.name)
	}
}

// Dump writes all that decides what the queue does next, but for its shapes.
// Two queues with the same text go on alike. It is for tests and for reports of
// a mistake.
func (q *Queue[T]) Dump() string {
	var b strings.Builder
	fmt.Fprint(&b, q.waiting, " ", q.virtual, " expire")
	for _, g := range q.timed {
		fmt.Fprint(&b, " ", g.timed.entry.id, " ", g.latest)
	}
	for _, e := range q.expiries {
		fmt.Fprint(&b, " ", e.place.entry.id)
	}
	return b.String()
}
