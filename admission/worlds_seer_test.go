package admission

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// seer is a scheduler that knows the truth, to judge the judge. It starts
// each request, the oldest first, that truly fits, and unloads nothing.
type seer struct {
	world   *hiddenWorld
	waiting []*hiddenRun
	granted []hiddenGrant
	issued  []Order
	last    uint64
	fits    func(o *seer, r *hiddenRun, e *hiddenEngine) bool
}

func newSeer(fits func(o *seer, r *hiddenRun, e *hiddenEngine) bool) func(*hiddenWorld) worldScheduler {
	return func(w *hiddenWorld) worldScheduler { return &seer{world: w, fits: fits} }
}

func trulyFits(o *seer, r *hiddenRun, e *hiddenEngine) bool {
	return o.world.judge.fitsOn(r, e, 0)
}

// fitsByFigures knows what is held, and believes the figures of what is to come.
func fitsByFigures(o *seer, r *hiddenRun, e *hiddenEngine) bool {
	for _, p := range e.places {
		if o.world.judge.byFigures(r, e, p.card) > p.card.capacity-p.card.reserve {
			return false
		}
	}
	return onlySlots(o, r, e)
}

// onlySlots is the rule of a proxy that knows no memory.
func onlySlots(o *seer, r *hiddenRun, e *hiddenEngine) bool {
	c := r.route.class
	return e.answers && c.running < c.slots && (e.backend.slots == 0 || len(e.running) < e.backend.slots) && e.places[0].card.read
}

// onlyAtRest starts large work only on a card where nothing runs, and never
// makes room for it.
func onlyAtRest(o *seer, r *hiddenRun, e *hiddenEngine) bool {
	for _, p := range e.places {
		if p.card.running > 0 && r.route.class.name == "heavy" {
			return false
		}
	}
	return trulyFits(o, r, e)
}

// pass grants one run at a time: the truth changes with each.
func (o *seer) pass() {
	if len(o.granted) > 0 {
		return
	}
	for i, r := range o.waiting {
		for _, e := range r.route.backend.engines {
			if e.order != 0 || !o.fits(o, r, e) {
				continue
			}
			if e.asleep {
				o.last++
				o.issued = append(o.issued, Order{ID: o.last, Kind: Wake, Backend: e.backend.name, Replica: e.replica})
				return
			}
			o.waiting = slices.Delete(o.waiting, i, i+1)
			o.granted = append(o.granted, hiddenGrant{r, e.replica})
			return
		}
	}
}

func (o *seer) figure(r *hiddenRoute) (Bytes, bool) { return r.declared, r.unknown }
func (o *seer) submit(_ time.Duration, r *hiddenRun) *Rejection {
	o.waiting = append(o.waiting, r)
	slices.SortStableFunc(o.waiting, func(a, b *hiddenRun) int { return cmp.Compare(a.id, b.id) })
	return nil
}
func (o *seer) leave(_ time.Duration, r *hiddenRun) {
	o.waiting = slices.DeleteFunc(o.waiting, func(x *hiddenRun) bool { return x == r })
}
func (o *seer) end(time.Duration, *hiddenRun, Outcome, outOfMemoryText) {}
func (o *seer) observe(time.Duration, Reading)                          {}
func (o *seer) gone(time.Duration, string, int)                         {}
func (o *seer) back(time.Duration, string, int)                         {}
func (o *seer) sleeps(time.Duration, string, int)                       {}
func (o *seer) decided() (out []hiddenGrant) {
	o.pass()
	out, o.granted = o.granted, nil
	return out
}
func (o *seer) orders() (out []Order) {
	out, o.issued = o.issued, nil
	return out
}
func (o *seer) ready(uint64) bool                      { return true }
func (o *seer) freed(uint64) bool                      { return true }
func (o *seer) reclaimed(time.Duration, uint64, Ended) {}
func (o *seer) woken(time.Duration, uint64, Ended)     {}
func (o *seer) next() (time.Duration, bool) {
	return (o.world.now/(50*time.Millisecond) + 1) * 50 * time.Millisecond, len(o.waiting) > 0
}
func (o *seer) tick(time.Duration)            {}
func (o *seer) how(*hiddenRun) worldStartRule { return startedFits }
func (o *seer) rest(int) (*hiddenRun, bool)   { return nil, false }
func (o *seer) lone(int) bool                 { return false }
func (o *seer) view(int) string               { return "" }

// doubter believes of all large work that it does not fit beside other work,
// and goes by the liveness rules 6 and 7 of trial.go alone. It shows whether
// the bound of the judge can be kept by one that believes the worst.
type doubter struct {
	*seer
	rests  [2]*hiddenRun
	trials [2]*hiddenRun
	calm   [2]int // readings at rest that agree
	used   [2]Bytes
	after  map[*hiddenRun]time.Duration // how long it waits for its next rest
	from   map[*hiddenRun]time.Duration
}

