package admission

import (
	"cmp"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/queue"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// forecast says when waiting requests are expected to start: the same rules, played
// forward from now on a copy of all that they know, with each run as long as its
// estimate says, and each unload and load as long as the last one. Nothing arrives
// meanwhile, and what is likely of the memory counts as certain. A copy is made under
// the Controller's lock, and played without it.
type forecast struct {
	rules  *Scheduler
	now    time.Duration
	coming []appointment
	starts map[uint64]time.Duration // of requests that wait, by id
	paces  map[string]pace          // of classes
}

const (
	// maxForecast bounds how many waiting requests of a class are played.
	maxForecast = 512
	// settling is how long the readings take that a trial waits for.
	settling = 2 * time.Second
	// neverThere is a demand that never fits.
	neverThere Bytes = 1 << 50
	// farthest bounds how far a forecast looks.
	farthest = 24 * time.Hour
)

// pace is when the first and the last request of a class start that were played.
type pace struct{ first, last time.Duration }

// appointment is the end of an order in a forecast, or a trial.
type appointment struct {
	at    time.Duration
	order Order
	trial *shape // whose head is tried then
	vram  Bytes  // its demand
}

// newForecast copies all that the rules of s know.
func newForecast(s *Scheduler, now time.Duration) *forecast {
	f := &forecast{now: now, starts: map[uint64]time.Duration{}, paces: map[string]pace{}}
	n := &Scheduler{epoch: s.epoch, policy: s.policy, shapes: shapes{all: map[shapeKey]*shape{}}, recheck: forever, starts: s.starts}
	f.rules = n
	n.queue.Copy(&s.queue)
	c := copier{from: s, to: n, tickets: map[*Ticket]*Ticket{}, runs: map[*memory.Run]*memory.Run{}, shapes: map[*shape]*shape{}}
	c.box(now)
	for _, t := range s.running {
		n.running = append(n.running, c.ticket(t))
	}
	for _, class := range s.box.classes {
		count := 0
		for t := range class.waiting.All() {
			if count++; count > maxForecast {
				break
			}
			c.tickets[t] = c.ticket(t)
		}
	}
	c.enqueue()
	c.protect()
	for _, sh := range s.shapes.active {
		x := c.shapes[sh]
		if x == nil || x.head == nil {
			continue
		}
		// Nothing of ours dates a start that waits for others' memory.
		switch sh.block.reason {
		case ReasonNotByItself, ReasonUnmanagedMemory, ReasonCapacityReduced:
			x.vram = neverThere
		case ReasonTrial, ReasonRest:
			if sh.block.gpu >= 0 {
				f.add(appointment{at: trialDue(s, now, sh, sh.block.gpu) + settling, trial: x, vram: x.vram})
				x.vram = neverThere
			}
		}
	}
	n.box.residency.Underway(now, func(o Order, left time.Duration) { f.add(appointment{at: now + left, order: o}) })
	return f
}

func (f *forecast) add(a appointment) {
	i, _ := slices.BinarySearchFunc(f.coming, a, func(x, a appointment) int {
		if x.at > a.at {
			return 1
		}
		return -1
	})
	f.coming = slices.Insert(f.coming, i, a)
}

// play plays until all that waits has started, or nothing will happen any more.
func (f *forecast) play() {
	s, from := f.rules, f.now
	f.orders()
	s.Tick(f.now)
	for steps := 0; s.queue.Len() > 0 && f.now-from < farthest && steps < 64*maxForecast; steps++ {
		f.note()
		at, what := forever, 0
		if len(s.running) > 0 {
			at, what = s.running[0].end, 3
		}
		if len(f.coming) > 0 && f.coming[0].at < at {
			at, what = f.coming[0].at, 1
		}
		if due, ok := s.Next(); ok && due < at {
			at, what = max(due, f.now+1), 2
		}
		f.now = max(f.now, at)
		switch what {
		case 0:
			return
		case 2:
			s.Tick(f.now)
			continue
		case 3:
			// All that end now, before a pass takes one for overdue.
			i := slices.IndexFunc(s.running, func(t *Ticket) bool { return t.end > at })
			if i < 0 {
				i = len(s.running)
			}
			for _, t := range slices.Clone(s.running[:i]) {
				s.End(f.now, t, Result{})
			}
			continue
		}
		a := f.coming[0]
		f.coming = f.coming[1:]
		switch {
		case a.trial != nil:
			a.trial.vram = a.vram
			s.Tick(f.now)
		case a.order.Kind == Unload:
			s.Unloaded(f.now, a.order.ID, Ended{MustWake: s.box.residency.MustWake(a.order)})
		default:
			s.Loaded(f.now, a.order.ID, Ended{})
		}
	}
	f.note()
}

// note takes what the last event has brought.
func (f *forecast) note() {
	for _, t := range f.rules.Decided() {
		if t.state == stateRunning {
			f.starts[t.ID()] = f.now
			p, ok := f.paces[t.shape.class.cfg.Name]
			if !ok {
				p.first = f.now
			}
			p.last = f.now
			f.paces[t.shape.class.cfg.Name] = p
		}
	}
	f.orders()
}

func (f *forecast) orders() {
	for _, o := range f.rules.Orders() {
		f.add(appointment{at: f.now + f.rules.box.residency.Takes(o), order: o})
	}
}

// expect plays the forecast and puts the expected starts into descriptions of waiting
// requests; zero where none is in sight. What was not played is behind the last of its
// class that was, at the pace of those.
func (f *forecast) expect(all []Waiter) []Waiter {
	if f == nil {
		return all
	}
	f.play()
	for i := range all {
		w := &all[i]
		at, ok := f.starts[w.ID]
		if p := f.paces[w.Class]; !ok && w.Position >= maxForecast && p.last > 0 {
			at, ok = p.last+time.Duration(float64(p.last-p.first)*float64(w.Position+1-maxForecast)/(maxForecast-1)), true
		}
		if ok {
			w.EstimatedStart = f.rules.epoch.Add(at)
		}
	}
	return all
}

// copier copies a scheduler.
type copier struct {
	from, to *Scheduler
	tickets  map[*Ticket]*Ticket
	runs     map[*memory.Run]*memory.Run
	shapes   map[*shape]*shape
}

// box copies the box, with its ledger and residency.
func (c *copier) box(now time.Duration) {
	old := c.from.box
	b := &box{gpus: old.gpus, byClass: map[string]*class{}, byBackend: map[string]*backend{}}
	c.to.box = b
	for _, t := range c.from.running {
		c.runs[&t.run] = &c.ticket(t).run
	}
	run := func(r *memory.Run) *memory.Run {
		if c.runs[r] == nil {
			x := *r
			c.runs[r] = &x
		}
		return c.runs[r]
	}
	b.ledger = old.ledger.Forecast(now, run)
	b.residency = old.residency.Forecast(b.ledger, run, func(h residency.Head) residency.Head {
		if t, ok := h.(*Ticket); ok {
			return c.ticket(t)
		}
		return nil
	})
	for _, x := range old.classes {
		n := &class{cfg: x.cfg, box: b, index: x.index, label: x.label, share: x.share, gone: x.gone, paused: x.paused}
		b.classes = append(b.classes, n)
		if !x.gone {
			b.byClass[x.cfg.Name] = n
		}
	}
	for _, x := range old.backends {
		n := &backend{cfg: x.cfg, index: x.index, label: x.label, gone: x.gone, draining: x.draining}
		b.backends = append(b.backends, n)
		if !x.gone {
			b.byBackend[x.cfg.Name] = n
		}
		for _, r := range x.replicas {
			y := *r
			y.backend = n
			n.replicas = append(n.replicas, &y)
		}
	}
	for _, r := range old.replicas {
		y := b.backends[r.backend.index].replicas[r.number]
		y.home = b.residency.Replicas[slices.Index(old.residency.Replicas, r.home)]
		b.replicas = append(b.replicas, y)
	}
	b.live.copyFrom(&old.live)
	b.keepsBooks(b.ledger)
	b.company = old.company.copy()
	for _, x := range c.tickets {
		c.settle(x)
	}
}

// ticket gives the copy of a ticket, which is in no queue yet.
func (c *copier) ticket(t *Ticket) *Ticket {
	x := c.tickets[t]
	if x == nil {
		x = &Ticket{state: t.state, deadline: t.deadline, stuck: t.stuck, position: t.position, p50: t.p50, p95: t.p95, order: t.order, end: t.end,
			run: t.run, shape: t.shape, replica: t.replica}
		x.run.Owner, x.run.Case = x, nil
		x.ran = ran{granted: t.ran.granted, table: t.ran.table, pace: t.ran.pace}
		x.Stand(&t.Entry, x, c.to.queue.Tenant(t.Tenant.Name()))
		if t.state == stateWaiting {
			x.wait = &waiting{Place: queue.Place[Ticket]{Expires: t.wait.Expires, Size: t.wait.Size}}
		}
		c.tickets[t] = x
		if len(c.to.box.replicas) > 0 {
			c.settle(x)
		}
	}
	return x
}

// settle points a copy at the copies of its shape and replica.
func (c *copier) settle(x *Ticket) {
	to := x.replica
	if to != nil {
		to = c.to.box.replicas[to.index]
		x.ran.granted = to
	}
	x.move(c.shape(x.shape), to)
}

func (c *copier) shape(sh *shape) *shape {
	n := c.shapes[sh]
	if n == nil {
		b, class := c.to.box.backends[sh.backend.index], c.to.box.classes[sh.class.index]
		known := *sh.known
		n = &shape{Shape: queue.Shape[Ticket]{Group: &class.waiting}, key: sh.key, class: class, backend: b,
			vram: sh.vram, measured: sh.measured, known: &known, reserved: forever}
		n.key.known = n.known
		c.shapes[sh] = n
		c.to.shapes.all[n.key] = n
	}
	return n
}

// enqueue puts the waiting tickets into their queues, in order of arrival.
func (c *copier) enqueue() {
	var waiting []*Ticket
	for t, x := range c.tickets {
		if t.state == stateWaiting {
			waiting = append(waiting, x)
		}
	}
	slices.SortFunc(waiting, func(a, b *Ticket) int { return cmp.Compare(a.ID(), b.ID()) })
	for _, x := range waiting {
		c.to.enqueue(x)
	}
	for sh, n := range c.shapes {
		if x := c.tickets[sh.head]; sh.head != nil && x != nil {
			n.setHead(x, sh.blockedSince)
			n.block, n.rests = sh.block, sh.rests
			n.rests.of = nil
			if sh.rests.of == sh.head {
				n.rests.of = x
			}
		}
	}
}

// protect copies what protects heads: the strict one, rests, and memory that was freed.
func (c *copier) protect() {
	if x := c.tickets[c.from.strict.head]; c.from.strict.head != nil && x != nil {
		c.to.strict.protect(x, c.from.strict.after)
	}
	for _, t := range c.from.rests {
		if t != nil {
			t = c.tickets[t]
		}
		c.to.rests = append(c.to.rests, t)
	}
	for _, y := range c.from.turns {
		if x := c.tickets[y.head]; x != nil {
			c.to.turns = append(c.to.turns, &claim{head: x, to: c.to.box.replicas[y.to.index], after: y.after})
		}
	}
}
