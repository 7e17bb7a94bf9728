package admission

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// truth is a card with engines that really hold memory, in virtual time: what
// the desk believes is held against what is there. An engine allocates some
// time after its request was granted, keeps what it took, and may not let go
// although it says so.
type truth struct {
	n        draw
	s        *Scheduler
	now      time.Duration
	capacity Bytes
	engines  []*machine
	events   []event // by time
	order    int
	broken   error
	story    []string
	cfg      Config
}

type machine struct {
	name               string
	weights            Bytes
	loaded, cached     Bytes
	sleeps             bool // must be woken
	asleep             bool
	returns            bool
	lies               int  // of ten calls, how many free nothing
	dies               int  // of ten calls, how many kill it; it comes back, and loads if it must be woken
	fails              int  // of ten requests
	late               bool // a lie is a free that comes 10 s later, or at the end of the next run
	owes               bool
	unwoken            int // in a row
	working            Bytes
	busy               int
	lets               int
	demands            []Bytes
	lastLoad, lastFree time.Duration
}

type event struct {
	at    time.Duration
	order int
	what  func()
}

func (w *truth) fail(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf(format+"\n%v", append(args, w.story)...)
	}
}

func (w *truth) tell(format string, args ...any) {
	if len(w.story) > 60 {
		w.story = slices.Delete(w.story, 0, 20)
	}
	w.story = append(w.story, fmt.Sprintf("\n%v: ", w.now)+fmt.Sprintf(format, args...))
}

func (w *truth) after(d time.Duration, what func()) {
	w.order++
	e := event{w.now + d, w.order, what}
	i, _ := slices.BinarySearchFunc(w.events, e, func(a, b event) int {
		if a.at != b.at {
			return int(a.at - b.at)
		}
		return a.order - b.order
	})
	w.events = slices.Insert(w.events, i, e)
}

func (w *truth) used() Bytes {
	var sum Bytes
	for _, m := range w.engines {
		sum += m.loaded + m.cached + m.working
	}
	return sum
}

// check holds the one promise that counts: the card never overflows.
func (w *truth) check(m *machine) {
	if w.used() > w.capacity {
		w.fail("out of memory at %v: %s allocates, %v are used of %v", w.now, m.name, w.used(), w.capacity)
	}
}

func (w *truth) millis(most int) time.Duration { return time.Duration(1+w.n(most)) * time.Millisecond }

// settle starts what was granted and carries out what was ordered.
func (w *truth) settle(own *Ticket) {
	granted := w.s.Decided()
	if own != nil {
		granted = append(slices.Clone(granted), own)
	}
	for _, t := range granted {
		if _, ok := t.Granted(); ok {
			w.run(t)
		}
	}
	for _, o := range slices.Clone(w.s.Orders()) {
		m := w.engine(o.Backend)
		w.tell("%s is told to %v, %v", m.name, []string{"let go", "wake", "come back"}[o.Kind], o.Bytes)
		switch o.Kind {
		case Reclaim:
			if m.busy > 0 {
				w.fail("%s is told to let go while it works", m.name)
			}
			if last := m.lastLoad; w.now-last < 8*time.Second && m.lets > 0 && !m.late && m.fails == 0 { // else it was loaded unseen
				w.fail("%s is told to let go %v after it was loaded", m.name, w.now-last)
			}
			w.letGo(m, o, 2)
		case Wake:
			w.wake(m, o)
		}
	}
}

func (w *truth) engine(name string) *machine {
	return w.engines[slices.IndexFunc(w.engines, func(m *machine) bool { return m.name == name })]
}

