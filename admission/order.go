package admission

import (
	"slices"
	"time"
)

// OrderKind is what is to be done.
type OrderKind uint8

const (
	Reclaim OrderKind = iota
	Wake
	// Return is to watch a replica that died of a Reclaim. It holds its weights
	// from its start on, and whoever runs it may start it anew at any moment.
	Return
)

// Order is something slow that the owner of the desk is to do.
type Order struct {
	ID      uint64 // for Reclaimed or Woken
	Kind    OrderKind
	Backend string
	Replica int
	Name    string // the replica's
	// Bytes is what the replica is believed to hold, on all its GPUs, or for a
	// Wake or a Return what it will take.
	Bytes Bytes
	// For is the waiting request that it is done for; 0: none.
	For uint64
}

// order is an Order under way, with what has been seen of it.
type order struct {
	Order
	replica *replica
	head    *Ticket // nil: for nobody who waits
	given   bool    // false: what runs there has to end first
	was     stance  // before it
	done    bool
	began   time.Duration
	places  []placeBefore // by account of the replica
}

// placeBefore is one GPU of an order's replica as the order was given, and the
// most that has been seen to come back since.
type placeBefore struct {
	held     Bytes // by the replica, in the books
	observed Bytes // on the card; -1: nothing is known
	dropped  Bytes // what others had given back by then, less what they may have since, unseen
	freed    Bytes
	claimed  Bytes // of what was in use and in nobody's books, by a Wake
}

// Orders are what is to be done that no earlier call told of. The slice is
// valid until the next call.
func (s *Scheduler) Orders() []Order {
	o := s.issued
	s.issued = s.issued[:0]
	return o
}

// newOrder begins an order; what it will free is in the profile from now on.
func (s *Scheduler) newOrder(now time.Duration, kind OrderKind, r *replica, head *Ticket) *order {
	s.lastOrder++
	o := &order{Order: Order{ID: s.lastOrder, Kind: kind, Backend: r.backend.cfg.Name, Replica: r.number, Name: r.name}, replica: r, head: head, began: now}
	if head != nil {
		o.For = head.ID()
	}
	r.order = o
	s.orders = append(s.orders, o)
	if kind == Reclaim && len(s.profile) > 0 {
		s.mark(mark{at: s.due(now, o), freed: r})
	}
	return o
}

// emptied gives the order to let go once nothing runs on a replica any more.
func (s *Scheduler) emptied(now time.Duration, v *replica) {
	o := v.order
	if v.stance != emptying || s.live.replicas[v.index] > 0 {
		return
	}
	if o.head != nil && o.head.state != stateWaiting {
		// It was for somebody who has left, or has found room elsewhere.
		s.close(o)
		v.stance = o.was
		return
	}
	v.stance, o.given, o.began = reclaiming, true, now
	for _, a := range v.accounts {
		d := s.devices[s.accounts[a].gpu]
		s.crowd(s.accounts[a].gpu, a)
		p := placeBefore{held: s.keeps(a), observed: -1, dropped: d.dropped}
		if d.observed >= 0 && d.last.Err == nil && d.dropped == d.droppedThen {
			p.observed = d.observed
		}
		o.places = append(o.places, p)
		o.Bytes += p.held
		if len(d.swapped) == maxSwaps {
			d.swapped = slices.Delete(d.swapped, 0, 1)
		}
		d.swapped = append(d.swapped, now)
	}
	v.swaps++
	s.issued = append(s.issued, o.Order)
}

// swapsIn counts the swaps of a GPU in the last while.
func (d *device) swapsIn(now, last time.Duration) int {
	n := 0
	for i := len(d.swapped) - 1; i >= 0 && now-d.swapped[i] < last; i-- {
		n++
	}
	return n
}

// settleOrders goes through what is under way: replicas that have become
// empty, and those that nobody needs emptied any more.
func (s *Scheduler) settleOrders(now time.Duration) {
	for _, o := range slices.Clone(s.orders) {
		if o.Kind == Reclaim && !o.given {
			if o.head != nil && o.head.state != stateWaiting {
				s.close(o)
				o.replica.stance = o.was
				continue
			}
			s.emptied(now, o.replica)
		}
	}
}

func (s *Scheduler) close(o *order) {
	o.replica.order, o.done = nil, true
	for _, a := range o.replica.accounts {
		s.devices[s.accounts[a].gpu].moved = true
	}
	s.orders = slices.DeleteFunc(s.orders, func(x *order) bool { return x == o })
}

// orderFor is the order under way for a waiting ticket.
func (s *Scheduler) orderFor(t *Ticket) *order {
	for _, o := range s.orders {
		if o.head == t {
			return o
		}
	}
	return nil
}

