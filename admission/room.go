package admission

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Making room. A model server that is idle may hold what a blocked head needs.
// The scheduler then orders that it lets go, and orders that it is brought back
// before its own next request. An Order is data: whoever owns the desk carries
// it out and reports by Reclaimed and Woken. What a server says of its memory
// proves nothing, so what came back is what the card has been seen to free.

// stance is whether a replica can be used, as far as its memory goes.
type stance uint8

const (
	awake      stance = iota // it works, or its next request loads it
	emptying                 // it starts nothing new, and lets go when what runs has ended
	reclaiming               // it is letting go
	asleep                   // it has let go, and must be woken before it works
	waking
)

var stances = [...]string{awake: "awake", emptying: "emptying", reclaiming: "reclaiming", asleep: "asleep", waking: "waking"}

// OrderKind is what is to be done.
type OrderKind uint8

const (
	Reclaim OrderKind = iota
	Wake
)

// Order is something slow that the owner of the desk is to do.
type Order struct {
	ID      uint64 // for Reclaimed or Woken
	Kind    OrderKind
	Backend string
	Replica int
	Name    string // the replica's
	// Bytes is what the replica is believed to hold, on all its GPUs, or for a
	// Wake what it will take.
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
	dropped  Bytes // what others had given back by then
	freed    Bytes
}

// enoughFreed is the share of what a replica held that must be seen to come
// back: allocators round, and a context of the driver stays.
const enoughFreed = 0.9

const (
	// loadRate is how fast weights are taken to load where it has not been
	// seen: a fast disk, or half of what a PCIe 4 slot moves.
	loadRate = 2 * GiB // a second
	// reclaimTime is how long letting go is taken to last.
	reclaimTime = 3 * time.Second
	// halfLife is that of the count of a replica's recent starts.
	halfLife = time.Minute
	// restWanted is the recent demand from which on an idle box brings a
	// sleeping replica back: one request in the last four half-lives.
	restWanted = 1.0 / 16
	// maxBackOff bounds how long a replica whose order failed is left alone.
	maxBackOff = 5 * time.Minute
	// quietSwaps is how many swaps a minute a GPU may see before they come
	// apart: beyond it a replica that was loaded stays for longer.
	quietSwaps = 4
	// maxSwaps is how many are remembered.
	maxSwaps = 64
)

// Orders are what is to be done that no earlier call told of. The slice is
// valid until the next call.
func (s *Scheduler) Orders() []Order {
	o := s.issued
	s.issued = s.issued[:0]
	return o
}

// makeRoom looks for idle
// replicas whose letting go lets it start, the cheapest first.
func (s *Scheduler) makeRoom(now time.Duration, sh *shape) {
	t := sh.head
	if s.orderFor(t) != nil {
		return
	}
	for _, r := range sh.backend.replicas {
		if r.stance != awake && r.stance != asleep || r.probes == 0 && r.stance != asleep {
			continue
		}
		victims := s.victims(now, sh, r, false)
		if victims == nil && now-sh.blockedSince >= max(0, sh.class.cfg.HardenAfter) {
			victims = s.victims(now, sh, r, true)
		}
		for _, v := range victims {
			s.empty(now, v, t)
		}
		if victims != nil {
			return
		}
	}
	for _, r := range sh.backend.replicas {
		for _, a := range r.accounts {
			s.unraveled = s.unravel(s.accounts[a].gpu) || s.unraveled
		}
	}
}

