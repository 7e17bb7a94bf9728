package admission

import (
	"testing"
	"time"
)

// What runs is expected to end after its median time, and from then on by its 95th
// percentile. A request that may start is expected to hold its memory for the 95th
// percentile, and so is a reservation.
func TestWhatRunsEndsByItsMedianAndWhatStartsByItsP95(t *testing.T) {
	config := Config{GPUs: []GPU{{Name: "g0", Memory: 40 * GiB}}}
	for _, name := range []string{"first", "second", "third"} {
		config.Classes = append(config.Classes, Class{Name: name, Slots: 1, QueueLimit: 10, StrictAfter: time.Hour})
		config.Backends = append(config.Backends, Backend{Name: name, ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "g0"}}}}})
	}
	b := newRig(t, config)
	ask := func(name string, vram Bytes, p95 float64) *Ticket {
		return b.ask(Request{Class: name, Backend: name, VRAM: vram,
			Estimate: Estimate{P50: 2 * time.Second, P95: time.Duration(p95 * float64(time.Second))}})
	}
	b.runs(ask("first", 30*GiB, 10), true)
	second := ask("second", 35*GiB, 20)
	third := ask("third", 8*GiB, 15) // fits now, and not beside the second, which may begin before it ends
	b.runs(second, false)
	b.runs(third, false)
	b.reason(third, ReasonReservedForOther)
	reserved := func(x *Ticket, want time.Duration) {
		t.Helper()
		if got := x.shape.reserved; got != want {
			t.Errorf("%d is reserved for %v, want %v", x.ID(), got, want)
		}
	}
	reserved(second, 2*time.Second)
	reserved(third, 22*time.Second)
	b.at(3) // the first is overdue
	reserved(second, 10*time.Second)
	reserved(third, 30*time.Second)
}
