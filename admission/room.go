package admission

import (
	"cmp"
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

// enoughFreed is the share of what a replica held that must be seen to come
// back: allocators round, and a context of the driver stays.
const enoughFreed = 0.9

const (
	// LoadRate is how fast weights are taken to load where it has not been
	// seen: a fast disk, or half of what a PCIe 4 slot moves.
	LoadRate = 2 * GiB // a second
	// ReclaimTime is how long letting go is taken to last.
	ReclaimTime = 3 * time.Second
	// late is how long after it was expected memory may still come back.
	late = 30 * time.Second
	// halfLife is that of the count of a replica's recent starts.
	halfLife = time.Minute
	// restWanted is the recent demand from which on an idle box brings a
	// sleeping replica back: one request in the last four half-lives.
	restWanted = 1.0 / 16
	// quietSwaps is how many swaps a minute a GPU may see before they come
	// apart: beyond it a replica that was loaded stays for longer.
	quietSwaps = 4
	// maxSwaps is how many are remembered.
	maxSwaps = 64
)

// makeRoom looks for replicas whose letting go lets the head of sh start, the
// cheapest first.
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
		if victims == nil && now-sh.blockedSince >= max(0, sh.class.cfg.StrictAfter) {
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
	if s.unraveled || now-sh.blockedSince < max(0, sh.class.cfg.StrictAfter) {
		return
	}
	// What bars the head may be its own server's, which nobody can tell. When
	// that lets go, the card shows it.
	for _, r := range sh.backend.replicas {
		if s.mayReclaim(r) && r.stance == awake && s.live.replicas[r.index] == 0 && slices.ContainsFunc(r.accounts, s.doubtful) {
			if due := s.leaveUntil(now, r); now < due {
				s.recheck = min(s.recheck, due)
				continue
			}
			s.empty(now, r, t)
			return
		}
	}
}

// doubtful says that an account may hold more than is in the books, or that
// others on its GPU, at rest, hold less.
func (s *Scheduler) doubtful(a int) bool {
	kept := s.live.holdings[a].kept
	return s.keeps(a) > kept || kept > 0 && s.overBooked(s.accounts[a].gpu)
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
			if due := s.leaveUntil(now, v); now < due {
				s.recheck = min(s.recheck, due)
				continue
			}
			// Where running work ends sooner than the victim would be back,
			// waiting costs less.
			if sh.reserved < forever && sh.reserved-now <= s.reload(v) {
				if sh.reserved > now {
					s.recheck = min(s.recheck, sh.reserved)
				}
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

// leaveUntil is until when a replica is left alone.
func (s *Scheduler) leaveUntil(now time.Duration, v *replica) time.Duration {
	return max(v.notBefore, v.loaded+s.residency(now, v))
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
	return time.Duration(float64(held) / float64(LoadRate) * float64(time.Second))
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
