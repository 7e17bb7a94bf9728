package queue

import "time"

// Tenant is the account of one tenant. It counts across all shapes and groups.
type Tenant[T any] struct {
	name    string
	tag     float64 // virtual start of its next request, in nanoseconds of the whole
	weight  float64
	waiting int
	running int
	flows   []*flow[T] // those with waiting entries
	twins   int        // how many of them are in a shape in which another one is
}

// Name is the tenant's name; empty for the anonymous one.
func (t *Tenant[T]) Name() string { return t.name }

// Weight is the tenant's share beside that of the others.
func (t *Tenant[T]) Weight() float64 { return t.weight }

// Waiting is the number of its waiting entries.
func (t *Tenant[T]) Waiting() int { return t.waiting }

// maxIdleTenants bounds the accounts of tenants without work: names may come
// from clients.
const maxIdleTenants = 10000

// Tenant returns the account of a tenant and opens it where there is none. The
// empty name is the anonymous tenant, whose account is never closed.
//
// Accounts of tenants without work are closed once there are more than 10,000
// accounts, as far as that changes nothing for the tenant.
func (q *Queue[T]) Tenant(name string) *Tenant[T] {
	if name == "" && q.anonymous != nil {
		return q.anonymous
	}
	return q.open(name)
}

func (q *Queue[T]) open(name string) *Tenant[T] {
	if t := q.tenants[name]; t != nil {
		return t
	}
	if len(q.tenants) > maxIdleTenants {
		for n, t := range q.tenants {
			// A tenant that is not ahead of the virtual time loses nothing: it
			// would rejoin there anyway.
			if n != "" && t.waiting == 0 && t.running == 0 && t.tag <= q.virtual {
				delete(q.tenants, n)
			}
		}
	}
	t := &Tenant[T]{name: name, weight: q.weight(name)}
	if q.tenants == nil {
		q.tenants = make(map[string]*Tenant[T])
	}
	q.tenants[name] = t
	if name == "" {
		q.anonymous = t
	}
	return t
}

// Copy takes the accounts of another queue, without what waits there.
func (q *Queue[T]) Copy(of *Queue[T]) {
	q.weights, q.virtual = of.weights, of.virtual
	for name, t := range of.tenants {
		c := q.open(name)
		c.tag, c.weight, c.running = t.tag, t.weight, t.running
	}
}

func (q *Queue[T]) weight(name string) float64 {
	if w := q.weights[name]; w > 0 {
		return w
	}
	return 1
}

// Charge charges the tenant of an entry that starts, and does not wait any more,
// in advance: the share of the whole that it takes, from 0 to 1, times its
// expected duration, over the tenant's weight.
func (q *Queue[T]) Charge(e *Entry[T], share float64, expected time.Duration) {
	if e.Tenant.tag > q.virtual {
		q.virtual = e.Tenant.tag
	}
	e.Tenant.running++
	e.share = float32(share)
	e.charge = e.cost(expected)
	q.retag(e.Tenant, e.charge)
}

// Correct replaces the expected duration in the charge of an entry by the real
// one. It is called once, when the work has ended.
func (q *Queue[T]) Correct(e *Entry[T], took time.Duration) {
	e.Tenant.running--
	q.retag(e.Tenant, e.cost(took)-e.charge)
}

// cost is what the tenant of an entry pays for a duration.
func (e *Entry[T]) cost(d time.Duration) float64 {
	c := float64(e.share) * float64(d)
	if w := e.Tenant.weight; w != 1 {
		c /= w
	}
	return c
}

func (q *Queue[T]) retag(t *Tenant[T], by float64) {
	if by == 0 {
		return
	}
	if t.twins == 0 {
		t.tag += by
		for _, f := range t.flows {
			f.shape.flows.change(f)
		}
		return
	}
	// Several flows of one heap would move at once, and a heap mends one.
	for _, f := range t.flows {
		f.shape.flows.remove(f)
	}
	t.tag += by
	for _, f := range t.flows {
		f.shape.flows.push(f)
	}
}