// seeFreed takes a reading into what orders have freed. What is seen is a lower
// bound: what others gave back is taken off, what others took in the meantime
// hides a part.
func (s *Scheduler) seeFreed(now time.Duration, g int) {
	d := s.devices[g]
	for _, o := range s.orders {
		if o.Kind != Reclaim || !o.given {
			continue
		}
		for i, a := range o.replica.accounts {
			p := &o.places[i]
			if s.accounts[a].gpu != g {
				continue
			}
			if own, known := d.ownedBy(o.replica); known {
				p.freed = max(p.freed, p.held-own)
			} else if p.observed >= 0 {
				mine := p.observed - d.observed - (d.dropped - p.dropped) - s.alsoFreeing(g, o)
				if s.lateFree(now, g, o) && (mine < p.held-exact || mine > p.held+exact) {
					continue // it may be the other's, unless it is just what this one held
				}
				p.freed = max(p.freed, min(p.held, mine))
			} else {
				// The first reading since: what came back before it is not seen.
				p.observed, p.dropped = d.observed, d.dropped
			}
		}
	}
}

// Ready says that what an order frees would be seen: the card was read after
// the last work there gave memory back. It is true where no card can be read.
func (s *Scheduler) Ready(id uint64) bool {
	o := s.orderByID(id, Reclaim)
	if o == nil {
		return true
	}
	for i, a := range o.replica.accounts {
		if d := s.devices[s.accounts[a].gpu]; d.observed >= 0 && d.last.Err == nil && o.places[i].observed < 0 {
			return false
		}
	}
	return true
}

// alsoFreeing is what others that are letting go on a GPU may have freed.
func (s *Scheduler) alsoFreeing(g int, but *order) Bytes {
	var sum Bytes
	for _, o := range s.orders {
		if o == but || o.Kind != Reclaim || !o.given {
			continue
		}
		for i, a := range o.replica.accounts {
			if s.accounts[a].gpu == g {
				sum += o.places[i].held
			}
		}
	}
	return sum
}

// lateFree says that on a GPU another that was told to let go, and was not seen
// to, may do so now: for a while after that, and after each of its runs.
func (s *Scheduler) lateFree(now time.Duration, g int, but *order) bool {
	for i, a := range s.accounts {
		r := a.backend.replicas[a.replica]
		if a.gpu == g && r != but.replica && r.failures > 0 && now-max(r.since, r.ended) < late && s.live.holdings[i].kept > 0 {
			return true
		}
	}
	return false
}

// unsure notes that n bytes, booked as what an order that ends has not freed, may
// have come back unseen: they are not the doing of the others under way.
func (s *Scheduler) unsure(g int, but *order, n Bytes) {
	for _, o := range s.orders {
		if o == but || o.Kind != Reclaim || !o.given {
			continue
		}
		for i, a := range o.replica.accounts {
			if s.accounts[a].gpu == g {
				o.places[i].dropped -= n
			}
		}
	}
}

// Freed says how much of what an order is to free has been seen to come back,
// and whether that is enough. known is false where no card can be read that
// would show it.
func (s *Scheduler) Freed(id uint64) (freed Bytes, enough, known bool) {
	i := slices.IndexFunc(s.orders, func(o *order) bool { return o.ID == id })
	if i < 0 {
		return 0, false, false
	}
	enough = true
	for k, a := range s.orders[i].replica.accounts {
		p, d := s.orders[i].places[k], s.devices[s.accounts[a].gpu]
		if d.source == "declared" || d.observed < 0 {
			continue
		}
		known = true
		fresh := s.fresh(s.orders[i].replica, d)
		// What others hold for sure is not its own, whenever it was freed.
		mine := p.freed
		if fresh {
			mine = max(mine, p.held-s.mostLeft(a))
		}
		freed += mine
		if float64(mine) < enoughFreed*float64(p.held) && (!fresh || d.observed > p.held/10) {
			enough = false
		}
	}
	return freed, enough && known, known
}

// fresh says that a GPU was read since a replica last took memory there.
func (s *Scheduler) fresh(r *replica, d *device) bool {
	return d.last.Err == nil && d.goodAt >= max(r.ended, r.loaded)
}

// Ended is how an order ended.
type Ended struct {
	// Failed says that the server could not be made to do it.
	Failed bool
	// MustWake says, of a Reclaim, that the replica works again only after a
	// Wake.
	MustWake bool
	// Dead says that the server is gone: nothing wakes it, and whoever watches
	// it starts it anew. With MustWake its room is kept for that: a Return
	// follows.
	Dead bool
	// Note is a sentence for people.
	Note string
}

