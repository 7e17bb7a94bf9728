package memory

import (
	"slices"
	"time"
)

// What runs take is read off the card. A run is measured while it is the only
// one of its account: by its process figures, else, where nothing else of ours
// moved on the GPU from its start to a reading one second after its end, by the
// total.

// meter follows one run on one account.
type meter struct {
	run     *Run // nil: none that can be told apart
	lone    bool // nothing else of ours has moved on the GPU since it began
	exact   bool // every reading named its processes
	warm    bool // its backend had served before, so what it gained was the run's
	reads   int  // while it ran
	before  Account
	from    Bytes // in use as it began
	highest Bytes // the most in use while it ran, less the process figures
	least   Bytes // the least that the account was seen to hold
	peak    Bytes // the most that it was surely seen to hold
	own     bool  // of it nothing is what runs before this one returned late
	top     Bytes // the most that it may have held
	after   bool  // it was read after its end: a backend that keeps memory shows the peak then
	good    bool
	told    Bytes // the peak that was told, if that is not 0
	weighed bool  // some reading has shown what is left
	left    Bytes // the least of them
}

// Measurement is what a run that ended well was measured to take, beside the
// weights of its backend.
type Measurement struct {
	Run     *Run
	Seen    Bytes // at its height, less the weights
	Weights Bytes
	// Grew says that the account was seen to grow in the run. Else it added nothing
	// to what its backend keeps since another run, and took no more than Seen.
	Grew bool
	// Corrects says that it takes the place of what was told of the same run before.
	Corrects bool
	// Exact says that process figures tell it. Keeps says that its backend is seen
	// to keep what its runs take.
	Exact, Keeps bool
}

// Measured are the measurements that no earlier call told of. The slice is
// valid until the next call.
func (l *Ledger) Measured() []Measurement {
	m := l.measured
	l.measured = l.measured[:0]
	return m
}

const (
	// growthSeen is the least growth that tells whether a backend keeps memory.
	growthSeen = 300 * MiB
	// enoughReads is how often a run must have been read for that.
	enoughReads = 3
	// promptReads is how many readings in a row show that a busy backend returns
	// what its runs take at their ends.
	promptReads = 8
	// narrow is how wide an interval may be, as a share of itself, for its low
	// end to count as what was seen.
	narrow = 10
)

// follow begins to measure a run that is about to be booked on account a.
func (l *Ledger) follow(now time.Duration, a int, r *Run) {
	acc, h := l.accounts[a], &l.Accounts[a]
	d := l.devices[acc.gpu]
	if d.goodAt == never {
		return
	}
	if l.Adds(&l.State, a, r.Demand, now) > 0 {
		l.crowd(acc.gpu, a)
	}
	acc.weighed()
	acc.bare = false
	if m := acc.meter; m.run != nil {
		l.tell(m.run) // nothing more will be seen of it
		acc.chained(h.Runs > 0)
	}
	if acc.meter = (meter{}); h.Runs > 0 {
		return
	}
	lone := d.lone == nil
	for _, i := range d.accounts {
		x := l.accounts[i]
		lone = lone && (i == a || l.Accounts[i].Runs == 0 && !x.moving && x.touchedAt < d.goodAt)
	}
	acc.meter = meter{run: r, lone: lone, exact: acc.exact(h), warm: acc.loaded == loaded, before: *h, least: h.Low, from: d.rest(l)}
}

// exact says that process figures tell what an account holds: the last reading had
// one, or the last that there was still holds, because a card at rest is mostly read
// without its processes.
func (a *account) exact(h *Account) bool {
	return a.figure >= 0 || h.Low == h.High && a.last == h.Low
}

// rest is what is in use less the process figures of the accounts.
func (d *device) rest(l *Ledger) Bytes {
	rest := d.read
	for _, a := range d.accounts {
		rest -= max(0, l.accounts[a].figure)
	}
	return max(0, rest)
}

// crowd ends what can be said by totals of the runs of all accounts but one.
func (l *Ledger) crowd(g, but int) {
	for _, i := range l.devices[g].accounts {
		if i != but {
			l.accounts[i].meter.lone = false
		}
	}
}

// unfollow takes the end of a run.
func (l *Ledger) unfollow(now time.Duration, r *Run, res Result) {
	for _, a := range r.Accounts {
		if m := &l.accounts[a].meter; m.run == r {
			if m.good = res.Outcome == Good; !m.good {
				m.run = nil
			}
		}
	}
	// What comes after shows more of a backend that keeps what it takes. What is
	// above its figure already is told at once.
	if !slices.ContainsFunc(r.Accounts, func(a int) bool {
		acc := l.accounts[a]
		return acc.keeps() && (acc.learn && !acc.split || acc.meter.peak <= acc.weights+r.asked)
	}) {
		l.tell(r)
	}
}

