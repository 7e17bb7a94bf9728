package admission

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// swapBox has three engines on one card that do not fit beside each other.
func swapBox() Config {
	class := func(name string) Class {
		return Class{Name: name, Slots: 4, QueueLimit: 100, QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second}
	}
	engine := func(name string, resident Bytes) Backend {
		return Backend{Name: name, ReturnsMemory: true, Reclaims: true, MinResidency: 30 * time.Second,
			Replicas: []Replica{{Places: []Place{{"g0", resident}}}}}
	}
	return Config{
		GPUs:     []GPU{{Name: "g0", Memory: 48 * GiB}},
		Classes:  []Class{class("heavy"), class("chat"), class("light")},
		Backends: []Backend{engine("flux", 24*GiB), engine("llm", 30*GiB), engine("captions", 8*GiB)},
	}
}

// box plays a swapBox by hand.
type box struct {
	t   *testing.T
	s   *Scheduler
	now time.Duration
}

func newBox(t *testing.T, cfg Config) *box {
	s, err := NewScheduler(cfg, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return &box{t, s, 0}
}

func (b *box) at(seconds float64) {
	b.now = time.Duration(seconds * float64(time.Second))
	b.s.Tick(b.now)
}

func (b *box) submit(class, backend string, vram Bytes) *Ticket {
	t := new(Ticket)
	b.s.Submit(b.now, t, Request{Class: class, Backend: backend, VRAM: vram, Estimate: Estimate{P50: 10 * time.Second, P95: 10 * time.Second}})
	return t
}

func (b *box) end(t *Ticket) { b.s.End(b.now, t) }

func (b *box) reads(used Bytes) {
	b.s.Observe(b.now, Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml"})
}

// imageWaits is a swapBox in which an image needs the room of a model that is
// idle.
func imageWaits(t *testing.T) (*box, *Ticket) {
	b := newBox(t, swapBox())
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	b.reads(30 * GiB)
	b.at(40)
	b.end(chat)
	b.reads(30 * GiB)
	return b, b.submit("heavy", "flux", 10*GiB)
}

// order wants exactly one order and gives it.
func (b *box) order(kind OrderKind, backend string) Order {
	b.t.Helper()
	orders := b.s.Orders()
	if len(orders) != 1 || orders[0].Kind != kind || orders[0].Backend != backend {
		b.t.Fatalf("at %v the orders are %+v, want kind %d for %s", b.now, orders, kind, backend)
	}
	return orders[0]
}

func (b *box) noOrder() {
	b.t.Helper()
	if orders := b.s.Orders(); len(orders) > 0 {
		b.t.Fatalf("at %v there are orders %+v, want none", b.now, orders)
	}
}

func (b *box) runs(t *Ticket, want bool) {
	b.t.Helper()
	if _, ok := t.Granted(); ok != want {
		b.t.Fatalf("at %v ticket %d runs: %v, want %v; it waits for %v", b.now, t.ID(), ok, want, t.stay)
	}
}

func (b *box) reason(t *Ticket, want Reason) {
	b.t.Helper()
	w, ok := b.s.Explain(b.now, t.ID())
	if !ok || w.Reason != want {
		b.t.Fatalf("at %v ticket %d waits for %q (%v), want %q", b.now, t.ID(), w.Reason, ok, want)
	}
}

// An engine that must be woken holds its weights from its start on. Where it
// dies of being told to let go, and somebody starts it anew, its room was not to
// be had.
func TestWhatDiedOfLettingGoKeepsItsRoom(t *testing.T) {
	for _, back := range []bool{true, false} {
		b, image := imageWaits(t)
		o := b.order(Reclaim, "llm")
		b.at(42)
		b.reads(0)
		b.s.Reclaimed(b.now, o.ID, Ended{Failed: true, Dead: true, MustWake: true})
		b.runs(image, false)
		o = b.order(Return, "llm")
		if o.Bytes != 30*GiB || b.s.Loading(o.ID) {
			t.Fatalf("the order is %+v, loading %v, want 30 GiB and nothing yet", o, b.s.Loading(o.ID))
		}
		// The card at rest shows that nothing is there, and nobody is let in.
		for range 2 * calmReadings {
			b.at(b.now.Seconds() + 1)
			b.reads(0)
		}
		b.runs(image, false)
		if !back {
			b.s.Woken(b.now, o.ID, Ended{Failed: true, Dead: true})
			b.runs(image, true)
			continue
		}
		b.reads(15 * GiB)
		if !b.s.Loading(o.ID) {
			t.Error("half of it is there, and it is not seen to load")
		}
		b.at(60)
		b.reads(30 * GiB)
		b.s.Woken(b.now, o.ID, Ended{})
		b.runs(image, false)
		b.reason(image, ReasonResources)
		b.noOrder() // it has just been loaded
		if got := b.s.Snapshot(b.now).Backends[1].Replicas[0]; got.Failures != 1 || got.NotBefore.Sub(time.Unix(0, 0)) != 95*time.Second {
			t.Errorf("it is %+v, want the failure to be remembered for its residency of 30 s and 5 s more", got)
		}
		again := b.submit("chat", "llm", 0)
		b.runs(again, true)
	}
}

func TestAnIdleEngineMakesRoom(t *testing.T) {
	b, image := imageWaits(t)
	b.runs(image, false)
	b.reason(image, ReasonReclaiming)
	o := b.order(Reclaim, "llm")
	if o.Bytes != 30*GiB || o.For != image.ID() {
		t.Fatalf("the order is %+v, want 30 GiB for %d", o, image.ID())
	}
	// What waits for the one that is letting go waits for that.
	again := b.submit("chat", "llm", 0)
	b.reason(again, ReasonReclaiming)
	b.at(42)
	b.reads(500 * MiB)
	if freed, enough, known := b.s.Freed(o.ID); !enough || !known || freed < 29*GiB {
		t.Fatalf("freed %v, enough %v, known %v", freed, enough, known)
	}
	b.s.Reclaimed(b.now, o.ID, Ended{MustWake: true})
	b.runs(image, true)
	b.reason(again, ReasonResources)
	b.noOrder()

	// The image has had its time on the card; the chat gets it back.
	b.at(55)
	b.reads(34*GiB + 500*MiB)
	b.end(image)
	b.reads(24*GiB + 500*MiB)
	b.noOrder() // it was loaded thirteen seconds ago
	b.at(75)
	o = b.order(Reclaim, "flux")
	b.reads(500 * MiB)
	b.s.Reclaimed(b.now, o.ID, Ended{})
	b.reason(again, ReasonWaking)
	o = b.order(Wake, "llm")
	b.runs(again, false)
	b.at(77)
	b.s.Woken(b.now, o.ID, Ended{})
	b.runs(again, true)
	var reasons []Reason
	for _, step := range again.steps {
		reasons = append(reasons, step.Reason)
	}
	want := []Reason{ReasonReclaiming, ReasonResources, ReasonReclaiming, ReasonWaking}
	if !slices.Equal(reasons, want) {
		t.Errorf("it waited for %v, want %v", reasons, want)
	}
}

func TestMemoryThatDidNotComeBackStaysBooked(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	b.end(chat)
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Reclaim, "llm")
	b.reads(29 * GiB)
	if _, enough, known := b.s.Freed(o.ID); enough || !known {
		t.Fatalf("1 GiB of 30 is enough: %v, known: %v", enough, known)
	}
	b.s.Reclaimed(b.now, o.ID, Ended{Note: "200, and nothing came back"})
	b.runs(image, false)
	b.reason(image, ReasonResources)
	b.noOrder()
	w, _ := b.s.Explain(b.now, image.ID())
	if want := (Keeper{Backend: "llm", Bytes: 29 * GiB, Until: time.Unix(45, 0)}); len(w.Keepers) != 1 || w.Keepers[0] != want {
		t.Errorf("%+v keep its room, want %+v", w.Keepers, want)
	}
	state := b.s.Snapshot(b.now).Backends[1]
	if state.Accounts[0].Kept != 29*GiB || state.Replicas[0].Failures != 1 {
		t.Fatalf("the state is %+v, want 29 GiB kept and one failure", state)
	}
	// Others go on, and later it is tried again, after twice as long each time.
	caption := b.submit("light", "captions", GiB)
	b.runs(caption, true)
	for i, after := range []float64{45, 55, 75} {
		b.at(after - .1)
		b.noOrder()
		b.at(after)
		o = b.order(Reclaim, "llm")
		b.s.Reclaimed(b.now, o.ID, Ended{})
		if got := b.s.Snapshot(b.now).Backends[1].Replicas[0].Failures; got != i+2 {
			t.Fatalf("%d failures, want %d", got, i+2)
		}
	}
}

func TestABusyEngineIsEmptiedForAHeadThatWaitsLong(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	b.noOrder()
	b.at(42)
	chat2 := b.submit("chat", "llm", 0)
	b.runs(chat2, true) // steady traffic: it is never idle
	b.end(chat)
	b.noOrder()
	b.at(45)
	b.noOrder() // it has work to finish
	chat3 := b.submit("chat", "llm", 0)
	b.runs(chat3, false)
	b.reason(chat3, ReasonReclaiming)
	b.reason(image, ReasonReclaiming)
	b.at(50)
	b.reads(30 * GiB)
	b.end(chat2)
	o := b.order(Reclaim, "llm")
	b.s.Reclaimed(b.now, o.ID, Ended{})
	// Nothing was read since: its word does not count.
	b.runs(image, false)
}

func TestAHeadThatLeavesStopsTheEmptying(t *testing.T) {
	b := newBox(t, swapBox())
	b.submit("chat", "llm", 0)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	b.at(45)
	chat := b.submit("chat", "llm", 0)
	b.runs(chat, false)
	b.s.Leave(b.now, image, CodeClientCancelled)
	b.runs(chat, true)
	b.noOrder()
}

func TestPinnedAndYoungEnginesStay(t *testing.T) {
	cfg := swapBox()
	cfg.Backends[1].Pinned = true
	b := newBox(t, cfg)
	b.end(b.submit("chat", "llm", 0))
	b.at(400)
	b.submit("heavy", "flux", 10*GiB)
	b.at(500)
	b.noOrder()
	if err := b.s.ReclaimByHand(b.now, "llm"); err != nil {
		t.Fatal(err)
	}
	b.order(Reclaim, "llm")
}

func TestTheCheapestGoesFirstAndNoneForNothing(t *testing.T) {
	cfg := swapBox()
	cfg.GPUs[0].Memory = 70 * GiB
	b := newBox(t, cfg)
	b.end(b.submit("chat", "llm", 0))
	for i := range 20 {
		b.at(float64(40 + i))
		b.end(b.submit("light", "captions", GiB))
	}
	b.at(70)
	// 38 GiB are held, 32 free, 34 needed: either would do, and the captions
	// are asked for all the time.
	b.submit("heavy", "flux", 10*GiB)
	b.order(Reclaim, "llm")
	b.noOrder()
}

func TestADeadSleeperIsNotWokenForEver(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	b.submit("heavy", "flux", 10*GiB)
	o := b.order(Reclaim, "llm")
	b.reads(0)
	b.s.Reclaimed(b.now, o.ID, Ended{MustWake: true})
	b.at(60)
	for _, t := range b.s.running {
		b.end(t)
		break
	}
	b.at(200)
	chat := b.submit("chat", "llm", 0)
	o = b.order(Reclaim, "flux")
	b.reads(0)
	b.s.Reclaimed(b.now, o.ID, Ended{})
	o = b.order(Wake, "llm")
	b.s.Woken(b.now, o.ID, Ended{Failed: true, Dead: true, Note: "nobody listens"})
	// It goes to the backend, whose breaker has the say from here on.
	b.runs(chat, true)
}

func TestAWakeThatFailsIsTriedAgainLater(t *testing.T) {
	b := newBox(t, swapBox())
	b.s.SetLoaded(0, "llm", 0, false, true)
	b.at(1)
	chat := b.submit("chat", "llm", 0)
	o := b.order(Wake, "llm")
	if got := b.s.Snapshot(b.now).GPUs[0].Booked; got != 30*GiB {
		t.Fatalf("%v booked while it wakes, want 30 GiB", got)
	}
	b.s.Woken(b.now, o.ID, Ended{Failed: true})
	if got := b.s.Snapshot(b.now).GPUs[0].Booked; got != 0 {
		t.Fatalf("%v booked after it failed, want nothing", got)
	}
	b.noOrder()
	b.reason(chat, ReasonWaking)
	b.at(6)
	b.s.Woken(b.now, b.order(Wake, "llm").ID, Ended{})
	b.runs(chat, true)
}

func TestAnIdleBoxBringsBackWhatWasAskedFor(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Reclaim, "llm")
	b.reads(0)
	b.s.Reclaimed(b.now, o.ID, Ended{MustWake: true})
	b.runs(image, true)
	b.end(image)
	b.at(71)
	b.noOrder() // no room beside flux
	if err := b.s.ReclaimByHand(b.now, "flux"); err != nil {
		t.Fatal(err)
	}
	b.reads(0)
	b.s.Reclaimed(b.now, b.order(Reclaim, "flux").ID, Ended{})
	b.order(Wake, "llm")
}

