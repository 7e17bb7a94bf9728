package memory

import (
	"fmt"
	"time"
)

const (
	// settleTime is how long returned memory may come late without counting as
	// kept, and how long after the end of a lone run nothing starts beside it.
	settleTime = time.Second
	// lateTime is for how long after its last run a backend that was not seen to
	// return memory at once may do so late.
	lateTime = 3 * time.Second
	// calmReadings is how many readings must agree before memory in use that
	// belongs to no run counts as settled.
	calmReadings = 3
	// quietReadings is how many are enough although they do not agree: what another
	// process does all the time is no reason to wait.
	quietReadings = 6
	// calmWithin is how far they may differ.
	calmWithin = 64 * MiB
	// driverUse is what the driver may hold itself beside the processes that it
	// names.
	driverUse = 100 * MiB
)

// Observe takes a reading that was begun at one age and is told at another. It
// reports whether the GPU is known.
//
// Of a good reading it takes, in this order:
//
//  1. the process figures: such an account holds what they say;
//  2. the change of the total since the last reading, which widens the
//     intervals of the accounts without a figure and of the unmanaged rest;
//  3. what is certain: an account whose run ended well holds its weights, and
//     where every account has a figure the other processes are the rest;
//  4. contradictions: more surely held than there is, or less possibly held;
//  5. the total, which ties the intervals together and narrows them;
//  6. what runs took, and whether their backends keep it (measure.go);
//  7. each Peak falls to what still runs.
func (l *Ledger) Observe(now, begun time.Duration, r Reading) bool {
	g := l.find(r.GPU)
	if g < 0 {
		return false
	}
	d := l.devices[g]
	if r.Err == nil && (r.Total <= 0 || r.Used < 0 || r.Used > r.Total) {
		r.Err = fmt.Errorf("a reading of %v used of %v makes no sense", r.Used, r.Total)
	}
	d.last, d.asked = r, true
	if r.Err != nil {
		return true
	}
	p := pass{l: l, g: g, d: d, now: now, begun: begun, since: d.goodAt, t: &l.GPUs[g], first: d.goodAt == never,
		complete: r.Processes != nil, change: r.Used - d.read, left: r.Used}
	xlow := p.t.XLow
	figures := p.figures(r) // 1
	p.widen(figures)        // 2
	for i, a := range d.accounts {
		p.set(a, figures[i])
	}
	p.certain(r)   // 3
	p.contradict() // 4
	p.tighten()    // 5
	p.tighten()
	d.total, d.largest = r.Total, max(d.largest, r.Total)
	p.steady(r, max(0, xlow-p.t.XLow))
	d.goodAt, d.source = begun, r.Source
	p.freed()
	p.measure() // 6
	p.lower()   // 7
	l.check()
	return true
}

func (l *Ledger) find(name string) int {
	for g, d := range l.devices {
		if d.Name == name {
			return g
		}
	}
	return -1
}

// pass is one good reading on its way through the ledger.
type pass struct {
	l          *Ledger
	g          int
	d          *device
	t          *Total
	now, begun time.Duration
	since      time.Duration // when the last good one was begun
	first      bool          // of this GPU
	complete   bool          // the processes of every account are named
	// change is that of what is in use less the accounts that had a figure before
	// and have one now; left is what is in use less all that have one now.
	change, left Bytes
}

// active says that an account may have moved since the last reading was begun:
// work of its has run, it loads or unloads, or what it took may still come back.
func (p *pass) active(acc *account, h *Account) bool {
	return h.Runs > 0 || acc.moving || acc.touchedAt >= p.d.goodAt || p.begun <= acc.startedBy ||
		acc.seenReturns < 2 && p.begun < acc.endedAt+lateTime
}

// figures gives what the driver says of each account; -1: nothing. A backend
// whose process was named before and is not there holds nothing.
func (p *pass) figures(r Reading) []Bytes {
	out := make([]Bytes, len(p.d.accounts))
	for i, a := range p.d.accounts {
		acc := p.l.accounts[a]
		out[i] = p.d.figure(acc.owner, r.Processes)
		if out[i] < 0 {
			p.complete = false
		} else {
			p.left -= out[i]
			if acc.figure >= 0 {
				p.change -= out[i] - acc.figure
			}
		}
	}
	p.left = max(0, p.left)
	return out
}

func (d *device) figure(of owner, list []Process) Bytes {
	if list == nil {
		return -1
	}
	sum, named := Bytes(0), d.named[of]
	for _, x := range list {
		if x.Backend != of.backend || x.Replica != of.replica {
			continue
		}
		if x.Used < 0 {
			return -1
		}
		sum, named = sum+x.Used, true
	}
	if !named {
		return -1
	}
	if d.named == nil {
		d.named = make(map[owner]bool)
	}
	d.named[of] = true
	return sum
}