// tell says what a run took, once it has ended well and was seen on all of its
// accounts. It is called when the run has ended, and when no more will be seen of
// it.
func (l *Ledger) tell(r *Run) {
	var most Measurement
	for i, a := range r.Accounts {
		acc := l.accounts[a]
		m := &acc.meter
		if m.run != r || !m.good || m.told > 0 && m.told == m.peak && acc.seenKeeps == 0 {
			return
		}
		x := Measurement{Corrects: m.told > 0, Run: r, Weights: acc.weights, Exact: m.exact, Keeps: acc.seenKeeps > 0}
		switch {
		case m.peak > m.before.High, m.exact && m.own && m.peak > acc.weights && !acc.keeps():
			if m.reads == 0 && !m.after || !m.exact && (!m.lone || (m.top-m.peak)*narrow > m.peak) {
				return
			}
			x.Grew, x.Seen = true, max(0, m.peak-acc.weights)
		case x.Keeps && m.after && acc.grown:
			x.Seen = max(0, m.top-acc.weights)
		default:
			return
		}
		if i == 0 || x.Seen > most.Seen {
			x.Grew = x.Grew || most.Grew
			most = x
		}
	}
	if len(r.Accounts) == 0 {
		return
	}
	for _, a := range r.Accounts {
		acc := l.accounts[a]
		acc.meter.told, acc.grown = acc.meter.peak, acc.grown || most.Grew
	}
	l.measured = append(l.measured, most)
}

// measure takes a reading into what is measured.
func (p *pass) measure() {
	l, d := p.l, p.d
	rest := d.rest(l)
	for _, a := range d.accounts {
		acc, h := l.accounts[a], &l.Accounts[a]
		p.promptly(a)
		p.failed(a)
		if acc.bare && acc.endedAt <= p.begun {
			// Between a load and the first run a process holds its weights.
			if acc.bare = false; acc.learn && acc.figure > 0 {
				acc.weights, acc.split = acc.figure, true
			}
		}
		for _, r := range acc.runs {
			r.room = max(r.room, l.room(a, false)) // what others have left since is its room too
			if acc.figure >= 0 && len(r.Accounts) == 1 {
				r.taken = d.read - acc.figure
			}
		}
		if h.Runs > 0 && acc.figure >= 0 && acc.loaded == loaded {
			acc.sighted(&acc.lighterBusy, h.High) // it holds its weights, and more
		}
		if r := acc.meter.run; r != nil && r.Started <= p.begun {
			p.meter(a, rest)
		}
	}
	if r := d.lone; r != nil && r.state == over && r.ended+settleTime <= p.begun {
		d.lone = nil
	}
}

// meter takes a reading into the meter of an account, and ends the measurement where its
// run has ended long enough ago. rest is what is in use less the process figures.
func (p *pass) meter(a int, rest Bytes) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	m := &acc.meter
	m.exact = m.exact && acc.figure >= 0
	p.chain(acc, h)
	if running := m.run.state == running; running || acc.keeps() && !m.after {
		m.peak, m.top = max(m.peak, h.Low), max(m.top, h.High)
		m.own = m.own || h.Low >= m.peak && (acc.seenReturns > 1 || p.begun >= acc.endedAt+lateTime)
		m.highest = max(m.highest, rest)
		if running {
			m.reads++
			m.least = min(m.least, h.Low)
			p.bound(a, m)
			return
		}
		m.after = m.run.ended <= p.begun
	}
	p.weigh(a, m)
	if m.run.ended+settleTime > p.begun {
		return
	}
	acc.weighed()
	p.settle(a, m, rest)
	p.l.tell(m.run)
	acc.meter, acc.chains = meter{}, chain{}
}

// promptly sees that a backend which always works returns what its runs take at
// their ends: again and again no more is there than those need which work.
func (p *pass) promptly(a int) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	if h.Runs == 0 || h.Late == 0 || acc.keeps() || acc.seenReturns > 1 {
		return
	}
	needs := acc.weights + calmWithin
	for _, r := range acc.runs {
		if r.Started <= p.begun {
			needs += r.Demand
		}
	}
	if acc.prompt++; p.l.own(&p.l.State, a, false) > needs {
		acc.prompt = 0
	}
	if acc.prompt >= promptReads {
		acc.seenReturns = 2
	}
}

// bound lets a run of unknown demand count as a quarter more than it was seen to
// take, once it has had its time alone.
func (p *pass) bound(a int, m *meter) {
	r, l := m.run, p.l
	if !r.Unknown || r.Kind == Fitting || p.begun-r.Started < p.d.trialAfter() || len(r.Accounts) > 1 {
		return
	}
	h := &l.Accounts[a]
	took := max(0, h.Low-l.accounts[a].weights)
	if !m.exact {
		took = max(0, h.High-l.accounts[a].weights)
	}
	if took += took / 4; took < r.Demand {
		h.Running -= r.Demand - took
		r.Demand = took
	}
}

