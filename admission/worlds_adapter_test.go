package admission

import (
	"fmt"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// worldScheduler is all that a world calls of the scheduler under test. When the
// API of the Scheduler changes, configOf and the methods of schedulerAdapter
// change, and nothing else of the worlds.
type worldScheduler interface {
	// figure is the demand to ask for on behalf of a route now, as its history
	// has it, and whether that is unknown. It is called before each submit.
	figure(*hiddenRoute) (demand Bytes, unknown bool)
	// submit asks for r.figure, or for an unknown demand if r.unknown. r.retry
	// says that the request has had an out-of-memory answer.
	submit(now time.Duration, r *hiddenRun) *Rejection
	leave(now time.Duration, r *hiddenRun)
	// end gives a grant back, and lets the route's history learn from the run.
	end(now time.Duration, r *hiddenRun, o Outcome, text outOfMemoryText)
	observe(now time.Duration, r Reading)
	// gone says that the process of an engine does not answer, back that it
	// does again, sleeps that it is asleep from the start.
	gone(now time.Duration, backend string, replica int)
	back(now time.Duration, backend string, replica int)
	sleeps(now time.Duration, backend string, replica int)
	// decided are the runs granted since the last call, orders the orders given.
	decided() []hiddenGrant
	orders() []Order
	// ready says that the card was read before an unload, freed that the card
	// has shown enough of it.
	ready(id uint64) bool
	freed(id uint64) bool
	reclaimed(now time.Duration, id uint64, e Ended)
	woken(now time.Duration, id uint64, e Ended)
	next() (time.Duration, bool)
	tick(now time.Duration)

	// What the judge has to know of the ledger. how is the rule by which a run
	// that was granted just now was started. rest says that nothing new starts on
	// a card, and for whom. lone says that nothing starts on a card beside a
	// lone run.
	how(r *hiddenRun) worldStartRule
	rest(card int) (by *hiddenRun, underWay bool)
	lone(card int) bool
	// view describes the ledger of a card for a story.
	view(card int) string
}

// hiddenGrant is a run that may start, on a replica.
type hiddenGrant struct {
	run     *hiddenRun
	replica int
}

// outOfMemoryText is what an out-of-memory answer says; zero: nothing.
type outOfMemoryText struct{ tried, free, inUse Bytes }

// schedulerAdapter has a world's requests admitted by the Scheduler.
type schedulerAdapter struct {
	world   *hiddenWorld
	s       *Scheduler
	runs    map[*Ticket]*hiddenRun
	granted []hiddenGrant
}

// configOf is the configuration of a world, as it was declared.
func configOf(w *hiddenWorld, trialAfter time.Duration) Config {
	var cfg Config
	for _, c := range w.cards {
		cfg.GPUs = append(cfg.GPUs, GPU{Name: c.name, Reserve: c.reserve, Hold: true, Reads: true, TrialAfter: trialAfter,
			Turn: time.Duration(w.seed%2) * 10 * time.Second})
	}
	for _, name := range []string{"heavy", "light"} {
		cfg.Classes = append(cfg.Classes, Class{Name: name, Slots: w.classes[name].slots, QueueLimit: 1000, StrictAfter: worldStrictAfter})
	}
	for _, b := range w.backends {
		x := Backend{Name: b.name, Slots: b.slots, ReturnsMemory: b.returnsMemory, LearnsResident: b.resident == 0, Reclaims: b.reclaims,
			MinResidency: 5 * time.Second}
		for _, e := range b.engines {
			r := Replica{Name: fmt.Sprint(e.replica)}
			for _, p := range e.places {
				r.Places = append(r.Places, Place{GPU: p.card.name, Resident: b.resident})
			}
			x.Replicas = append(x.Replicas, r)
		}
		cfg.Backends = append(cfg.Backends, x)
	}
	return cfg
}

func newAdapter(w *hiddenWorld) worldScheduler { return newTrying(w, promisedTrial) }

func newTrying(w *hiddenWorld, trialAfter time.Duration) worldScheduler {
	s, err := NewScheduler(configOf(w, trialAfter), time.Unix(0, 0))
	if err != nil {
		panic(err)
	}
	return &schedulerAdapter{world: w, s: s, runs: map[*Ticket]*hiddenRun{}}
}

// newWithoutTrials is the Scheduler without rests and trials, which has to fail.
func newWithoutTrials(w *hiddenWorld) worldScheduler {
	return newTrying(w, 1000*time.Hour)
}

func historyOf(r *hiddenRoute) *History {
	if r.learned == nil {
		r.learned = new(History)
	}
	return r.learned.(*History)
}

func (d *schedulerAdapter) figure(r *hiddenRoute) (Bytes, bool) {
	return historyOf(r).Demand(r.declared, r.unknown)
}

func (d *schedulerAdapter) submit(now time.Duration, r *hiddenRun) *Rejection {
	t := new(Ticket)
	r.ticket = t
	d.runs[t] = r
	t.history, t.learns = historyOf(r.route), r.route.unknown
	q := Request{Class: r.route.class.name, Backend: r.route.backend.name, VRAM: r.figure, Raised: r.figure - r.route.declared,
		Case:    t.history.Case(r.route.declared),
		Unknown: r.unknown, Estimate: Estimate{P50: (r.route.shortest + r.route.longest) / 2, P95: r.route.longest}}
	d.s.Submit(now, t, q)
	d.grant(t)
	return t.Rejection()
}

func (d *schedulerAdapter) leave(now time.Duration, r *hiddenRun) {
	d.s.Leave(now, r.ticket.(*Ticket), CodeClientCancelled)
}

func (d *schedulerAdapter) end(now time.Duration, r *hiddenRun, o Outcome, text outOfMemoryText) {
	t := r.ticket.(*Ticket)
	res := Result{o, text.tried, text.free, text.inUse}
	delete(d.runs, t)
	d.s.End(now, t, res)
	if o != OutOfMemory {
		t.learn(time.Unix(0, int64(now)), now, res)
		t.relearned(now, d.s)
	}
}

func (d *schedulerAdapter) observe(now time.Duration, r Reading) { d.s.Observe(now, r) }

func (d *schedulerAdapter) gone(now time.Duration, backend string, replica int) {
	d.s.SetAvailable(now, backend, replica, 0)
	d.s.SetThere(now, backend, replica, false)
}

func (d *schedulerAdapter) back(now time.Duration, backend string, replica int) {
	d.s.SetThere(now, backend, replica, true)
	d.s.SetAvailable(now, backend, replica, -1)
}

func (d *schedulerAdapter) sleeps(now time.Duration, backend string, replica int) {
	d.s.SetLoaded(now, backend, replica, false, true)
}

func (d *schedulerAdapter) decided() []hiddenGrant {
	for _, t := range d.s.Decided() {
		d.grant(t)
	}
	out := d.granted
	d.granted = nil
	for _, m := range d.s.Measured() {
		m.Ticket.learnPeak(time.Unix(0, int64(d.world.now)), m.Measurement)
	}
	return out
}

// grant takes note of a ticket that was granted, with the demand that it has by
// now.
func (d *schedulerAdapter) grant(t *Ticket) {
	if number, ok := t.Granted(); ok {
		r := d.runs[t]
		r.figure = t.run.Asked()
		d.granted = append(d.granted, hiddenGrant{r, number})
	}
}

func (d *schedulerAdapter) orders() []Order { return d.s.Orders() }

func (d *schedulerAdapter) ready(id uint64) bool { return d.s.box.residency.Ready(id) }

func (d *schedulerAdapter) freed(id uint64) bool {
	_, enough, known := d.s.box.residency.Freed(id)
	return enough || !known
}

func (d *schedulerAdapter) reclaimed(now time.Duration, id uint64, e Ended) {
	if !d.s.Unloaded(now, id, e) {
		d.world.breaks("the unload %d is not known", id)
	}
}

func (d *schedulerAdapter) woken(now time.Duration, id uint64, e Ended) {
	if !d.s.Loaded(now, id, e) {
		d.world.breaks("the wake %d is not known", id)
	}
}

func (d *schedulerAdapter) next() (time.Duration, bool) { return d.s.Next() }
func (d *schedulerAdapter) tick(now time.Duration)      { d.s.Tick(now) }

func (d *schedulerAdapter) how(r *hiddenRun) worldStartRule {
	switch r.ticket.(*Ticket).run.Kind {
	case memory.Alone:
		return startedAlone
	case memory.Trial:
		return startedTrial
	}
	return startedFits
}

func (d *schedulerAdapter) rest(card int) (*hiddenRun, bool) {
	if card >= len(d.s.rests) || d.s.rests[card] == nil {
		return nil, false
	}
	return d.runs[d.s.rests[card]], true
}

func (d *schedulerAdapter) lone(card int) bool { return d.s.box.ledger.Bars(card, d.world.now) }

func (d *schedulerAdapter) view(card int) string {
	s := d.s
	g := s.box.live.memory.GPUs[card]
	out := fmt.Sprintf("used %v, unmanaged %v-%v, available %v;", g.Used, g.XLow, g.XHigh, s.box.ledger.Available(s.box.live.memory, card, d.world.now))
	for _, r := range s.box.replicas {
		for _, a := range r.accounts {
			if s.box.ledger.GPUOf(a) == card {
				h, x := s.box.live.memory.Accounts[a], s.box.ledger.DescribeAccount(a)
				out += fmt.Sprintf(" %s %v-%v peak %v w %v %s keeps %v/%v late %v;", r.backend.cfg.Name, h.Low, h.High, h.Peak, x.Resident, x.Loaded,
					x.Keeps, x.Seen, h.Late)
			}
		}
	}
	for _, sh := range s.shapes.active {
		if sh.head != nil {
			out += fmt.Sprintf(" [%s %v: %v since %v]", sh.backend.cfg.Name, sh.vram, sh.block, sh.blockedSince)
		}
	}
	return out
}