// Reclaimed ends a Reclaim. Where the card can be read, what was not seen to
// come back stays booked; elsewhere the server's word stands. It reports
// whether there was such an order.
func (s *Scheduler) Reclaimed(now time.Duration, id uint64, e Ended) bool {
	o := s.orderByID(id, Reclaim)
	if o == nil || !o.given {
		return false
	}
	_, enough, known := s.Freed(id)
	r := o.replica
	r.held = r.held[:0]
	for i, a := range r.accounts {
		p, d := o.places[i], s.devices[s.accounts[a].gpu]
		most := Bytes(0)
		switch {
		case e.Dead: // with its process
		case d.observed >= 0 && d.source != "declared":
			most = max(0, p.held-p.freed)
			if s.fresh(r, d) {
				most = min(most, s.mostLeft(a))
			}
		case e.Failed:
			most = p.held
		}
		// What was in dispute is in the books as outside, and stays there.
		residue := s.live.holdings[a].kept
		if known {
			residue = max(0, residue-p.freed)
		}
		residue = min(most, residue)
		r.held = append(r.held, p.held)
		s.keep(a, residue)
		s.unsure(s.accounts[a].gpu, o, residue)
		acc := s.accounts[a]
		acc.sure, acc.disputed, acc.most = 0, true, most
	}
	s.close(o)
	r.stance, r.empty = awake, true
	if e.MustWake || o.was == asleep && !e.Dead {
		r.stance = asleep
	}
	r.since, r.note = now, e.Note
	r.notBefore = s.backOff(now, r, (e.Failed || known && !enough) && !e.Dead || e.Dead && e.MustWake)
	if e.Dead && e.MustWake {
		// Nothing is won: it takes the room as soon as it is there again.
		s.bringBack(now, Return, r, nil)
	}
	s.pass(now)
	return true
}

// backOff is until when a replica is left alone after a failure, twice as long
// each time: a sixth of its MinResidency at first, ten times as long as that at
// the most.
func (s *Scheduler) backOff(now time.Duration, r *replica, failed bool) time.Duration {
	if !failed {
		r.failures = 0
		return 0
	}
	r.failures++
	return now + r.penalty()
}

func (r *replica) penalty() time.Duration {
	stay := r.backend.cfg.MinResidency
	if stay <= 0 {
		stay = 30 * time.Second
	}
	return min(stay/6<<min(r.failures-1, 10), 10*stay)
}

// Woken ends a Wake or a Return. It reports whether there was such an order.
func (s *Scheduler) Woken(now time.Duration, id uint64, e Ended) bool {
	o := s.orderByID(id, Wake, Return)
	if o == nil {
		return false
	}
	r := o.replica
	s.close(o)
	r.note = e.Note
	switch {
	case !e.Failed || e.Dead:
		r.stance, r.loaded, r.empty = awake, now, e.Dead
		r.since = now
		if !e.Dead {
			r.reload = now - o.began
		}
	default:
		r.stance = asleep
	}
	if e.Failed {
		// What it was given is not there; a reading says what is.
		for i, a := range r.accounts {
			d := s.devices[s.accounts[a].gpu]
			s.keep(a, o.places[i].held)
			d.outside += o.places[i].claimed
			d.unclaimed += o.places[i].claimed
		}
	}
	if o.Kind == Wake {
		r.wakeAfter = s.backOff(now, r, e.Failed && !e.Dead)
	} else if !e.Failed {
		// Else it would die again as soon as its time is over.
		r.notBefore = now + s.residency(now, r) + r.penalty()
	}
	s.pass(now)
	return true
}

// Loading says that a GPU of an order's replica shows more in use than the
// others have in the books: it is taking back what it held.
func (s *Scheduler) Loading(id uint64) bool {
	o := s.orderByID(id, Wake, Return)
	if o == nil {
		return false
	}
	for i, a := range o.replica.accounts {
		g := s.accounts[a].gpu
		d := s.devices[g]
		others := s.live.booked[g] - (s.live.holdings[a].kept - o.places[i].held)
		if own, known := d.ownedBy(o.replica); known && own > exact || !known && d.observed > others+d.outside+exact {
			return true
		}
	}
	return false
}

func (s *Scheduler) orderByID(id uint64, kinds ...OrderKind) *order {
	for _, o := range s.orders {
		if o.ID == id && slices.Contains(kinds, o.Kind) {
			return o
		}
	}
	return nil
}

// due is when an order that frees memory is expected to have done so.
func (s *Scheduler) due(now time.Duration, o *order) time.Duration {
	if o.given {
		return max(o.began+ReclaimTime, now+max(time.Second, (now-o.began)/10))
	}
	last := now
	for _, t := range s.running {
		if t.replica == o.replica {
			last = max(last, t.end)
		}
	}
	return last + ReclaimTime
}

// letGo books that a replica holds nothing while nothing runs on it.
func (s *Scheduler) letGo(u *usage, r *replica) {
	for _, a := range r.accounts {
		h, acc := &u.holdings[a], s.accounts[a]
		before := h.footprint(acc.resident)
		h.kept = 0
		u.booked[acc.gpu] += h.footprint(acc.resident) - before
	}
}