// flow is the FIFO of one tenant at one priority within a shape.
type flow[T any] struct {
	tenant  *Tenant[T]
	shape   *Shape[T]
	boost   time.Duration
	waiting list[T]
	heap    int // index in the shape's flows
}

// join puts an entry behind the others of its flow.
func (q *Queue[T]) join(p *Place[T], sh *Shape[T]) {
	e := p.entry
	t := e.Tenant
	if t.waiting == 0 && t.tag < q.virtual {
		// Idle time is not credit.
		t.tag = q.virtual
	}
	t.waiting++
	var f *flow[T]
	twin := 0
	for _, x := range t.flows {
		if x.shape != sh {
			continue
		}
		twin = 1
		if x.boost == e.Boost {
			f = x
			break
		}
	}
	if f == nil {
		t.twins += twin
		if f = q.spare; f == nil {
			f = new(flow[T])
		}
		q.spare = nil
		*f = flow[T]{tenant: t, shape: sh, boost: e.Boost}
		t.flows = append(t.flows, f)
	}
	p.flow = f
	f.waiting.push(p, inFlow)
	if f.waiting.length == 1 {
		sh.flows.push(f)
	}
}

// part takes an entry out of its flow.
func (q *Queue[T]) part(p *Place[T]) {
	f, t := p.flow, p.entry.Tenant
	sh := f.shape
	f.waiting.remove(p, inFlow)
	t.waiting--
	if f.waiting.length > 0 {
		sh.flows.change(f)
		return
	}
	sh.flows.remove(f)
	place, twin := 0, 0
	for i, x := range t.flows {
		if x == f {
			place = i
		} else if x.shape == sh {
			twin = 1
		}
	}
	t.twins -= twin
	last := len(t.flows) - 1
	t.flows[place], t.flows[last] = t.flows[last], nil
	t.flows = t.flows[:last]
	*f, p.flow, q.spare = flow[T]{}, nil, f
}

// flows is a binary heap of a shape's flows that have waiting entries: the one
// furthest behind its fair share first, then the one whose oldest ranks first.
type flows[T any] []keyed[T]

// keyed is a flow in the heap, with what it is ordered by beside it, so that the heap
// is compared in its own memory.
type keyed[T any] struct {
	tag  float64       // its tenant's
	rank time.Duration // of its first entry, as in Before
	id   uint64        // of its first entry
	flow *flow[T]
}

func (f *flow[T]) keyed() keyed[T] {
	e := f.waiting.first.entry
	return keyed[T]{f.tenant.tag, e.arrived - e.Boost, e.id, f}
}

func (h flows[T]) before(i, j int) bool {
	a, b := &h[i], &h[j]
	switch {
	case a.tag != b.tag:
		return a.tag < b.tag
	case a.rank != b.rank:
		return a.rank < b.rank
	}
	return a.id < b.id
}

func (h *flows[T]) push(f *flow[T]) {
	f.heap = len(*h)
	*h = append(*h, f.keyed())
	h.up(f.heap)
}

// change takes note that the tag or the first entry of a flow has changed.
func (h flows[T]) change(f *flow[T]) {
	h[f.heap] = f.keyed()
	h.fix(f.heap)
}

func (h *flows[T]) remove(f *flow[T]) {
	last, i := len(*h)-1, f.heap
	h.swap(i, last)
	(*h)[last] = keyed[T]{}
	*h = (*h)[:last]
	if i < last {
		h.fix(i)
	}
}

func (h flows[T]) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].flow.heap, h[j].flow.heap = i, j
}

func (h flows[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h flows[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h.before(child+1, child) {
			child++
		}
		if !h.before(child, i) {
			return
		}
		h.swap(i, child)
		i = child
	}
}

func (h flows[T]) fix(i int) {
	h.down(i)
	h.up(i)
}
