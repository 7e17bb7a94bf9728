package admission

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"time"
)

// draw gives a number from 0 to n-1: rapid's, a fuzzer's or a soak's.
type draw func(n int) int

// world plays events against a Scheduler. It keeps books of its own from what
// it asked and what it was told, and notes the first broken promise.
type world struct {
	s    *Scheduler
	draw draw
	cfg  Config
	now  time.Duration

	asked   map[*Ticket]Request // of whoever waits or runs
	arrived map[*Ticket]time.Duration
	waiting map[*Ticket]bool
	running map[*Ticket]time.Duration // since when
	flows   map[flowKey][]*Ticket     // who waits, by arrival
	stopped map[string]bool           // classes that are paused, backends that drain
	probes  map[place]int             // of replicas that are not fully available
	order   []*Ticket                 // who waits or runs, by arrival

	submitted, granted, ended, refused int
	longest                            time.Duration // run so far
	hash                               uint64        // over all that was decided
	sparing                            bool          // see spared
	late                               bool          // ticks come late, as on a loaded box
	reloaded                           bool          // limits have changed under those that came before
	withdrawn                          bool          // the event at hand changes what may be used
	broken                             error
	told                               func(what string, t *Ticket) // hears of what becomes of tickets; nil: nobody does
	story                              []string                     // the last events, for a failure's message

	others map[string]Bytes // held by neighbours, by GPU
	kept   map[place]Bytes  // what each replica really holds on each of its GPUs while nothing runs there
	most   map[string]Bytes // the largest size that was read, by GPU
	readAt time.Duration    // when the cards were last read

	promise protection
	clocks  map[*Ticket]time.Duration // since when a head is blocked by others' work alone
	before  mementos
}

type flowKey struct {
	class, backend, tenant string
	vram                   Bytes
	unknown                bool
	boost                  time.Duration
}

type place struct {
	backend string
	replica int
}

func newWorld(cfg Config, d draw) *world {
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		panic(err)
	}
	w := &world{s: s, draw: d, cfg: cfg, asked: map[*Ticket]Request{}, arrived: map[*Ticket]time.Duration{},
		waiting: map[*Ticket]bool{}, running: map[*Ticket]time.Duration{}, flows: map[flowKey][]*Ticket{},
		stopped: map[string]bool{}, probes: map[place]int{}, clocks: map[*Ticket]time.Duration{},
		others: map[string]Bytes{}, kept: map[place]Bytes{}, most: map[string]Bytes{}}
	w.remember()
	return w
}

func (w *world) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format+"\n%s", append(args, w.state())...)
	}
}

// spared says that what costs most is left out this time: the story, the
// positions of those whom somebody leaves behind, and explanations. A sparing
// world looks at them at one event in a hundred.
func (w *world) spared() bool { return w.sparing && w.submitted%100 > 0 }

// tell adds a line to the story.
func (w *world) tell(format string, args ...any) {
	if w.sparing {
		return
	}
	if len(w.story) > 30 {
		w.story = slices.Delete(w.story, 0, 10)
	}
	w.story = append(w.story, fmt.Sprintf("%v: ", w.now)+fmt.Sprintf(format, args...))
}

// note adds a decision to the hash.
func (w *world) note(what string, t *Ticket) {
	h := fnv.New64a()
	var b [24]byte
	binary.LittleEndian.PutUint64(b[:], w.hash)
	binary.LittleEndian.PutUint64(b[8:], t.ID())
	binary.LittleEndian.PutUint64(b[16:], uint64(w.now))
	h.Write(b[:])
	io.WriteString(h, what)
	w.hash = h.Sum64()
	w.tell("  %d %s", t.ID(), what)
	w.hear(what, t)
}

func (w *world) hear(what string, t *Ticket) {
	if w.told != nil {
		w.told(what, t)
	}
}

func (w *world) keyOf(t *Ticket) flowKey {
	q := w.asked[t]
	return flowKey{q.Class, q.Backend, q.Tenant, q.VRAM, q.Unknown, q.Boost}
}

func (w *world) class(name string) Class {
	return w.cfg.Classes[slices.IndexFunc(w.cfg.Classes, func(c Class) bool { return c.Name == name })]
}

