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
	n.starts, n.passes = s.starts, s.passes
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
	// What a backend that is not there any more held stays in use until a
	// reading says that it is not.
	for g, d := range n.devices {
		if was, ok := s.deviceIndex[d.cfg.Name]; ok {
			if lost := s.live.booked[was] - n.live.booked[g]; lost > 0 {
				d.outside += lost
			}
		}
	}
	// One that sleeps is woken although nobody can be told to let go any more.
	for _, r := range n.replicas {
		n.swappable = n.swappable || r.stance != awake
	}

	var waiting []*Ticket
	for _, c := range s.classes {
		waiting = append(waiting, c.waiting.Clear()...)
	}
	slices.SortFunc(waiting, func(a, b *Ticket) int {
		if a.ID() < b.ID() {
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
	strict := s.strict
	n.queue = s.queue
	n.queue.Reset(cfg.Tenants.Weights)
	for _, t := range waiting {
		n.moveWaiting(now, t, heads)
	}
	if strict != nil && strict.state == stateWaiting {
		// What was started since must go on making way for it.
		n.strict, n.strictSince = strict, s.strictSince
	}
	*s = *n
	s.pass(now)
	return nil
}

func (s *Scheduler) inheritDevices(old *Scheduler) {
	for _, d := range old.devices {
		i, ok := s.deviceIndex[d.cfg.Name]
		if !ok {
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

// inheritBackends carries the replicas over. One that is still there keeps its
// account and what is known of it; the work of one that is not goes on in a
// backend that is gone.
func (s *Scheduler) inheritBackends(old *Scheduler) map[*replica]home {
	homes := map[*replica]home{}
	for _, b := range old.backends {
		to, gone := s.backendIndex[b.cfg.Name], (*backend)(nil)
		if b.gone {
			to = nil
		}
		heirs := make([]*replica, len(b.replicas))
		if to != nil {
			to.draining = b.draining
			heirs = old.heirs(b, s, to)
		}
		for k, r := range b.replicas {
			q := heirs[k]
			switch {
			case q != nil:
				q.probes, q.residence = r.probes, r.residence
				if o := r.order; o != nil {
					o.replica, o.Replica, o.Name = q, q.number, q.name
					s.orders = append(s.orders, o)
				}
			case old.live.replicas[r.index] == 0:
				if r.order != nil {
					r.order.done = true // no dispute waits for it
				}
				continue
			default:
				// Its work goes on; its accounts stay on the GPUs that are left.
				if gone == nil {
					gone = &backend{cfg: b.cfg, gone: true}
					s.addBackend(gone)
					for _, r := range gone.replicas {
						r.probes = 0
					}
				}
				q = gone.replicas[k]
			}
			homes[r] = home{q.backend, q}
			for j, a := range r.accounts {
				if j < len(q.accounts) {
					mine := q.accounts[j]
					s.live.holdings[mine].kept = old.live.holdings[a].kept
					s.accounts[mine].inherit(old.accounts[a])
				}
			}
		}
	}
	return homes
}

// heirs are the replicas that take over from those of b, by their numbers; nil
// where there is none. A name that is still there, with room on the same GPUs,
// is the same replica. What is left over takes over by its place in the list:
// an address was written differently, and to go on with what the old one is
// believed to hold is the safe side.
func (s *Scheduler) heirs(b *backend, n *Scheduler, to *backend) []*replica {
	heirs := make([]*replica, len(b.replicas))
	taken := make([]bool, len(to.replicas))
	for k, r := range b.replicas {
		for i, q := range to.replicas {
			if r.name != "" && r.name == q.name && !taken[i] {
				taken[i] = true // whatever its GPUs are, it is nobody else
				if s.sameLayout(r, n, q) {
					heirs[k] = q
				}
				break
			}
		}
	}
	for k, r := range b.replicas {
		if heirs[k] == nil && k < len(taken) && !taken[k] && s.sameLayout(r, n, to.replicas[k]) && !to.has(r.name) {
			heirs[k] = to.replicas[k]
		}
	}
	return heirs
}

// has says whether a replica of the backend is called so.
func (b *backend) has(name string) bool {
	return name != "" && slices.ContainsFunc(b.replicas, func(r *replica) bool { return r.name == name })
}

// sameLayout says that a replica takes room where it did before, so that its
// accounts go on.
func (s *Scheduler) sameLayout(r *replica, n *Scheduler, q *replica) bool {
	return slices.EqualFunc(r.accounts, q.accounts, func(a, b int) bool {
		return s.devices[s.accounts[a].gpu].cfg.Name == n.devices[n.accounts[b].gpu].cfg.Name
	})
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
	refuse := func(code Code, detail string) {
		t.refuse(&Rejection{Code: code, Class: old.class.cfg.Name, Position: -1, Detail: detail, Waited: now - t.Arrived()})
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
	t.Boost += c.cfg.Boost - old.class.cfg.Boost
	t.shape = s.shapeOf(c, b, old.vram, old.alone)
	s.enqueue(t)
	if since, was := heads[t]; was && t.shape.head == nil {
		t.shape.head, t.shape.blockedSince = t, since
	}
}
