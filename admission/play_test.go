package admission

import (
	"errors"
	"time"
)

// boxOf draws a box: three classes, a backend that may keep its memory, one
// with replicas on two GPUs and one that takes room on both at once.
func boxOf(n draw) Config {
	cfg := Config{
		GPUs: []GPU{{Name: "g0", Memory: 48 * GiB, Reserve: GiB, Reads: n(2) == 1}, {Name: "g1", Memory: 24 * GiB, Hold: n(8) == 1}},
		Classes: []Class{
			{Name: "heavy", Slots: 1 + n(2), QueueLimit: 5 + n(30), QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second},
			{Name: "middle", Slots: 1, QueueLimit: 5 + n(30), QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second,
				Boost: time.Duration(n(4)) * time.Second},
			{Name: "light", Slots: 1 + n(64), QueueLimit: 5 + n(30), QueueTimeout: 30 * time.Second, StrictAfter: 5 * time.Second},
		},
		Backends: []Backend{
			{Name: "flux", ReturnsMemory: n(4) > 0, Replicas: []Replica{{Places: []Place{{"g0", Bytes(n(5)) * GiB}}}}},
			{Name: "vqa", ReturnsMemory: true, Slots: n(9), Replicas: []Replica{{Places: []Place{{"g0", 0}}}, {Places: []Place{{"g1", GiB}}}}},
			{Name: "wide", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{"g0", 0}, {"g1", 0}}}}},
		},
		Tenants: Tenants{Weights: map[string]float64{"a": 3}, QueueLimit: n(21)},
	}
	if slots := cfg.Backends[1].Slots; slots > 1 {
		cfg.Backends[1].Reserved = map[string]int{"light": n(slots), "middle": 1}
	}
	return cfg
}

// events weighs the kinds of event: a box that is never busy proves little.
var events = []string{
	"submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit", "submit",
	"end", "end", "end", "end", "end", "end", "end", "end", "end", "leave", "leave", "advance", "advance",
	"availability", "pause", "drain", "reading", "reload",
}

// pick draws one of those who wait, or of those who run; nil: nobody does.
func (w *world) pick(runs bool) *Ticket {
	of := len(w.waiting)
	if runs {
		of = len(w.running)
	}
	if of == 0 {
		return nil
	}
	i := w.draw(of)
	for _, t := range w.order {
		if (t.state == stateRunning) == runs {
			if i == 0 {
				return t
			}
			i--
		}
	}
	return nil
}

func (w *world) seconds() time.Duration { return time.Duration(1+w.draw(30)) * time.Second }

// step draws an event and plays it.
func (w *world) step() {
	event := events[w.draw(len(events))]
	switch event {
	case "submit", "end", "leave", "advance":
		if w.draw(4) > 0 { // else at the same instant as the event before
			w.advance(time.Duration(w.draw(4000)) * time.Millisecond)
		}
	}
	switch event {
	case "submit":
		w.submit(w.request())
	case "end":
		if t := w.pick(true); t != nil {
			w.end(t)
		}
	case "leave":
		if t := w.pick(false); t != nil {
			w.leave(t)
		}
	case "availability":
		w.setAvailable([]string{"flux", "vqa", "wide"}[w.draw(3)], w.draw(2), max(-1, w.draw(5)-3))
	case "pause":
		w.setPaused([]string{"heavy", "light"}[w.draw(2)], w.draw(3) == 1)
	case "drain":
		w.setDraining([]string{"flux", "vqa"}[w.draw(2)], w.draw(3) == 1)
	case "reading":
		w.reading()
	case "reload":
		cfg := boxOf(w.draw)
		cfg.GPUs[0].Memory = 48*GiB - Bytes(w.draw(3))*GiB
		cfg.Backends[0].Replicas = w.cfg.Backends[0].Replicas // what is loaded does not grow by a reload
		cfg.GPUs[0].Reads = w.cfg.GPUs[0].Reads
		w.reconfigure(cfg)
	}
}

