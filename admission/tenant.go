package admission

import "time"

// Tenants share a class by start-time fair queueing (Goyal, Vin and Cheng,
// 1996): each has a virtual time at which its next request would start; the
// one furthest behind goes first and is charged for what it takes. One account
// across classes.

// tenant is one account. Its tag is the virtual start of its next request.
type tenant struct {
	name    string
	tag     float64
	weight  float64
	waiting int
	running int
	flows   []*flow
}

// flow is the FIFO of one tenant at one priority within a shape.
type flow struct {
	tenant  *tenant
	shape   *shape
	boost   time.Duration
	waiting list
	heap    int // index in the shape's flows
}

// flows is a binary heap of a shape's flows that have waiting tickets: the one
// furthest behind its fair share first, then the one whose eldest ranks first.
type flows []*flow

func (h flows) before(i, j int) bool {
	a, b := h[i], h[j]
	if a.tenant.tag != b.tenant.tag {
		return a.tenant.tag < b.tenant.tag
	}
	return a.waiting.first.before(b.waiting.first)
}

func (h flows) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = i, j
}

func (h flows) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.before(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h flows) down(i int) {
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

func (h flows) fix(i int) {
	h.down(i)
	h.up(i)
}

// maxIdleTenants bounds the accounts of tenants without work: names may come
// from clients.
const maxIdleTenants = 10000

func (s *Scheduler) tenantOf(name string) *tenant {
	if t := s.tenants[name]; t != nil {
		return t
	}
	if len(s.tenants) > maxIdleTenants {
		for n, t := range s.tenants {
			// Who is not ahead of the virtual time loses nothing: it would
			// rejoin there anyway.
			if n != "" && t.waiting == 0 && t.running == 0 && t.tag <= s.virtual {
				delete(s.tenants, n)
			}
		}
	}
	t := &tenant{name: name, weight: s.policy.weight(name)}
	s.tenants[name] = t
	return t
}

func (p Tenants) weight(name string) float64 {
	if w := p.Weights[name]; w > 0 {
		return w
	}
	return 1
}

// join puts a ticket behind the others of its flow.
func (s *Scheduler) join(t *Ticket) {
	ten := t.tenant
	if ten.waiting == 0 && ten.tag < s.virtual {
		// Idle time is not credit.
		ten.tag = s.virtual
	}
	ten.waiting++
	var f *flow
	for _, x := range ten.flows {
		if x.shape == t.shape && x.boost == t.boost {
			f = x
			break
		}
	}
	if f == nil {
		f = &flow{tenant: ten, shape: t.shape, boost: t.boost}
		ten.flows = append(ten.flows, f)
	}
	t.flow = f
	f.waiting.push(t, inFlow)
	if f.waiting.length == 1 {
		f.heap = len(t.shape.flows)
		t.shape.flows = append(t.shape.flows, f)
		t.shape.flows.up(f.heap)
	}
}

// part takes a ticket out of its flow.
func (s *Scheduler) part(t *Ticket) {
	f, sh := t.flow, t.shape
	f.waiting.remove(t, inFlow)
	t.tenant.waiting--
	if f.waiting.length > 0 {
		sh.flows.fix(f.heap)
		return
	}
	last := len(sh.flows) - 1
	i := f.heap
	sh.flows.swap(i, last)
	sh.flows[last] = nil
	sh.flows = sh.flows[:last]
	if i < last {
		sh.flows.fix(i)
	}
	for i, x := range t.tenant.flows {
		if x == f {
			n := len(t.tenant.flows) - 1
			t.tenant.flows[i] = t.tenant.flows[n]
			t.tenant.flows = t.tenant.flows[:n]
			break
		}
	}
}

// chargeStart charges a tenant in advance for what it was just granted: the
// largest share of any resource, times the expected duration, over its weight.
func (s *Scheduler) chargeStart(t *Ticket) {
	s.virtual = max(s.virtual, t.tenant.tag)
	t.tenant.running++
	t.share = s.share(t)
	t.charge = t.share * t.p50.Seconds() / t.tenant.weight
	s.retag(t.tenant, t.charge)
}

// chargeEnd corrects the charge with the real duration.
func (s *Scheduler) chargeEnd(t *Ticket, took time.Duration) {
	t.tenant.running--
	s.retag(t.tenant, t.share*took.Seconds()/t.tenant.weight-t.charge)
}

func (s *Scheduler) retag(ten *tenant, by float64) {
	if by == 0 {
		return
	}
	ten.tag += by
	for _, f := range ten.flows {
		f.shape.flows.fix(f.heap)
	}
}

// share is the largest fraction of any one resource that a ticket takes.
func (s *Scheduler) share(t *Ticket) float64 {
	share := 1 / float64(t.shape.class.cfg.Slots)
	for _, a := range t.replica.accounts {
		if c := s.devices[s.accounts[a].gpu].capacity(); c > 0 {
			share = max(share, min(1, float64(t.shape.vram)/float64(c)))
		}
	}
	return share
}
