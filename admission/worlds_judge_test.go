package admission

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// overflowKind is why an allocation did not fit.
type overflowKind int

const (
	// byAdmission: something was started beside others that truly could not fit,
	// and by the figures and what was in use it should not have.
	byAdmission overflowKind = iota
	// byFigures: by the figures, which were wrong, it fitted.
	byFigures
	// byPeak: the figures were right when they were declared. What was learned
	// instead misses a peak that no reading has shown.
	byPeak
	byLoneRun
	byTrial
	// byNeighbour: memory that nothing of the scheduler's took came after the
	// last reading before the start.
	byNeighbour
	overflowKinds
)

func (k overflowKind) String() string {
	return [...]string{"admission", "figures", "unseen peak", "lone run", "trial", "neighbour"}[k]
}

// worldStartRule is the rule by which a run was started.
type worldStartRule int

const (
	startedFits worldStartRule = iota
	startedAlone
	startedTrial
)

// hiddenStart is the truth at the moment of a start, by card. Each amount is
// what the card would hold at most beyond its capacity, if all goes on as it is.
type hiddenStart struct {
	set     bool
	at      time.Duration
	how     worldStartRule
	over    [2]Bytes // in truth
	adds    [2]Bytes // of it, what the start itself adds to what is there, or comes without it
	came    [2]Bytes // of it, what came since the last reading
	figures [2]Bytes // by the figures, beyond capacity less reserve
	flat    [2]Bytes // in truth without short peaks
}

func (s *hiddenStart) String() string {
	out := [...]string{"", ", alone", ", trial"}[s.how]
	for i, n := range s.over {
		if n > 0 {
			out += fmt.Sprintf(", which is %v too much for gpu%d", n, i)
		}
	}
	return out
}

// worldExcuse is why a head does not have to start.
type worldExcuse int

const (
	excuseNone worldExcuse = iota
	byOrder                // a load or an unload is under way on its card
	byRest                 // the rest of another
	byLone                 // a lone run, or a trial
	byRule5                // the driver names processes that are not ours, and by the figures it does not fit beside them
	byFailure              // an out-of-memory answer of its route, and nothing has changed
	byTurn                 // another head is earlier, and has not started although it truly fits
	byReserve              // another head is earlier, and has reserved the room
	byLater                // of a head that fits at rest: another is earlier
	excuses
)

func (e worldExcuse) String() string {
	return [...]string{"nothing", "order", "rest", "lone run", "rule 5", "failure", "turn", "reserved", "earlier"}[e]
}

// hiddenClock measures how long a head waits that could start. It stands while
// the head does not have to start, and starts anew when it could not.
type hiddenClock struct {
	runs, stands  bool
	why           worldExcuse // it stands
	waited, stood time.Duration
	bound         time.Duration // for waited; 0: not yet known
	rest          time.Duration // of the work that ran when it began
	moves         int           // of the memory on its cards that is not its runs', when it was last looked at
	resumed       int
	late          time.Duration // past the bound
}

// maxResumed bounds how often a head is given more time.
const maxResumed = 3

// set says how things are now: whether the head could start, and why it does
// not have to. moves counts the changes on its cards that are none of its
// runs', and left is how long the work that runs still takes.
func (c *hiddenClock) set(could bool, why worldExcuse, moves int, left func() time.Duration) {
	switch {
	case !could:
		*c = hiddenClock{stood: c.stood}
		return
	case !c.runs:
		*c = hiddenClock{runs: true, rest: left(), stood: c.stood}
	case c.stands && why == excuseNone:
		// After a lone run or a rest of another it has its own.
		c.extend(left() + threeReadings)
	case moves != c.moves:
		// Three readings have to agree once more.
		c.extend(threeReadings)
	}
	c.moves = moves
	c.stands, c.why = why != excuseNone, why
}

// extend gives a head so much more time from now on, a few times.
func (c *hiddenClock) extend(more time.Duration) {
	if c.bound > 0 && c.waited+more > c.bound && c.resumed < maxResumed {
		c.resumed++
		c.bound = c.waited + more
	}
}