// weigh takes what a backend holds after a good end, until a second later.
func (p *pass) weigh(a int, m *meter) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	if h.Runs > 0 || acc.loaded != loaded || m.run.ended > p.begun {
		return
	}
	if acc.figure < 0 {
		if _, high := p.sums(); !m.lone || high > h.High || p.t.XHigh > 0 {
			return
		}
	}
	if !m.weighed || h.High < m.left {
		m.weighed, m.left = true, h.High
	}
}

// weighed takes what was left after a run for the weights of its backend, where
// that is less, twice in a row: once, it may be about to die.
func (a *account) weighed() {
	if a.meter.weighed && a.loaded == loaded {
		a.sighted(&a.lighter, a.meter.left)
	}
}

// sighted takes what a backend with its weights held, after last.
func (a *account) sighted(last *Bytes, held Bytes) {
	if held >= a.weights {
		held = 0
	} else if *last > 0 {
		a.weights = max(*last, held)
	}
	*last = held
}

// chain is a row of runs of one backend, each of which began before it could be
// told what the one before has left.
type chain struct {
	base, top Bytes // what it held before and at the height of the first, which grew; 0: there is none
	runs      int   // that were read, and ended well
}

// chainedRuns is how many runs back to back without a fall between them show that
// a backend keeps what they take.
const chainedRuns = 3

// chained takes the end of a run after which the next begins at once.
func (a *account) chained(beside bool) {
	m := &a.meter
	base := m.least
	if !m.warm {
		base = max(base, a.weights) // its load is no sign of what it keeps
	}
	switch c := &a.chains; {
	case beside || !m.good || m.reads < enoughReads || !m.exact && !m.lone: // fewer readings may have missed a peak
		*c = chain{}
	case c.top > 0:
		c.runs++
	case m.peak-base > growthSeen:
		*c = chain{base, m.peak, 1}
	}
	if a.chains.runs == chainedRuns {
		a.seenKeeps, a.seenReturns, a.chains = a.seenKeeps+1, 0, chain{}
	}
}

// chain sees a fall between them.
func (p *pass) chain(acc *account, h *Account) {
	if c := &acc.chains; h.Low < c.top-(c.top-c.base)/5 {
		*c = chain{}
	}
}

// settle takes what is left one second after the end of a run.
func (p *pass) settle(a int, m *meter, rest Bytes) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	grew, stayed := m.peak-m.before.Low, h.Low-m.before.Low
	if !m.exact {
		grew, stayed = m.highest-m.from, rest-m.from
	}
	if !m.warm {
		// Its load is no sign of what it keeps.
		load := max(0, acc.weights-m.before.Low)
		grew, stayed = grew-load, stayed-load
	}
	if (m.exact || m.lone) && m.reads >= enoughReads && grew > growthSeen {
		switch {
		case stayed >= grew*4/5:
			acc.seenKeeps, acc.seenReturns = acc.seenKeeps+1, 0
		case stayed <= grew/5:
			acc.seenKeeps, acc.seenReturns = 0, acc.seenReturns+1
		}
	}
	if !acc.learn && m.good && acc.seenReturns > 1 && (m.exact || m.lone && (h.High-h.Low)*narrow <= h.High) &&
		m.peak > (acc.weights+m.run.asked)*11/10 {
		acc.weights = max(acc.weights, h.High) // what stays was declared too small
	}
	if acc.learn && m.good && (m.exact || m.lone && (h.High-h.Low)*narrow <= h.High && (m.before.High-m.before.Low)*narrow <= m.before.High) {
		p.split(acc, h, m, grew)
	}
	if m.exact || !m.lone || m.run.Unknown {
		return
	}
	// It held what it needed at its height, and no more has gone since than the
	// total fell by. The others keep what they may have.
	low := max(0, acc.weights+m.run.Demand-(m.highest-rest))
	others := p.t.XLow
	p.inferred(func(x *account, other *Account) {
		if x != acc {
			others += min(other.High, x.weights)
		}
	})
	h.Low = max(h.Low, min(low, p.left-others, h.High))
	p.tighten()
}

// split tells weights that are not declared from what requests take.
func (p *pass) split(acc *account, h *Account, m *meter, grew Bytes) {
	switch {
	case acc.split && acc.seenReturns < 2:
		return
	case acc.seenReturns > 0:
		acc.weights = h.High // what stays when requests return theirs
	case (m.warm || m.exact && m.before.High > grew) && grew > growthSeen && m.before.High > 0:
		acc.weights = m.before.High // what was there before one of them grew
	case !m.run.Unknown && !acc.split:
		acc.weights = max(0, h.Low-m.run.Demand)
		return // until something tells them apart
	default:
		return
	}
	acc.split = true
}