// request draws what is asked. Estimates are arbitrary on purpose: nothing
// may rest on them.
func (w *world) request() Request {
	q := Request{Estimate: Estimate{P50: w.seconds(), P95: w.seconds()}, Tenant: []string{"", "a", "b"}[w.draw(3)]}
	switch w.draw(12) {
	case 0:
		q.Boost = -10 * time.Second
	case 1:
		q.Boost = 10 * time.Second
	case 2:
		q.Deadline, q.Fastest = w.s.epoch.Add(w.now+w.seconds()), q.Estimate.P50
	}
	q.Unknown = w.draw(40) == 0
	switch w.draw(12) {
	case 0, 1, 2:
		q.Class, q.Backend, q.VRAM = "heavy", "flux", 34*GiB
	case 3:
		q.Class, q.Backend, q.VRAM = "middle", "vqa", 10*GiB
	case 4:
		q.Class, q.Backend, q.VRAM = "middle", "wide", 10*GiB
	case 5:
		q.Class, q.Backend, q.VRAM = "heavy", "flux", Bytes(40+w.draw(10))*GiB
	default:
		q.Class, q.Backend, q.VRAM = "light", "vqa", []Bytes{512 * MiB, 3 * GiB}[w.draw(2)]
	}
	return q
}

// reading draws a reading of a card: as it is, with neighbours beside, smaller
// than it was, or none at all.
func (w *world) reading() {
	g := w.cfg.GPUs[w.draw(2)]
	r := Reading{GPU: g.Name, Total: g.Memory}
	switch w.draw(6) {
	case 0:
		if g.Reads {
			r.Err = errors.New("the driver does not answer")
		}
	case 1:
		r.Total -= Bytes(1+w.draw(8)) * GiB
	}
	w.others[g.Name] = Bytes(max(0, w.draw(12)-6)) * GiB
	r.Used = min(r.Total, w.used(g.Name))
	w.observe(r)
}

// finish lets everything end that is left, with nothing in its way.
func (w *world) finish() error {
	for _, b := range w.cfg.Backends {
		w.setDraining(b.Name, false)
		for i := range b.Replicas {
			w.setAvailable(b.Name, i, -1)
		}
	}
	for _, c := range w.cfg.Classes {
		w.setPaused(c.Name, false)
	}
	if how := w.draw(3); how > 0 {
		w.s.RefuseNew(w.now, Rejection{Code: CodeDraining, Position: -1}, how == 2)
		w.decided()
		if t := w.submit(w.request()); t.rejection == nil || t.rejection.Code != CodeDraining {
			w.fail("12: ticket %d was let in while draining", t.ID())
		}
		if how == 2 && len(w.waiting) > 0 {
			w.fail("12: %d still wait although the drain refuses them", len(w.waiting))
		}
	}
	if err := w.check(); err != nil {
		return err
	}
	clear(w.others)
	for range 10_000 {
		if w.s.Idle() {
			break
		}
		for g := range w.s.box.live.memory.GPUs { // one that was read once is not blind any more
			if d := w.s.box.ledger.Describe(g, w.now); d.Observed >= 0 || d.Err != "" {
				w.observe(Reading{GPU: d.Name, Total: w.cfg.GPUs[g].Memory, Used: min(w.cfg.GPUs[g].Memory, w.used(d.Name))})
			}
		}
		w.advance(time.Second)
		if t := w.pick(true); t != nil {
			w.end(t)
		}
		w.tick()
		if err := w.check(); err != nil {
			return err
		}
	}
	if !w.s.Idle() || len(w.order) > 0 {
		w.fail("12: the work does not end")
	}
	if next, ok := w.s.Next(); ok {
		w.fail("12: a timer is left, due at %v", next)
	}
	for a, h := range w.s.box.live.memory.Accounts {
		if h.Runs != 0 || h.Running != 0 || h.Loading != 0 {
			w.fail("12: account %d is left with %+v", a, h)
		}
	}
	return w.broken
}