func (w *world) submit(q Request) *Ticket {
	t := new(Ticket)
	w.submitted++
	w.asked[t], w.arrived[t] = q, w.now
	w.order = append(w.order, t)
	w.tell("%s for %s arrives, %v, tenant %q, %v, boost %v", q.Class, q.Backend, q.VRAM, q.Tenant, q.Estimate, q.Boost)
	w.s.Submit(w.now, t, q)
	switch t.state {
	case stateWaiting:
		w.waiting[t] = true
		w.flows[w.keyOf(t)] = append(w.flows[w.keyOf(t)], t)
	case stateRunning:
		if f := w.flows[w.keyOf(t)]; len(f) > 0 {
			w.fail("3: ticket %d started while %d of its flow waits", t.ID(), f[0].ID())
		}
		w.starts(t)
	case stateOver:
		if t.rejection == nil {
			w.fail("2: ticket %d was refused without a refusal", t.ID())
		} else {
			w.atDoor(t, q)
		}
		w.note("refused", t)
		w.forget(t)
	default:
		w.fail("2: ticket %d was neither granted nor refused nor queued", t.ID())
	}
	w.decided()
	return t
}

// forget drops a ticket that has come to its end.
func (w *world) forget(t *Ticket) {
	if t.state == stateOver && t.rejection != nil {
		w.refused++
	} else {
		w.ended++
	}
	delete(w.asked, t)
	delete(w.arrived, t)
	i, _ := slices.BinarySearchFunc(w.order, t.ID(), func(x *Ticket, id uint64) int { return int(x.ID()) - int(id) })
	w.order = slices.Delete(w.order, i, i+1)
}

// unqueue takes a ticket that waited out of the world's queues.
func (w *world) unqueue(t *Ticket) {
	k := w.keyOf(t)
	f := w.flows[k]
	f = slices.Delete(f, slices.Index(f, t), slices.Index(f, t)+1)
	if w.flows[k] = f; len(f) == 0 {
		delete(w.flows, k)
	}
	delete(w.waiting, t)
	delete(w.clocks, t)
}

// starts takes note of a grant and holds 3, 6 and the rules of class and
// deadline against it.
func (w *world) starts(t *Ticket) {
	q := w.asked[t]
	w.granted++
	// What a GPU rests for has it as soon as it fits, whatever is reserved there and
	// whoever is strict (memory.md: Liveness, 6).
	rested := t.shape.rests.of == t && t.shape.rests.ended == w.now
	if p := &w.promise; rested && p.head != nil && p.head != t {
		p.passed, p.until[t] = true, true
	}
	if first := w.before.first; first != nil && first != t && w.waiting[first] && (rested || w.ranksBefore(t, first)) {
		w.before.first = nil // what ranks before it may move its reservation
	}
	w.running[t] = w.now
	number, ok := t.Granted()
	if !ok {
		w.fail("2: ticket %d runs without a grant", t.ID())
		return
	}
	w.note(fmt.Sprint("granted ", number), t)
	w.hear("granted", t)
	if w.stopped["class "+q.Class] || w.stopped["backend "+q.Backend] {
		w.fail("6: ticket %d was granted although its class is paused or its backend drains", t.ID())
	}
	if n, limited := w.probes[place{q.Backend, number}]; limited && w.s.box.live.replicas[t.replica.index] > n {
		w.fail("6: ticket %d was granted on a replica that takes %d", t.ID(), n)
	}
	if !q.Deadline.IsZero() && w.s.epoch.Add(w.now+q.Fastest).After(q.Deadline) {
		w.fail("ticket %d was granted although it cannot meet its deadline", t.ID())
	}
}

// atDoor holds 5 against a refusal at the door.
func (w *world) atDoor(t *Ticket, q Request) {
	if never := w.neverFits(q); never != (t.rejection.Code == CodeNeverFits) && t.rejection.Code != CodeDraining &&
		t.rejection.Code != CodeDeadlineUnmeetable {
		w.fail("5: ticket %d was refused with %s, can never fit: %v", t.ID(), t.rejection.Code, never)
	}
}

// neverFits goes by what is configured and the largest size that was read.
func (w *world) neverFits(q Request) bool {
	for _, b := range w.cfg.Backends {
		if b.Name != q.Backend {
			continue
		}
		for _, r := range b.Replicas {
			fits := true
			for _, p := range r.Places {
				for _, g := range w.cfg.GPUs {
					most := g.Memory
					if largest := w.most[g.Name]; largest > 0 {
						most = min(most, largest)
					}
					fits = fits && (g.Name != p.GPU || p.Resident+q.VRAM <= most-g.Reserve)
				}
			}
			if fits {
				return false
			}
		}
	}
	return true
}

