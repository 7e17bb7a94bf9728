package admission

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// The hidden truth: cards with engines that really hold memory, in virtual
// time. The scheduler under test sees readings and answers only. The judge of
// worlds_judge_test.go sees all. A world is drawn from a seed and plays the same
// way each time.

// worldEvidence is what the driver tells of the processes on the cards.
type worldEvidence int

const (
	evidenceOfAll   worldEvidence = iota // each process, each reading
	evidenceLate                         // each process, as of the reading before
	evidenceOfSome                       // some backends have none
	evidenceTotals                       // none at all
	evidenceWatched                      // none, but each engine starts empty, and nothing else comes to the card
	evidences
)

func (e worldEvidence) String() string {
	return [...]string{"process figures", "late figures", "figures of some", "totals", "totals, watched"}[e]
}

// hiddenWorld is one world: what is there, what has happened and what is to come.
type hiddenWorld struct {
	seed     uint64
	rand     *rand.Rand
	now      time.Duration
	evidence worldEvidence
	wrong    bool // some declared figure is wrong

	cards    []*hiddenCard
	backends []*hiddenBackend
	engines  []*hiddenEngine
	routes   []*hiddenRoute
	classes  map[string]*hiddenClass
	visitors []*hiddenVisitor
	visible  bool // the driver lists visitors
	muted    bool // a process without a figure is in the list, with -1

	scheduler worldScheduler
	judge     hiddenJudge

	events  []hiddenEvent // a heap
	order   int
	waiting int // all that wait
	wanted  int // of them, those that are not of steady traffic
	offset  time.Duration
	runs    int
	broken  string

	loud  bool
	story []string
}

// hiddenCard is a GPU as it is.
type hiddenCard struct {
	index             int
	name              string
	capacity, reserve Bytes
	used              Bytes // by all processes
	visitors          Bytes // of it, by processes that are not ours
	came              Bytes // since the last reading, and by nothing that the scheduler started
	processes         []Process
	read              bool
	reading           bool // one is due after the end of a run
	running           int
	orders            int // loads and unloads under way
	lastEnd           time.Duration
	moves             int // of memory, by others, and late
}

// hiddenAllocator is what a model server does with memory that a run no longer uses.
type hiddenAllocator int

const (
	allocatorKeeps hiddenAllocator = iota
	allocatorReturns
	allocatorReturnsLate
	allocatorReturnsPartly
)

// hiddenBackend is how a model server behaves, and what was declared of it.
type hiddenBackend struct {
	name      string
	engines   []*hiddenEngine // its replicas
	allocator hiddenAllocator
	lag       time.Duration
	share     float64 // that is returned
	weights   Bytes
	slots     int

	reclaims, sleeps    bool
	lies, partial, dies int           // of ten unloads
	lateFree            time.Duration // of an unload; 0: at once
	loadsOnStart        bool
	text                bool  // its out-of-memory answers give figures
	listed              bool  // the driver's figures are matched to it
	resident            Bytes // declared; 0: nothing is
	returnsMemory       bool  // declared
}

// hiddenEngine is one process, or one group of them, of a backend.
type hiddenEngine struct {
	index   int
	backend *hiddenBackend
	replica int
	places  []hiddenPlace
	life    int // counts its processes
	answers bool
	asleep  bool
	served  bool   // a run of its has ended well
	loading bool   // by order
	order   uint64 // under way; 0: none
	kind    residency.Kind
	running []*hiddenRun
	future  Bytes // Σ of what its runs hold at most from now on, on each place
	figures Bytes // the same by the figures
	low     Bytes // the same without short peaks
	wake    hiddenStart
}

// hiddenPlace is the memory of an engine on one card.
//
//	held = loaded + pool
//
// The pool is the allocator's; runs work in it, and it grows as they need.
type hiddenPlace struct {
	card                  *hiddenCard
	loaded, pool, working Bytes
}

func (p *hiddenPlace) held() Bytes { return p.loaded + p.pool }

// hiddenRoute is a kind of request: one backend, one class and one size.
type hiddenRoute struct {
	index             int
	backend           *hiddenBackend
	class             *hiddenClass
	demand            Bytes // at most
	declared          Bytes
	unknown           bool // nothing is declared
	shortest, longest time.Duration
	peaked            bool
	fails             int // of a hundred
	queue             []*hiddenRun
	learned           any // the adapter's

	failures []failedRun
	closed   time.Duration // no trial until then, after an out-of-memory answer
	penalty  time.Duration
	tooSmall Bytes // the largest room that was, since its last good run
	others   Bytes // what others held at that answer
}

type hiddenClass struct {
	name           string
	slots, running int
}