// set takes a process figure for what its account holds.
func (p *pass) set(a int, figure Bytes) {
	acc, h := p.l.accounts[a], &p.l.Accounts[a]
	acc.figure = figure
	if figure < 0 {
		return
	}
	acc.last = figure
	if over := figure - max(h.Peak, h.High); over > 0 && h.Runs > 0 {
		// The work takes more than its figure says.
		r := acc.runs[len(acc.runs)-1]
		r.Demand += over
		for _, x := range r.Accounts {
			p.l.Accounts[x].Running += over
		}
	}
	h.Low, h.High = figure, figure
}

// inferred calls do for each account without a figure.
func (p *pass) inferred(do func(acc *account, h *Account)) {
	for _, a := range p.d.accounts {
		if acc := p.l.accounts[a]; acc.figure < 0 {
			do(acc, &p.l.Accounts[a])
		}
	}
}

// widen takes the change of the total:
//
//  1. What nothing of ours explains of a rise, and no active account of a fall, is
//     worked out.
//  2. Each account takes what it may have had of the change.
//  3. The rest of a rise may be unmanaged memory, and is, where no account is active.
//  4. What was to come back and is still in use may be unmanaged memory too.
func (p *pass) widen(figures []Bytes) {
	if p.first {
		p.open(figures)
		return
	}
	rise, fall, moved := p.unexplained(figures) // 1
	ended := Bytes(0)
	for i := range p.d.accounts {
		if acc, h, ok := p.widened(figures, i); ok {
			ended += p.take(acc, h, rise, fall) // 2
		}
	}
	if p.change > 0 { // 3
		p.t.XHigh += rise
		if !moved {
			p.t.XLow += rise
		}
	} else {
		p.t.XLow = max(0, p.t.XLow+p.change)
	}
	p.t.XHigh += max(0, ended-max(0, -p.change)) // 4
}

// widened gives the i-th account of the GPU; false: it had a figure before and has one now.
func (p *pass) widened(figures []Bytes, i int) (*account, *Account, bool) {
	a := p.d.accounts[i]
	acc := p.l.accounts[a]
	return acc, &p.l.Accounts[a], acc.figure < 0 || figures[i] < 0
}

// unexplained is what nothing of ours explains of a rise, and what no active account
// explains of a fall. moved says that an account is active.
func (p *pass) unexplained(figures []Bytes) (rise, fall Bytes, moved bool) {
	rise, fall = p.change, -p.change
	for i := range p.d.accounts {
		acc, h, ok := p.widened(figures, i)
		switch {
		case !ok:
		case acc.gone:
			rise -= acc.weights // it may load while it starts again
		case p.active(acc, h):
			moved = true
			if rise -= h.Growth(); p.begun <= acc.startedBy {
				rise -= max(0, acc.weights-h.Low)
			}
			fall -= h.High - acc.floor(h)
		}
	}
	return max(0, rise), max(0, fall), moved
}

// take widens an account by what it may have had of a change. It gives what has ended
// there and was to come back.
func (p *pass) take(acc *account, h *Account, rise, fall Bytes) (ended Bytes) {
	switch active := p.active(acc, h); {
	case p.change > 0 && active:
		high := h.High
		if h.High = max(high, h.Peak); p.begun <= acc.startedBy {
			h.High = max(h.High, acc.weights)
		}
		if rise > 0 && h.Runs > 0 {
			h.High = max(h.High, high+p.change)
		}
	case p.change < 0 && active:
		h.Low = min(h.Low, max(acc.floor(h), h.Low+p.change))
	case p.change < 0:
		h.Low = max(0, h.Low-fall)
		if fall > acc.weights/2 {
			acc.loaded = unknown
		}
	}
	if acc.ended > 0 {
		h.Low = min(h.Low, acc.floor(h))
		if acc.seenReturns > 0 {
			// What has started since may have taken the place of what has ended.
			ended = max(0, acc.ended-acc.started)
		}
	}
	h.High = max(h.High, h.Low)
	return ended
}

// open begins the intervals at the first reading of a GPU: of what is in use,
// nobody knows whose it is.
func (p *pass) open(figures []Bytes) {
	for i, a := range p.d.accounts {
		acc, h := p.l.accounts[a], &p.l.Accounts[a]
		if figures[i] >= 0 {
			continue
		}
		h.Low = 0
		h.High = p.left
		if acc.returns && acc.split {
			h.High = min(h.High, acc.weights)
		}
		if h.Runs > 0 {
			h.High = max(h.High, h.Peak)
		}
	}
	p.t.XLow, p.t.XHigh = 0, p.left
}