func TestWhatProcessesHoldIsTheirs(t *testing.T) {
	b := newBox(t, swapBox())
	read := func(own, other Bytes) {
		b.s.Observe(b.now, Reading{GPU: "g0", Total: 48 * GiB, Used: own + other, Source: "nvml", Processes: []Process{
			{PID: 1, Used: own, Backend: "llm"}, {PID: 2, Name: "train.py", Used: other}}})
	}
	read(30*GiB, 10*GiB)
	g := b.s.Snapshot(b.now).GPUs[0]
	if g.Booked != 30*GiB || g.Outside != 10*GiB {
		t.Fatalf("booked %v, outside %v, want 30 and 10 GiB", g.Booked, g.Outside)
	}
	b.runs(b.submit("chat", "llm", 0), true)
	for t := range b.s.running {
		b.end(b.s.running[t])
		break
	}
	// It is killed behind our back.
	for range calmReadings {
		read(0, 10*GiB)
	}
	if g = b.s.Snapshot(b.now).GPUs[0]; g.Booked != 0 || g.Outside != 10*GiB {
		t.Fatalf("booked %v, outside %v, want nothing and 10 GiB", g.Booked, g.Outside)
	}
}

func TestAReloadKeepsOrdersUnderWay(t *testing.T) {
	b := newBox(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Reclaim, "llm")
	if err := b.s.Reconfigure(b.now, swapBox()); err != nil {
		t.Fatal(err)
	}
	b.reads(0)
	if !b.s.Reclaimed(b.now, o.ID, Ended{}) {
		t.Fatal("the order is not known any more")
	}
	b.runs(image, true)
	if fmt.Sprint(b.s.live.booked) != fmt.Sprint([]Bytes{34 * GiB}) {
		t.Fatalf("booked %v", b.s.live.booked)
	}
}
