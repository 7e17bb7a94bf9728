package admission

import (
	"fmt"
	"time"
)

// The ledger has an account for each replica on each GPU it takes room on,
// because a model server holds memory in two ways: what it keeps while idle
// and what a request adds. A ledger of requests alone would lock a server that
// keeps its cache out of its own memory.
//
//	footprint = max(kept, resident + running, if anything runs)
//	booked    = Σ footprint over the accounts of the GPU
//	outside   = max(0, observed − booked)
//	room      = capacity − reserve − booked − outside
//	extra     = max(0, resident + running + demand − footprint)
//
// A request may start where its extra is at most the room, on every GPU that
// it touches.

// device is what is known of one GPU beside its bookings.
type device struct {
	cfg GPU

	total    Bytes // as last read; 0: never read
	largest  Bytes // the largest total ever read: what the card would be without a shrink
	outside  Bytes
	observed Bytes // as last read; -1: never read
	lost     bool
	// unclaimed is the part of outside that may be an engine of ours which
	// was loaded before we started, or again behind our back.
	unclaimed Bytes
	// claimed and claimedBy are the work, or the waking, that took of it since
	// the last reading. Nobody knows until the next whether it was its own.
	claimed   *Ticket
	claimedBy *order
	calm      int   // consecutive readings that allow outside or kept to fall
	calmPeak  Bytes // the largest observed − booked among them, or observed while work runs
	calmIdle  bool  // whether those readings were taken with nothing running

	rested Bytes // in use when it was last found to be less than booked
	// strangers is the part of outside that no account was measured to hold.
	strangers        Bytes
	strangersKnown   bool
	strangersLeast   Bytes // in the readings at rest that may raise it
	strangerReadings int
	restsUntil       time.Duration // nothing starts until then

	dropped Bytes           // all that work has given back since the start
	swapped []time.Duration // when replicas were last made to let go
	named   map[owner]bool  // a process of theirs has been seen
	// droppedThen is dropped as of the last good reading.
	droppedThen Bytes
	moved       bool // work or an order has ended since that reading

	last      Reading       // the last one, good or bad
	goodAt    time.Duration // when the last good one came
	source    string        // of the last good one
	processes []Process
}

// calmReadings is how many readings in a row must agree before something that
// bars work is believed to have gone: a process that exits between two driver
// calls looks like an outsider, and figures flap.
const calmReadings = 3

// unknownAfter is how long readings may fail before a GPU with the hold policy
// counts as unknown. Until then the last reading stands.
const unknownAfter = 30 * time.Second

// capacity is what may be budgeted now, before the reserve.
func (d *device) capacity() Bytes {
	switch {
	case d.cfg.Memory == 0:
		return d.total
	case d.total == 0:
		return d.cfg.Memory
	}
	return min(d.cfg.Memory, d.total)
}

// ceiling is what the card could ever give: a request beyond it never fits,
// one beyond capacity alone may have to wait. Zero: not known yet.
func (d *device) ceiling() Bytes {
	if d.cfg.Memory == 0 {
		return max(0, d.largest-d.cfg.Reserve)
	}
	if d.largest > 0 {
		return max(0, min(d.cfg.Memory, d.largest)-d.cfg.Reserve)
	}
	return max(0, d.cfg.Memory-d.cfg.Reserve)
}

// unknown says that the card's policy bars new bookings for want of a reading.
func (d *device) unknown(now time.Duration) bool {
	return d.cfg.Hold && (d.observed < 0 || d.last.Err != nil && now-d.goodAt > unknownAfter)
}

// account is the fixed part of one replica's share of one GPU; the changing
// part is a holding in a usage.
type account struct {
	backend  *backend
	replica  int
	gpu      int // index into devices
	resident Bytes
	seen     bool  // all that it holds is in the books, so it has no claim on what is not
	sure     Bytes // of what it keeps: held at the least, when it was last known
	sureThen Bytes // sure as of the last reading
	disputed bool  // it may have held up to most when that was last in dispute
	most     Bytes
	calm     int // consecutive readings that say its processes hold less than it is believed to keep
	calmPeak Bytes

	sight
}

// holding is what an account holds at one moment.
type holding struct {
	kept    Bytes // while nothing runs
	running Bytes // Σ demand of what runs
	runs    int
}

