package admission

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// The numbers before the failures are those of the promises: 1 to 6 are
// safety, 7 to 13 progress, 14 to 16 determinism. What a grant, an end or a
// refusal must not do (2 to 6) is held where it is heard of, in world.

// mementos are what the last check saw, for promises about changes.
type mementos struct {
	available []Bytes // by GPU
	granted   int
	over      []int   // running beyond a class's slots
	first     *Ticket // the blocked head that ranks first
	at        time.Duration
	due       time.Duration // its reservation
}

// protection is what a strict head was promised.
type protection struct {
	head   *Ticket
	after  uint64
	until  map[*Ticket]bool // what ran when it became strict
	passed bool             // what a GPU rested for has just started before it
}

func (w *world) remember() {
	s, m := w.s, &w.before
	m.available, m.over = m.available[:0], m.over[:0]
	for g := range s.box.live.memory.GPUs {
		m.available = append(m.available, s.box.ledger.Available(s.box.live.memory, g, w.now))
	}
	m.granted = w.granted
	for i := range s.box.classes {
		m.over = append(m.over, s.box.live.classes[i])
	}
	m.first, m.at, m.due = nil, w.now, forever
	if active := s.shapes.active; len(active) > 0 && active[0].head != nil {
		m.first, m.due = active[0].head, active[0].reserved
	}
}

// check holds every promise against the state after an event.
func (w *world) check() error {
	w.settle()
	w.books()
	w.queues()
	w.heads()
	w.promised()
	if !w.spared() {
		w.explained()
	}
	w.atRest()
	w.remember()
	w.withdrawn = false
	return w.broken
}

// settle does what is due, as the timer would.
func (w *world) settle() {
	if next, ok := w.s.Next(); ok && next <= w.now {
		w.tick()
	}
}

// books holds 1: used is what the grants add up to, and never over capacity;
// after a shrink it does not grow until it is under again. A lone run has the
// card, whatever it may take, and nothing that adds memory runs beside it.
func (w *world) books() {
	s := w.s
	live, ledger := &s.box.live, s.box.ledger
	var fresh usage
	fresh.copyFrom(live)
	clear(fresh.classes)
	clear(fresh.replicas)
	clear(fresh.reserves)
	for i := range fresh.memory.Accounts {
		fresh.memory.Accounts[i].Running, fresh.memory.Accounts[i].Runs = 0, 0
	}
	lone := make([]bool, len(live.memory.GPUs))
	for t := range w.running {
		fresh.count(t.shape, t.replica, 1)
		if t.run.Kind == memory.Fitting && !w.asked[t].Unknown && t.run.Demand < w.asked[t].VRAM {
			w.fail("1: ticket %d runs on %v of the %v that it asked for", t.ID(), t.run.Demand, w.asked[t].VRAM)
		}
		for _, a := range t.run.Accounts {
			h := &fresh.memory.Accounts[a]
			h.Running, h.Runs = h.Running+t.run.Demand, h.Runs+1
			lone[ledger.GPUOf(a)] = lone[ledger.GPUOf(a)] || t.run.Kind != memory.Fitting
		}
	}
	if !slices.Equal(live.memory.Accounts, fresh.memory.Accounts) || !slices.Equal(live.classes, fresh.classes) ||
		!slices.Equal(live.replicas, fresh.replicas) || !slices.Equal(live.reserves, fresh.reserves) {
		w.fail("1: the books say %v %+v, the grants add up to %v %+v", *live, live.memory, fresh, fresh.memory)
	}
	for a, h := range live.memory.Accounts {
		if h.Runs > 0 && h.Peak < ledger.Weights(a)+h.Running {
			w.fail("1: account %d has a peak of %v, its work needs %v beside weights of %v", a, h.Peak, h.Running, ledger.Weights(a))
		}
	}
	for g := range live.memory.GPUs {
		free := ledger.Available(live.memory, g, w.now)
		if free < 0 && g < len(w.before.available) && free < w.before.available[g] && !w.withdrawn && !lone[g] && ledger.LoneRun(g) == nil &&
			w.granted > w.before.granted && !ledger.Closed(g, w.now) {
			w.fail("1: %s is over its budget by %v and was filled further", ledger.Name(g), -free)
		}
	}
	for i, c := range s.box.classes {
		if n := live.classes[i]; n > c.cfg.Slots && n > w.before.over[i] {
			w.fail("1: class %s runs %d on %d slots", c.cfg.Name, n, c.cfg.Slots)
		}
	}
	for _, b := range s.box.backends {
		for _, r := range b.replicas {
			if !w.withdrawn && !b.gone && !w.reloaded && b.cfg.Slots > 0 {
				w.slots(b, r)
			}
		}
	}
}