// certain takes what is certain of single accounts and of the rest.
func (p *pass) certain(r Reading) {
	for _, a := range p.d.accounts {
		acc, h := p.l.accounts[a], &p.l.Accounts[a]
		fresh := acc.endedAt <= p.begun // the reading shows what that end left
		if acc.figure < 0 && fresh {
			if acc.unloaded {
				h.Low = 0
			}
			if acc.proven {
				h.Low = max(h.Low, min(acc.weights, p.left))
				h.High = max(h.High, h.Low)
			}
		}
		if fresh {
			acc.proven, acc.unloaded = false, false
		}
		if acc.touchedAt <= p.begun {
			acc.ended, acc.started = 0, 0
		}
	}
	p.d.complete, p.d.unmanaged = p.complete, 0
	if r.Processes == nil {
		return
	}
	p.d.processes = r.Processes
	for _, x := range r.Processes {
		if x.Backend == "" {
			p.d.unmanaged += max(0, x.Used)
		}
	}
	if p.complete {
		// The list may be older than the total, which counts then.
		p.t.XLow, p.t.XHigh = p.d.unmanaged, max(p.d.unmanaged+driverUse, p.left)
	}
}

// contradict mends intervals that cannot all be true.
func (p *pass) contradict() {
	if p.complete {
		return
	}
	low, high := p.sums()
	p.t.XLow = min(p.t.XLow, max(0, p.left-low))
	p.t.XHigh = max(p.t.XHigh, p.left-high, p.t.XLow)
	// Weights that nobody measured are doubted first. It is never taken for a
	// sign that the weights are smaller.
	for _, measured := range [...]bool{false, true} {
		surplus := low - p.left
		if surplus <= 0 {
			return
		}
		p.inferred(func(acc *account, h *Account) {
			if (acc.seenReturns > 0) != measured || h.Low == 0 {
				return
			}
			h.Low = max(0, h.Low-surplus)
			if h.Runs == 0 {
				acc.loaded = unknown
			}
		})
		low, _ = p.sums()
	}
}

// sums adds up the bounds of the accounts without a figure.
func (p *pass) sums() (low, high Bytes) {
	p.inferred(func(_ *account, h *Account) { low, high = low+h.Low, high+h.High })
	return low, high
}

// tighten narrows each interval by what all the others allow.
func (p *pass) tighten() {
	moved := false
	p.inferred(func(acc *account, h *Account) {
		low, high := p.sums()
		h.High = min(h.High, max(h.Low, p.left-(low-h.Low)-p.t.XLow))
		h.Low = max(h.Low, min(h.High, p.left-(high-h.High)-p.t.XHigh))
		moved = moved || p.active(acc, h)
	})
	if p.complete {
		return
	}
	low, high := p.sums()
	p.t.XHigh = min(p.t.XHigh, max(p.t.XLow, p.left-low))
	if !moved {
		p.t.XLow = max(p.t.XLow, min(p.t.XHigh, p.left-high))
	}
}

// steady takes the total. What the unmanaged rest has lost counts as free when
// three readings have shown it, where totals alone tell.
func (p *pass) steady(r Reading, lost Bytes) {
	d := p.d
	d.read = r.Used
	d.fallen = [2]Bytes{lost, d.fallen[0]}
	if p.first || p.complete {
		d.fallen = [2]Bytes{}
	}
	p.t.Used = r.Used + d.fallen[0] + d.fallen[1]
	// The total and the processes are not read at one moment.
	sum := Bytes(0)
	for _, x := range r.Processes {
		sum += max(0, x.Used)
	}
	p.t.Used = min(max(p.t.Used, sum), r.Total)
	rest := d.movedAt < p.begun
	for _, a := range d.accounts {
		rest = rest && p.l.Accounts[a].Runs == 0 && !p.l.accounts[a].moving
	}
	d.quiet++
	switch off := r.Used - d.calmFrom; {
	case !rest:
		d.calm, d.quiet = 0, 0
	case d.calm > 0 && off <= calmWithin && off >= -calmWithin:
		d.calm++
	default:
		d.calm, d.calmFrom = 1, r.Used
	}
}

// lower brings each Peak down to what still runs, where no run ended after the
// reading was begun.
func (p *pass) lower() {
	for _, a := range p.d.accounts {
		acc, h := p.l.accounts[a], &p.l.Accounts[a]
		if h.Late > 0 {
			p.l.lateOf(a, p.begun)
		}
		if acc.endedAt > p.begun {
			continue
		}
		if h.Peak = p.l.need(&p.l.State, a); h.Runs > 0 {
			h.Peak += min(h.Late, max(0, h.High-acc.weights))
		}
	}
}