func (h holding) footprint(resident Bytes) Bytes {
	if h.runs == 0 {
		return h.kept
	}
	return max(h.kept, resident+h.running)
}

// usage is what is taken of every resource at one moment: now, or at a moment
// that the profile predicts. The same rules read and change both.
type usage struct {
	booked   []Bytes   // by device
	alone    []int     // running that keep a device to themselves, by device
	holdings []holding // by account
	classes  []int     // running, by class
	backends []int     // running, by backend
	replicas []int     // running, by replica
	reserves []int     // running, by reserve
}

func (u *usage) copyFrom(v *usage) {
	u.booked = append(u.booked[:0], v.booked...)
	u.alone = append(u.alone[:0], v.alone...)
	u.holdings = append(u.holdings[:0], v.holdings...)
	u.classes = append(u.classes[:0], v.classes...)
	u.backends = append(u.backends[:0], v.backends...)
	u.replicas = append(u.replicas[:0], v.replicas...)
	u.reserves = append(u.reserves[:0], v.reserves...)
}

// extra is what demand d would add to the account's footprint.
func (s *Scheduler) extra(u *usage, account int, d Bytes) Bytes {
	h, resident := u.holdings[account], s.accounts[account].resident
	return max(0, resident+h.running+d-h.footprint(resident))
}

// room is what is left of a GPU; it may be negative after a shrink.
func (s *Scheduler) room(u *usage, gpu int) Bytes {
	d := s.devices[gpu]
	return d.capacity() - d.cfg.Reserve - u.booked[gpu] - d.outside
}

// count adds n runs to every count of slots.
func (u *usage) count(sh *shape, r *replica, n int) {
	u.classes[sh.class.index] += n
	u.backends[sh.backend.index] += n
	u.replicas[r.index] += n
	for _, e := range r.reserves {
		if e.class == sh.class.index {
			u.reserves[e.count] += n
		}
	}
}

// freeSlots is how many more of a class a replica with slots could run: what
// others have reserved and do not use is not free.
func (u *usage) freeSlots(sh *shape, r *replica) int {
	free := sh.backend.cfg.Slots - u.replicas[r.index]
	for _, e := range r.reserves {
		if e.class != sh.class.index {
			free -= max(0, e.slots-u.reserves[e.count])
		}
	}
	return free
}

// take books a start of shape sh on replica r.
func (s *Scheduler) take(u *usage, sh *shape, r *replica) {
	u.count(sh, r, 1)
	for _, a := range r.accounts {
		h, acc := &u.holdings[a], s.accounts[a]
		before := h.footprint(acc.resident)
		h.running += sh.vram
		h.runs++
		u.booked[acc.gpu] += h.footprint(acc.resident) - before
		if sh.alone {
			u.alone[acc.gpu]++
		}
	}
}

// give books the end of a run of shape sh on replica r. Where the backend does
// not return memory, what it reached stays booked as kept.
func (s *Scheduler) give(u *usage, sh *shape, r *replica) {
	u.count(sh, r, -1)
	for _, a := range r.accounts {
		h, acc := &u.holdings[a], s.accounts[a]
		before := h.footprint(acc.resident)
		h.running -= sh.vram
		h.runs--
		// The weights stay in any case; what the request itself took stays
		// only with an allocator that keeps it.
		stays := acc.resident
		if !acc.backend.cfg.ReturnsMemory {
			stays = before
		}
		h.kept = max(h.kept, stays)
		after := h.footprint(acc.resident)
		u.booked[acc.gpu] += after - before
		if u == &s.live {
			s.devices[acc.gpu].dropped += max(0, before-after)
			s.devices[acc.gpu].moved = true
		}
		if sh.alone {
			u.alone[acc.gpu]--
		}
	}
}

// giveUnused is give for a run that never came to its server: nothing stays of
// what was booked for it.
func (s *Scheduler) giveUnused(t *Ticket) {
	kept := make([]Bytes, len(t.replica.accounts))
	for i, a := range t.replica.accounts {
		kept[i] = s.live.holdings[a].kept
	}
	s.give(&s.live, t.shape, t.replica)
	for i, a := range t.replica.accounts {
		h, acc := &s.live.holdings[a], s.accounts[a]
		before := h.footprint(acc.resident)
		h.kept = kept[i]
		s.live.booked[acc.gpu] += h.footprint(acc.resident) - before
		s.devices[acc.gpu].dropped += before - h.footprint(acc.resident)
	}
}