// advance lets the clock go on. It reports whether the head has become late.
func (c *hiddenClock) advance(since, after time.Duration, left func() time.Duration) bool {
	if !c.runs {
		return false
	}
	if c.stands {
		c.stood += since
		return false
	}
	if c.waited += since; c.waited < after {
		return false
	}
	if c.bound == 0 {
		c.bound = after + max(c.rest, left()+c.waited-after) + threeReadings
	}
	was := c.late
	c.late = max(c.late, c.waited-c.bound)
	return was == 0 && c.late > 0
}

// addsNothing is less than what a start has to add to be to blame for what does
// not fit any more.
const addsNothing = 64 * MiB

// hiddenJudge judges a world.
type hiddenJudge struct {
	world     *hiddenWorld
	last      time.Duration
	overflows [overflowKinds]int
	again     int // out-of-memory answers of runs that started after one of their route, in no more room
	room      Bytes
	refused   int
	late      int           // heads that truly fitted, and waited longer than their bound
	narrowly  int           // of them, those that fitted narrowly
	worst     time.Duration // past its bound
	stood     time.Duration // the longest that a head which truly fitted did not have to start
	excused   [excuses]time.Duration
	starved   int // heads that fitted at rest, in front of all others, and did not start
}

// need is what an engine holds at most on a place if its runs come to hold so
// much.
func (e *hiddenEngine) need(p *hiddenPlace, weights, future Bytes, active bool) Bytes {
	if !active {
		return p.held()
	}
	return max(p.held(), max(p.loaded, weights)+max(p.pool, future))
}

// started notes the truth at a start on an engine, the start included: of a run,
// or of a load (nil).
func (j *hiddenJudge) started(e *hiddenEngine, s *hiddenStart, r *hiddenRun) {
	s.set, s.at = true, j.world.now
	for i := range e.places {
		p := &e.places[i]
		c := p.card
		without := Bytes(0)
		if r != nil {
			without = e.need(p, e.backend.weights, e.future-r.future, len(e.running) > 1)
		}
		s.adds[c.index] = e.need(p, e.backend.weights, e.future, true) - without
		truth, figures, flat := c.visitors, c.visitors, c.visitors
		for _, x := range j.world.engines {
			for i := range x.places {
				q := &x.places[i]
				if q.card != c {
					continue
				}
				active := len(x.running) > 0 || x.loading
				truth += x.need(q, x.backend.weights, x.future, active)
				flat += x.need(q, x.backend.weights, x.low, active)
				weights := x.backend.resident
				if q.loaded > 0 {
					weights = 0 // it is what it is
				}
				figures += x.need(q, weights, x.figures, active)
			}
		}
		s.over[c.index], s.came[c.index] = truth-c.capacity, c.came
		s.flat[c.index], s.figures[c.index] = flat-c.capacity, figures-(c.capacity-c.reserve)
	}
}

// overflow classifies an allocation that did not fit: of a run, or of a load
// (nil). To blame is the latest start that could not fit and without which all
// would have, else the latest that could not fit.
func (j *hiddenJudge) overflow(r *hiddenRun, p *hiddenPlace, tried Bytes) {
	c := p.card
	var culprit *hiddenStart
	tips := func(s *hiddenStart) bool { return s.over[c.index] <= s.adds[c.index] }
	blame := func(s *hiddenStart) {
		switch {
		case !s.set || s.over[c.index] <= 0 || s.adds[c.index] < addsNothing:
		case culprit == nil, tips(s) && !tips(culprit), tips(s) == tips(culprit) && s.at > culprit.at:
			culprit = s
		}
	}
	for _, e := range j.world.engines {
		if !slices.ContainsFunc(e.places, func(q hiddenPlace) bool { return q.card == c }) {
			continue
		}
		for _, x := range e.running {
			blame(&x.start)
		}
		if e.loading {
			blame(&e.wake)
		}
	}
	kind := byNeighbour
	switch {
	case culprit == nil:
	case culprit.over[c.index] <= culprit.came[c.index]:
	case culprit.how == startedAlone:
		kind = byLoneRun
	case culprit.how == startedTrial:
		kind = byTrial
	case culprit.figures[c.index] > 0:
		kind = byAdmission
	case j.world.wrong:
		kind = byFigures
	case culprit.flat[c.index] <= 0:
		kind = byPeak
	default:
		kind = byAdmission
	}
	j.overflows[kind]++
	j.room = c.capacity - c.used + p.held()
	who := "a load"
	if r != nil {
		who = fmt.Sprint(r.id)
	}
	j.world.tell("OUT OF MEMORY on %s: %s tries %v, %v used of %v: %v", c.name, who, tried, c.used, c.capacity, kind)
}

