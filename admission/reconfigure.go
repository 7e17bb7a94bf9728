package admission

import (
	"slices"
	"time"
)

// Reconfigure swaps rules and limits. The queue, the ledger and running work
// stay: what runs on a class, backend or GPU that is gone finishes under its
// old rules, what waits for one is refused. A configuration that does not
// resolve changes nothing.
func (s *Scheduler) Reconfigure(now time.Duration, cfg Config) error {
	n, err := NewScheduler(cfg, s.epoch)
	if err != nil {
		return err
	}
	n.decided = s.decided
	n.issued, n.lastOrder = s.issued, s.lastOrder
	n.measured = s.measured
	n.lastID, n.starts, n.passes = s.lastID, s.starts, s.passes
	n.tenants, n.anonymous, n.virtual = s.tenants, s.anonymous, s.virtual
	n.refuseAll = s.refuseAll

	n.inheritDevices(s)
	n.inheritClasses(s)
	replicas := n.inheritBackends(s)
	for _, t := range s.running {
		t.shape = n.shapeOf(n.classFor(t.shape.class), replicas[t.replica].backend, t.shape.vram, t.shape.alone)
		t.replica = replicas[t.replica].replica
		n.take(&n.live, t.shape, t.replica)
		n.running = append(n.running, t)
	}
	// take books footprints from nothing; what is kept was carried over
	// before, so booked is worked out from both.
	n.rebook()

	var waiting []*Ticket
	for _, c := range s.classes {
		for t := c.waiting.first; t != nil; t = t.links[inClass].next {
			waiting = append(waiting, t)
		}
	}
	slices.SortFunc(waiting, func(a, b *Ticket) int {
		if a.id < b.id {
			return -1
		}
		return 1
	})
	heads := map[*Ticket]time.Duration{}
	for _, sh := range s.active {
		if sh.head != nil {
			heads[sh.head] = sh.blockedSince
		}
	}
	hardened := s.hardened
	for _, ten := range s.tenants {
		ten.flows, ten.waiting = nil, 0
		ten.weight = n.policy.weight(ten.name)
	}
	for _, t := range waiting {
		n.moveWaiting(now, t, heads)
	}
	if hardened != nil && hardened.state == stateWaiting {
		// What was started since must go on making way for it.
		n.hardened, n.hardenedAfter = hardened, s.hardenedAfter
	}
	*s = *n
	s.pass(now)
	return nil
}

func (s *Scheduler) inheritDevices(old *Scheduler) {
	for _, d := range old.devices {
		i, ok := s.deviceIndex[d.cfg.Name]
		if !ok || d.gone {
			continue
		}
		cfg := s.devices[i].cfg
		kept := *d
		kept.cfg = cfg
		s.devices[i] = &kept
	}
}

func (s *Scheduler) inheritClasses(old *Scheduler) {
	for i, c := range old.classes {
		to := s.classIndex[c.cfg.Name]
		if c.gone && to != nil {
			continue // its last work counts against the class that has its name now
		}
		if to == nil {
			if old.live.classes[i] == 0 {
				continue
			}
			to = &class{cfg: c.cfg, gone: true}
			s.addClass(to)
		}
		to.paused, to.granted, to.refused = c.paused, c.granted, c.refused
	}
}

// classFor is the class a running ticket now counts against.
func (s *Scheduler) classFor(old *class) *class {
	if c := s.classIndex[old.cfg.Name]; c != nil {
		return c
	}
	for _, c := range s.classes {
		if c.gone && c.cfg.Name == old.cfg.Name {
			return c
		}
	}
	panic("admission: a running ticket's class was not carried over")
}

// home is where a replica of the old books is in the new ones.
type home struct {
	backend *backend
	replica *replica
}

func (s *Scheduler) inheritBackends(old *Scheduler) map[*replica]home {
	homes := map[*replica]home{}
	for i, b := range old.backends {
		to := s.backendIndex[b.cfg.Name]
		if to == nil || b.gone || !old.sameLayout(b, s, to) {
			if old.live.backends[i] == 0 {
				continue
			}
			// Its work goes on; its accounts stay on the GPUs that are left.
			to = &backend{cfg: b.cfg, gone: true}
			s.addBackend(to)
			for _, r := range to.replicas {
				r.probes = 0
			}
		} else {
			to.draining = b.draining
			for k, r := range b.replicas {
				to.replicas[k].probes = r.probes
				to.replicas[k].residence = r.residence
				if o := r.order; o != nil {
					o.replica = to.replicas[k]
					s.orders = append(s.orders, o)
				}
			}
		}
		for k, r := range b.replicas {
			homes[r] = home{to, to.replicas[k]}
			for j, a := range r.accounts {
				if j < len(to.replicas[k].accounts) {
					mine := to.replicas[k].accounts[j]
					s.live.holdings[mine].kept = old.live.holdings[a].kept
					s.accounts[mine].inherit(old.accounts[a])
				}
			}
		}
	}
	return homes
}

// sameLayout says that a backend takes room where it did before, so that its
// accounts go on.
func (s *Scheduler) sameLayout(b *backend, n *Scheduler, to *backend) bool {
	if len(b.replicas) != len(to.replicas) {
		return false
	}
	for i, r := range b.replicas {
		q := to.replicas[i]
		if len(r.accounts) != len(q.accounts) {
			return false
		}
		for j, a := range r.accounts {
			if s.devices[s.accounts[a].gpu].cfg.Name != n.devices[n.accounts[q.accounts[j]].gpu].cfg.Name {
				return false
			}
		}
	}
	return true
}

// rebook works booked out from the holdings.
func (s *Scheduler) rebook() {
	clear(s.live.booked)
	for i, a := range s.accounts {
		s.live.booked[a.gpu] += s.live.holdings[i].footprint(a.resident)
	}
}

// moveWaiting puts a waiting ticket into the new books, or refuses it where
// they have no place for it.
func (s *Scheduler) moveWaiting(now time.Duration, t *Ticket, heads map[*Ticket]time.Duration) {
	old := t.shape
	c, b := s.classIndex[old.class.cfg.Name], s.backendIndex[old.backend.cfg.Name]
	t.links = [listKinds]link{}
	t.flow = nil
	refuse := func(code Code, detail string) {
		t.refuse(&Rejection{Code: code, Class: old.class.cfg.Name, Position: -1, Detail: detail, Waited: now - t.arrived})
		s.decided = append(s.decided, t)
	}
	if c == nil || b == nil {
		refuse(CodeBackendUnavailable, "its class or backend was taken out of the configuration")
		return
	}
	if detail, never := s.neverFits(b, old.vram); never {
		c.refused++
		refuse(CodeNeverFits, detail)
		return
	}
	t.boost += c.cfg.Boost - old.class.cfg.Boost
	t.shape = s.shapeOf(c, b, old.vram, old.alone)
	s.enqueue(now, t)
	if since, was := heads[t]; was && t.shape.head == nil {
		t.shape.head, t.shape.blockedSince = t, since
	}
}