func newDoubter(w *hiddenWorld) worldScheduler {
	d := &doubter{after: map[*hiddenRun]time.Duration{}, from: map[*hiddenRun]time.Duration{}}
	d.seer = &seer{world: w, fits: d.fits}
	return d
}

func (d *doubter) fits(_ *seer, r *hiddenRun, e *hiddenEngine) bool {
	now := d.world.now
	atRest := true
	for _, p := range e.places {
		c := p.card
		d.forget(c)
		if by := d.rests[c.index]; by != nil && by != r || d.trials[c.index] != nil {
			return false
		}
		atRest = atRest && c.running == 0 && d.calm[c.index] >= 3
	}
	if r.route.class.name == "light" {
		return trulyFits(d.seer, r, e)
	}
	if _, ok := d.from[r]; !ok {
		d.from[r], d.after[r] = r.arrived, promisedTrial
	}
	if now-d.from[r] < d.after[r] && !atRest || now-r.arrived < promisedTrial {
		return false
	}
	started := atRest && trulyFits(d.seer, r, e)
	for _, p := range e.places {
		i := p.card.index
		switch {
		case started:
			d.trials[i], d.rests[i] = r, nil
		case atRest:
			if d.rests[i] == r { // it came to nothing
				d.rests[i], d.from[r], d.after[r] = nil, now, 2*d.after[r]
			}
		case d.world.judge.hasSlots(r, e) && d.world.judge.fitsOn(r, e, whenAtRest):
			d.rests[i] = r
		}
	}
	return started
}

// forget ends the rest for a head that has left, and a trial that is over.
func (d *doubter) forget(c *hiddenCard) {
	if by := d.rests[c.index]; by != nil && !by.waiting {
		d.rests[c.index] = nil
	}
}

func (d *doubter) observe(now time.Duration, r Reading) {
	for _, c := range d.world.cards {
		if c.name != r.GPU {
			continue
		}
		i := c.index
		if d.calm[i]++; c.running > 0 {
			d.calm[i] = 0
		} else if max(r.Used-d.used[i], d.used[i]-r.Used) > 64*MiB {
			d.calm[i] = 1
		}
		d.used[i] = r.Used
		if c.running == 0 && now-c.lastEnd >= time.Second {
			d.trials[i] = nil
		}
	}
}

func (d *doubter) rest(card int) (*hiddenRun, bool) { return d.rests[card], d.rests[card] != nil }
func (d *doubter) lone(card int) bool               { return d.trials[card] != nil }

// TestTheJudgeOfWorlds holds the judge against schedulers whose faults are
// known.
func TestTheJudgeOfWorlds(t *testing.T) {
	n := race.Some(500)
	t.Run("finds nothing wrong with one that knows the truth", func(t *testing.T) {
		all := playWorlds(n, 1, newSeer(trulyFits))
		t.Logf("\n%v", all)
		if sum := all.sum(); sum.late+sum.broken > 0 || slices.Max(sum.overflows[:byNeighbour]) > 0 {
			t.Errorf("it is late in %v, and overflows\n%v\n%v", sum.late, all, sum.failed)
		}
	})
	t.Run("blames one that counts slots alone", func(t *testing.T) {
		all := playWorlds(n, 1, newSeer(onlySlots))
		t.Logf("\n%v", all)
		if sum := all.sum(); sum.overflows[byAdmission] < n {
			t.Errorf("%d overflows by an admission in %d worlds, want more than one in each\n%v", sum.overflows[byAdmission], n, all)
		}
	})
	t.Run("blames the figures of one that believes them", func(t *testing.T) {
		all := playWorlds(n, 1, newSeer(fitsByFigures))
		t.Logf("\n%v", all)
		figures := 0
		for e := range all {
			for f := range all[e] {
				r := &all[e][f]
				if got := r.overflows; got[byAdmission] > 0 || f == 0 && got[byFigures] > 0 {
					t.Errorf("%v, %d: the overflows are %v, want none by an admission, and by figures only where they are wrong", worldEvidence(e), f, got)
				}
				figures += r.overflows[byFigures]
			}
		}
		if figures < n/10 {
			t.Errorf("%d overflows by figures in %d worlds, want a tenth or more", figures, n)
		}
	})
	t.Run("blames one that waits for rest and never makes it", func(t *testing.T) {
		all := playWorlds(n, 1, newSeer(onlyAtRest))
		t.Logf("\n%v", all)
		if sum := all.sum(); sum.late < n/20 {
			t.Errorf("it is late in %d of %d worlds, want a twentieth or more\n%v", sum.late, n, all)
		}
	})
	// It is late where a rest came to nothing just before the head fitted: the
	// next one is twice as far away.
	t.Run("is content with one that makes rest for what it doubts", func(t *testing.T) {
		all := playWorlds(n, 1, newDoubter)
		t.Logf("\n%v", all)
		if sum := all.sum(); sum.late > n/100 || sum.worst > 15*time.Second || slices.Max(sum.overflows[:byNeighbour]) > 0 {
			t.Errorf("it is late in %v, and overflows\n%v\n%v", sum.late, all, sum.failed)
		}
	})
}