// slots holds 1 for a replica's slots: what is reserved for a class is taken by
// nobody else.
func (w *world) slots(b *backend, r *replica) {
	if n := w.s.box.live.replicas[r.index]; n > b.cfg.Slots {
		w.fail("1: backend %s/%d runs %d on %d slots", b.cfg.Name, r.number, n, b.cfg.Slots)
	}
	byClass, others, kept := map[string]int{}, 0, 0
	for t := range w.running {
		if t.replica == r {
			byClass[w.asked[t].Class]++
		}
	}
	for class, slots := range b.cfg.Reserved {
		kept += slots
		others -= min(slots, byClass[class])
	}
	for _, n := range byClass {
		others += n
	}
	if others > b.cfg.Slots-kept {
		w.fail("1: backend %s/%d runs %v, more than the %d slots that are not reserved", b.cfg.Name, r.number, byClass, b.cfg.Slots-kept)
	}
}

// queues holds 2, that nobody is lost, 3 and that nobody outstays its time.
func (w *world) queues() {
	s := w.s
	if len(w.waiting) != s.queue.Len() || len(w.running) != len(s.running) {
		w.fail("2: %d wait and %d run by the books, %d and %d in truth", s.queue.Len(), len(s.running), len(w.waiting), len(w.running))
	}
	if w.submitted != w.refused+w.ended+len(w.waiting)+len(w.running) {
		w.fail("2: of %d that came %d were refused, %d ended, %d wait and %d run", w.submitted, w.refused, w.ended, len(w.waiting), len(w.running))
	}
	for _, c := range s.box.classes {
		type flow struct {
			shape  *shape
			tenant string
			boost  time.Duration
		}
		before, last := map[flow]int{}, uint64(0)
		for t := range c.waiting.All() {
			f := flow{t.shape, t.Tenant.Name(), t.Boost}
			if n := t.wait.InFlow(len(w.waiting)); n != before[f] || t.ID() < last {
				w.fail("3: ticket %d comes after %d in its class and has %d before it in its flow, want %d", t.ID(), last, n, before[f])
			}
			before[f]++
			last = t.ID()
		}
	}
	perTenant := map[string]int{}
	for t := range w.waiting {
		q, c := w.asked[t], w.class(w.asked[t].Class)
		perTenant[q.Tenant]++
		if c.QueueTimeout > 0 && !w.reloaded && w.now >= w.arrived[t]+c.QueueTimeout {
			w.fail("ticket %d waits since %v although it may wait %v at most", t.ID(), w.arrived[t], c.QueueTimeout)
		}
		if !q.Deadline.IsZero() && !w.s.epoch.Add(w.now+q.Fastest).Before(q.Deadline) {
			w.fail("ticket %d waits although it cannot meet its deadline", t.ID())
		}
	}
	for name, n := range perTenant {
		if limit := w.cfg.Tenants.QueueLimit; name != "" && limit > 0 && n > limit && !w.reloaded {
			w.fail("%d of tenant %q wait, which may be %d", n, name, limit)
		}
	}
}

// ranksBefore goes by arrival less boost, then by order of arrival.
func (w *world) ranksBefore(a, b *Ticket) bool {
	key := func(t *Ticket) time.Duration {
		return w.arrived[t] - w.class(w.asked[t].Class).Boost - w.asked[t].Boost
	}
	if key(a) != key(b) {
		return key(a) < key(b)
	}
	return a.ID() < b.ID()
}

