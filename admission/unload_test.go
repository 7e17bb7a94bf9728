package admission

import (
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

// imageWaits is a swapBox in which an image needs the room of a model that is
// idle.
func imageWaits(t *testing.T) (*rig, *Ticket) {
	b := newRig(t, swapBox())
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	b.reads(30 * GiB)
	b.at(40)
	b.end(chat)
	b.reads(30 * GiB)
	return b, b.submit("heavy", "flux", 10*GiB)
}

// An engine that must be woken holds its weights from its start on. Where it dies
// of its unload and is started anew, its memory was not to be had.
func TestWhatDiedOfItsUnloadKeepsItsMemory(t *testing.T) {
	for _, back := range []bool{true, false} {
		b, image := imageWaits(t)
		o := b.order(Unload, "llm")
		b.at(42)
		b.reads(0)
		b.s.Unloaded(b.now, o.ID, Ended{Failed: true, Dead: true, MustWake: true})
		b.runs(image, false)
		o = b.order(Return, "llm")
		if o.Bytes != 30*GiB || b.s.box.residency.TakesMemory(o.ID) {
			t.Fatalf("the order is %+v, loading %v, want 30 GiB and nothing yet", o, b.s.box.residency.TakesMemory(o.ID))
		}
		// The card at rest shows that nothing is there, and nobody is let in.
		for range 6 {
			b.after(1)
			b.reads(0)
		}
		b.runs(image, false)
		if !back {
			b.s.Loaded(b.now, o.ID, Ended{Failed: true, Dead: true})
			b.runs(image, true)
			continue
		}
		b.reads(15 * GiB)
		if !b.s.box.residency.TakesMemory(o.ID) {
			t.Error("half of it is there, and it is not seen to load")
		}
		b.at(60)
		b.reads(30 * GiB)
		b.s.Loaded(b.now, o.ID, Ended{})
		b.runs(image, false)
		b.reason(image, ReasonRest) // whether it makes do with the rest is tried next
		b.noOrder()                 // it has just been loaded
		if got := b.s.Snapshot(b.now).Backends[1].Replicas[0]; got.Failures != 1 || got.NotBefore.Sub(time.Unix(0, 0)) != 102*time.Second {
			t.Errorf("it is %+v, want the failure to be remembered for a minute", got)
		}
		b.s.Leave(b.now, image, CodeClientCancelled)
		again := b.submit("chat", "llm", 0)
		b.runs(again, true)
	}
}

// An unload that begins before a reading has shown the run which ended a moment ago
// has not freed what that reading shows.
func TestAnUnloadOfWhatWasNotReadYetHasFreedNothing(t *testing.T) {
	cfg := swapBox()
	for i := range cfg.Backends {
		cfg.Backends[i].MinResidency = 0
	}
	b := newRig(t, cfg)
	b.reads(0)
	chat := b.submit("chat", "llm", GiB)
	b.reads(0) // it has not loaded yet
	b.end(chat)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	b.after(.1)
	b.reads(30 * GiB)
	if freed, enough, _ := b.s.box.residency.Freed(o.ID); enough {
		t.Fatalf("%v of what the card still shows is said to be freed, and to be enough", freed)
	}
	b.after(1)
	b.reads(0)
	if freed, enough, _ := b.s.box.residency.Freed(o.ID); !enough {
		t.Fatalf("%v is freed, want all of 30 GiB", freed)
	}
	b.s.Unloaded(b.now, o.ID, Ended{})
	b.runs(image, true)
}

func TestAnIdleEngineMakesRoom(t *testing.T) {
	b, image := imageWaits(t)
	b.runs(image, false)
	b.reason(image, ReasonReclaiming)
	o := b.order(Unload, "llm")
	if o.Bytes != 30*GiB || o.For != image.ID() {
		t.Fatalf("the order is %+v, want 30 GiB for %d", o, image.ID())
	}
	// What waits for the one that is being unloaded waits for that.
	again := b.submit("chat", "llm", 0)
	b.reason(again, ReasonReclaiming)
	b.at(42)
	b.reads(500 * MiB)
	if freed, enough, known := b.s.box.residency.Freed(o.ID); !enough || !known || freed < 29*GiB {
		t.Fatalf("freed %v, enough %v, known %v", freed, enough, known)
	}
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
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
	o = b.order(Unload, "flux")
	b.reads(500 * MiB)
	b.s.Unloaded(b.now, o.ID, Ended{})
	b.reason(again, ReasonWaking)
	o = b.order(Wake, "llm")
	b.runs(again, false)
	b.at(77)
	b.s.Loaded(b.now, o.ID, Ended{})
	b.runs(again, true)
	var reasons []Reason
	for _, step := range again.wait.stay.Steps {
		reasons = append(reasons, step.Reason)
	}
	// A rest after 10 s: by then nothing says that flux is loaded.
	want := []Reason{ReasonReclaiming, ReasonResources, ReasonRest, ReasonReclaiming, ReasonWaking}
	if !slices.Equal(reasons, want) {
		t.Errorf("it waited for %v, want %v", reasons, want)
	}
}

func TestMemoryThatDidNotComeBackStaysBooked(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	b.end(chat)
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	b.reads(30*GiB - 50*MiB)
	if _, enough, known := b.s.box.residency.Freed(o.ID); enough || !known {
		t.Fatalf("50 MiB of 30 GiB are enough: %v, known: %v", enough, known)
	}
	b.s.Unloaded(b.now, o.ID, Ended{Note: "200, and nothing came back"})
	b.runs(image, false)
	b.reason(image, ReasonTrial) // by totals nothing says that it is llm's still
	b.noOrder()
	w, _ := b.s.Explain(b.now, image.ID())
	if want := (Keeper{Backend: "llm", Low: 0, High: 30*GiB - 50*MiB, Reclaims: true, Until: time.Unix(100, 0)}); len(w.Keepers) != 1 ||
		w.Keepers[0] != want {
		t.Errorf("%+v hold its memory, want %+v", w.Keepers, want)
	}
	state := b.s.Snapshot(b.now).Backends[1]
	if state.Accounts[0].High != 30*GiB-50*MiB || state.Replicas[0].Failures != 1 {
		t.Fatalf("the state is %+v, want all of it to be held and one failure", state)
	}
	// Others go on, and later it is tried again, after twice as long each time.
	caption := b.submit("light", "captions", GiB)
	b.runs(caption, true)
	for i, after := range []float64{100, 220, 460} {
		b.at(after - .1)
		b.noOrder()
		b.at(after)
		o = b.order(Unload, "llm")
		b.s.Unloaded(b.now, o.ID, Ended{})
		if got := b.s.Snapshot(b.now).Backends[1].Replicas[0].Failures; got != i+2 {
			t.Fatalf("%d failures, want %d", got, i+2)
		}
	}
}

func TestABusyEngineDrainsForAHeadThatWaitsLong(t *testing.T) {
	b := newRig(t, swapBox())
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
	o := b.order(Unload, "llm")
	b.s.Unloaded(b.now, o.ID, Ended{})
	// Nothing was read since: its word does not count.
	b.runs(image, false)
}

func TestAHeadThatLeavesStopsTheDrain(t *testing.T) {
	b := newRig(t, swapBox())
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
	b := newRig(t, cfg)
	b.end(b.submit("chat", "llm", 0))
	b.at(400)
	b.submit("heavy", "flux", 10*GiB)
	b.at(500)
	b.noOrder()
	if err := b.s.UnloadByHand(b.now, "llm"); err != nil {
		t.Fatal(err)
	}
	b.order(Unload, "llm")
}

func TestTheCheapestIsUnloadedFirstAndNoneInVain(t *testing.T) {
	cfg := swapBox()
	cfg.GPUs[0].Memory = 70 * GiB
	b := newRig(t, cfg)
	b.end(b.submit("chat", "llm", 0))
	for i := range 20 {
		b.at(float64(40 + i))
		b.end(b.submit("light", "captions", GiB))
	}
	b.at(70)
	// 38 GiB are held, 32 free, 34 needed: either would do, and the captions
	// are asked for all the time.
	b.submit("heavy", "flux", 10*GiB)
	b.order(Unload, "llm")
	b.noOrder()
}

// The captions are cheap and not enough; the model that is then unloaded as well
// makes room alone.
func TestACheapUnloadThatALargeOneMakesUnnecessaryIsNotDone(t *testing.T) {
	cfg := swapBox()
	cfg.GPUs[0].Memory = 70 * GiB
	b := newRig(t, cfg)
	b.end(b.submit("light", "captions", 0))
	for i := range 20 {
		b.at(float64(40 + i))
		b.end(b.submit("chat", "llm", 0))
	}
	b.at(90)
	b.submit("heavy", "flux", 20*GiB) // 44 GiB, of which 32 are free
	b.order(Unload, "llm")
	b.noOrder()
}

func TestADeadSleeperIsNotWokenForEver(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
	b.at(60)
	for _, t := range b.s.running {
		b.end(t)
		break
	}
	b.at(200)
	chat := b.submit("chat", "llm", 0)
	o = b.order(Unload, "flux")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{})
	o = b.order(Wake, "llm")
	b.s.Loaded(b.now, o.ID, Ended{Failed: true, Dead: true, Note: "nobody listens"})
	// It goes to the backend, whose breaker has the say from here on.
	b.runs(chat, true)
}

