package admission

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// replicated has one backend with a slot on each of its replicas, which are
// written NAME@GPU and hold 20 GiB. Its requests take 10 GiB and its allocator
// keeps them.
func replicated(replicas ...string) Config {
	cfg := Config{
		Classes:  []Class{{Name: "heavy", Slots: 8, QueueLimit: 100, StrictAfter: 5 * time.Second}},
		GPUs:     []GPU{{Name: "g0", Memory: 48 * GiB}, {Name: "g1", Memory: 48 * GiB}},
		Backends: []Backend{{Name: "flux", Slots: 1}},
	}
	for _, text := range replicas {
		name, gpu, _ := strings.Cut(text, "@")
		cfg.Backends[0].Replicas = append(cfg.Backends[0].Replicas, Replica{Name: name, Places: []Place{{gpu, 20 * GiB}}})
	}
	return cfg
}

// accounts are what the backend's replicas hold, in order.
func (b *rig) accounts() string {
	text := ""
	for _, a := range b.s.Snapshot(b.now).Backends[0].Accounts {
		text += fmt.Sprintf(" %s:%d", a.GPU, a.Booked/GiB)
	}
	return strings.TrimSpace(text)
}

func (b *rig) booked() string {
	text := ""
	for _, g := range b.s.Snapshot(b.now).GPUs {
		text += fmt.Sprintf(" %s:%d", g.Name, g.Booked/GiB)
	}
	return strings.TrimSpace(text)
}

func TestAReloadKeepsTheReplicasThatAreStillThere(t *testing.T) {
	heavy := func(b *rig) *Ticket { return b.submit("heavy", "flux", 10*GiB) }
	on := func(x *Ticket) string { return x.ran.granted.name }

	t.Run("one is added", func(t *testing.T) {
		b := newRig(t, replicated("a@g0"))
		first := heavy(b)
		b.reconfigure(replicated("b@g1", "a@g0"))
		b.wants("the books", b.accounts(), "g1:0 g0:30")
		second, third := heavy(b), heavy(b)
		b.runs(second, true)
		b.wants("the second's replica", on(second), "b")
		b.runs(third, false) // the slot of a is taken still
		b.end(first)
		b.runs(third, true)
		b.wants("the third's replica", on(third), "a")
	})
	t.Run("what it keeps", func(t *testing.T) {
		b := newRig(t, replicated("a@g0"))
		b.end(heavy(b))
		b.reconfigure(replicated("b@g1", "a@g0"))
		b.wants("the books", b.accounts(), "g1:0 g0:30")
	})
	t.Run("its breaker's word", func(t *testing.T) {
		b := newRig(t, replicated("a@g0", "b@g1"))
		b.s.SetAvailable(b.now, "flux", 0, 0)
		b.reconfigure(replicated("b@g1", "a@g0"))
		b.wants("the replica", on(heavy(b)), "b")
		b.runs(heavy(b), false)
	})
	t.Run("one is taken out that works", func(t *testing.T) {
		b := newRig(t, replicated("a@g0", "b@g1"))
		first, second := heavy(b), heavy(b)
		b.reconfigure(replicated("b@g1"))
		b.wants("the memory", b.booked(), "g0:30 g1:30")
		third := heavy(b)
		b.runs(third, false)
		b.end(first)
		b.wants("the memory", b.booked(), "g0:30 g1:30") // its process may be there still
		b.runs(third, false)
		b.end(second)
		b.runs(third, true)
		b.wants("the replica", on(third), "b")
		b.wants("the second's replica", on(second), "b")
	})
	t.Run("one moves to another card", func(t *testing.T) {
		b := newRig(t, replicated("a@g0"))
		first := heavy(b)
		b.reconfigure(replicated("a@g1"))
		b.runs(heavy(b), true)
		b.wants("the memory", b.booked(), "g0:30 g1:30")
		b.end(first)
	})
	t.Run("its address is written differently", func(t *testing.T) {
		b := newRig(t, replicated("localhost@g0", "b@g1"))
		first := heavy(b)
		b.reconfigure(replicated("127.0.0.1@g0", "b@g1"))
		b.wants("the books", b.accounts(), "g0:30 g1:0")
		heavy(b)
		b.runs(heavy(b), false)
		b.wants("the first's replica", on(first), "localhost")
	})
	t.Run("without names, by their places", func(t *testing.T) {
		b := newRig(t, replicated("@g0", "@g1"))
		heavy(b)
		b.reconfigure(replicated("@g0"))
		b.wants("the books", b.accounts(), "g0:30")
		b.runs(heavy(b), false)
	})
}

// A grant's holder may look where to go at the moment of a reload.
func TestAGrantKnowsItsReplicaWhateverIsReloaded(t *testing.T) {
	c := open(t, replicated("a@g0", "b@g1"))
	g := admit(t, c, Request{Class: "heavy", Backend: "flux", VRAM: GiB})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100 {
			c.Reconfigure(replicated("b@g1", "a@g0"))
			c.Reconfigure(replicated("b@g1"))
			c.Reconfigure(replicated("a@g0", "b@g1"))
		}
	}()
	for range 1000 {
		if n, name := g.Replica(), g.ReplicaName(); n != 0 && n != 1 || name != string(rune('a'+n)) {
			t.Fatalf("the grant is for replica %d, %s", n, name)
		}
	}
	<-done
	g.Release(Result{Outcome: Done})
	if !c.rules.Idle() {
		t.Error("something runs still")
	}
}
