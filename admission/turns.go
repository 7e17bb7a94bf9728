package admission

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// Backends that do not fit on a GPU together take turns there. The numbers are
// those of the code.
//
//  1. A backend for which nothing waits, and which runs nothing, gives the GPU up
//     to a head that does not fit beside it: at once, or where its next request is
//     expected before it could be unloaded and loaded again, after no longer than
//     that takes.
//  2. Else its turn ends Turn after a head that does not fit beside it began to
//     wait, or after memory was freed for it or it was loaded if that came later. It
//     ends before a start which is predicted to end after it, but not before the first
//     start of the turn.
//  3. At the end of its turn it drains, and is unloaded for the head.
//  4. The next turn is that of the head that has been blocked for longest.
//  5. The memory that is freed for a head is the head's, until it starts or
//     leaves, or could not start even if nothing ran any more: nothing starts that
//     would be in its way when all work has ended that ran as the unload was
//     ordered.
//
// So a head starts within Turn, the longest run, an unload and a load, and where n
// backends wait for one GPU, within n-1 times that.

// turns are the heads for which memory was freed, one for a GPU at the most.
type turns []*claim

// claim is such a head.
type claim struct {
	head    *Ticket
	to      *replica // on which it is to start
	after   uint64   // how many had started when the unload was ordered
	beside  usage    // what is taken once all that ran then has ended, and all unloads
	valid   bool     // beside
	scratch usage
}

// other gives the claim of another head on a GPU of a replica; nil: there is none.
func (x turns) other(b *box, t *Ticket, r *replica) *claim {
	for _, c := range x {
		if c.head != t && c.head.state == stateWaiting && b.shareGPU(c.to, r) {
			return c
		}
	}
	return nil
}

// reservedFor gives the head for which memory was freed on every replica of a shape;
// nil: there is none.
func (x turns) reservedFor(b *box, sh *shape) (head *Ticket) {
	for _, r := range sh.backend.replicas {
		c := x.other(b, sh.head, r)
		if c == nil {
			return nil
		}
		head = c.head
	}
	return head
}

// shareGPU says that two replicas have a GPU in common.
func (b *box) shareGPU(r, other *replica) bool {
	return slices.ContainsFunc(r.accounts, func(a int) bool {
		return slices.ContainsFunc(other.accounts, func(x int) bool { return b.ledger.GPUOf(x) == b.ledger.GPUOf(a) })
	})
}

// bars says that what was freed for another head keeps a shape from starting on a
// replica, or from being woken there (5).
func (x turns) bars(s *Scheduler, now time.Duration, sh *shape, r *replica) bool {
	for _, c := range x {
		if c.head != sh.head && c.head.state == stateWaiting && s.box.shareGPU(c.to, r) && !s.rests.holds(s.box, sh.head, r) && !c.allows(s, now, sh, r) {
			s.profile.barredBy(c.head)
			return true
		}
	}
	return false
}

// allows says that the head of a claim could start once all work has ended that ran
// as its unload was ordered, and the unload, although a shape starts on a replica
// now. A nil shape: although nothing does.
func (c *claim) allows(s *Scheduler, now time.Duration, sh *shape, r *replica) bool {
	if !c.valid {
		c.valid = true
		s.box.copyRead(&c.beside, now)
		for _, t := range s.running {
			if t.order <= c.after {
				s.box.give(&c.beside, t.shape, t.replica, &t.run)
			}
		}
		m := s.box.residency
		m.UnloadingBy(now, func(*residency.Replica) time.Duration { return now }, func(v *residency.Replica, _ time.Duration) {
			m.PredictUnload(c.beside.memory, v)
		})
	}
	u := &c.scratch
	u.copyFrom(&c.beside)
	if sh != nil {
		s.box.take(u, sh, r, now)
	}
	if h := c.to.home.State; h == residency.Failed || h == residency.Draining || h == residency.Unloading {
		return false
	}
	for i, a := range c.to.accounts {
		if s.box.fitsMemory(u, c.head.shape, c.to, i, a, now) != noBar {
			return false
		}
	}
	return true
}