// failedRun is an out-of-memory answer, with the room that its engine had.
type failedRun struct {
	at   time.Duration
	room Bytes
}

// failed notes an out-of-memory answer of a run, whose overflow was classified
// just now.
func (j *hiddenJudge) failed(r *hiddenRun) {
	route := r.route
	for _, f := range route.failures {
		if f.at < r.started && float64(j.room) <= 1.02*float64(f.room) {
			j.again++
			j.world.tell("%d has failed again, in no more room", r.id)
			break
		}
	}
	route.failures = append(route.failures, failedRun{j.world.now, j.room})
	route.tooSmall = max(route.tooSmall, j.room)
	alone := true
	for _, p := range r.engine.places {
		alone = alone && p.card.running == 1
	}
	if alone || r.start.how != startedFits {
		route.closed = j.world.now + route.penalty
		route.penalty *= 2
		route.others = j.others(r.engine)
	}
}

// others is what all but one engine hold on its cards.
func (j *hiddenJudge) others(e *hiddenEngine) Bytes {
	var sum Bytes
	for _, p := range e.places {
		sum += p.card.used - p.held()
	}
	return sum
}

// hiddenExtra is work that is thought of as running on an engine.
type hiddenExtra struct {
	engine *hiddenEngine
	most   Bytes
}

// whenAtRest is when all that runs now has ended.
const whenAtRest = forever

// holds is what a card will hold at most when the work that truly ends by a
// moment has ended, with extra work. Before now nothing has.
func (j *hiddenJudge) holds(c *hiddenCard, by time.Duration, more ...hiddenExtra) Bytes {
	sum := c.visitors
	for _, e := range j.world.engines {
		for i := range e.places {
			p := &e.places[i]
			if p.card != c {
				continue
			}
			q, active, future := *p, len(e.running) > 0 || e.loading, e.future
			if by > j.world.now && active {
				active = false
				for _, r := range e.running {
					if r.ends <= by {
						future -= r.future
					} else {
						active = true
					}
				}
				q.loaded = max(q.loaded, e.backend.weights)
				switch e.backend.allocator {
				case allocatorReturns, allocatorReturnsLate:
					q.pool = min(q.pool, future)
				default:
					q.pool = max(q.pool, e.future)
				}
			}
			for _, x := range more {
				if x.engine == e {
					active, future = true, future+x.most
				}
			}
			sum += e.need(&q, e.backend.weights, future, active)
		}
	}
	return sum
}

// fitsOn says that a request truly fits on an engine when the work that ends by
// a moment has ended, beside another that has started there or elsewhere. At
// rest it needs no slot.
func (j *hiddenJudge) fitsOn(r *hiddenRun, e *hiddenEngine, by time.Duration, beside ...hiddenExtra) bool {
	if !e.answers || by <= j.world.now && !j.hasSlots(r, e) {
		return false
	}
	for _, p := range e.places {
		if c := p.card; !c.read || j.holds(c, by, append(beside, hiddenExtra{e, r.future})...) > c.capacity-c.reserve {
			return false
		}
	}
	return true
}

// delays says that a start of a head would delay an earlier one: there is a
// moment at which the earlier could start, and could not beside it.
func (j *hiddenJudge) delays(h *hiddenRun, on *hiddenEngine, earlier *hiddenRun, x *hiddenEngine) bool {
	moments := []time.Duration{whenAtRest}
	for _, e := range j.world.engines {
		for _, r := range e.running {
			moments = append(moments, r.ends)
		}
	}
	a, class := earlier.route, earlier.route.class
	for _, by := range moments {
		inClass, onEngine := 0, 0
		for _, e := range j.world.engines {
			for _, r := range e.running {
				if r.ends > by && r.route.class == class {
					inClass++
				}
				if r.ends > by && e == x {
					onEngine++
				}
			}
		}
		slot := func(taken int) bool { return inClass+taken < class.slots }
		place := func(taken int) bool { return a.backend.slots == 0 || onEngine+taken < a.backend.slots }
		if !slot(0) || !place(0) || !j.fitsOn(earlier, x, max(by, j.world.now+1)) {
			continue
		}
		if h.route.class == class && !slot(1) || on == x && !place(1) || !j.fitsOn(earlier, x, max(by, j.world.now+1), hiddenExtra{on, h.future}) {
			return true
		}
	}
	return false
}

