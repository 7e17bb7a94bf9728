package admission

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world plays events against a Scheduler and remembers what must come of them.
type world struct {
	s             *Scheduler
	now           time.Duration
	all           []*Ticket
	waiting       map[*Ticket]bool
	running       map[*Ticket]bool
	grants        map[*Ticket]int
	hardened      *Ticket
	until         map[*Ticket]bool // what ran when the head hardened
	hardenedAfter uint64
	withdrawn     bool // the last event changed what may be used
}

func newWorld(cfg Config) *world {
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		panic(err)
	}
	return &world{s: s, waiting: map[*Ticket]bool{}, running: map[*Ticket]bool{}, grants: map[*Ticket]int{}}
}

func (w *world) submit(r Request) *Ticket {
	t := new(Ticket)
	w.s.Submit(w.now, t, r)
	w.all = append(w.all, t)
	w.learn(t)
	return t
}

// learn takes note of a ticket's new state.
func (w *world) learn(t *Ticket) {
	was := w.running[t]
	delete(w.waiting, t)
	delete(w.running, t)
	switch t.state {
	case stateWaiting:
		w.waiting[t] = true
	case stateRunning:
		if !was {
			w.grants[t]++
		}
		w.running[t] = true
	}
}

func (w *world) decided() {
	for _, t := range w.s.Decided() {
		if !w.waiting[t] {
			panic(fmt.Sprintf("ticket %d was decided while it did not wait", t.id))
		}
		w.learn(t)
	}
}

func (w *world) end(t *Ticket)   { w.s.End(w.now, t); w.learn(t); w.decided() }
func (w *world) leave(t *Ticket) { w.s.Leave(w.now, t, CodeClientCancelled); w.learn(t); w.decided() }

func (w *world) shapeOf(id uint64) *shape {
	t, _ := w.s.find(id)
	return t.shape
}

// state is the books in words, for a failure's message.
func (w *world) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "at %v, next due %v\n", w.now, w.s.recheck)
	for _, t := range w.s.running {
		fmt.Fprintf(&b, "runs %d: %s on %s/%d, %v, ends %v, p95 %v\n", t.id, t.shape.class.cfg.Name, t.shape.backend.cfg.Name, t.replica.number, t.shape.vram, t.end, t.p95)
	}
	for _, x := range w.s.Queue(w.now, 0) {
		if _, barred := w.s.barred(w.shapeOf(x.ID)); barred {
			continue
		}
		fmt.Fprintf(&b, "waits %d: %s for %s %v, %s, %s, hardened %v, starts %v\n", x.ID, x.Class, x.Backend, x.VRAM, x.Reason, x.Resource, x.Hardened, x.EstimatedStart.Sub(w.s.epoch))
	}
	return b.String()
}