// victims are replicas that together hold what sh lacks on r, none of them for
// nothing; nil: there are none, or none are needed. Busy ones are taken only
// where they may be.
func (s *Scheduler) victims(now time.Duration, sh *shape, r *replica, busy bool) []*replica {
	lack := make([]Bytes, len(s.devices))
	short := false
	for i, a := range r.accounts {
		g := s.accounts[a].gpu
		lack[g] = s.needs(&s.live, sh, r, i) - s.room(&s.live, g) - s.coming(g)
		short = short || lack[g] > 0
		if d := s.devices[g]; lack[g] > 0 && (d.unknown(now) || s.live.alone[g] > 0) {
			return nil
		}
	}
	if !short {
		return nil
	}
	var may []*replica
	for _, v := range s.replicas {
		if v != r && s.mayReclaim(v) && s.helps(v, lack) && !s.ranksBefore(v, sh) {
			if s.live.replicas[v.index] > 0 && (!busy || s.anyEmptying()) {
				continue
			}
			if due := max(v.notBefore, v.loaded+s.residency(now, v)); now < due {
				s.recheck = min(s.recheck, due)
				continue
			}
			// Where running work ends sooner than the victim would be back,
			// waiting costs less.
			if sh.reserved < forever && sh.reserved-now <= s.reload(v) {
				continue
			}
			may = append(may, v)
		}
	}
	slices.SortStableFunc(may, func(a, b *replica) int {
		// Those that run nothing first: their letting go costs nobody a wait.
		return cmp.Or(cmp.Compare(min(1, s.live.replicas[a.index]), min(1, s.live.replicas[b.index])),
			cmp.Compare(s.price(now, a), s.price(now, b)))
	})
	var chosen []*replica
	for _, v := range may {
		if !s.helps(v, lack) {
			continue
		}
		for _, a := range v.accounts {
			lack[s.accounts[a].gpu] -= s.keeps(a)
		}
		chosen = append(chosen, v)
	}
	if slices.ContainsFunc(lack, func(n Bytes) bool { return n > 0 }) {
		return nil
	}
	// A cheap one may have become unnecessary through a large one after it.
	return slices.DeleteFunc(chosen, func(v *replica) bool {
		for _, a := range v.accounts {
			if g := s.accounts[a].gpu; lack[g]+s.keeps(a) > 0 && s.keeps(a) > 0 {
				return false
			}
		}
		for _, a := range v.accounts {
			lack[s.accounts[a].gpu] += s.keeps(a)
		}
		return true
	})
}

// mayReclaim says whether a replica can be told to let go at all.
func (s *Scheduler) mayReclaim(v *replica) bool {
	b := v.backend
	// One that sleeps may have kept some of it, and is asked again.
	return b.cfg.Reclaims && !b.cfg.Pinned && !b.gone && (v.stance == awake || v.stance == asleep) && v.order == nil
}

// helps says whether a replica holds something on a GPU that lacks room.
func (s *Scheduler) helps(v *replica, lack []Bytes) bool {
	for _, a := range v.accounts {
		if lack[s.accounts[a].gpu] > 0 && s.keeps(a) > 0 {
			return true
		}
	}
	return false
}

// keeps is what an account would give back: what it holds once nothing runs.
func (s *Scheduler) keeps(a int) Bytes {
	h, acc := s.live.holdings[a], s.accounts[a]
	switch {
	case h.runs == 0 && acc.disputed && !acc.seen:
		return h.kept + min(s.devices[acc.gpu].unclaimed, max(0, acc.most-h.kept))
	case h.runs == 0:
		return h.kept
	case acc.backend.cfg.ReturnsMemory:
		return max(h.kept, acc.resident)
	}
	return h.footprint(acc.resident)
}

// swapping says that something lets go or comes back on a GPU.
func (s *Scheduler) swapping(g int) bool {
	for _, o := range s.orders {
		for _, a := range o.replica.accounts {
			if o.given && s.accounts[a].gpu == g {
				return true
			}
		}
	}
	return false
}

// coming is what orders under way are expected to free on a GPU.
func (s *Scheduler) coming(g int) Bytes {
	var sum Bytes
	for _, o := range s.orders {
		if o.Kind != Reclaim {
			continue
		}
		for _, a := range o.replica.accounts {
			if s.accounts[a].gpu == g {
				sum += s.keeps(a)
			}
		}
	}
	return sum
}

// ranksBefore says that somebody who may run waits for v and ranks before the
// head of sh: what v holds is about to be used.
func (s *Scheduler) ranksBefore(v *replica, sh *shape) bool {
	for _, x := range s.active {
		if x == sh {
			return false
		}
		if _, barred := s.barred(x); x.backend == v.backend && !barred {
			return true
		}
	}
	return false
}

func (s *Scheduler) anyEmptying() bool {
	return slices.ContainsFunc(s.orders, func(o *order) bool { return o.Kind == Reclaim && !o.given })
}

// residency is how long a replica that was loaded stays at the least. Where a
// GPU sees many swaps it stays for longer, so that more of the time is work.
func (s *Scheduler) residency(now time.Duration, v *replica) time.Duration {
	worst := 0
	for _, a := range v.accounts {
		worst = max(worst, s.devices[s.accounts[a].gpu].swapsIn(now, time.Minute))
	}
	factor := time.Duration(1)
	for n := worst; n > quietSwaps && factor < 8; n -= quietSwaps {
		factor *= 2
	}
	return v.backend.cfg.MinResidency * factor
}

