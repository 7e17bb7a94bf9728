package admission

import (
	"slices"
	"time"
)

// company keeps for how long work of each class has run on each GPU, so that a run
// knows beside what it ran, and for how long it will run beside what runs.
type company struct {
	clocks [][]clock         // by GPU and class
	begun  [][]time.Duration // of runs: for how long work of each class had run as they began
	free   []int32           // places in begun
}

// ran is beside what a ticket runs.
type ran struct {
	granted *replica      // what replica was at the grant; Reconfigure leaves it alone
	table   *Beside       // how long it runs, by company; nil: not known
	pace    time.Duration // how long it runs in the company that it has now
	// After its end: of which classes of its box work ran beside it for most of its
	// time, as bits. alone: hardly anything did. 0: neither can be said.
	beside uint64
	with   int32 // its place in begun, counted from 1
	// again is for a second try, once the run has ended for want of memory; nil: nothing
	// is learned, or it was one.
	again *secondTry
}

// alone is the bit of beside for a run beside which hardly anything ran.
const alone = 1 << 63

// clock is for how long work of a class has run on a GPU.
type clock struct {
	runs  int
	since time.Duration // when runs last changed
	one   time.Duration // with a run or more, until then
	two   time.Duration // with two or more
}

func (c *clock) add(now time.Duration, n int) {
	if d := now - c.since; c.runs >= 2 {
		c.one, c.two = c.one+d, c.two+d
	} else if c.runs == 1 {
		c.one += d
	}
	c.runs, c.since = c.runs+n, now
}

// read is for how long others than a run of the class, or than one of another, have
// run there.
func (c *clock) read(now time.Duration, own bool) time.Duration {
	least, sum := 1, c.one
	if own {
		least, sum = 2, c.two
	}
	if c.runs >= least {
		sum += now - c.since
	}
	return sum
}

const (
	// mostly is the share of a run's time, one over it, for which a class has to have
	// run beside it to count as its company.
	mostly = 2
	// hardly is that for which others may have run beside one that counts as alone.
	hardly = 10
)

// count adds n runs of a ticket, and says whether another company is on one of its
// GPUs from now on.
func (x *company) count(b *box, now time.Duration, t *Ticket, n int) (changed bool) {
	for _, a := range t.replica.accounts {
		c := &x.on(b, now, b.ledger.GPUOf(a))[t.shape.class.index]
		c.add(now, n)
		changed = changed || c.runs <= 2
	}
	return changed
}

// on gives the clocks of a GPU, by class.
func (x *company) on(b *box, now time.Duration, g int) []clock {
	if g >= len(x.clocks) || len(x.clocks[g]) < len(b.classes) {
		x.grow(b, now, g)
	}
	return x.clocks[g]
}

// grow makes the clocks of a GPU.
func (x *company) grow(b *box, now time.Duration, g int) {
	for g >= len(x.clocks) {
		x.clocks = append(x.clocks, nil)
	}
	for len(x.clocks[g]) < len(b.classes) {
		x.clocks[g] = append(x.clocks[g], clock{since: now})
	}
}

// begin notes what has run until now on the first GPU of a ticket that starts.
func (x *company) begin(b *box, now time.Duration, t *Ticket) {
	t.ran.pace = t.p50
	if len(t.replica.accounts) == 0 {
		return
	}
	if n := len(x.free); n > 0 {
		t.ran.with, x.free = x.free[n-1], x.free[:n-1]
	} else {
		x.begun = append(x.begun, nil)
		t.ran.with = int32(len(x.begun))
	}
	with, own := &x.begun[t.ran.with-1], t.shape.class.index
	*with = (*with)[:0]
	clocks := x.clocks[b.ledger.GPUOf(t.replica.accounts[0])]
	for i := range clocks {
		*with = append(*with, clocks[i].read(now, i == own))
	}
	if t.ran.table != nil {
		t.ran.pace = x.expect(b, t)
	}
}

// end notes the classes that ran beside a ticket for most of its time, or that it was
// alone.
func (x *company) end(b *box, now time.Duration, t *Ticket) {
	if t.ran.with == 0 {
		return
	}
	took, longest, own := now-t.run.Started, time.Duration(0), t.shape.class.index
	clocks := x.clocks[b.ledger.GPUOf(t.replica.accounts[0])]
	for i, before := range x.begun[t.ran.with-1] {
		d := clocks[i].read(now, i == own) - before
		longest = max(longest, d)
		if d*mostly >= took && took > 0 && i < 63 {
			t.ran.beside |= 1 << i
		}
	}
	if longest*hardly < took {
		t.ran.beside |= alone
	}
	x.free = append(x.free, t.ran.with)
	t.ran.with = 0
}

// expect is how long a ticket runs in the company that is on its first GPU now: the
// longest of what it has taken beside each class there. The median of all its runs
// counts where that is no more than a quarter off: it rests on many more runs.
func (x *company) expect(b *box, t *Ticket) time.Duration {
	if t.ran.table == nil || len(t.replica.accounts) == 0 {
		return t.p50
	}
	alone, longest := true, time.Duration(0)
	for i, c := range x.clocks[b.ledger.GPUOf(t.replica.accounts[0])] {
		others := c.runs
		if i == t.shape.class.index {
			others--
		}
		if others > 0 {
			alone = false
			longest = max(longest, (*t.ran.table)[b.classes[i].cfg.Name].P50)
		}
	}
	if alone {
		longest = (*t.ran.table)[""].P50
	}
	if off := (longest - t.p50).Abs(); longest > 0 && off*4 > t.p50 {
		return longest
	}
	return t.p50
}

// copy copies what runs now.
func (x *company) copy() company {
	n := company{}
	for _, clocks := range x.clocks {
		n.clocks = append(n.clocks, slices.Clone(clocks))
	}
	return n
}