// narrow says that a head fits only by less than figures are off: by 4 % of what
// it and running work take.
func (j *hiddenJudge) narrow(h *hiddenRun) bool {
	for _, e := range h.route.backend.engines {
		fits := j.fitsOn(h, e, 0)
		for _, p := range e.places {
			all := h.future
			for _, x := range j.world.engines {
				if shareCards(e, x) {
					all += x.future
				}
			}
			fits = fits && j.holds(p.card, 0, hiddenExtra{e, h.future})+all/25 <= p.card.capacity-p.card.reserve
		}
		if fits {
			return false
		}
	}
	return true
}

// hasSlots says that neither the class of a request nor an engine lacks a slot
// for it.
func (j *hiddenJudge) hasSlots(r *hiddenRun, e *hiddenEngine) bool {
	c := r.route.class
	return c.running < c.slots && (e.backend.slots == 0 || len(e.running) < e.backend.slots)
}

// advance lets the clocks go on to a moment, in the state of the last look.
func (j *hiddenJudge) advance(to time.Duration) {
	w := j.world
	since := to - j.last
	j.last = to
	if since == 0 || w.waiting == 0 {
		return
	}
	for _, route := range w.routes {
		h := route.head()
		if h == nil {
			continue
		}
		left := func() time.Duration { return j.remaining(h, to) }
		if h.fits.runs {
			j.excused[h.fits.why] += since
		}
		if c := &h.fits; c.advance(since, promisedTrial, left) {
			j.late++
			if j.narrow(h) {
				j.narrowly++
			}
			w.tell("LATE: %d truly fits, and has waited for %v of at most %v", h.id, c.waited, c.bound)
		}
		j.worst, j.stood = max(j.worst, h.fits.late), max(j.stood, h.fits.stood)
		if c := &h.fitsAtRest; c.advance(since, worldStrictAfter+promisedTrial, left) {
			j.starved++
			w.tell("STARVED: %d truly fits at rest, and has waited for %v of at most %v", h.id, c.waited, c.bound)
		}
	}
}

const (
	worldStrictAfter = 5 * time.Second
	// promisedTrial is the time that a head waits before it is tried.
	promisedTrial = 10 * time.Second
	// threeReadings are what they take, with what rounding takes.
	threeReadings = 3*time.Second + 100*time.Millisecond
)

// head is the request that its route starts next. A retry is not promised
// anything.
func (route *hiddenRoute) head() *hiddenRun {
	for _, r := range route.queue {
		if !r.retry {
			return r
		}
	}
	return nil
}

// remaining is how long the work still takes that runs on the cards that a
// request may use, memory that comes back late included.
func (j *hiddenJudge) remaining(h *hiddenRun, now time.Duration) time.Duration {
	var most time.Duration
	for _, e := range h.route.backend.engines {
		for _, x := range j.world.engines {
			if !shareCards(e, x) {
				continue
			}
			for _, r := range x.running {
				left := r.ends - now
				if x.backend.allocator == allocatorReturnsLate {
					left += x.backend.lag
				}
				most = max(most, left)
			}
		}
	}
	return most
}

// shareCards says that two engines have a card in common.
func shareCards(a, b *hiddenEngine) bool {
	for _, p := range a.places {
		for _, q := range b.places {
			if p.card == q.card {
				return true
			}
		}
	}
	return false
}

// look takes the state after an event into the clocks.
func (j *hiddenJudge) look() {
	w := j.world
	if w.waiting == 0 {
		return
	}
	var store [16]*hiddenRun
	heads := store[:0]
	for _, route := range w.routes {
		if h := route.head(); h != nil {
			heads = append(heads, h)
		}
	}
	slices.SortFunc(heads, func(a, b *hiddenRun) int { return a.id - b.id })
	for i, h := range heads {
		fits, rested, goes := false, false, false
		why := excuseNone
		for _, e := range h.route.backend.engines {
			if !j.fitsOn(h, e, 0) {
				rested = rested || j.hasSlots(h, e) && j.fitsOn(h, e, whenAtRest)
				continue
			}
			fits = true
			if why = j.standsOn(h, e, heads[:i]); why == excuseNone {
				goes = true
				break
			}
		}
		if goes {
			why = excuseNone
		}
		if w.loud && fits && (why != h.fits.why || !h.fits.runs) {
			w.tell("%d truly fits; it waits for %v", h.id, why)
		}
		left := func() time.Duration { return j.remaining(h, w.now) }
		moves := 0
		for _, e := range h.route.backend.engines {
			for _, p := range e.places {
				moves += p.card.moves
			}
		}
		h.fits.set(fits, why, moves, left)
		if !fits && rested {
			for _, e := range h.route.backend.engines {
				why = j.standsOn(h, e, heads[:i])
			}
			if i > 0 {
				why = byLater
			}
		}
		h.fitsAtRest.set(!fits && rested, why, moves, left)
	}
}

