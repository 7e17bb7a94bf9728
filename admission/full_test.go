package admission

import (
	"testing"
	"time"
)

// A card that cannot be read, and is full beside steady small work: the large request
// waits for what runs, and not for the next try. Small work that never ends together
// is barred for it.
func TestALargeRequestStartsOnAFullCardThatCannotBeRead(t *testing.T) {
	b := newRig(t, Config{
		GPUs: []GPU{{Name: "g0", Memory: 48 * GiB}},
		Classes: []Class{{Name: "heavy", Slots: 1, QueueLimit: 10, StrictAfter: 3 * time.Second},
			{Name: "light", Slots: 4, QueueLimit: 10, StrictAfter: 3 * time.Second}},
		Backends: []Backend{
			{Name: "flux", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "g0"}}}}},
			{Name: "chat", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "g0", Resident: GiB}}}}},
		},
	})
	light := func() *Ticket {
		return b.ask(Request{Class: "light", Backend: "chat", VRAM: GiB, Estimate: Estimate{P50: 2 * time.Second, P95: 2 * time.Second}})
	}
	var chats []*Ticket
	second := func() { // one of two ends, and another is asked for
		b.after(1)
		if _, ok := chats[0].Granted(); ok {
			b.end(chats[0])
			chats = append(chats[1:], light())
		}
	}
	chats = append(chats, light())
	b.ends(b.submit("heavy", "flux", 30*GiB), Result{Outcome: OutOfMemory, Tried: 30 * GiB, Free: 8 * GiB})
	chats = append(chats, light())
	image := b.submit("heavy", "flux", 30*GiB)
	b.runs(image, false)
	for range 6 {
		second()
	}
	b.runs(image, true)
	if n := len(b.s.running); n > 1 {
		t.Errorf("it runs beside %d others, which it has just failed beside", n-1)
	}
}

// What has waited for a full card that cannot be read is told to come back when the next
// request is tried there, and not after the time of one run.
func TestAFullCardThatCannotBeReadSaysWhenToComeBack(t *testing.T) {
	b := newRig(t, Config{
		GPUs:     []GPU{{Name: "g0", Memory: 48 * GiB}},
		Classes:  []Class{{Name: "work", Slots: 4, QueueLimit: 10, QueueTimeout: 4 * time.Second}},
		Backends: []Backend{{Name: "flux", ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "g0"}}}}}},
	})
	ask := func() *Ticket {
		return b.ask(Request{Class: "work", Backend: "flux", VRAM: 30 * GiB, Estimate: Estimate{P50: time.Second, P95: time.Second}})
	}
	b.ends(ask(), Result{Outcome: OutOfMemory, Tried: 30 * GiB, Free: 8 * GiB, InUse: GiB})
	x := ask()
	b.runs(x, false)
	b.after(4)
	r := x.Rejection()
	if r == nil || r.Code != CodeQueueTimeout {
		t.Fatalf("after 4 s it gets %+v, want queue_timeout", r)
	}
	began := b.now
	for {
		next := ask()
		if _, ok := next.Granted(); ok {
			break
		}
		b.s.Leave(b.now, next, CodeClientCancelled)
		b.after(.5)
	}
	if waits := b.now - began; waits <= 2*time.Second || r.RetryAfter < waits-time.Second || r.RetryAfter > waits+2*time.Second {
		t.Errorf("it is told to come back in %v, and the next is tried after %v", r.RetryAfter, waits)
	}
}