// rank is the order of shapes by their eldest, worked out from what was asked.
func (w *world) rank() []*shape {
	eldest, before := map[*shape]*Ticket{}, w.ranksBefore
	for t := range w.waiting {
		if e := eldest[t.shape]; e == nil || before(t, e) {
			eldest[t.shape] = t
		}
	}
	var all []*shape
	for sh := range eldest {
		all = append(all, sh)
	}
	slices.SortFunc(all, func(a, b *shape) int {
		h := w.s.strict.head
		switch {
		case a == b:
			return 0
		case h != nil && h.shape == a:
			return -1
		case h != nil && h.shape == b:
			return 1
		case before(eldest[a], eldest[b]):
			return -1
		}
		return 1
	})
	return all
}

// fitsEmpty says whether a shape is expected to fit once all that runs has ended.
func (w *world) fitsEmpty(sh *shape) bool {
	var u usage
	w.s.box.copyLive(&u, w.now)
	for _, t := range w.s.running {
		w.s.box.give(&u, t.shape, t.replica, &t.run)
	}
	for _, r := range sh.backend.replicas {
		if w.s.box.fits(&u, sh, r, w.now) == noBar {
			return true
		}
	}
	return false
}

func (w *world) barred(sh *shape) bool {
	if w.stopped["class "+sh.class.cfg.Name] || w.stopped["backend "+sh.backend.cfg.Name] {
		return true
	}
	for _, r := range sh.backend.replicas {
		if n, limited := w.probes[place{sh.backend.cfg.Name, r.number}]; !limited || n != 0 {
			return false
		}
	}
	return true
}

// doubt says that memory holds a head back: a lone run, a rest, or what runs
// that have ended took and no reading has shown to be free, or has shown to stay. Promises 7 to 9 hold
// from the moment it does not.
func (w *world) doubt(sh *shape) bool {
	l := w.s.box.ledger
	for _, r := range sh.backend.replicas {
		for _, a := range r.accounts {
			g := l.GPUOf(a)
			if l.LoneRun(g) != nil || g < len(w.s.rests) && w.s.rests[g] != nil || l.Closed(g, w.now) {
				return true
			}
			for i, h := range w.s.box.live.memory.Accounts {
				need := Bytes(0)
				if h.Runs > 0 {
					need = l.Weights(i) + h.Running
				}
				if l.GPUOf(i) == g && (h.Peak > need || h.Runs > 0 && h.Low > need) {
					return true
				}
			}
		}
	}
	return false
}

// fitsNow says that a shape fits on some replica, and that no rest bars it.
func (w *world) fitsNow(sh *shape) bool {
	to, _ := w.s.pickNow(sh, w.now)
	return to != nil
}

