package memory

import (
	"slices"
	"time"
)

// Where the figures say that a request does not fit, and they may be wrong, it
// is put to a trial: alone, at rest, once for each state of the card.

// Case is what is known of one route and size from runs that were alone on their
// GPU. Its zero value knows nothing.
type Case struct {
	// TooSmall is the largest room that was surely not enough; Well is the
	// smallest that was surely enough. Zero: there was none.
	TooSmall, Well Bytes
	// Beside is the demand of the other runs of its backend that were under way when
	// one of it last ran out of memory: that of its process has them in it.
	Beside Bytes

	barred   bool          // the last one failed
	failures int           // since TooSmall was last zero
	last     *Run          // the last one; nil: one has ended since
	before   Bytes         // TooSmall, without it
	sure     bool          // its own words, or the driver, have told what room it had
	seen     []evidence    // of it, on each account that it ran on
	at       time.Duration // when it ended
	penalty  time.Duration // for how long it counts on the same evidence
	most     Bytes         // in use within a second after it
	held     Bytes         // the most that the driver says its backend held then
	passing  bool          // some of what was in use then is gone, and it is not known whose that was
	fitted   bool          // it was not alone
}

// evidence is what was in use on an account's GPU at a failure, and after it.
type evidence struct {
	on          int
	used, taken Bytes // in all; without what the account surely held
}

const (
	// evidenceMoved is by how much the memory in use must fall for a failure to
	// say nothing any more.
	evidenceMoved = 64 * MiB
	// roomier is by how much, as a share, a room must be larger than one that was
	// too small.
	roomier = 50
	// measuredMargin is the share of a measured demand that is in doubt: what was added
	// to the largest that was seen, and by how much runs of one size differ.
	measuredMargin = 25
	// longestPenalty bounds for how long a failure counts.
	longestPenalty = time.Hour
)

// room is the most that account a could have of its GPU beside the reserve and
// what others surely hold. long is that of InDoubt.
func (l *Ledger) room(a int, long bool) Bytes {
	g := l.accounts[a].gpu
	return l.Budget(g) - l.GPUs[g].Used + l.mayBeOwn(&l.State, a, long)
}

// mayBeOwn is the most of what is in use that account a may hold. long is that of InDoubt.
func (l *Ledger) mayBeOwn(st *State, a int, long bool) Bytes {
	if long {
		return l.notOthers(st, a)
	}
	return l.own(st, a, false)
}

// roomBlind is the room of account a where nothing is read: what the others do not
// hold, as booked, and what its own running work does not need.
func (l *Ledger) roomBlind(a int) Bytes {
	g := l.accounts[a].gpu
	room := l.Budget(g) - l.GPUs[g].XHigh - l.Accounts[a].Running
	for _, i := range l.devices[g].accounts {
		if h := &l.Accounts[i]; i != a {
			room -= max(h.High, h.Peak)
		}
	}
	return max(0, room)
}

// Barred says that a failure of a run of this route and size on account a still
// counts: nothing that told of it has changed.
func (l *Ledger) Barred(c *Case, a int, now time.Duration) bool {
	if c == nil || !c.barred || !slices.ContainsFunc(c.seen, func(e evidence) bool { return e.on == a }) || l.over(c, now) {
		return false
	}
	// It is not known on which of several GPUs it failed.
	return !slices.ContainsFunc(c.seen, func(e evidence) bool {
		if e.on >= len(l.accounts) {
			return true // a reload has taken it away
		}
		used := l.GPUs[l.accounts[e.on].gpu].Used
		return used <= e.used-evidenceMoved || used-l.Accounts[e.on].Low <= e.taken-evidenceMoved
	})
}

// Roomier says that account a could have more room than any that was too small for
// this route and size, or that no failure of it still counts. long is that of InDoubt.
func (l *Ledger) Roomier(c *Case, a int, long bool, now time.Duration) bool {
	return c == nil || !c.barred || l.roomier(c, l.room(a, long), now)
}