// hiddenRun is one request, from its arrival to its end.
type hiddenRun struct {
	id      int
	route   *hiddenRoute
	ticket  any // the adapter's
	retry   bool
	client  func() // called at the end
	steady  bool
	arrived time.Duration
	figure  Bytes // the demand that the scheduler was told
	unknown bool

	waiting, working bool
	engine           *hiddenEngine
	life             int
	started, ends    time.Duration
	steps            []hiddenStep
	next             int
	held             Bytes
	future, low      Bytes // what it holds at most from now on; the same without short peaks
	start            hiddenStart
	fits, fitsAtRest hiddenClock
}

// hiddenStep is what a run holds from some time after its grant on.
type hiddenStep struct {
	after  time.Duration
	amount Bytes
	peak   bool // a short one
}

type hiddenVisitor struct {
	card *hiddenCard
	held Bytes
	pid  int
}

type hiddenEvent struct {
	at    time.Duration
	order int
	do    func()
}

func (a hiddenEvent) before(b hiddenEvent) bool {
	return a.at < b.at || a.at == b.at && a.order < b.order
}

// after does something later.
func (w *hiddenWorld) after(d time.Duration, do func()) {
	w.order++
	h := append(w.events, hiddenEvent{w.now + d, w.order, do})
	i := len(h) - 1
	for i > 0 && h[i].before(h[(i-1)/2]) {
		h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		i = (i - 1) / 2
	}
	w.events = h
}