// reload is how long a replica takes to come back: as last seen, else by size.
func (s *Scheduler) reload(v *replica) time.Duration {
	if v.reload > 0 {
		return v.reload
	}
	var held Bytes
	for _, a := range v.accounts {
		held += s.keeps(a)
	}
	return time.Duration(float64(held) / float64(loadRate) * float64(time.Second))
}

// price is what letting go is expected to cost, by byte: the reload, times how
// much the replica was asked for lately.
func (s *Scheduler) price(now time.Duration, v *replica) float64 {
	var held Bytes
	for _, a := range v.accounts {
		held += s.keeps(a)
	}
	return s.reload(v).Seconds() * (v.wanted(now) + 1e-3) / float64(max(1, held))
}

// wanted is the count of a replica's starts, in which each counts half a minute
// later.
func (r *replica) wanted(now time.Duration) float64 {
	return r.starts * math.Exp2(-float64(now-r.startsAt)/float64(halfLife))
}

// began takes note that a request is about to start on a replica.
func (s *Scheduler) began(now time.Duration, r *replica) {
	r.starts, r.startsAt = r.wanted(now)+1, now
	empty := true
	for _, a := range r.accounts {
		empty = empty && s.live.holdings[a] == holding{}
	}
	if empty || r.empty {
		r.empty, r.loaded = false, now
	}
}

// empty makes a replica let go: at once where nothing runs there, else when
// what runs has ended, and nothing more starts until then.
func (s *Scheduler) empty(now time.Duration, v *replica, head *Ticket) {
	s.newOrder(now, Reclaim, v, head).was = v.stance
	v.stance = emptying
	s.emptied(now, v)
}

// newOrder begins an order; what it will free is in the profile from now on.
func (s *Scheduler) newOrder(now time.Duration, kind OrderKind, r *replica, head *Ticket) *order {
	s.lastOrder++
	o := &order{Order: Order{ID: s.lastOrder, Kind: kind, Backend: r.backend.cfg.Name, Replica: r.number, Name: r.name}, replica: r, head: head, began: now}
	if head != nil {
		o.For = head.id
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
func (s *Scheduler) seeFreed(g int) {
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
				p.freed = max(p.freed, min(p.held, mine))
			} else {
				// The first reading since: what came back before it is not seen.
				p.observed, p.dropped = d.observed, d.dropped
			}
		}
	}
}

// ownedBy is what the processes of a replica hold on a GPU; false: the driver
// does not say, or never named one of them.
func (d *device) ownedBy(r *replica) (Bytes, bool) {
	var sum Bytes
	named := d.named[owner{r.backend.cfg.Name, r.number}]
	for _, p := range d.processes {
		if p.Backend == r.backend.cfg.Name && p.Replica == r.number {
			if p.Used < 0 {
				return 0, false
			}
			sum, named = sum+p.Used, true
		}
	}
	return sum, named
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

// attribute books for idle replicas what the driver says their processes hold:
// more at once, less after several readings that agree.
func (s *Scheduler) attribute(g int) {
	d := s.devices[g]
	if d.last.Processes == nil {
		return
	}
	for _, p := range d.processes {
		if p.Backend != "" {
			if d.named == nil {
				d.named = make(map[owner]bool)
			}
			d.named[owner{p.Backend, p.Replica}] = true
		}
	}
	for i, a := range s.accounts {
		r, h := a.backend.replicas[a.replica], &s.live.holdings[i]
		own, known := d.ownedBy(r)
		if a.gpu != g || !known || h.runs > 0 || r.order != nil || own == h.kept {
			a.calm, a.calmPeak = 0, 0
			continue
		}
		if own > h.kept {
			// It was taken for an outsider's.
			more := own - h.kept
			s.keep(i, own)
			d.outside = max(0, d.outside-more)
			d.unclaimed = max(0, d.unclaimed-more)
			a.seen, a.sure, a.calm, a.calmPeak = true, own, 0, 0
			continue
		}
		a.calm++
		if a.calmPeak = max(a.calmPeak, own); a.calm >= calmReadings {
			s.keep(i, a.calmPeak)
			a.sure, a.calm, a.calmPeak = a.calmPeak, 0, 0
		}
	}
}

// owner names a replica whatever becomes of the books.
type owner struct {
	backend string
	replica int
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
		freed += p.freed
		if d.source == "declared" || d.observed < 0 {
			continue
		}
		known = true
		if float64(p.freed) < enoughFreed*float64(p.held) && d.observed > p.held/10 {
			enough = false
		}
	}
	return freed, enough && known, known
}

