package admission

import (
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// rig plays a scheduler by hand. Its card is g0.
type rig struct {
	t   *testing.T
	s   *Scheduler
	now time.Duration
}

func newRig(t *testing.T, cfg Config) *rig {
	t.Helper()
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return &rig{t, s, 0}
}

// at lets time pass up to a moment, with each tick when it is due.
func (b *rig) at(seconds float64) { b.until(time.Duration(seconds * float64(time.Second))) }

func (b *rig) until(to time.Duration) {
	for n := 0; ; n++ {
		due, ok := b.s.Next()
		if !ok || due > to {
			break
		}
		if n > 10_000 {
			b.t.Fatalf("at %v a timer is due at %v again and again", b.now, due)
		}
		b.now = max(b.now, due)
		b.s.Tick(b.now)
	}
	b.now = to
	b.s.Tick(b.now)
}

// after lets seconds pass.
func (b *rig) after(seconds float64) {
	b.until(b.now + time.Duration(seconds*float64(time.Second)))
}

func (b *rig) ask(r Request) *Ticket {
	t := new(Ticket)
	if r.Estimate.P50 == 0 {
		r.Estimate = Estimate{P50: 10 * time.Second, P95: 10 * time.Second}
	}
	b.s.Submit(b.now, t, r)
	return t
}

func (b *rig) submit(class, backend string, vram Bytes) *Ticket {
	return b.ask(Request{Class: class, Backend: backend, VRAM: vram})
}

func (b *rig) end(t *Ticket) { b.ends(t, Result{}) }

func (b *rig) ends(t *Ticket, res Result) {
	b.t.Helper()
	if !b.s.End(b.now, t, res) {
		b.t.Fatalf("at %v ticket %d does not run", b.now, t.ID())
	}
}

// reads is a reading of the total alone.
func (b *rig) reads(used Bytes) {
	b.s.Observe(b.now, Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml"})
}

// readsFor is a reading each half second, for seconds.
func (b *rig) readsFor(seconds float64, used Bytes) {
	for end := b.now + time.Duration(seconds*float64(time.Second)); b.now < end; {
		b.after(.5)
		b.reads(used)
	}
}

// seesProcesses is a reading that says whose the memory is. A name that is not
// a backend's is a process of others.
func (b *rig) seesProcesses(used Bytes, of map[string]Bytes) {
	r := Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml", Processes: []Process{}}
	for _, x := range b.s.box.backends {
		if n, ok := of[x.cfg.Name]; ok {
			r.Processes = append(r.Processes, Process{PID: 1 + len(r.Processes), Name: x.cfg.Name, Used: n, Backend: x.cfg.Name})
		}
	}
	for name, n := range of {
		if b.s.box.byBackend[name] == nil {
			r.Processes = append(r.Processes, Process{PID: 1 + len(r.Processes), Name: name, Used: n})
		}
	}
	b.s.Observe(b.now, r)
}

// order wants exactly one order and gives it.
func (b *rig) order(kind residency.Kind, backend string) Order {
	b.t.Helper()
	orders := b.s.Orders()
	if len(orders) != 1 || orders[0].Kind != kind || orders[0].Backend != backend {
		b.t.Fatalf("at %v the orders are %+v, want kind %d for %s", b.now, orders, kind, backend)
	}
	return orders[0]
}

func (b *rig) noOrder() {
	b.t.Helper()
	if orders := b.s.Orders(); len(orders) > 0 {
		b.t.Fatalf("at %v there are orders %+v, want none", b.now, orders)
	}
}

func (b *rig) runs(t *Ticket, want bool) {
	b.t.Helper()
	if _, ok := t.Granted(); ok != want {
		x, _ := b.s.Explain(b.now, t.ID())
		b.t.Fatalf("at %v ticket %d runs: %v, want %v; it is %+v, refused %v; the card is %+v", b.now, t.ID(), ok, want, x, t.rejection, b.gpu())
	}
}

func (b *rig) reason(t *Ticket, want Reason) {
	b.t.Helper()
	w, ok := b.s.Explain(b.now, t.ID())
	if !ok || w.Reason != want {
		b.t.Fatalf("at %v ticket %d waits for %q (%v), want %q", b.now, t.ID(), w.Reason, ok, want)
	}
}

func (b *rig) gpu() GPUState { return b.s.Snapshot(b.now).GPUs[0] }

// account is that of a backend's first replica on its first GPU.
func (b *rig) account(backend string) AccountState {
	b.t.Helper()
	for _, x := range b.s.Snapshot(b.now).Backends {
		if x.Name == backend {
			return x.Accounts[0]
		}
	}
	b.t.Fatalf("there is no backend %s", backend)
	return AccountState{}
}

// holds wants the interval of what a backend holds.
func (b *rig) holds(backend string, low, high Bytes) {
	b.t.Helper()
	if a := b.account(backend); a.Low != low || a.High != high {
		b.t.Fatalf("at %v %s holds %v to %v, want %v to %v", b.now, backend, a.Low, a.High, low, high)
	}
}

func (b *rig) reconfigure(cfg Config) {
	b.t.Helper()
	if err := b.s.Reconfigure(b.now, cfg); err != nil {
		b.t.Fatal(err)
	}
}

func (b *rig) wants(what, got, want string) {
	b.t.Helper()
	if got != want {
		b.t.Errorf("%s is %s, want %s", what, got, want)
	}
}