// again takes the start of a run, alone, although one has failed: that counts no more.
// Where not time has lifted it, what told of it has changed.
func (l *Ledger) again(c *Case, now time.Duration) {
	if c.barred && !l.over(c, now) {
		c.failures = 0
	}
	c.barred = false
}

// roomier says that a room is larger than any that was too small, or that this has
// counted for long enough, where it is not certain how much of it others had.
func (l *Ledger) roomier(c *Case, room Bytes, now time.Duration) bool {
	return room > c.TooSmall+c.TooSmall/roomier || !c.sure && l.over(c, now)
}

// movedShare and passingShare are the share, in percent, of the time for which a failure counts where its evidence is
// not what it was, and it cannot be told what others hold now. A head that truly fits by then is late by less than 30 s
// with the default TrialAfter.
const (
	movedShare   = 45 // work of ours has moved memory there since
	fittedShare  = 40 // it was not alone
	passingShare = 15 // some of what was in use right after it is gone: a neighbour's, it may be
)

// Until is when the last failure may cease to count, whatever the card shows; it is no
// later than now where it has.
func (c *Case) Until(now time.Duration) time.Duration {
	for _, share := range [...]time.Duration{passingShare, fittedShare, movedShare} {
		if at := c.at + c.penalty*share/100; now < at {
			return at
		}
	}
	return c.at + c.penalty
}

// over says that the last failure has ceased to count: enough time has passed.
func (l *Ledger) over(c *Case, now time.Duration) bool {
	share := time.Duration(100)
	switch {
	case c.passing:
		share = passingShare
	case c.fitted:
		share = fittedShare
	case slices.ContainsFunc(c.seen, func(e evidence) bool {
		return !l.told(c, e.on) && (e.on >= len(l.accounts) || l.devices[l.accounts[e.on].gpu].movedAt > c.at+settleTime)
	}):
		share = movedShare
	}
	return now >= c.at+c.penalty*share/100
}

// told says that it is certain what room a failure on account a had, and that the driver
// tells what the account holds: so its evidence shows how much of the GPU others hold now.
func (l *Ledger) told(c *Case, a int) bool {
	return c.sure && a < len(l.accounts) && l.accounts[a].figure >= 0
}

// failed takes a reading after a run that ran out of memory: the room that it had,
// and a second later what is in use.
func (p *pass) failed(a int) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	r := acc.failed
	if r == nil || r.ended > p.begun {
		return
	}
	c := r.Case
	if acc.figure >= 0 {
		c.failedIn(r, p.l.Budget(p.g)-p.d.read+acc.figure)
	}
	if c.at == r.ended && len(r.Accounts) == 1 {
		c.most, c.held = max(c.most, p.d.read), max(c.held, acc.figure)
	}
	if r.ended+settleTime <= p.begun {
		if acc.failed = nil; c.at == r.ended {
			c.passing = !p.l.told(c, a) && c.most > p.d.read+evidenceMoved
			taken := p.d.read - h.Low
			if acc.figure >= 0 {
				taken = max(taken, c.most-c.held) // a neighbour that was there may be gone
			}
			c.evidence(a, p.d.read, taken, acc.figure >= 0)
		}
	}
}

// evidence takes what is in use after a run, in all and beside what its backend
// surely holds. exact says that the driver told what that is: then what others
// held while it ran counts too.
func (c *Case) evidence(a int, used, taken Bytes, exact bool) {
	for i := range c.seen {
		if e := &c.seen[i]; e.on == a {
			if e.taken = max(e.taken, taken); !exact {
				e.used = max(e.used, used)
			}
		}
	}
}

// failedIn says that the last run which failed had no more than so much room: a
// neighbour may have come since its start.
func (c *Case) failedIn(r *Run, room Bytes) {
	if c.last == r {
		r.least, c.sure = min(r.least, max(0, room)), true
		c.TooSmall = max(c.before, r.least)
	}
}

// endedWell takes the room of a run that has ended well.
func (c *Case) endedWell(r *Run) {
	c.barred = false
	if c.Well == 0 || r.room < c.Well {
		c.Well = r.room
	}
	if c.TooSmall >= c.Well {
		c.TooSmall, c.failures = 0, 0 // that was another request, or another time
	}
}

