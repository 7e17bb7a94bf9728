package admission

import (
	"cmp"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// Reconfigure swaps rules and limits. The queue, the ledger and running work
// stay: what runs on a class, backend or GPU that is gone finishes under its
// old rules, what waits for one is refused. A configuration that does not
// resolve changes nothing.
//
// A GPU is known by its device: one that is renamed keeps its accounts.
func (s *Scheduler) Reconfigure(now time.Duration, cfg Config) error {
	n, err := newScheduler(cfg, s.epoch, now)
	if err != nil {
		return err
	}
	n.news, n.starts, n.profile.passes, n.refuseAll = s.news, s.starts, s.profile.passes, s.refuseAll
	n.box.inheritClasses(s.box)
	homes := n.box.inherit(s.box)
	for _, t := range s.running {
		to := homes[t.replica]
		t.move(n.shapes.moved(t.shape, n.box.classFor(t.shape.class), to.backend), to)
		n.box.live.count(t.shape, to, 1)
		n.box.company.count(n.box, now, t, 1)
		t.ran.with = 0 // the clocks are others
		n.running = append(n.running, t)
	}
	var waiting []*Ticket
	for _, c := range s.box.classes {
		waiting = append(waiting, c.waiting.Clear()...)
	}
	slices.SortFunc(waiting, func(a, b *Ticket) int { return cmp.Compare(a.ID(), b.ID()) })
	heads := map[*Ticket]time.Duration{}
	for _, sh := range s.shapes.active {
		if sh.head != nil {
			heads[sh.head] = sh.blockedSince
		}
	}
	n.queue = s.queue
	n.queue.Reset(cfg.Tenants.Weights)
	for _, t := range waiting {
		n.moveWaiting(now, t, heads)
	}
	if h := s.strict.head; h != nil && h.state == stateWaiting {
		// What was started since must go on making way for it.
		n.strict.protect(h, s.strict.after)
	}
	for _, c := range s.turns {
		if to := homes[c.to]; to != nil && c.head.state == stateWaiting && c.head.shape.head == c.head {
			c.to = to
			n.turns = append(n.turns, c)
		}
	}
	*s = *n
	s.pass(now)
	return nil
}

func (b *box) inheritClasses(old *box) {
	for i, c := range old.classes {
		to := b.byClass[c.cfg.Name]
		if c.gone && to != nil {
			continue // its last work counts against the class that has its name now
		}
		if to == nil {
			if old.live.classes[i] == 0 {
				continue
			}
			to = &class{cfg: c.cfg, gone: true}
			b.addClass(to)
		}
		to.paused, to.granted, to.refused = c.paused, c.granted, c.refused
	}
}

// classFor is the class that a running ticket counts against from now on.
func (b *box) classFor(old *class) *class {
	if c := b.byClass[old.cfg.Name]; c != nil {
		return c
	}
	for _, c := range b.classes {
		if c.gone && c.cfg.Name == old.cfg.Name {
			return c
		}
	}
	panic("admission: a running ticket's class was not carried over")
}

// inherit carries the replicas over, with their accounts and what is known of
// their residency, and gives for each old one its place in the new box. The work
// of a replica that is not configured any more goes on in a backend that is gone.
func (b *box) inherit(old *box) map[*replica]*replica {
	gpus := b.ledger.Match(old.ledger)
	homes := map[*replica]*replica{}
	for _, x := range old.backends {
		to, gone := b.byBackend[x.cfg.Name], (*backend)(nil)
		if x.gone {
			to = nil
		}
		heirs := make([]*replica, len(x.replicas))
		if to != nil {
			to.draining = x.draining
			heirs = old.heirs(x, b, to, gpus)
		}
		for k, r := range x.replicas {
			q := heirs[k]
			if q == nil {
				if old.live.replicas[r.index] == 0 {
					continue
				}
				if gone == nil {
					gone = &backend{cfg: old.renamed(x.cfg, b, gpus), gone: true}
					b.addBackend(gone)
				}
				q = gone.replicas[k]
			} else {
				q.limit(r.probes)
			}
			homes[r] = q
		}
	}
	b.ledger.Inherit(old.ledger, gpus, b.accountsOf(old, homes, gpus))
	b.residency.Inherit(old.residency, gpus, func(h *residency.Replica) *residency.Replica {
		if q := homes[old.replicaOf(h)]; q != nil {
			return q.home
		}
		return nil
	})
	return homes
}

// accountsOf gives for each account of an old box the one that takes over from it; -1:
// none does.
func (b *box) accountsOf(old *box, homes map[*replica]*replica, gpus []int) []int {
	accounts := slices.Repeat([]int{-1}, len(old.live.memory.Accounts))
	for r, q := range homes {
		for _, a := range r.accounts {
			for _, i := range q.accounts {
				if b.ledger.GPUOf(i) == gpus[old.ledger.GPUOf(a)] {
					accounts[a] = i
				}
			}
		}
	}
	return accounts
}

// renamed is a backend's configuration with the names that its GPUs have in
// another box. Those that are gone keep theirs.
func (b *box) renamed(cfg Backend, n *box, gpus []int) Backend {
	cfg.Replicas = slices.Clone(cfg.Replicas)
	for i := range cfg.Replicas {
		places := slices.Clone(cfg.Replicas[i].Places)
		for k := range places {
			if g, ok := b.gpus[places[k].GPU]; ok && gpus[g] >= 0 {
				places[k].GPU = n.ledger.Name(gpus[g])
			}
		}
		cfg.Replicas[i].Places = places
	}
	return cfg
}

// heirs are the replicas that take over from those of x, by their numbers; nil
// where there is none. A name that is still there, with memory on the same GPUs,
// is the same replica. What is left over takes over by its place in the list:
// an address was written differently, and to go on with what the old one is
// believed to hold is the safe side.
func (b *box) heirs(x *backend, n *box, to *backend, gpus []int) []*replica {
	heirs := make([]*replica, len(x.replicas))
	taken := make([]bool, len(to.replicas))
	same := func(r, q *replica) bool {
		return slices.EqualFunc(r.accounts, q.accounts, func(a, i int) bool { return gpus[b.ledger.GPUOf(a)] == n.ledger.GPUOf(i) })
	}
	for k, r := range x.replicas {
		for i, q := range to.replicas {
			if r.name != "" && r.name == q.name && !taken[i] {
				taken[i] = true // whatever its GPUs are, it is no other
				if same(r, q) {
					heirs[k] = q
				}
				break
			}
		}
	}
	for k, r := range x.replicas {
		if heirs[k] == nil && k < len(taken) && !taken[k] && same(r, to.replicas[k]) && !to.has(r.name) {
			heirs[k] = to.replicas[k]
		}
	}
	return heirs
}

// has says whether a replica of the backend is called so.
func (x *backend) has(name string) bool {
	return name != "" && slices.ContainsFunc(x.replicas, func(r *replica) bool { return r.name == name })
}

// moveWaiting puts a waiting ticket into the new box, or refuses it where that
// has no place for it.
func (s *Scheduler) moveWaiting(now time.Duration, t *Ticket, heads map[*Ticket]time.Duration) {
	old := t.shape
	c, b := s.box.byClass[old.class.cfg.Name], s.box.byBackend[old.backend.cfg.Name]
	refuse := func(code Code, detail string) {
		t.refuse(&Rejection{Code: code, Class: old.class.cfg.Name, Position: -1, Detail: detail, Waited: now - t.Arrived()})
		s.news.decide(t)
	}
	if c == nil || b == nil {
		refuse(CodeBackendUnavailable, "its class or backend was taken out of the configuration")
		return
	}
	if detail, never := s.box.neverFits(b, t.own()); never {
		c.refused++
		refuse(CodeNeverFits, detail)
		return
	}
	t.Boost += c.cfg.Boost - old.class.cfg.Boost
	t.move(s.shapes.moved(old, c, b), nil)
	s.enqueue(t)
	if since, was := heads[t]; was && t.shape.head == nil {
		t.shape.setHead(t, since)
	}
}