// letGo asks the engine up to that many times, as long as the card shows
// nothing.
func (w *truth) letGo(m *machine, o Order, tries int) {
	if !w.s.Ready(o.ID) {
		w.after(time.Second, func() { w.letGo(m, o, tries) })
		return
	}
	w.after(w.millis(3000), func() {
		lie := w.n(10) < m.lies
		switch died := m.loaded == m.weights && !m.asleep && w.n(10) < m.dies; { // others take, when they are there again, what nobody kept for them
		case died:
			m.loaded, m.cached, m.asleep, m.owes = 0, 0, false, false
			w.tell("%s dies", m.name)
			if m.sleeps {
				w.dead(m, o)
				return
			}
		case !lie:
			m.loaded, m.cached, m.owes = 0, 0, false
			m.lastFree = w.now
		case m.late:
			m.owes = m.loaded+m.cached > 0
			w.after(10*time.Second, func() { w.settleDebt(m) })
		case w.n(2) == 0: // a part stays
			m.loaded, m.cached = m.loaded/2, 0
		}
		m.asleep = m.sleeps
		w.after(1500*time.Millisecond, func() {
			if _, enough, _ := w.s.Freed(o.ID); !enough && tries > 1 {
				w.letGo(m, o, tries-1)
				return
			}
			m.lets++
			w.tell("%s has let go, %v stay", m.name, m.loaded+m.cached)
			w.s.Reclaimed(w.now, o.ID, Ended{MustWake: m.sleeps})
			w.settle(nil)
		})
	})
}

// settleDebt is what was promised when it was told to let go.
func (w *truth) settleDebt(m *machine) {
	if m.owes && m.busy == 0 {
		m.owes, m.loaded, m.cached = false, 0, 0
		w.tell("%s lets go at last", m.name)
	}
}

// dead is an engine that has died of being told to let go. Somebody starts it
// anew, mostly; then it takes what it held, before it answers.
func (w *truth) dead(m *machine, o Order) {
	back := w.n(4) > 0
	w.after(1500*time.Millisecond, func() {
		m.lets++
		w.s.Reclaimed(w.now, o.ID, Ended{Failed: true, Dead: true, MustWake: true})
		w.settle(nil)
	})
	if back {
		w.after(w.millis(20000), func() {
			w.tell("%s is there again", m.name)
			m.loaded, m.lastLoad = m.weights, w.now
			w.check(m)
		})
	}
	// Whoever watches it sees it by then, or gives up.
	w.after(25*time.Second, func() {
		for _, o := range w.s.orders {
			if o.Kind == Return && o.Backend == m.name {
				w.s.Woken(w.now, o.ID, Ended{Failed: !back, Dead: !back})
				w.settle(nil)
				return
			}
		}
		w.fail("the return of %s is waited for by nobody", m.name)
	})
}

func (w *truth) wake(m *machine, o Order) {
	w.after(w.millis(2000), func() {
		failed := w.n(8) == 0 && m.unwoken < 3 // who never wakes keeps its own waiting
		m.unwoken++
		if !failed {
			m.unwoken = 0
			m.loaded, m.asleep, m.owes, m.lastLoad = m.weights, false, false, w.now
			w.check(m)
		}
		w.after(w.millis(2000), func() {
			w.s.Woken(w.now, o.ID, Ended{Failed: failed})
			w.settle(nil)
		})
	})
}

// run is a request's work: its memory comes some time after the grant.
func (w *truth) run(t *Ticket) {
	m, d := w.engine(t.shape.backend.cfg.Name), t.shape.vram
	w.tell("%d starts on %s, %v", t.ID(), m.name, d)
	if m.asleep {
		w.fail("%d starts on %s, which sleeps", t.ID(), m.name)
	}
	m.busy++
	t.failed = w.n(10) < m.fails
	w.after(w.millis(1500), func() {
		if m.loaded < m.weights {
			m.loaded, m.lastLoad = m.weights, w.now
		}
		reuse := min(m.cached, d)
		m.cached -= reuse
		m.working += d
		w.check(m)
		w.after(w.millis(8000), func() {
			m.working -= d
			m.busy--
			if !m.returns {
				m.cached += d
			}
			w.settleDebt(m)
			w.s.End(w.now, t)
			w.settle(nil)
		})
	})
}

func (w *truth) read() {
	w.s.Observe(w.now, Reading{GPU: "g0", Total: w.capacity, Used: w.used(), Source: "nvml"})
	d := w.s.devices[0]
	what := ""
	for i, m := range w.engines {
		what += fmt.Sprintf("; %v of %v, %v for sure", m.loaded+m.cached+m.working, w.s.live.holdings[i].footprint(m.weights), w.s.accounts[i].sure)
	}
	w.tell("read %v: booked %v, outside %v, unclaimed %v%s", w.used(), w.s.live.booked[0], d.outside, d.unclaimed, what)
	w.settle(nil)
}