// decided takes note of what the last call decided beside its own ticket.
func (w *world) decided() {
	for _, t := range w.s.Decided() {
		if !w.waiting[t] {
			w.fail("2, 4: ticket %d was decided while it did not wait", t.ID())
			continue
		}
		f := w.flows[w.keyOf(t)]
		first := f[0]
		w.unqueue(t)
		switch t.state {
		case stateRunning:
			if first != t {
				w.fail("3: ticket %d was granted before %d of its flow", t.ID(), first.ID())
			}
			w.starts(t)
		case stateOver:
			w.note("refused", t)
			w.forget(t)
		default:
			w.fail("2: ticket %d was decided and is in state %d", t.ID(), t.state)
		}
	}
}

func (w *world) end(t *Ticket) {
	since, runs := w.running[t]
	var held []Bytes
	if runs {
		held = w.held(t)
	}
	if got := w.s.End(w.now, t, Result{}); got != runs {
		w.fail("2: End of ticket %d = %v, want %v", t.ID(), got, runs)
	}
	if runs {
		w.longest = max(w.longest, w.now-since)
		if !t.shape.backend.cfg.ReturnsMemory {
			for i, now := range w.held(t) {
				if now < held[i] {
					w.fail("1: as ticket %d ended, its backend may hold %v of the %v that it keeps", t.ID(), now, held[i])
				}
			}
		}
		w.stays(t)
		delete(w.running, t)
		w.note("ended", t)
		w.forget(t)
	}
	w.decided()
	if w.s.End(w.now, t, Result{}) {
		w.fail("2: ticket %d ended twice", t.ID())
	}
}

// held is the most that a ticket's replica may hold on each of its GPUs.
func (w *world) held(t *Ticket) (held []Bytes) {
	for _, a := range t.replica.accounts {
		held = append(held, w.s.box.live.memory.Accounts[a].High)
	}
	return held
}

// of is a ticket's replica.
func (w *world) of(t *Ticket) place { return place{w.asked[t].Backend, t.replica.number} }

// works is what the work of a replica takes, on each of its GPUs.
func (w *world) works(p place, resident Bytes) (sum Bytes) {
	for t := range w.running {
		if w.of(t) == p {
			sum += w.asked[t].VRAM
			sum += resident
			resident = 0
		}
	}
	return sum
}

// stays takes note of what a replica really holds once a run has ended.
func (w *world) stays(t *Ticket) {
	b := w.s.box.byBackend[w.asked[t].Backend]
	if b == nil || t.replica.number >= len(b.cfg.Replicas) || len(b.cfg.Replicas[t.replica.number].Places) == 0 {
		return
	}
	p, resident := w.of(t), b.cfg.Replicas[t.replica.number].Places[0].Resident
	if left := resident; b.cfg.ReturnsMemory {
		w.kept[p] = left
	} else {
		w.kept[p] = max(w.kept[p], w.works(p, resident)) // this run is among those that work still
	}
}

// used is what the cards really show.
func (w *world) used(gpu string) Bytes {
	sum := w.others[gpu]
	for _, b := range w.cfg.Backends {
		for i, r := range b.Replicas {
			for _, x := range r.Places {
				if p := (place{b.Name, i}); x.GPU == gpu {
					sum += max(w.kept[p], w.works(p, x.Resident))
				}
			}
		}
	}
	return sum
}

// leave holds 4 as well: nobody's place gets worse.
func (w *world) leave(t *Ticket) {
	was := map[uint64]Waiter{}
	if !w.spared() {
		for _, x := range w.s.Queue(w.now, 0) {
			was[x.ID] = x
		}
	}
	waits := w.waiting[t]
	if got := w.s.Leave(w.now, t, CodeClientCancelled); got != waits {
		w.fail("2: Leave of ticket %d = %v, want %v", t.ID(), got, waits)
	}
	if waits {
		w.unqueue(t)
		w.note("left", t)
		w.forget(t)
	}
	w.decided()
	if w.spared() {
		return
	}
	for _, x := range w.s.Queue(w.now, 0) {
		if y := was[x.ID]; x.Position > y.Position || x.InFlow > y.InFlow {
			w.fail("4: as ticket %d left, %d went from position %d (%d in its flow) to %d (%d)", t.ID(), x.ID, y.Position, y.InFlow, x.Position, x.InFlow)
		}
	}
}