// settle ends the claims of heads that have started or left, and of those that could
// not start even if nothing ran any more.
func (x *turns) settle(s *Scheduler, now time.Duration) {
	*x = slices.DeleteFunc(*x, func(c *claim) bool {
		sh := c.head.shape
		c.valid, sh.claims = false, false
		if _, barred := sh.barred(); c.head.state != stateWaiting || sh.head != c.head || barred || !c.allows(s, now, nil, nil) {
			return true
		}
		sh.claims = true
		return false
	})
}

// claim keeps what replicas that are told to unload will free on a replica for a
// head.
func (x *turns) claim(s *Scheduler, now time.Duration, t *Ticket, to *replica) {
	to.home.BeginTurn(now)
	for _, c := range *x {
		if c.head == t && c.to == to {
			c.valid = false
			return
		}
	}
	c := &claim{head: t, to: to, after: s.starts}
	if !c.allows(s, now, nil, nil) {
		return
	}
	*x = append(*x, c)
	t.shape.claims = true
	s.strict.choose(s, now) // the strict head may be in its way
}

// before unloads what it can for heads that are blocked for longer than that of sh: the
// next turn is theirs, although they may rank behind it.
func (x *turns) before(s *Scheduler, now time.Duration, sh *shape) {
	if !s.box.takesTurns(sh) {
		return
	}
	for {
		var next *shape
		for _, y := range s.shapes.active {
			if y == sh || y.head == nil || y.asked == s.profile.passes || !y.block.memory() || y.blockedSince >= sh.blockedSince ||
				next != nil && next.blockedSince <= y.blockedSince || s.box.residency.OrdersFor(y.head) {
				continue
			}
			if _, barred := y.barred(); !barred && s.box.takesTurns(y) {
				next = y
			}
		}
		if next == nil {
			return
		}
		next.asked = s.profile.passes
		if s.unload(now, next, residency.Want{}) || s.unload(now, next, residency.Want{Most: true}) {
			return
		}
	}
}

// until is when a replica gives its GPU up to a head that does not fit beside it.
func (x turns) until(s *Scheduler, now time.Duration, sh *shape, v *residency.Replica, turn time.Duration) time.Duration {
	m := s.box.residency
	end := max(v.TurnBegan(), sh.blockedSince) + turn
	next := s.shapes.waitsFor(v, sh)
	switch {
	case v.State.Sleeps():
		return now // what it has kept
	case next == nil && m.Runs(v):
		return end
	case next == nil:
		return min(end, m.IdleUntil(v)) // 1
	case v.Served() && now+next.p50 > end:
		return now
	}
	return end // 2
}

// gives says that an idle replica may be told to unload for a head by now, whatever
// it holds.
func (x turns) gives(s *Scheduler, now time.Duration, sh *shape, r *replica, v *residency.Replica) bool {
	if turn := s.box.turnOf(r); turn > 0 {
		return now >= max(v.NotBefore, x.until(s, now, sh, v, turn))
	}
	return now >= s.box.residency.LeaveUntil(now, v) && !s.shapes.wanted(v, sh)
}

// waitsTurn is the turn of another backend that a head waits for; its zero value: it
// waits for none.
type waitsTurn struct {
	of   *residency.Replica
	ends time.Duration
}

// turnOf gives for how long a backend keeps the GPUs of a replica while others wait;
// 0: it takes no turns there.
func (b *box) turnOf(r *replica) time.Duration {
	turn := time.Duration(0)
	for _, a := range r.accounts {
		if n := b.ledger.Turn(b.ledger.GPUOf(a)); turn == 0 || n < turn {
			turn = n
		}
	}
	return turn
}

// takesTurns says that the backends on the GPUs of a shape's replicas take turns.
func (b *box) takesTurns(sh *shape) bool {
	return slices.ContainsFunc(sh.backend.replicas, func(r *replica) bool { return b.turnOf(r) > 0 })
}

// waits notes whose turn a head waits for, if it fits on a replica after that.
func (x turns) waits(s *Scheduler, now time.Duration, sh *shape, r *replica, w residency.Want) {
	if w.Until == nil || sh.turn.of != nil {
		return
	}
	until := w.Until
	w.Until = func(*residency.Replica) time.Duration { return now }
	for _, v := range s.box.residency.Victims(now, r.home, w) {
		if at := until(v); at > now && at > sh.turn.ends {
			sh.turn = waitsTurn{v, at}
		}
	}
}