// standsOn is why a head that truly fits on an engine does not have to start
// there now, if there is a reason.
func (j *hiddenJudge) standsOn(h *hiddenRun, e *hiddenEngine, earlier []*hiddenRun) worldExcuse {
	w := j.world
	if e.order != 0 {
		return byOrder
	}
	for _, p := range e.places {
		c := p.card
		if c.orders > 0 {
			return byOrder
		}
		// A rest lasts for the work that runs and three readings.
		if by, under := w.scheduler.rest(c.index); under && by != h && (c.running > 0 || w.now-c.lastEnd < threeReadings+3*time.Second) {
			return byRest
		}
		if w.scheduler.lone(c.index) && (c.running > 0 || w.now-c.lastEnd < 2200*time.Millisecond) {
			return byLone
		}
		if w.visible && c.visitors > 0 && j.byFigures(h, e, c) > c.capacity-c.reserve {
			return byRule5
		}
	}
	if h.route.closed > w.now && j.others(e) > h.route.others-64*MiB {
		return byFailure // rules 3, 6 and 7 are closed
	}
	for _, p := range e.places {
		if room := p.card.capacity - p.card.used + p.held(); float64(room) <= 1.02*float64(h.route.tooSmall) {
			return byFailure // no trial, by rule 7
		}
	}
	for _, a := range earlier {
		for _, x := range a.route.backend.engines {
			switch {
			case !shareCards(x, e):
			case a.fits.runs && a.fits.why != byFailure:
				return byTurn
			case a.route.closed <= w.now && j.delays(h, e, a, x):
				return byReserve
			}
		}
	}
	return excuseNone
}

// weightsByFigures is what an engine's weights are by the figures, on a place. Of what
// it holds no evidence tells weights from what its runs have left: all of it may be
// weights, but no more than those. What nobody declared is what it was seen to hold.
func (e *hiddenEngine) weightsByFigures(p *hiddenPlace) Bytes {
	switch w := e.backend.resident; {
	case w > 0 && p.loaded > 0:
		return min(w, p.held())
	case w > 0:
		return w
	case p.loaded > 0:
		return p.held()
	case e.served:
		return e.backend.weights
	}
	return 0
}

// byFigures is what a card would hold if all took what the figures say.
func (j *hiddenJudge) byFigures(h *hiddenRun, on *hiddenEngine, c *hiddenCard) Bytes {
	sum := c.visitors
	for _, e := range j.world.engines {
		for i := range e.places {
			p := &e.places[i]
			if p.card != c {
				continue
			}
			active, figures := len(e.running) > 0 || e.loading, e.figures
			if e == on {
				active, figures = true, figures+h.figure
			}
			sum += e.need(p, e.weightsByFigures(p), figures, active)
		}
	}
	return sum
}

// worldRow sums up the worlds of one kind.
type worldRow struct {
	worlds, runs, late, narrowly, starved, broken, refused int
	overflows                                              [overflowKinds]int
	again                                                  int
	worst, stood                                           time.Duration
	excused                                                [excuses]time.Duration
	failed                                                 []worldFailure // the worst
}

// worldFailure is what a world broke, and how late a head was in it.
type worldFailure struct {
	seed uint64
	what string
	late time.Duration
}

// maxFailures bounds those that a row remembers.
const maxFailures = 20