func (w *world) setAvailable(backend string, replica, slots int) {
	w.withdrawn = true
	w.tell("%s/%d takes %d", backend, replica, slots)
	if w.s.SetAvailable(w.now, backend, replica, slots) {
		w.probes[place{backend, replica}] = slots
		if slots < 0 {
			delete(w.probes, place{backend, replica})
		}
	}
	w.decided()
}

func (w *world) setPaused(class string, paused bool) {
	w.withdrawn = true
	w.stopped["class "+class] = paused
	w.tell("%s is paused: %v", class, paused)
	w.s.SetPaused(w.now, class, paused)
	w.decided()
}

func (w *world) setDraining(backend string, draining bool) {
	w.withdrawn = true
	w.stopped["backend "+backend] = draining
	w.tell("%s drains: %v", backend, draining)
	w.s.SetDraining(w.now, backend, draining)
	w.decided()
}

func (w *world) observe(r Reading) {
	w.withdrawn = true
	w.tell("reading %+v", r)
	if r.Err == nil && r.Total > 0 && r.Used <= r.Total {
		w.most[r.GPU] = max(w.most[r.GPU], r.Total)
	}
	w.s.Observe(w.now, r)
	w.decided()
}

// read reads the cards that have a sensor.
func (w *world) read() {
	w.readAt = w.now
	for _, g := range w.cfg.GPUs {
		if g.Reads {
			w.observe(Reading{GPU: g.Name, Total: g.Memory, Used: min(g.Memory, w.used(g.Name)), Source: "nvml"})
		}
	}
}

func (w *world) reads() bool {
	return slices.ContainsFunc(w.cfg.GPUs, func(g GPU) bool { return g.Reads })
}

func (w *world) reconfigure(cfg Config) {
	w.withdrawn = true
	w.tell("reload")
	if err := w.s.Reconfigure(w.now, cfg); err != nil {
		w.fail("the configuration was refused: %v", err)
		return
	}
	w.cfg, w.reloaded = cfg, true
	w.decided()
}

func (w *world) tick() {
	w.s.Tick(w.now)
	w.decided()
}

// advance lets time pass; where ticks are not late, each comes when it is due.
// The cards are read every second.
func (w *world) advance(by time.Duration) {
	to := w.now + by
	for !w.late {
		next, ok := w.s.Next()
		if reading := w.readAt + time.Second; w.reads() && reading <= to && (!ok || reading < next) {
			w.now = max(w.now, reading)
			w.read()
			w.promised()
			continue
		}
		if !ok || next > to {
			break
		}
		w.now = max(w.now, next)
		w.tick()
		w.promised()
	}
	w.now = to
	if w.late && w.reads() && w.readAt+time.Second <= w.now {
		w.read()
	}
}

// state is the books in words, for a failure's message.
func (w *world) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "at %v, next due %v\n", w.now, w.s.recheck)
	for g, t := range w.s.box.live.memory.GPUs {
		d := w.s.box.ledger.Describe(g, w.now)
		fmt.Fprintf(&b, "%s: %v in use, unmanaged %v to %v, booked %v, available %v, lone run %v\n", d.Name, t.Used, t.XLow, t.XHigh, d.Booked,
			d.Available, d.LoneRun)
	}
	for a, h := range w.s.box.live.memory.Accounts {
		fmt.Fprintf(&b, "account %d on %s: %v to %v, peak %v, %d run\n", a, w.s.box.ledger.Name(w.s.box.ledger.GPUOf(a)), h.Low, h.High, h.Peak, h.Runs)
	}
	for _, t := range w.s.running {
		fmt.Fprintf(&b, "runs %d: %s on %s/%d, %v, ends %v, p95 %v\n", t.ID(), t.shape.class.cfg.Name, t.shape.backend.cfg.Name,
			t.replica.number, t.shape.vram, t.end, t.p95)
	}
	for _, sh := range w.s.shapes.active {
		t := sh.head
		if t == nil {
			fmt.Fprintf(&b, "%d wait: %s for %s %v, no head, %v\n", sh.Len(), sh.class.cfg.Name, sh.backend.cfg.Name, sh.vram, sh.block)
			continue
		}
		fmt.Fprintf(&b, "%d wait: %s for %s %v, head %d blocked since %v, %s %v, strict %v, reserved %v\n",
			sh.Len(), sh.class.cfg.Name, sh.backend.cfg.Name, sh.vram, t.ID(), sh.blockedSince, sh.block.reason, sh.block, w.s.strict.is(t), sh.reserved)
	}
	return b.String() + strings.Join(w.story, "\n")
}