// heads holds 6, 7, 9 and 10.
func (w *world) heads() {
	s := w.s
	ranked := w.rank()
	if !slices.Equal(ranked, s.shapes.active) {
		w.fail("10: the order of heads is not that of arrival less boost")
	}
	var held *Ticket
	for _, sh := range ranked {
		if w.barred(sh) {
			if sh.head != nil || sh.reserved < forever {
				w.fail("6: %s for %s may not run and holds a reservation", sh.class.cfg.Name, sh.backend.cfg.Name)
			}
			continue
		}
		t := sh.head
		if t == nil {
			w.fail("7: %s for %s may run, waits and has no head", sh.class.cfg.Name, sh.backend.cfg.Name)
			continue
		}
		if !w.waiting[t] {
			w.fail("4: the head %d does not wait", t.ID())
		}
		to, _ := s.pickNow(sh, w.now)
		switch {
		case to != nil && held == nil:
			w.fail("7: the head %d fits now and waits, and nobody who ranks before it is blocked", t.ID())
		case to == nil && held == nil && (sh.reserved < forever || s.strict.is(t)):
			held = t
		}
		// A reservation that was written stays until its head starts: what
		// comes later moves it only where it ranks before it.
		if t == w.before.first && ranked[0] == sh && w.before.at == w.now && !w.withdrawn && !w.doubt(sh) && w.before.due < forever &&
			sh.reserved > w.before.due {
			w.fail("the reservation of %d moved from %v to %v", t.ID(), w.before.due, sh.reserved)
		}
		since, ok := w.clocks[t]
		if !ok || w.withdrawn || !w.fitsEmpty(sh) || w.doubt(sh) {
			w.clocks[t] = w.now
		} else if !w.late {
			longest := w.longest
			for _, started := range w.running {
				longest = max(longest, w.now-started)
			}
			if bound := time.Duration(len(s.shapes.all)) * (sh.class.cfg.StrictAfter + longest); w.now-since > bound {
				w.fail("9: %d is a blocked head for %v, want %v at most", t.ID(), w.now-since, bound)
			}
		}
	}
	for t := range w.clocks {
		if t.shape.head != t {
			delete(w.clocks, t) // its shape was barred, and now another is its head
		}
	}
	for _, m := range s.profile.marks {
		if m.what != reserved {
			continue
		}
		if n, limited := w.probes[place{m.t.shape.backend.cfg.Name, m.to.number}]; limited && n == 0 && s.queue.Len() > 0 {
			w.fail("6: ticket %d has a reservation on a replica that is not available", m.t.ID())
		}
	}
}

// promised holds 8: a strict head starts when what ran as it became strict has
// ended. It is chosen anew only where what it was to start on was taken away.
func (w *world) promised() {
	s, p := w.s, &w.promise
	if p.head != nil && s.strict.head != p.head && w.waiting[p.head] && !w.withdrawn && !p.passed && w.fitsEmpty(p.head.shape) &&
		!w.doubt(p.head.shape) {
		w.fail("8: %d was strict, waits and is not strict any more", p.head.ID())
	}
	p.passed = false
	chosen := s.strict.head != p.head || w.withdrawn && s.strict.after != p.after
	if chosen {
		if s.strict.head != nil {
			w.tell("  %d strict after start %d", s.strict.head.ID(), s.strict.after)
			w.hear("strict", s.strict.head)
		}
		*p = protection{head: s.strict.head, after: s.strict.after, until: map[*Ticket]bool{}}
		for t := range w.running {
			p.until[t] = true
		}
	}
	if p.head == nil {
		return
	}
	if !w.waiting[p.head] {
		w.fail("8: the strict %d does not wait", p.head.ID())
	}
	for t := range p.until {
		if _, runs := w.running[t]; !runs {
			delete(p.until, t)
		}
	}
	if len(p.until) == 0 && w.fitsNow(p.head.shape) {
		w.fail("8: the strict head %d waits although all that ran has ended", p.head.ID())
	}
	for _, sh := range s.shapes.active {
		if h := sh.head; h != nil && chosen && p.head.shape.blockedSince > sh.blockedSince && p.after == s.strict.after && len(p.until) == len(w.running) &&
			!w.barred(sh) && w.now-sh.blockedSince >= sh.class.cfg.StrictAfter && !w.withdrawn && w.fitsEmpty(sh) && w.clocks[h] < w.clocks[p.head] {
			w.fail("8: %d is strict, but %d is blocked for longer", p.head.ID(), h.ID())
		}
	}
}

// atRest holds 13: another pass grants nothing.
func (w *world) atRest() {
	before := w.s.starts
	w.s.pass(w.now)
	w.decided()
	if w.s.starts != before {
		w.fail("13: another pass granted %d more", w.s.starts-before)
	}
}

// fingerprint is all that decides what comes next.
func (s *Scheduler) fingerprint() string {
	text := fmt.Sprint(s.box.live.classes, s.box.live.replicas, s.box.live.reserves, *s.box.live.memory, s.starts, s.queue.Dump(), s.recheck)
	if s.strict.head != nil {
		text += fmt.Sprint(" strict ", s.strict.head.ID(), s.strict.after)
	}
	for _, sh := range s.shapes.active {
		text += fmt.Sprint("\n", sh.class.index, sh.backend.index, sh.vram, sh.Dump(), sh.blockedSince, sh.reserved, sh.block)
		if sh.head != nil {
			text += fmt.Sprint(" head ", sh.head.ID())
		}
	}
	for _, t := range s.running {
		text += fmt.Sprint("\n", t.ID(), t.end)
	}
	return text
}