func TestAWakeThatFailsIsTriedAgainLater(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.s.SetLoaded(0, "llm", 0, false, true)
	b.at(1)
	b.reads(0)
	chat := b.submit("chat", "llm", 0)
	o := b.order(Wake, "llm")
	if got := b.s.Snapshot(b.now).GPUs[0].Booked; got != 30*GiB {
		t.Fatalf("%v booked while it wakes, want 30 GiB", got)
	}
	b.s.Loaded(b.now, o.ID, Ended{Failed: true})
	b.reads(0)
	if got := b.s.Snapshot(b.now).GPUs[0].Booked; got != 0 {
		t.Fatalf("%v booked after it failed, want nothing", got)
	}
	b.noOrder()
	b.reason(chat, ReasonWaking)
	b.at(6)
	b.s.Loaded(b.now, b.order(Wake, "llm").ID, Ended{})
	b.runs(chat, true)
}

func TestAnIdleCardBringsBackWhatWasAskedFor(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
	b.runs(image, true)
	b.reads(34 * GiB)
	b.end(image)
	b.reads(24 * GiB)
	b.at(71)
	b.noOrder() // no room beside flux
	if err := b.s.UnloadByHand(b.now, "flux"); err != nil {
		t.Fatal(err)
	}
	o = b.order(Unload, "flux")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{})
	b.order(Wake, "llm")
}

func TestAReloadKeepsOrdersUnderWay(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.end(b.submit("chat", "llm", 0))
	b.reads(30 * GiB)
	b.at(40)
	image := b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	if err := b.s.Reconfigure(b.now, swapBox()); err != nil {
		t.Fatal(err)
	}
	b.reads(0)
	if !b.s.Unloaded(b.now, o.ID, Ended{}) {
		t.Fatal("the order is not known any more")
	}
	b.runs(image, true)
	if got := b.booked(); got != "g0:34" {
		t.Fatalf("booked %v", got)
	}
}