func (w *hiddenWorld) pop() func() {
	h := w.events
	do := h[0].do
	n := len(h) - 1
	h[0], h[n] = h[n], hiddenEvent{}
	h = h[:n]
	for i := 0; ; {
		least := i
		for c := 2*i + 1; c <= 2*i+2 && c < n; c++ {
			if h[c].before(h[least]) {
				least = c
			}
		}
		if least == i {
			break
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
	w.events = h
	return do
}

func (w *hiddenWorld) n(n int) int           { return w.rand.IntN(n) }
func (w *hiddenWorld) chance(of100 int) bool { return w.rand.IntN(100) < of100 }

// ms draws a duration of whole milliseconds.
func (w *hiddenWorld) ms(least, most int) time.Duration {
	return time.Duration(least+w.n(most-least+1)) * time.Millisecond
}

// between draws an amount in whole MiB.
func (w *hiddenWorld) between(least, most Bytes) Bytes {
	if most <= least {
		return least
	}
	return least + Bytes(w.rand.Int64N(int64((most-least)/MiB)+1))*MiB
}

func (w *hiddenWorld) tell(format string, args ...any) {
	if !w.loud {
		return
	}
	w.story = append(w.story, fmt.Sprintf("%9.3f  ", w.now.Seconds())+fmt.Sprintf(format, args...))
}

// breaks notes a broken contract, which is worse than an overflow.
func (w *hiddenWorld) breaks(format string, args ...any) {
	if w.broken == "" {
		w.broken = fmt.Sprintf(format, args...)
		w.tell("BROKEN: %s", w.broken)
	}
}

// newHiddenWorld draws a world. The scheduler comes from the maker, which is
// given the drawn world.
func newHiddenWorld(seed uint64, loud bool, maker func(*hiddenWorld) worldScheduler) *hiddenWorld {
	w := &hiddenWorld{seed: seed, rand: rand.New(rand.NewPCG(seed, 11)), loud: loud, classes: map[string]*hiddenClass{}}
	w.evidence, w.wrong = worldEvidence(w.n(int(evidences))), w.n(2) == 0
	w.visible, w.muted = w.evidence == evidenceOfAll || w.evidence == evidenceLate || w.evidence == evidenceOfSome && w.chance(50), w.chance(50)
	w.drawCards()
	w.drawBackends()
	w.drawRoutes()
	w.offset = w.ms(0, 999)
	w.judge.world = w
	w.scheduler = maker(w)
	for _, e := range w.engines {
		if e.asleep {
			w.scheduler.sleeps(0, e.backend.name, e.replica)
		}
	}
	w.drawTraffic()
	if w.evidence != evidenceWatched {
		w.drawVisitors()
		w.drawKills()
	}
	for _, c := range w.cards {
		w.after(w.offset, func() { w.everySecond(c) })
	}
	if loud {
		w.describe()
	}
	return w
}

func (w *hiddenWorld) drawCards() {
	cards := 1
	if w.chance(25) {
		cards = 2
	}
	capacity := Bytes([]int{24, 32, 40, 48, 80}[w.n(5)]) * GiB
	for i := range cards {
		c := &hiddenCard{index: i, name: fmt.Sprint("gpu", i), capacity: capacity, reserve: Bytes(w.n(3)) * GiB / 2, lastEnd: -time.Hour}
		w.cards = append(w.cards, c)
	}
	for _, name := range []string{"heavy", "light"} {
		c := &hiddenClass{name: name, slots: 1 + w.n(4)}
		if name == "light" {
			c.slots = 4 + w.n(13)
		}
		w.classes[name] = c
	}
}

func (w *hiddenWorld) drawBackends() {
	capacity := w.cards[0].capacity
	faulty := w.chance(30) // what unloads badly
	for i := range 1 + w.n(4) {
		b := &hiddenBackend{name: fmt.Sprint("engine", i), allocator: hiddenAllocator(w.n(4)), lag: w.ms(100, 3000), share: .2 + .6*w.rand.Float64(),
			weights: w.between(capacity/50, capacity*35/100), text: w.chance(50), loadsOnStart: w.chance(40) && w.evidence != evidenceWatched}
		if w.chance(25) {
			b.slots = 1 + w.n(8)
		}
		switch w.evidence {
		case evidenceOfAll, evidenceLate:
			b.listed = true
		case evidenceOfSome:
			b.listed = w.chance(50)
		}
		b.reclaims = w.chance(60)
		b.sleeps = b.reclaims && w.chance(40)
		if b.reclaims && faulty {
			switch w.n(4) {
			case 0:
				b.lies = 1 + w.n(10)
			case 1:
				b.partial = 1 + w.n(10)
			case 2:
				b.lateFree = w.ms(500, 10000)
			case 3:
				b.dies = w.n(6)
				if w.evidence == evidenceWatched {
					b.dies = 0
				}
			}
		}
		// Its replicas and their cards.
		var on [][]*hiddenCard
		switch {
		case len(w.cards) == 1:
			on = [][]*hiddenCard{w.cards}
		case w.chance(30): // over both
			on = [][]*hiddenCard{w.cards}
		case w.chance(20): // one on each
			on = [][]*hiddenCard{w.cards[:1], w.cards[1:]}
		default:
			k := w.n(2)
			on = [][]*hiddenCard{w.cards[k : k+1]}
		}
		before := w.evidence != evidenceWatched && w.chance(50) // loaded before the first reading
		for k, cards := range on {
			e := &hiddenEngine{index: len(w.engines), backend: b, replica: k, answers: true}
			fits := before
			for _, c := range cards {
				e.places = append(e.places, hiddenPlace{card: c})
				fits = fits && c.used+b.weights <= c.capacity-c.reserve
			}
			e.asleep = !before && b.sleeps && w.chance(50)
			for p := range e.places {
				if fits {
					e.places[p].loaded = b.weights
					e.places[p].card.used += b.weights
				}
			}
			b.engines = append(b.engines, e)
			w.engines = append(w.engines, e)
		}
		b.resident = b.weights
		b.returnsMemory = b.allocator == allocatorReturns || b.allocator == allocatorReturnsLate
		if w.wrong {
			switch w.n(6) {
			case 0:
				b.resident = b.weights / 2
			case 1:
				b.resident = min(b.weights*2, capacity*45/100)
			case 2:
				b.resident = 0
			}
			if w.chance(25) {
				b.returnsMemory = !b.returnsMemory
			}
		}
		w.backends = append(w.backends, b)
	}
}

func (w *hiddenWorld) drawRoutes() {
	for _, b := range w.backends {
		c := b.engines[0].places[0].card
		most := c.capacity - c.reserve - GiB - b.weights
		for range 1 + w.n(2) {
			r := &hiddenRoute{index: len(w.routes), backend: b, class: w.classes["light"], penalty: 10 * promisedTrial,
				demand: w.between(100*MiB, c.capacity*3/100), shortest: w.ms(200, 600), peaked: w.chance(30), closed: -1}
			r.longest = r.shortest + w.ms(0, 2000)
			if w.chance(50) {
				r.class = w.classes["heavy"]
				r.demand = w.between(c.capacity*4/100, c.capacity*45/100)
				r.shortest = w.ms(1000, 4000)
				r.longest = r.shortest + w.ms(0, 8000)
			}
			r.demand = min(r.demand, most)
			r.declared = r.demand
			if w.chance(10) {
				r.fails = 20
			}
			if w.wrong {
				switch w.n(6) {
				case 0, 1:
					r.declared = r.demand / 2
				case 2, 3:
					r.declared = min(r.demand*2, max(r.demand, c.capacity-c.reserve-b.resident))
				case 4:
					r.declared, r.unknown = 0, true
				}
			}
			w.routes = append(w.routes, r)
		}
	}
}

const (
	trafficEnds = 50 * time.Second
	worldEnds   = 60 * time.Second // but for what still waits
	worldStops  = 150 * time.Second
)

// drawTraffic draws bursts, and in most worlds clients that ask again as soon
// as they are answered, so that their backend is never at rest.
func (w *hiddenWorld) drawTraffic() {
	if w.chance(60) {
		var light []*hiddenRoute
		for _, r := range w.routes {
			if r.class.name == "light" {
				light = append(light, r)
			}
		}
		if len(light) > 0 {
			r := light[w.n(len(light))]
			for range 2 + w.n(2) {
				w.after(w.ms(0, 3000), func() { w.ask(r) })
			}
		}
	}
	for at := w.ms(0, 2000); at < trafficEnds; at += w.ms(1000, 14000) {
		r := w.routes[w.n(len(w.routes))]
		for range 1 + w.n(4) {
			if w.chance(30) {
				r = w.routes[w.n(len(w.routes))]
			}
			w.after(at+w.ms(0, 300), func() { w.submit(w.newRun(r)) })
		}
	}
}

// ask is a client of steady traffic: one request after the other, as long as
// the world lasts.
func (w *hiddenWorld) ask(r *hiddenRoute) {
	if w.now >= worldEnds && w.wanted == 0 {
		return
	}
	run := w.newRun(r)
	run.steady = true
	run.client = func() {
		pause := w.ms(0, 50)
		if !run.route.backend.engines[0].answers {
			pause = time.Second // it was refused a connection
		}
		w.after(pause, func() { w.ask(r) })
	}
	w.submit(run)
}

func (w *hiddenWorld) drawVisitors() {
	if w.chance(50) {
		return
	}
	for range 1 + w.n(4) {
		c := w.cards[w.n(len(w.cards))]
		comes, stays := w.ms(0, 50000), w.ms(500, 30000)
		if w.chance(20) { // before the first reading, and to the end
			comes, stays = 0, worldStops
		}
		w.after(comes, func() {
			v := &hiddenVisitor{card: c, pid: 1000 + len(w.visitors)}
			w.visitors = append(w.visitors, v)
			steps, first := w.n(3), w.between(200*MiB, c.capacity/4)
			w.visit(v, first)
			for range steps {
				n := w.between(100*MiB, c.capacity/4)
				w.after(w.ms(200, 20000), func() {
					if v.held > 0 {
						w.visit(v, n)
					}
				})
			}
			w.after(stays, func() { w.visit(v, 0) })
		})
	}
}

// visit lets a process that is not ours hold so much, if it can.
func (w *hiddenWorld) visit(v *hiddenVisitor, n Bytes) {
	more := n - v.held
	if v.card.used+more > v.card.capacity {
		return // it fails, as it would
	}
	v.held += more
	v.card.used += more
	v.card.visitors += more
	v.card.came += max(0, more)
	v.card.moves++
	w.tell("visitor %d holds %v on %s", v.pid, v.held, v.card.name)
}

func (w *hiddenWorld) drawKills() {
	if !w.chance(20) {
		return
	}
	for range 1 + w.n(2) {
		e := w.engines[w.n(len(w.engines))]
		w.after(w.ms(2000, 50000), func() { w.kill(e, true) })
	}
}

// kill ends the process of an engine. It comes back.
func (w *hiddenWorld) kill(e *hiddenEngine, told bool) {
	if !e.answers {
		return
	}
	if told && e.order != 0 {
		w.after(3*time.Second, func() { w.kill(e, true) })
		return
	}
	w.tell("%s dies", e)
	e.life++
	e.answers, e.asleep = false, false
	for i := range e.places {
		p := &e.places[i]
		p.card.used -= p.held()
		p.card.moves++
		p.loaded, p.pool, p.working = 0, 0, 0
	}
	for _, r := range slices.Clone(e.running) {
		w.release(r)
		w.after(w.ms(0, 100), func() { w.end(r, Failed) })
	}
	notice, back := w.ms(0, 2000), w.ms(2500, 15000)
	w.after(notice, func() {
		w.scheduler.gone(w.now, e.backend.name, e.replica)
		w.settle()
	})
	w.after(back, func() { w.restart(e) })
}

// restart brings the process of an engine back.
func (w *hiddenWorld) restart(e *hiddenEngine) {
	if e.backend.loadsOnStart {
		ok := true
		for _, p := range e.places {
			ok = ok && p.card.used+e.backend.weights <= p.card.capacity
		}
		for i := range e.places {
			if p := &e.places[i]; ok {
				p.loaded = e.backend.weights
				p.card.used += p.loaded
				p.card.came += p.loaded
				p.card.moves++
			}
		}
	}
	w.tell("%s is there again, %v", e, e.places[0].held())
	w.after(w.ms(0, 1000), func() {
		e.answers = true
		w.scheduler.back(w.now, e.backend.name, e.replica)
		w.settle()
		if e.order != 0 && e.kind == Return {
			w.finish(e, func(id uint64) { w.scheduler.woken(w.now, id, Ended{}) })
		}
	})
}

func (e *hiddenEngine) String() string {
	if len(e.backend.engines) == 1 {
		return e.backend.name
	}
	return fmt.Sprintf("%s/%d", e.backend.name, e.replica)
}

// newRun draws a request of a route with what it will take.
func (w *hiddenWorld) newRun(route *hiddenRoute) *hiddenRun {
	r := &hiddenRun{route: route}
	w.drawNeed(r)
	return r
}

func (w *hiddenWorld) drawNeed(r *hiddenRun) {
	route := r.route
	most := route.demand - Bytes(w.rand.Int64N(int64(route.demand/100)+1))
	length := w.ms(int(route.shortest/time.Millisecond), int(route.longest/time.Millisecond))
	at := w.ms(0, min(1500, int(length/time.Millisecond)*2/3))
	flat := most
	if route.peaked {
		flat = Bytes(float64(most) * (.5 + .4*w.rand.Float64()))
	}
	r.steps = make([]hiddenStep, 0, 4)
	if w.chance(30) && at > 2*time.Millisecond {
		r.steps = append(r.steps, hiddenStep{at / 2, flat / 2, false})
	}
	r.steps = append(r.steps, hiddenStep{at, flat, false})
	if left := int((length - at) / time.Millisecond); route.peaked && left > 150 {
		from := w.n(left / 2)
		r.steps = append(r.steps, hiddenStep{at + time.Duration(from)*time.Millisecond, most, true},
			hiddenStep{at + time.Duration(from+50+w.n(min(800, left/2-20)))*time.Millisecond, flat, false})
	}
	r.ends = length // until it starts
	if w.n(100) < route.fails {
		r.ends = w.ms(50, int(length/time.Millisecond))
	}
	r.future, r.low = most, flat
	if !route.peaked {
		r.low = most
	}
}

// submit sends a request to the scheduler.
func (w *hiddenWorld) submit(r *hiddenRun) {
	w.runs++
	r.id, r.arrived, r.waiting = w.runs, w.now, true
	r.route.queue = append(r.route.queue, r)
	w.waiting++
	if !r.steady {
		w.wanted++
	}
	r.figure, r.unknown = w.scheduler.figure(r.route)
	w.tell("%d comes for %s, %s: figure %v%s, truth %v", r.id, r.route.backend.name, r.route.class.name, r.figure,
		map[bool]string{true: " (unknown)"}[r.unknown], r.future)
	refused := w.scheduler.submit(w.now, r)
	if refused != nil {
		w.tell("%d is refused: %v", r.id, refused)
		w.unqueue(r)
		w.judge.refused++
	}
	w.settle()
	switch {
	case !r.waiting || refused != nil:
	case r.retry:
		w.after(20*time.Second, func() { w.leave(r) })
	case !r.steady && w.n(100) < 4:
		w.after(w.ms(1000, 20000), func() { w.leave(r) })
	}
}

func (w *hiddenWorld) leave(r *hiddenRun) {
	if r.waiting {
		w.tell("%d leaves", r.id)
		w.scheduler.leave(w.now, r)
		w.unqueue(r)
		w.settle()
		if r.client != nil {
			r.client()
		}
	}
}

func (w *hiddenWorld) unqueue(r *hiddenRun) {
	q := r.route.queue
	i := slices.Index(q, r)
	r.route.queue = slices.Delete(q, i, i+1)
	r.waiting = false
	w.waiting--
	if !r.steady {
		w.wanted--
	}
}

// settle starts what was granted and carries out what was ordered.
func (w *hiddenWorld) settle() {
	for w.broken == "" {
		granted := w.scheduler.decided()
		for _, g := range granted {
			w.start(g.run, g.replica)
		}
		orders := w.scheduler.orders()
		for _, o := range orders {
			w.carryOut(o)
		}
		if len(granted) == 0 && len(orders) == 0 {
			return
		}
	}
}

// start lets a granted run begin.
func (w *hiddenWorld) start(r *hiddenRun, replica int) {
	if !r.waiting {
		w.breaks("%d is granted and does not wait", r.id)
		return
	}
	w.unqueue(r)
	e := r.route.backend.engines[replica]
	r.engine, r.life, r.started, r.working = e, e.life, w.now, true
	r.ends += w.now
	e.running = append(e.running, r)
	r.route.class.running++
	for _, p := range e.places {
		p.card.running++
	}
	if c := r.route.class; c.running > c.slots || e.backend.slots > 0 && len(e.running) > e.backend.slots {
		w.breaks("%d starts on %s without a slot", r.id, e)
	}
	if e.asleep || e.order != 0 && e.answers {
		w.breaks("%d starts on %s, which sleeps or is being unloaded", r.id, e)
	}
	if !e.answers {
		w.tell("%d starts on %s, which is gone", r.id, e)
		r.future, r.low, r.held, r.working = 0, 0, 0, false
		w.after(10*time.Millisecond, func() { w.end(r, Failed) })
		return
	}
	e.future += r.future
	e.low += r.low
	e.figures += r.figure
	w.judge.started(e, &r.start, r)
	r.start.how = w.scheduler.how(r)
	w.tell("%d starts on %s%s", r.id, e, r.start.String())
	w.after(r.steps[0].after, func() { w.step(r) })
	w.after(r.ends-w.now, func() {
		if r.working && r.life == e.life {
			outcome := Done
			if r.next < len(r.steps) {
				outcome = Failed
			}
			w.release(r)
			w.end(r, outcome)
		}
	})
}

// step changes what a run holds.
func (w *hiddenWorld) step(r *hiddenRun) {
	e := r.engine
	if !r.working || r.life != e.life {
		return
	}
	s := r.steps[r.next]
	if !w.hold(r, s.amount) {
		return
	}
	r.next++
	future, low := s.amount, s.amount
	if s.peak {
		low = 0
	}
	for _, later := range r.steps[r.next:] {
		future = max(future, later.amount)
		if !later.peak {
			low = max(low, later.amount)
		}
	}
	e.future += future - r.future
	e.low += low - r.low
	r.future, r.low = future, low
	if r.next < len(r.steps) {
		w.after(r.started+r.steps[r.next].after-w.now, func() { w.step(r) })
	}
}

// hold lets a run hold so much on each place of its engine; the weights come
// first. It says whether that fitted; else the run has ended.
func (w *hiddenWorld) hold(r *hiddenRun, n Bytes) bool {
	e := r.engine
	more := n - r.held
	for i := range e.places {
		p := &e.places[i]
		weights := max(0, e.backend.weights-p.loaded)
		grow := max(0, p.working+more-p.pool)
		if p.card.used+weights+grow > p.card.capacity {
			for k := range i { // as it was
				q := &e.places[k]
				q.working -= more
			}
			w.outOfMemory(r, p, weights+grow)
			return false
		}
		p.loaded += weights
		p.working += more
		p.pool += grow
		p.card.used += weights + grow
	}
	if w.loud {
		p := e.places[0]
		w.tell("%d has %v; %s holds %v, %s %v of %v", r.id, n, e, p.held(), p.card.name, p.card.used, p.card.capacity)
	}
	r.held = n
	if more < 0 {
		w.trim(e)
	}
	return true
}

// outOfMemory ends a run whose allocation failed.
func (w *hiddenWorld) outOfMemory(r *hiddenRun, p *hiddenPlace, tried Bytes) {
	e := r.engine
	var text outOfMemoryText
	if e.backend.text {
		text = outOfMemoryText{tried: tried, free: p.card.capacity - p.card.used, inUse: p.held()}
	}
	w.judge.overflow(r, p, tried)
	w.release(r)
	for i := range e.places {
		q := &e.places[i]
		q.card.used -= q.pool - q.working
		q.pool = q.working
	}
	w.judge.failed(r)
	w.after(w.ms(10, 100), func() { w.endWith(r, OutOfMemory, text) })
}

// release gives back what a run holds, as its engine does.
func (w *hiddenWorld) release(r *hiddenRun) {
	e := r.engine
	e.future -= r.future
	e.low -= r.low
	e.figures -= r.figure
	r.working = false
	if r.life == e.life {
		for i := range e.places {
			e.places[i].working -= r.held
		}
		w.trim(e)
	}
	r.held, r.future, r.low = 0, 0, 0
}

// trim does what the allocator of an engine does with memory that is no longer
// used.
func (w *hiddenWorld) trim(e *hiddenEngine) {
	switch e.backend.allocator {
	case allocatorReturns:
		w.shrink(e, 1)
	case allocatorReturnsPartly:
		w.shrink(e, e.backend.share)
	case allocatorReturnsLate:
		life := e.life
		w.after(e.backend.lag, func() {
			if e.life == life && w.shrink(e, 1) > 64*MiB {
				for _, p := range e.places {
					p.card.moves++
				}
			}
		})
	}
}

// shrink gives back a share of what an engine does not use, and says how much
// that is on its last place.
func (w *hiddenWorld) shrink(e *hiddenEngine, share float64) (n Bytes) {
	for i := range e.places {
		p := &e.places[i]
		n = Bytes(float64(p.pool-p.working) * share)
		p.pool -= n
		p.card.used -= n
	}
	return n
}

func (w *hiddenWorld) end(r *hiddenRun, o Outcome) { w.endWith(r, o, outOfMemoryText{}) }

// endWith tells the scheduler of the end of a run.
func (w *hiddenWorld) endWith(r *hiddenRun, o Outcome, text outOfMemoryText) {
	e := r.engine
	i := slices.Index(e.running, r)
	if i < 0 {
		return
	}
	e.running = slices.Delete(e.running, i, i+1)
	r.route.class.running--
	for _, p := range e.places {
		p.card.running--
		p.card.lastEnd = w.now
	}
	if o == Done {
		e.served = true
		r.route.closed, r.route.penalty, r.route.tooSmall = -1, 10*promisedTrial, 0
	}
	w.tell("%d ends, %s", r.id, [...]string{"well", "failed", "aborted", "out of memory", "unreached"}[o])
	w.scheduler.end(w.now, r, o, text)
	w.settle()
	if w.waiting > 0 || o == OutOfMemory {
		for _, p := range e.places {
			if c := p.card; !c.reading {
				c.reading = true
				w.after(10*time.Millisecond, func() { c.reading = false; w.observe(c) })
			}
		}
	}
	if o == OutOfMemory && !r.retry {
		again := &hiddenRun{route: r.route, retry: true, client: r.client, steady: r.steady}
		w.drawNeed(again)
		w.submit(again)
		return
	}
	if r.client != nil {
		r.client()
	}
}

func (w *hiddenWorld) everySecond(c *hiddenCard) {
	w.observe(c)
	w.after(time.Second, func() { w.everySecond(c) })
}

// observe reads a card and tells the scheduler.
func (w *hiddenWorld) observe(c *hiddenCard) {
	reading := Reading{GPU: c.name, Total: c.capacity, Used: c.used, Source: "nvml"}
	if w.evidence <= evidenceOfSome {
		list := make([]Process, 0, len(w.engines)+2)
		for _, e := range w.engines {
			for _, p := range e.places {
				// One that is there and holds nothing is listed with nothing, where its
				// process is known.
				if p.card != c || p.held() == 0 && !(e.answers && e.backend.listed) {
					continue
				}
				q := Process{PID: e.index*100 + e.life, Name: e.backend.name, Used: p.held(), Backend: e.backend.name, Replica: e.replica}
				if !e.backend.listed {
					if q.Used = -1; !w.muted {
						continue
					}
				}
				list = append(list, q)
			}
		}
		for _, v := range w.visitors {
			if v.card == c && v.held > 0 && w.visible {
				list = append(list, Process{PID: v.pid, Name: "python3", Used: v.held})
			}
		}
		reading.Processes = list
		if w.evidence == evidenceLate {
			if reading.Processes = c.processes; reading.Processes == nil {
				reading.Processes = []Process{}
			}
		}
		c.processes = list
	}
	c.read, c.came = true, 0
	w.scheduler.observe(w.now, reading)
	if w.loud {
		held := ""
		for _, e := range w.engines {
			for _, p := range e.places {
				if p.card == c {
					held += fmt.Sprintf(" %s %v,", e, p.held())
				}
			}
		}
		w.tell("read %s %v of %v:%s visitors %v | %s", c.name, c.used, c.capacity, held, c.visitors, w.scheduler.view(c.index))
	}
	w.settle()
}

// ordered counts an order on the cards of an engine as under way, or as over.
func (w *hiddenWorld) ordered(e *hiddenEngine, underWay bool) {
	for _, p := range e.places {
		if underWay {
			p.card.orders++
		} else {
			p.card.orders--
		}
	}
}

// carryOut does what the scheduler ordered.
func (w *hiddenWorld) carryOut(o Order) {
	e := w.engines[slices.IndexFunc(w.engines, func(e *hiddenEngine) bool { return e.backend.name == o.Backend && e.replica == o.Replica })]
	w.tell("%s is told to %s", e, [...]string{"unload", "wake", "come back"}[o.Kind])
	if e.order != 0 {
		w.breaks("%s has two orders", e)
		return
	}
	e.order, e.kind = o.ID, o.Kind
	w.ordered(e, true)
	switch o.Kind {
	case Unload:
		if len(e.running) > 0 {
			w.breaks("%s is told to unload while it works", e)
		}
		if !e.backend.reclaims {
			w.breaks("%s is told to unload and cannot", e)
		}
		w.unload(e, 2)
	case Wake:
		e.loading = true
		w.judge.started(e, &e.wake, nil)
		if e.wake.how = startedFits; o.Trial {
			e.wake.how = startedTrial
		}
		w.after(w.ms(100, 2000), func() { w.load(e) })
	case Return:
		if e.answers { // it was faster
			w.after(w.ms(0, 500), func() { w.finish(e, func(id uint64) { w.scheduler.woken(w.now, id, Ended{}) }) })
		}
	}
}

// finish ends the order of an engine.
func (w *hiddenWorld) finish(e *hiddenEngine, tell func(id uint64)) {
	id := e.order
	if id == 0 {
		return
	}
	e.order = 0
	w.ordered(e, false)
	tell(id)
	w.settle()
}

// unload asks an engine up to so many times to free its memory, as long as the
// card does not show it.
func (w *hiddenWorld) unload(e *hiddenEngine, tries int) {
	if !w.scheduler.ready(e.order) {
		w.after(500*time.Millisecond, func() { w.unload(e, tries) })
		return
	}
	b := e.backend
	w.after(w.ms(100, 1500), func() {
		life := e.life
		free := func(share float64) {
			if e.life != life || len(e.running) > 0 {
				return
			}
			for i := range e.places {
				p := &e.places[i]
				w.tell("%s frees of its %v", e, p.held())
				loaded, pool := Bytes(float64(p.loaded)*share), Bytes(float64(p.pool)*share)
				p.card.used -= loaded + pool
				p.card.moves++
				p.loaded -= loaded
				p.pool -= pool
			}
		}
		switch {
		case !e.answers:
			w.finish(e, func(id uint64) { w.scheduler.reclaimed(w.now, id, Ended{Failed: true, Dead: true, MustWake: b.sleeps}) })
			return
		case w.n(10) < b.dies && e.places[0].loaded > 0:
			w.kill(e, false)
			w.after(500*time.Millisecond, func() {
				w.finish(e, func(id uint64) { w.scheduler.reclaimed(w.now, id, Ended{Failed: true, Dead: true, MustWake: b.sleeps}) })
			})
			return
		case w.n(10) < b.lies:
		case w.n(10) < b.partial:
			free(.3 + .5*w.rand.Float64())
		case b.lateFree > 0:
			w.after(b.lateFree, func() { free(1) })
		default:
			free(1)
		}
		w.after(1500*time.Millisecond, func() {
			if !w.scheduler.freed(e.order) && tries > 1 {
				w.unload(e, tries-1)
				return
			}
			e.asleep = b.sleeps && e.answers
			w.tell("%s says that it is unloaded, %v stay", e, e.places[0].held())
			w.finish(e, func(id uint64) { w.scheduler.reclaimed(w.now, id, Ended{MustWake: b.sleeps}) })
		})
	})
}

// load wakes an engine by order.
func (w *hiddenWorld) load(e *hiddenEngine) {
	ok := e.answers
	for i := range e.places {
		p := &e.places[i]
		if more := max(0, e.backend.weights-p.loaded); ok && p.card.used+more > p.card.capacity {
			w.judge.overflow(nil, p, more)
			ok = false
		}
	}
	for i := range e.places {
		if p := &e.places[i]; ok {
			more := max(0, e.backend.weights-p.loaded)
			p.loaded += more
			p.card.used += more
		}
	}
	w.after(w.ms(0, 300), func() {
		e.loading = false
		if ok {
			e.asleep = false
		}
		w.tell("%s is awake: %v", e, ok)
		w.finish(e, func(id uint64) { w.scheduler.woken(w.now, id, Ended{Failed: !ok}) })
	})
}

// play plays the world to its end.
func (w *hiddenWorld) play() {
	again := 0
	for w.broken == "" {
		next := w.events[0].at
		due, ok := w.scheduler.next()
		if ok {
			next = min(next, max(due, w.now))
		}
		if w.now >= worldEnds && w.wanted == 0 || next > worldStops {
			break
		}
		w.judge.advance(next)
		if next > w.now {
			again = 0
		}
		w.now = next
		if ok && due <= w.now {
			if again++; again > 50 {
				w.breaks("a timer is due again at once")
			}
			w.scheduler.tick(w.now)
			w.settle()
		}
		for len(w.events) > 0 && w.events[0].at <= w.now && w.broken == "" {
			w.pop()()
		}
		w.judge.look()
	}
}

// describe opens a story.
func (w *hiddenWorld) describe() {
	w.tell("world %d: %v, figures wrong: %v", w.seed, w.evidence, w.wrong)
	for _, c := range w.cards {
		w.tell("%s has %v, %v in reserve", c.name, c.capacity, c.reserve)
	}
	for _, b := range w.backends {
		on := ""
		for _, e := range b.engines {
			on += " on"
			for _, p := range e.places {
				on += " " + p.card.name
			}
			on += fmt.Sprintf(" (%v loaded)", e.places[0].loaded)
		}
		w.tell("%s%s: weights %v, declared %v; %s, declared returns: %v; slots %d; reclaims %v, sleeps %v, lies %d, partial %d, late %v, "+
			"dies %d; loads on start %v",
			b.name, on, b.weights, b.resident, [...]string{"keeps", "returns", fmt.Sprint("returns after ", b.lag),
				fmt.Sprintf("returns %.0f %%", 100*b.share)}[b.allocator],
			b.returnsMemory, b.slots, b.reclaims, b.sleeps, b.lies, b.partial, b.lateFree, b.dies, b.loadsOnStart)
	}
	for _, r := range w.routes {
		w.tell("route %d: %s, %s, demand %v, declared %v, unknown %v, %v to %v, peaked %v", r.index, r.backend.name, r.class.name, r.demand,
			r.declared, r.unknown, r.shortest, r.longest, r.peaked)
	}
	w.tell("class slots: heavy %d, light %d", w.classes["heavy"].slots, w.classes["light"].slots)
}

// told is the story: how the world is, and the last events up to the first that
// was wrong.
func (w *hiddenWorld) told(last int) string {
	head := min(len(w.story), 2+len(w.cards)+len(w.backends)+len(w.routes))
	end := len(w.story)
	if last < end {
		for i, line := range w.story {
			if strings.Contains(line, "LATE: ") || strings.Contains(line, "BROKEN: ") || !w.wrong && strings.HasSuffix(line, ": "+byAdmission.String()) {
				end = max(head, i+1)
				break
			}
		}
	}
	from := max(head, end-last)
	return strings.Join(w.story[:head], "\n") + "\n…\n" + strings.Join(w.story[from:end], "\n")
}