// until plays events up to a moment, with a reading every second and the timer
// as the desk wants it.
func (w *truth) until(end time.Duration) {
	for w.broken == nil {
		next := end
		if len(w.events) > 0 {
			next = min(next, w.events[0].at)
		}
		reading := (w.now/time.Second + 1) * time.Second
		next = min(next, reading)
		if due, ok := w.s.Next(); ok {
			next = min(next, max(due, w.now))
		}
		w.now = next
		if due, ok := w.s.Next(); ok && due <= w.now {
			w.s.Tick(w.now)
			w.settle(nil)
			if again, ok := w.s.Next(); ok && again <= w.now {
				w.fail("a timer is due again at once")
			}
		}
		for len(w.events) > 0 && w.events[0].at <= w.now {
			e := w.events[0]
			w.events = w.events[1:]
			e.what()
		}
		if w.now == reading {
			w.read()
		}
		if w.now >= end {
			return
		}
	}
}

func newTruth(n draw) *truth {
	w := &truth{n: n, capacity: 48 * GiB}
	cfg := Config{GPUs: []GPU{{Name: "g0", Memory: w.capacity}}, Classes: []Class{
		{Name: "heavy", Slots: 1, QueueLimit: 1000, StrictAfter: 5 * time.Second},
		{Name: "light", Slots: 16, QueueLimit: 1000, StrictAfter: 5 * time.Second},
	}}
	fault := n(5) // of one kind: what several leave in doubt no totals can tell
	for i, weights := range []Bytes{Bytes(n(30)) * GiB, Bytes(n(36))*GiB + 50*MiB, Bytes(n(10))*GiB + 100*MiB} {
		m := &machine{name: fmt.Sprint("engine", i), weights: weights, sleeps: n(2) == 0, returns: n(2) == 0,
			demands: []Bytes{Bytes(n(4)) * GiB, Bytes(n(10)) * GiB / 2}}
		switch bad := n(2) == 0; {
		case bad && fault == 1:
			m.lies = n(10)
		case bad && fault == 2:
			m.lies, m.late = n(10), true
		case bad && fault == 3:
			m.dies = n(10)
		case bad && fault == 4:
			m.fails = n(4)
		}
		w.engines = append(w.engines, m)
		cfg.Backends = append(cfg.Backends, Backend{Name: m.name, ReturnsMemory: m.returns, Reclaims: true, MinResidency: 10 * time.Second,
			Slots: 4, Replicas: []Replica{{Places: []Place{{"g0", weights}}}}})
	}
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		panic(err)
	}
	w.s, w.cfg = s, cfg
	w.read()
	return w
}

func (w *truth) submit() {
	t := new(Ticket)
	m := w.engines[w.n(3)]
	r := Request{Class: []string{"heavy", "light"}[w.n(2)], Backend: m.name, VRAM: m.demands[w.n(2)],
		Estimate: Estimate{P50: time.Duration(1+w.n(20)) * time.Second, P95: time.Duration(1+w.n(30)) * time.Second}}
	w.s.Submit(w.now, t, r)
	w.tell("%d comes for %s, %v", t.ID(), m.name, r.VRAM)
	w.settle(t)
}

// TestTheCardNeverOverflows holds the ledger and the orders against what engines
// really hold, whatever they say.
func TestTheCardNeverOverflows(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newTruth(rapidly(r))
		for range 20 + w.n(60) {
			w.submit()
			if w.n(6) == 0 {
				w.tell("reload")
				w.s.Reconfigure(w.now, w.cfg)
				w.settle(nil)
			}
			if w.n(3) > 0 {
				w.until(w.now + w.millis(6000))
			}
		}
		// Behind one that keeps what it was told to free others may wait until
		// their time is up, but nobody runs into it.
		honest := !slices.ContainsFunc(w.engines, func(m *machine) bool { return m.lies > 0 || m.dies > 0 })
		// Long enough for whoever was left alone after a failure.
		for range 60 {
			if w.until(w.now + time.Minute); w.broken != nil || w.s.Idle() {
				break
			}
		}
		if w.broken == nil && honest && !w.s.Idle() {
			w.fail("after an hour %d still wait and %d run, %d orders: %+v; %+v", w.s.queue.Len(), len(w.s.running), len(w.s.orders), w.s.Queue(w.now, 3), w.s.Snapshot(w.now).Backends)
		}
		if w.broken != nil {
			r.Fatal(w.broken)
		}
	})
}