func (r *worldRow) add(o worldRow) {
	r.worlds += o.worlds
	r.runs += o.runs
	r.late += o.late
	r.starved += o.starved
	r.narrowly += o.narrowly
	r.broken += o.broken
	r.refused += o.refused
	r.again += o.again
	for k := range o.overflows {
		r.overflows[k] += o.overflows[k]
	}
	for k := range o.excused {
		r.excused[k] += o.excused[k]
	}
	r.worst, r.stood = max(r.worst, o.worst), max(r.stood, o.stood)
	r.failed = append(r.failed, o.failed...)
	slices.SortFunc(r.failed, func(a, b worldFailure) int {
		return cmp.Or(cmp.Compare(b.late, a.late), cmp.Compare(a.seed, b.seed))
	})
	r.failed = r.failed[:min(len(r.failed), maxFailures)]
}

// worldTable is one row for each kind of evidence, and right and wrong figures.
type worldTable [evidences][2]worldRow

// verdict is the row of one world that was played.
func (w *hiddenWorld) verdict() (kind worldEvidence, wrong int, r worldRow) {
	r = worldRow{worlds: 1, runs: w.runs, overflows: w.judge.overflows, again: w.judge.again, worst: w.judge.worst, stood: w.judge.stood,
		excused: w.judge.excused, refused: w.judge.refused}
	if w.judge.late > 0 {
		r.late = 1
		r.narrowly = min(1, w.judge.narrowly)
	}
	if w.judge.starved > 0 {
		r.starved = 1
	}
	if w.broken != "" {
		r.broken = 1
	}
	if w.wrong {
		wrong = 1
	}
	var what []string
	if w.broken != "" {
		what = append(what, w.broken)
	}
	if w.judge.late > 0 {
		what = append(what, fmt.Sprintf("%d heads late, %v past the bound", w.judge.late, w.judge.worst.Round(100*time.Millisecond)))
	}
	if w.judge.starved > 0 {
		what = append(what, fmt.Sprintf("%d heads starved", w.judge.starved))
	}
	if n := w.judge.overflows[byAdmission]; n > 0 && !w.wrong {
		what = append(what, fmt.Sprintf("%d overflows by an admission", n))
	}
	if what != nil {
		late := w.judge.worst
		if w.broken != "" {
			late = forever
		}
		r.failed = []worldFailure{{w.seed, strings.Join(what, "; "), late}}
	}
	return w.evidence, wrong, r
}

func (t *worldTable) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-17s %-7s %7s %9s", "evidence", "figures", "worlds", "runs")
	for k := range overflowKinds {
		fmt.Fprintf(&b, " %11v", k)
	}
	fmt.Fprintf(&b, " %6s %7s %6s %6s %9s %8s %8s %8s %7s\n", "again", "refused", "late", "narrow", "on time", "worst", "excused", "starved", "broken")
	for e := range t {
		for f, name := range []string{"right", "wrong"} {
			r := &t[e][f]
			fmt.Fprintf(&b, "%-17v %-7s %7d %9d", worldEvidence(e), name, r.worlds, r.runs)
			for _, n := range r.overflows {
				fmt.Fprintf(&b, " %11d", n)
			}
			fmt.Fprintf(&b, " %6d %7d %6d %6d %7.2f %% %8s %8s %8d %7d\n", r.again, r.refused, r.late, r.narrowly, r.onTime(),
				r.worst.Round(100*time.Millisecond), r.stood.Round(time.Second), r.starved, r.broken)
		}
	}
	all := t.sum()
	fmt.Fprintf(&b, "Heads that truly fitted waited, a world:")
	for k, d := range all.excused {
		fmt.Fprintf(&b, " %.1f s for %v,", d.Seconds()/float64(max(1, all.worlds)), worldExcuse(k))
	}
	return strings.TrimSuffix(b.String(), ",") + "\n"
}

// failures lists the worlds that failed.
func (t *worldTable) failures() string {
	var b strings.Builder
	for e := range t {
		for f := range t[e] {
			for _, x := range t[e][f].failed {
				fmt.Fprintf(&b, "  %d (%v): %s\n", x.seed, worldEvidence(e), x.what)
			}
		}
	}
	return b.String()
}

// sum adds up the rows.
func (t *worldTable) sum() (all worldRow) {
	for e := range t {
		for f := range t[e] {
			all.add(t[e][f])
		}
	}
	return all
}

// onTime is the share of worlds in which no head was late, in percent.
func (r *worldRow) onTime() float64 { return 100 * (1 - float64(r.late)/float64(max(1, r.worlds))) }