// explained holds 15: explaining changes nothing, and the reason is the one
// that decided.
func (w *world) explained() {
	s := w.s
	before := s.fingerprint()
	queue := s.Queue(w.now, 0)
	s.Running(w.now)
	s.Snapshot(w.now)
	s.Precheck(w.now, "heavy", "flux")
	for i, x := range queue {
		// Each of them is explained alike; the expected start, which is costly, of one.
		t, position := s.box.waiting(x.ID)
		if t == nil {
			w.fail("15: %d is in the queue, and does not wait", x.ID)
			continue
		}
		y := s.describe(w.now, t, position)
		if y.EstimatedStart = x.EstimatedStart; i == len(queue)-1 {
			y, _ = s.Explain(w.now, x.ID)
		}
		if fmt.Sprint(x) != fmt.Sprint(y) {
			w.fail("15: the queue says %+v, explain says %+v", x, y)
		}
	}
	if after := s.fingerprint(); after != before {
		w.fail("15: explaining changed\n%s\nto\n%s", before, after)
	}
	if len(queue) != len(w.waiting) {
		w.fail("15: %d are explained, %d wait", len(queue), len(w.waiting))
	}
	running := map[uint64]*Ticket{}
	for t := range w.running {
		running[t.ID()] = t
	}
	for _, x := range queue {
		t, _ := s.box.waiting(x.ID)
		if t == nil {
			continue
		}
		sh := t.shape
		free, _ := s.pickNow(sh, w.now)
		right := false
		switch x.Reason {
		case ReasonPaused:
			right = w.stopped["class "+x.Class]
		case ReasonDraining:
			right = w.stopped["backend "+x.Backend]
		case ReasonBackendUnavailable:
			right = len(w.probes) > 0 && free == nil
		case ReasonBehind:
			right = sh.head != nil && sh.head != t
		case ReasonClassSlots:
			right = sh.head == t && free == nil && s.box.live.classes[sh.class.index] >= sh.class.cfg.Slots && int(x.Free) <= 0 && len(x.Holders) > 0
		case ReasonBackendSlots:
			right = sh.head == t && free == nil && x.Free <= 0
		case ReasonResources, ReasonNotByItself:
			right = sh.head == t && free == nil && x.Need > x.Free
		case ReasonCapacityReduced:
			g, ok := s.box.gpus[x.Resource]
			right = ok && sh.head == t && free == nil && (x.Need > x.Free || s.box.ledger.Closed(g, w.now))
		case ReasonTrial:
			right = sh.head == t && free == nil && (x.Need > x.Free || w.asked[t].Unknown)
		case ReasonLoneRun:
			g, ok := s.box.gpus[x.Resource]
			right = ok && sh.head == t && free == nil && s.box.ledger.LoneRun(g) != nil // it bars until a reading
		case ReasonRest:
			g, ok := s.box.gpus[x.Resource]
			right = ok && sh.head == t && free == nil && s.rests[g] != nil
		case ReasonReservedForOther:
			right = sh.head == t && free != nil && x.ReservedFor != 0 && x.ReservedFor != x.ID
		}
		if !right {
			w.fail("15: ticket %d is said to wait for %s (%s, needs %d of %d, for %d)", x.ID, x.Reason, x.Resource, x.Need, x.Free, x.ReservedFor)
		}
		for _, id := range x.Holders {
			if running[id] == nil {
				w.fail("15: ticket %d waits for %d, which does not run", x.ID, id)
			}
		}
		if x.Strict != s.strict.is(t) {
			w.fail("15: ticket %d is said to be strict: %v", x.ID, x.Strict)
		}
	}
}