// Ended is how an order ended.
type Ended struct {
	// Failed says that the server could not be made to do it.
	Failed bool
	// MustWake says, of a Reclaim, that the replica works again only after a
	// Wake.
	MustWake bool
	// Dead says that the server is gone: nothing wakes it, and whoever watches
	// it starts it anew.
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
		residue := Bytes(0)
		switch {
		case e.Dead: // with its process
		case d.observed >= 0 && d.source != "declared":
			residue = min(max(0, p.held-p.freed), d.observed, s.live.holdings[a].kept)
		case e.Failed:
			residue = p.held
		}
		r.held = append(r.held, p.held)
		s.keep(a, residue)
		acc := s.accounts[a]
		acc.sure, acc.disputed, acc.most = 0, true, residue
	}
	s.close(o)
	failed := (e.Failed || known && !enough) && !e.Dead
	r.stance, r.empty = awake, true
	if e.MustWake {
		r.stance = asleep
	}
	r.since, r.note = now, e.Note
	s.backOff(now, r, failed)
	s.pass(now)
	return true
}

// backOff leaves a replica alone after a failure, twice as long each time.
func (s *Scheduler) backOff(now time.Duration, r *replica, failed bool) {
	if !failed {
		r.failures, r.notBefore = 0, 0
		return
	}
	r.failures++
	wait := maxBackOff
	if r.failures < 10 {
		wait = min(wait, time.Second<<(r.failures-1)*5)
	}
	r.notBefore = now + wait
}

// Woken ends a Wake. It reports whether there was such an order.
func (s *Scheduler) Woken(now time.Duration, id uint64, e Ended) bool {
	o := s.orderByID(id, Wake)
	if o == nil {
		return false
	}
	r := o.replica
	s.close(o)
	r.note = e.Note
	if !e.Failed || e.Dead {
		r.stance, r.loaded, r.empty = awake, now, false
		r.since = now
		if !e.Dead {
			r.reload = now - o.began
		}
	} else {
		r.stance = asleep
	}
	if e.Failed {
		// What it was given is not there; a reading says what is.
		for i, a := range r.accounts {
			s.keep(a, o.places[i].held)
		}
	}
	s.backOff(now, r, e.Failed && !e.Dead)
	s.pass(now)
	return true
}

func (s *Scheduler) orderByID(id uint64, kind OrderKind) *order {
	for _, o := range s.orders {
		if o.ID == id && o.Kind == kind {
			return o
		}
	}
	return nil
}

// wake orders that a sleeping replica is brought back, and books what it will
// hold. The caller has found room for it.
func (s *Scheduler) wake(now time.Duration, r *replica, head *Ticket) {
	o := s.newOrder(now, Wake, r, head)
	o.given = true
	r.stance = waking
	for i, a := range r.accounts {
		h, acc := &s.live.holdings[a], s.accounts[a]
		o.places = append(o.places, placeBefore{held: h.kept})
		will := max(h.kept, acc.resident, r.heldBefore(i))
		s.claim(r, i, will-h.kept, nil, o)
		s.live.booked[acc.gpu] += will - h.kept
		h.kept = will
		o.Bytes += will
		acc.seen = true
	}
	s.issued = append(s.issued, o.Order)
}

// heldBefore is what the replica held on its i-th GPU before it let go.
func (r *replica) heldBefore(i int) Bytes {
	if i < len(r.held) {
		return r.held[i]
	}
	return 0
}

// wakeFor brings back the replica that a head waits for.
func (s *Scheduler) wakeFor(now time.Duration, sh *shape) {
	for _, r := range sh.backend.replicas {
		if r.stance != asleep || r.order != nil {
			continue
		}
		if b, _ := s.fits(&s.live, sh, r, now); b.reason != ReasonWaking {
			continue
		}
		if now < r.notBefore {
			s.recheck = min(s.recheck, r.notBefore)
			continue
		}
		s.wake(now, r, sh.head)
		return
	}
}