// check holds the package's promises against the state.
func (w *world) check() error {
	s := w.s
	// Used is what the grants add up to, and never over capacity.
	var fresh usage
	fresh.copyFrom(&s.live)
	clear(fresh.classes)
	clear(fresh.backends)
	clear(fresh.replicas)
	for i := range fresh.holdings {
		fresh.holdings[i].running, fresh.holdings[i].runs = 0, 0
	}
	for t := range w.running {
		fresh.classes[t.shape.class.index]++
		fresh.backends[t.shape.backend.index]++
		fresh.replicas[t.replica.index]++
		for _, a := range t.replica.accounts {
			fresh.holdings[a].running += t.shape.vram
			fresh.holdings[a].runs++
		}
	}
	for i, h := range fresh.holdings {
		if h != s.live.holdings[i] {
			return fmt.Errorf("account %d holds %+v, its grants add up to %+v", i, s.live.holdings[i], h)
		}
	}
	booked := make([]Bytes, len(s.devices))
	for i, a := range s.accounts {
		booked[a.gpu] += s.live.holdings[i].footprint(a.resident)
	}
	for i, d := range s.devices {
		if booked[i] != s.live.booked[i] {
			return fmt.Errorf("%s: booked %v, the footprints add up to %v", d.cfg.Name, s.live.booked[i], booked[i])
		}
		if d.observed < 0 && s.room(&s.live, i) < 0 {
			return fmt.Errorf("%s is over its budget by %v", d.cfg.Name, -s.room(&s.live, i))
		}
	}
	for i, c := range s.classes {
		if s.live.classes[i] != fresh.classes[i] || fresh.classes[i] > c.cfg.Slots {
			return fmt.Errorf("class %s: %d run by the books, %d in truth, %d slots", c.cfg.Name, s.live.classes[i], fresh.classes[i], c.cfg.Slots)
		}
	}
	for i, r := range s.replicas {
		if s.live.replicas[i] != fresh.replicas[i] {
			return fmt.Errorf("replica %d: %d run by the books, %d in truth", r.index, s.live.replicas[i], fresh.replicas[i])
		}
	}
	// Nobody is lost or doubled.
	if len(w.waiting) != s.waiting || len(w.running) != len(s.running) {
		return fmt.Errorf("%d wait and %d run by the books, %d and %d in truth", s.waiting, len(s.running), len(w.waiting), len(w.running))
	}
	for t, n := range w.grants {
		if n > 1 {
			return fmt.Errorf("ticket %d was granted %d times", t.id, n)
		}
	}
	// FIFO within a flow.
	for _, sh := range s.active {
		for _, f := range sh.flows {
			for t := f.waiting.first; t != nil; t = t.links[inFlow].next {
				if next := t.links[inFlow].next; next != nil && next.id < t.id {
					return fmt.Errorf("ticket %d stands before %d in its flow", t.id, next.id)
				}
			}
		}
	}
	// A hardened head starts when what ran as it hardened has ended.
	// It may be chosen anew, with what runs by then, only where the replica
	// that it was to start on has been taken away.
	if s.hardened != w.hardened || w.withdrawn && s.hardenedAfter != w.hardenedAfter {
		w.hardened, w.hardenedAfter, w.until = s.hardened, s.hardenedAfter, map[*Ticket]bool{}
		for t := range w.running {
			if t.order <= s.hardenedAfter {
				w.until[t] = true
			}
		}
	}
	if w.hardened != nil {
		for t := range w.until {
			if !w.running[t] {
				delete(w.until, t)
			}
		}
		if len(w.until) == 0 {
			return fmt.Errorf("the hardened head %d waits although all that ran has ended:\n%s", w.hardened.id, w.state())
		}
	}
	// No lost wake-up: when nothing is due, another pass grants nothing.
	if next, ok := s.Next(); ok && next <= w.now {
		s.Tick(w.now)
		w.decided()
	}
	before, was := s.starts, w.state()
	s.pass(w.now)
	w.decided()
	if s.starts != before {
		return fmt.Errorf("another pass granted %d more\nbefore:\n%s\nafter:\n%s", s.starts-before, was, w.state())
	}
	return nil
}

func ruleConfig(r *rapid.T) Config {
	gib := func(label string, from, to int) Bytes { return Bytes(rapid.IntRange(from, to).Draw(r, label)) * GiB }
	cfg := Config{
		GPUs: []GPU{{Name: "g0", Memory: 48 * GiB, Reserve: GiB}, {Name: "g1", Memory: 24 * GiB}},
		Classes: []Class{
			{Name: "heavy", Slots: rapid.IntRange(1, 2).Draw(r, "heavy slots"), QueueLimit: 50, QueueTimeout: 10 * time.Minute, HardenAfter: 5 * time.Second},
			{Name: "middle", Slots: 1, QueueLimit: 50, QueueTimeout: 10 * time.Minute, HardenAfter: 5 * time.Second, Boost: time.Duration(rapid.IntRange(0, 3).Draw(r, "boost")) * time.Second},
			{Name: "light", Slots: rapid.IntRange(1, 64).Draw(r, "light slots"), QueueLimit: 50, QueueTimeout: 30 * time.Second, HardenAfter: 5 * time.Second},
		},
		Backends: []Backend{
			{Name: "flux", ReturnsMemory: rapid.Bool().Draw(r, "flux returns"), Replicas: []Replica{{Places: []Place{{"g0", gib("flux resident", 0, 4)}}}}},
			{Name: "vqa", ReturnsMemory: true, Slots: rapid.IntRange(0, 8).Draw(r, "vqa slots"), Replicas: []Replica{{Places: []Place{{"g0", 0}}}, {Places: []Place{{"g1", GiB}}}}},
			{Name: "wide", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{"g0", 0}, {"g1", 0}}}}},
		},
		Tenants: Tenants{Weights: map[string]float64{"a": 3}, QueueLimit: rapid.IntRange(0, 20).Draw(r, "tenant limit")},
	}
	if slots := cfg.Backends[1].Slots; slots > 1 {
		cfg.Backends[1].Reserved = map[string]int{"light": rapid.IntRange(0, slots-1).Draw(r, "reserved"), "middle": 1}
	}
	return cfg
}

// events weighs the kinds of event: a box that is never busy proves little.
var events = []string{
	"submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit",
	"end", "end", "end", "end", "end", "leave", "tick", "tick", "availability", "pause", "explain",
}