// judge takes the end of a run into what is known of its route and size.
func (l *Ledger) judge(now time.Duration, r *Run, res Result) {
	c := r.Case
	if c == nil {
		return
	}
	if res.Outcome == OutOfMemory {
		c.Beside = l.Accounts[r.tightest].Running
	}
	switch c.last = nil; {
	case res.Outcome == Good:
		c.endedWell(r)
	case res.Outcome == OutOfMemory && (r.Kind != Fitting || res.InUse > 0 && res.InUse+res.Tried-c.Beside > r.least):
		// Of one that fitted its own words count, until the penalty ends: the card may
		// have been fuller than was known.
		c.seen = make([]evidence, len(r.Accounts))
		for i, a := range r.Accounts {
			if c.seen[i].on = a; a == int(r.tightest) {
				c.seen[i] = evidence{a, r.used, r.taken}
			}
		}
		if r.Kind != Fitting {
			c.last, c.before, c.sure = r, c.TooSmall, false
			c.TooSmall = max(c.TooSmall, r.least)
			if res.InUse > 0 && res.Free > 0 {
				c.failedIn(r, res.InUse+res.Free-l.devices[l.accounts[r.tightest].gpu].Reserve)
			}
			if c.Well > 0 && c.Well <= r.least {
				c.Well = 0
			}
		}
		d := l.devices[l.accounts[r.Accounts[0]].gpu]
		if res.InUse > 0 && res.Free > 0 && len(r.Accounts) == 1 {
			c.evidence(r.Accounts[0], 0, d.total-res.Free-res.InUse, true) // by others
		}
		c.at, c.most, c.held, c.passing, c.fitted = now, 0, 0, false, r.Kind == Fitting
		c.penalty = min(10*d.trialAfter()<<min(c.failures, 10), longestPenalty)
		if c.barred = true; !c.fitted {
			c.failures++
		}
	}
}

// AtRest says that nothing of ours runs, loads or unloads on a GPU, and that
// three readings agree, or six have come that do not. Where no readings count
// nothing more is known than that nothing runs.
func (l *Ledger) AtRest(g int, now time.Duration) bool {
	d := l.devices[g]
	return d.calm >= calmReadings || d.quiet >= quietReadings || l.sight(g, now) == blind && l.Quiet(g)
}

// Quiet says that nothing of ours runs, loads or unloads on a GPU.
func (l *Ledger) Quiet(g int) bool { return l.quiet(&l.State, g) }

// quiet is Quiet in the state st.
func (l *Ledger) quiet(st *State, g int) bool {
	for _, a := range l.devices[g].accounts {
		if st.Accounts[a].Runs > 0 || l.accounts[a].moving {
			return false
		}
	}
	return true
}

// Busy says that something of ours runs, loads or unloads on the GPU of that name,
// or has since it was last read.
func (l *Ledger) Busy(gpu string) bool {
	g := l.find(gpu)
	return g >= 0 && (!l.Quiet(g) || l.devices[g].movedAt >= l.devices[g].goodAt)
}

// Measuring says that a run of unknown demand is under way on a GPU, alone: what
// it takes is seen by readings alone, and it may be short.
func (l *Ledger) Measuring(gpu string) bool {
	g := l.find(gpu)
	if g < 0 {
		return false
	}
	r := l.devices[g].lone
	return r != nil && r.Unknown && r.state == running
}

// Doubt is what a trial could settle.
type Doubt uint8

const (
	NoDoubt     Doubt = iota
	DoubtHeld         // what the account holds already
	DoubtDemand       // what the request needs
)