// block is what bars a start.
type block struct {
	reason     Reason
	resource   string
	need, free int64
}

func (b block) blocked() Blocked { return Blocked{b.reason, b.resource, b.need, b.free} }

func (b block) String() string {
	switch {
	case b.resource == "":
		return string(b.reason)
	case b.reason == ReasonResources || b.reason == ReasonCapacityReduced:
		return fmt.Sprintf("%s: needs %v of %v that are free", b.resource, Bytes(b.need), Bytes(max(0, b.free)))
	case b.reason == ReasonClassSlots || b.reason == ReasonBackendSlots:
		return fmt.Sprintf("%s: %d free", b.resource, b.free)
	}
	return fmt.Sprintf("%s: %s", b.resource, b.reason)
}

// fits says whether a start of shape sh on replica r is within every capacity,
// and if not what bars it first.
func (s *Scheduler) fits(u *usage, sh *shape, r *replica, now time.Duration) (block, bool) {
	if c := sh.class; u.classes[c.index] >= c.cfg.Slots {
		return block{ReasonClassSlots, c.label, 1, int64(c.cfg.Slots - u.classes[c.index])}, false
	}
	b := sh.backend
	switch r.stance {
	case emptying, reclaiming:
		return block{ReasonReclaiming, b.label, 1, 0}, false
	case waking:
		return block{ReasonWaking, b.label, 1, 0}, false
	}
	if b.cfg.Slots > 0 {
		if free := u.freeSlots(sh, r); free < 1 {
			return block{ReasonBackendSlots, b.label, 1, int64(free)}, false
		}
	}
	if r.probes >= 0 && u.replicas[r.index] >= r.probes && r.stance != asleep {
		return block{ReasonBackendUnavailable, b.label, 1, 0}, false
	}
	for i, a := range r.accounts {
		g := s.accounts[a].gpu
		d := s.devices[g]
		need, free := s.needs(u, sh, r, i), s.room(u, g)
		if why := s.closed(u, g, need, now); why != ReasonNone {
			return block{why, d.cfg.Name, int64(max(1, need)), 0}, false
		}
		if sh.alone && !s.idle(u, g) {
			return block{ReasonResources, d.cfg.Name, int64(max(1, need)), 0}, false
		}
		// What was in use before anything ran here may be this very engine, so
		// it does not bar the first request; that one runs on a GPU of its own.
		if u.replicas[r.index] == 0 && s.idle(u, g) {
			free += s.claimable(u, a)
		}
		if need > 0 && need > free {
			reason := ReasonResources
			if need <= max(d.cfg.Memory, d.largest)-d.cfg.Reserve-u.booked[g] {
				// It fits beside our own work: someone else has the room, or
				// the card has become smaller.
				reason = ReasonCapacityReduced
			}
			return block{reason, d.cfg.Name, int64(need), int64(free)}, false
		}
	}
	if r.stance == asleep {
		return block{ReasonWaking, b.label, 1, 0}, false
	}
	return block{}, true
}

// closed is why so much cannot be brought onto a GPU now, whatever room there is;
// ReasonNone: it can.
func (s *Scheduler) closed(u *usage, g int, need Bytes, now time.Duration) Reason {
	switch d := s.devices[g]; {
	case now < d.restsUntil, u.alone[g] > 0, need > 0 && d.disputed():
		return ReasonResources
	case need > 0 && d.unknown(now):
		return ReasonCapacityReduced
	}
	return ReasonNone
}

// needs is what a start of shape sh adds on the i-th GPU of replica r. One that
// sleeps first takes back what it held.
func (s *Scheduler) needs(u *usage, sh *shape, r *replica, i int) Bytes {
	a := r.accounts[i]
	need := s.extra(u, a, sh.vram)
	if r.stance == asleep {
		need = max(need, r.heldBefore(i)-u.holdings[a].footprint(s.accounts[a].resident))
	}
	return need
}

// idle says that nothing runs on a GPU.
func (s *Scheduler) idle(u *usage, gpu int) bool {
	for i, a := range s.accounts {
		if a.gpu == gpu && u.holdings[i].runs > 0 {
			return false
		}
	}
	return true
}