// restore brings a sleeping replica back while nobody waits, the one that was
// asked for most, if it fits into the room that is there.
func (s *Scheduler) restore(now time.Duration) {
	if s.refuseAll != nil {
		return
	}
	var best *replica
	for _, r := range s.replicas {
		if r.stance != asleep || r.order != nil || r.backend.gone || r.byHand || r.wanted(now) < restWanted {
			continue
		}
		if at := max(r.since+s.residency(now, r), r.notBefore); now < at {
			s.recheck = min(s.recheck, at)
			continue
		}
		fits := true
		for i, a := range r.accounts {
			acc := s.accounts[a]
			fits = fits && s.live.alone[acc.gpu] == 0 &&
				max(acc.resident, r.heldBefore(i))-s.live.holdings[a].kept <= s.room(&s.live, acc.gpu)
		}
		if fits && (best == nil || r.wanted(now) > best.wanted(now)) {
			best = r
		}
	}
	if best != nil {
		s.wake(now, best, nil)
	}
}

// ReclaimByHand makes all replicas of a backend let go, pinned or not, when
// what runs there has ended.
func (s *Scheduler) ReclaimByHand(now time.Duration, name string) error {
	b := s.backendIndex[name]
	switch {
	case b == nil:
		return fmt.Errorf("admission: there is no backend %q", name)
	case !b.cfg.Reclaims:
		return fmt.Errorf("admission: backend %q cannot be made to let go: want backends.%s.reclaim", name, name)
	}
	for _, r := range b.replicas {
		if r.stance == awake && r.order == nil {
			r.byHand = true
			s.empty(now, r, nil)
		}
	}
	s.pass(now)
	return nil
}

// WakeByHand brings back the replicas of a backend that sleep, where there is
// room.
func (s *Scheduler) WakeByHand(now time.Duration, name string) error {
	b := s.backendIndex[name]
	if b == nil {
		return fmt.Errorf("admission: there is no backend %q", name)
	}
	for _, r := range b.replicas {
		if r.stance != asleep || r.order != nil {
			continue
		}
		for i, a := range r.accounts {
			acc := s.accounts[a]
			need, free := max(acc.resident, r.heldBefore(i))-s.live.holdings[a].kept, s.room(&s.live, acc.gpu)
			if need > free {
				return fmt.Errorf("admission: backend %q needs %v of %s, where %v are free", name, need, s.devices[acc.gpu].cfg.Name, max(0, free))
			}
		}
		r.byHand = false
		s.wake(now, r, nil)
	}
	s.pass(now)
	return nil
}

// SetLoaded tells what a replica's own word is on whether it holds its weights,
// as found at the start of the desk: they are then not an outsider's. mustWake
// says of one that does not that it sleeps.
func (s *Scheduler) SetLoaded(now time.Duration, name string, replica int, loaded, mustWake bool) bool {
	b := s.backendIndex[name]
	if b == nil || replica < 0 || replica >= len(b.replicas) {
		return false
	}
	r := b.replicas[replica]
	if r.stance != awake || r.order != nil || s.live.replicas[r.index] > 0 {
		return false
	}
	if !loaded {
		if mustWake {
			r.stance, r.since = asleep, now
		}
		s.pass(now)
		return true
	}
	for _, a := range r.accounts {
		acc, h := s.accounts[a], &s.live.holdings[a]
		d := s.devices[acc.gpu]
		if acc.seen || h.kept >= acc.resident {
			continue
		}
		more := acc.resident - h.kept
		h.kept += more
		s.live.booked[acc.gpu] += more
		mine := min(d.unclaimed, more)
		d.unclaimed -= mine
		d.outside -= mine
		acc.seen = true
	}
	s.pass(now)
	return true
}

// swap does what a blocked head needs done: its backend is woken, or others
// make room. It reports whether room is being made.
func (s *Scheduler) swap(now time.Duration, sh *shape) bool {
	switch sh.block.reason {
	case ReasonWaking:
		s.wakeFor(now, sh)
	case ReasonResources, ReasonCapacityReduced:
		s.makeRoom(now, sh)
		return s.nameReclaim(sh)
	}
	return false
}

// nameReclaim says of a head that lacks memory that it is being freed, if it is.
func (s *Scheduler) nameReclaim(sh *shape) bool {
	if r := sh.block.reason; !s.swappable || r != ReasonResources && r != ReasonCapacityReduced {
		return false
	}
	o := s.orderFor(sh.head)
	if o == nil || o.Kind != Reclaim {
		return false
	}
	sh.block.reason = ReasonReclaiming
	return true
}

// due is when an order that frees memory is expected to have done so.
func (s *Scheduler) due(now time.Duration, o *order) time.Duration {
	if o.given {
		return max(o.began+reclaimTime, now+max(time.Second, (now-o.began)/10))
	}
	last := now
	for _, t := range s.running {
		if t.replica == o.replica {
			last = max(last, t.end)
		}
	}
	return last + reclaimTime
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