// InDoubt says what a trial of a run on account a could settle, in the state st:
// now, or as it will be at rest.
//
//  1. What it holds: the run would fit if all that the others do not surely hold
//     were its own, whatever is declared.
//  2. What it needs: the room is no less than one in which it went well; or it is
//     larger than any that was too small, and it was not measured what it needs. Where
//     the driver names processes that are not ours, and without them the declared
//     demand would fit, the wait is theirs. Of a measured demand only what was added
//     to what was seen is in doubt.
//
// long says that its head has waited for twice TrialAfter. Then only what the driver
// names counts as held by others, and a room that was too small only where the driver or
// the answer told how large it was: all else is believed, and may be wrong.
func (l *Ledger) InDoubt(st *State, a int, demand, declared Bytes, isKnown, long bool, c *Case, now time.Duration) Doubt {
	g := l.accounts[a].gpu
	if l.sight(g, now) != seen || l.Barred(c, a, now) {
		return NoDoubt
	}
	own := l.mayBeOwn(st, a, long)
	if l.fitsWith(st, a, demand, own, now) {
		return DoubtHeld
	}
	room := l.Budget(g) - st.GPUs[g].Used + own
	for _, i := range l.devices[g].accounts {
		if i != a {
			room -= st.Accounts[i].Growth()
		}
	}
	if c != nil && c.Well > 0 && room >= c.Well {
		return DoubtDemand
	}
	// Weights that nobody declared are measured while they are held.
	if acc := l.accounts[a]; isKnown && l.Measures(a) && !(long && acc.learn && st.Accounts[a].High < acc.weights) {
		// All that is in doubt is what was added to what was seen; after long also what was
		// seen beyond the declared demand: the run before it may have returned that late.
		if long && declared > 0 {
			demand = min(demand, declared)
		}
		if (c == nil || l.roomier(c, room, now)) && l.fitsWith(st, a, demand-demand/measuredMargin, own, now) {
			return DoubtDemand
		}
		return NoDoubt
	}
	least, acc := min(demand, declared), l.accounts[a]
	switch w := acc.weights; {
	case own > 0 && own < w:
		least -= w - own // what it holds may be all of its weights
	case own == 0 && acc.declared < w: // nothing, where they were to be learned
		least -= w - acc.declared
	}
	if l.unmanaged(st, a, l.needByFigures(st, a, least, now), now) > 0 {
		return NoDoubt
	}
	if c == nil || l.roomier(c, room, now) || long && !c.sure {
		return DoubtDemand
	}
	return NoDoubt
}

// notOthers is the most that account a may hold of what is in use, whatever is
// believed: what the driver does not say that others hold.
func (l *Ledger) notOthers(st *State, a int) Bytes {
	d := l.devices[l.accounts[a].gpu]
	if l.accounts[a].figure >= 0 {
		return st.Accounts[a].Low
	}
	if l.accounts[a].loaded == absent {
		return st.Accounts[a].High // it was seen to free what it held
	}
	own := st.GPUs[l.accounts[a].gpu].Used - d.unmanaged
	for _, i := range d.accounts {
		own -= max(0, l.accounts[i].figure)
	}
	return max(0, own)
}

// Measures says that the figures of account a rest on its processes, and that
// its backend is seen to keep what its runs take, so that no peak goes unseen.
func (l *Ledger) Measures(a int) bool {
	acc := l.accounts[a]
	return acc.figure >= 0 && acc.seenKeeps > 0
}

// WeightsUnknown says that it is not known what account a holds once it is loaded,
// so that its next run is a first measurement.
func (l *Ledger) WeightsUnknown(a int) bool {
	acc := l.accounts[a]
	return acc.learn && !acc.split && acc.loaded != loaded
}

// Unmanaged is what processes that are not ours hold of a GPU, where the driver
// names them and a run on account a would fit without them; else 0.
func (l *Ledger) Unmanaged(st *State, a int, demand Bytes, now time.Duration) Bytes {
	return l.unmanaged(st, a, l.Need(st, a, demand, now), now)
}

// unmanaged is Unmanaged of a run with which account a needs so much.
func (l *Ledger) unmanaged(st *State, a int, need Bytes, now time.Duration) Bytes {
	g := l.accounts[a].gpu
	d := l.devices[g]
	if !d.complete || d.unmanaged == 0 {
		return 0
	}
	if taken := l.Taken(st, g, a, need, now); taken <= l.Budget(g) || taken-d.unmanaged > l.Budget(g) {
		return 0
	}
	return d.unmanaged
}