func TestPromisesHoldAfterEveryEvent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		w := newWorld(ruleConfig(r))
		pick := func(from map[*Ticket]bool) *Ticket {
			var sorted []*Ticket
			for _, t := range w.all {
				if from[t] {
					sorted = append(sorted, t)
				}
			}
			if len(sorted) == 0 {
				return nil
			}
			return sorted[rapid.IntRange(0, len(sorted)-1).Draw(r, "which")]
		}
		step := func() { w.now += time.Duration(rapid.IntRange(0, 4000).Draw(r, "ms")) * time.Millisecond }
		seconds := func(label string) time.Duration {
			return time.Duration(rapid.IntRange(1, 30).Draw(r, label)) * time.Second
		}
		actions := map[string]func(*rapid.T){
			"submit": func(*rapid.T) {
				step()
				// Estimates are arbitrary on purpose: nothing may rest on them.
				q := Request{Estimate: Estimate{seconds("p50"), seconds("p95")}, Tenant: rapid.SampledFrom([]string{"", "a", "b"}).Draw(r, "tenant"),
					Boost: time.Duration(rapid.SampledFrom([]int{0, 0, 0, -10, 10}).Draw(r, "boost")) * time.Second}
				switch rapid.IntRange(0, 5).Draw(r, "kind") {
				case 0, 1:
					q.Class, q.Backend, q.VRAM = "heavy", "flux", 34*GiB
				case 2:
					q.Class, q.Backend, q.VRAM = "middle", rapid.SampledFrom([]string{"wide", "vqa"}).Draw(r, "middle's"), 10*GiB
				default:
					q.Class, q.Backend, q.VRAM = "light", "vqa", rapid.SampledFrom([]Bytes{512 * MiB, 3 * GiB}).Draw(r, "vram")
				}
				if rapid.IntRange(0, 9).Draw(r, "deadline") == 0 {
					q.Deadline = w.s.epoch.Add(w.now + seconds("within"))
				}
				w.submit(q)
				w.decided()
			},
			"end": func(*rapid.T) {
				step()
				if t := pick(w.running); t != nil {
					w.end(t)
				}
			},
			"leave": func(*rapid.T) {
				step()
				if t := pick(w.waiting); t != nil {
					w.leave(t)
				}
			},
			"tick": func(*rapid.T) {
				step()
				w.s.Tick(w.now)
				w.decided()
			},
			"availability": func(*rapid.T) {
				w.s.SetAvailable(w.now, rapid.SampledFrom([]string{"flux", "vqa", "wide"}).Draw(r, "backend"), rapid.IntRange(0, 1).Draw(r, "replica"), rapid.IntRange(-1, 1).Draw(r, "slots"))
				w.decided()
			},
			"pause": func(*rapid.T) {
				w.s.SetPaused(w.now, rapid.SampledFrom([]string{"heavy", "light"}).Draw(r, "class"), rapid.Bool().Draw(r, "paused"))
				w.decided()
			},
			"explain": func(r *rapid.T) {
				before := w.s.starts
				for _, x := range w.s.Queue(w.now, 0) {
					if x.Reason == ReasonNone {
						r.Fatalf("ticket %d waits for no reason: %+v", x.ID, x)
					}
				}
				if w.s.starts != before {
					r.Fatal("explaining changed something")
				}
			},
		}
		for range rapid.IntRange(1, 200).Draw(r, "events") {
			event := rapid.SampledFrom(events).Draw(r, "event")
			w.withdrawn = event == "availability"
			actions[event](r)
			if err := w.check(); err != nil {
				r.Fatal(err)
			}
		}
		// With no new work all of it ends.
		for _, b := range []string{"flux", "vqa", "wide"} {
			w.s.SetAvailable(w.now, b, 0, -1)
			w.s.SetAvailable(w.now, b, 1, -1)
			w.decided()
		}
		for _, c := range []string{"heavy", "light"} {
			w.s.SetPaused(w.now, c, false)
			w.decided()
		}
		for range 10_000 {
			if w.s.Idle() {
				break
			}
			if len(w.s.running) > 0 {
				w.now += time.Second
				w.end(w.s.running[0])
			} else if next, ok := w.s.Next(); ok {
				w.now = max(w.now, next)
				w.s.Tick(w.now)
				w.decided()
			} else {
				r.Fatalf("%d wait, nothing runs and nothing is due", w.s.waiting)
			}
			if err := w.check(); err != nil {
				r.Fatal(err)
			}
		}
		if !w.s.Idle() {
			r.Fatal("the work does not end")
		}
		if _, ok := w.s.Next(); ok {
			r.Fatal("a timer is left")
		}
	})
}