// observe takes a reading into the books. It reports whether room changed.
func (s *Scheduler) observe(now time.Duration, r Reading) bool {
	g, ok := s.deviceIndex[r.GPU]
	if !ok {
		return false
	}
	d := s.devices[g]
	before, booked, wasLost := s.room(&s.live, g), s.live.booked[g], d.lost
	if r.Err == nil && (r.Total <= 0 || r.Used < 0 || r.Used > r.Total) {
		r.Err = fmt.Errorf("a reading of %v used of %v makes no sense", r.Used, r.Total)
	}
	wasUnknown := d.unknown(now)
	d.last = r
	d.lost = r.Lost
	if r.Err != nil {
		rested := d.restsUntil > now
		d.restsUntil = 0 // for readings that do not come
		return rested || d.lost != wasLost || d.unknown(now) != wasUnknown
	}
	d.goodAt, d.source = now, r.Source
	told := d.disputed() && (d.claimed == nil || d.claimed.state == stateOver) && (d.claimedBy == nil || d.claimedBy.done)
	if told {
		d.claimed, d.claimedBy = nil, nil
	}
	d.total, d.largest = r.Total, max(d.largest, r.Total)
	if r.Processes != nil {
		d.processes = r.Processes
	}
	first := d.observed < 0
	d.observed = r.Used
	s.attribute(g)
	s.seeFreed(now, g)
	wasMoved := d.moved
	d.droppedThen, d.moved = d.dropped, false
	if first {
		s.recognise(g)
	}
	s.settleOutside(g, first)
	for _, a := range s.accounts {
		if a.gpu == g {
			a.sureThen = a.sure
			if a.backend.replicas[a.replica].order != nil {
				a.sureThen = 0 // it lets go or loads
			}
		}
	}
	// The first reading since may unravel what bars a head.
	changed := s.look(g) || told || wasMoved && s.overBooked(g)
	// What turns out to be a backend's own leaves the room as it is, and the
	// backend's next request needs less of it.
	return changed || before != s.room(&s.live, g) || booked != s.live.booked[g] || d.lost != wasLost || wasUnknown != d.unknown(now)
}

// settleOutside follows what others hold: up at once, down slowly.
func (s *Scheduler) settleOutside(g int, first bool) {
	d := s.devices[g]
	idle := s.idle(&s.live, g)
	excess := d.observed - s.live.booked[g]
	if s.swapping(g) {
		// What is less than booked is what is being let go.
		d.calm = 0
		if excess <= d.outside {
			return
		}
	} else if idle {
		s.atRest(g)
	}
	if excess > d.outside {
		if first {
			d.unclaimed = excess
		} else {
			d.unclaimed = min(d.unclaimed+excess-d.outside, max(d.unclaimed, s.unseen(g)))
		}
		d.outside = excess
		d.calm = 0
		return
	}
	// With nothing of ours running, booked is what is really held, so the
	// excess is the outsider's. While work runs, it may be booked and not yet
	// taken; then only this much is certain: an outsider cannot hold more than
	// is in use altogether.
	bound := d.observed
	doubt := Bytes(0)
	if idle {
		if d.unclaimed > 0 {
			// Some of outside may be our engines', which then hold less than
			// is booked for them.
			doubt = s.live.booked[g] - s.surely(g)
		}
		bound = max(0, excess+doubt)
	}
	if bound >= d.outside && !(idle && excess < 0) {
		d.calm = 0
		return
	}
	if d.calm == 0 || d.calmIdle != idle {
		d.calm, d.calmIdle, d.calmPeak = 0, idle, excess
		if !idle {
			d.calmPeak = d.observed
		}
	}
	d.calm++
	if idle {
		d.calmPeak = max(d.calmPeak, excess)
	} else {
		d.calmPeak = max(d.calmPeak, d.observed)
	}
	if d.calm < calmReadings {
		return
	}
	d.calm = 0
	d.outside = min(d.outside, max(0, d.calmPeak+doubt))
	d.unclaimed = min(d.unclaimed, d.outside)
	if idle && d.calmPeak < 0 {
		s.forget(g, -d.calmPeak)
	}
}

// keep books what an idle account holds.
func (s *Scheduler) keep(i int, kept Bytes) {
	a, h := s.accounts[i], &s.live.holdings[i]
	s.live.booked[a.gpu] += kept - h.kept
	s.devices[a.gpu].dropped += max(0, h.kept-kept)
	h.kept = kept
	a.sure = min(a.sure, kept)
	if kept == 0 {
		a.seen = false
	}
}
