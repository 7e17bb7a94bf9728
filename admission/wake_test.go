package admission

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// sleeps puts a backend's replica to sleep, as found at the start.
func (b *rig) sleeps(backend string, replica int) {
	b.t.Helper()
	if !b.s.SetLoaded(b.now, backend, replica, false, true) {
		b.t.Fatalf("%s/%d cannot be put to sleep", backend, replica)
	}
}

// twoReplicas is a swapBox with a second card, and a second llm on it.
func twoReplicas() Config {
	cfg := swapBox()
	cfg.GPUs = append(cfg.GPUs, GPU{Name: "g1", Memory: 48 * GiB})
	cfg.Backends[1].Slots = 1
	cfg.Backends[1].Replicas = []Replica{{Name: "a", Places: []Place{{"g0", 30 * GiB}}}, {Name: "b", Places: []Place{{"g1", 30 * GiB}}}}
	return cfg
}

func without(cfg Config, backend string) Config {
	cfg.Backends = slices.DeleteFunc(slices.Clone(cfg.Backends), func(b Backend) bool { return b.Name == backend })
	return cfg
}

func TestASleepingReplicaIsWokenBesideOneThatCannotBeUsed(t *testing.T) {
	for sleeper := range 2 {
		b := newRig(t, twoReplicas())
		b.sleeps("llm", sleeper)
		b.s.SetAvailable(b.now, "llm", 1-sleeper, 0)
		b.reason(b.submit("chat", "llm", 0), ReasonWaking)
		b.order(Wake, "llm")

		b = newRig(t, twoReplicas())
		b.sleeps("llm", sleeper)
		b.runs(b.submit("chat", "llm", 0), true) // on the other one, and that is its slot
		b.reason(b.submit("chat", "llm", 0), ReasonWaking)
		b.order(Wake, "llm")
	}
}

func TestMemoryIsFreedForTheReplicaThatIsAvailable(t *testing.T) {
	for dead, full := range []string{"g1", "g0"} {
		cfg := twoReplicas()
		cfg.Backends[0].Replicas[0].Places[0].GPU = full
		b := newRig(t, cfg)
		b.s.SetAvailable(b.now, "llm", dead, 0)
		b.end(b.submit("heavy", "flux", 10*GiB))
		b.at(40)
		b.reason(b.submit("chat", "llm", 0), ReasonReclaiming)
		b.order(Unload, "flux")
	}
}

func TestOneThatSleepsIsWokenThoughNothingCanBeUnloadedAnyMore(t *testing.T) {
	b := newRig(t, swapBox())
	b.sleeps("llm", 0)
	cfg := swapBox()
	for i := range cfg.Backends {
		cfg.Backends[i].Reclaims = false
	}
	if err := b.s.Reconfigure(b.now, cfg); err != nil {
		t.Fatal(err)
	}
	b.submit("chat", "llm", 0)
	b.order(Wake, "llm")
}

func TestASleeperThatIsAskedAgainSleepsOn(t *testing.T) {
	b, image := imageWaits(t)
	o := b.order(Unload, "llm")
	b.reads(20 * GiB)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true}) // 20 GiB stay
	b.runs(image, false)
	b.at(46)
	o = b.order(Unload, "llm")
	b.s.Unloaded(b.now, o.ID, Ended{Failed: true})
	chat := b.submit("chat", "llm", 0)
	b.runs(chat, false)
	b.reason(chat, ReasonWaking)
}

// What failed is to make room: its own request waits for nothing.
func TestASleeperThatKeptItsMemoryIsWokenAtOnce(t *testing.T) {
	b, image := imageWaits(t)
	o := b.order(Unload, "llm")
	b.s.Unloaded(b.now, o.ID, Ended{Failed: true, MustWake: true})
	b.s.Leave(b.now, image, CodeClientCancelled)
	b.submit("chat", "llm", 0)
	b.order(Wake, "llm")
}

func TestByHandSaysWhatCannotBeDone(t *testing.T) {
	b, _ := imageWaits(t)
	if err := b.s.UnloadByHand(b.now, "llm"); err != nil {
		t.Errorf("what is under way is refused: %v", err)
	}
	o := b.order(Unload, "llm")
	if err := b.s.WakeByHand(b.now, "llm"); err == nil {
		t.Error("one that is being unloaded is woken")
	}
	b.reads(10 * GiB)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true}) // 10 GiB stay
	if err := b.s.UnloadByHand(b.now, "llm"); err != nil {
		t.Errorf("what a sleeper kept cannot be asked for: %v", err)
	}
	o = b.order(Unload, "llm")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
	if err := b.s.UnloadByHand(b.now, "llm"); err == nil {
		t.Error("one that sleeps and holds nothing is told to unload")
	}
}

// Nothing was sent to a server that does not listen, and so it took nothing.
func TestWhatNeverCameToItsServerTookNothing(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	for _, others := range []bool{false, true} {
		var other *Ticket
		if others {
			other = b.submit("chat", "llm", 0)
		}
		lost := b.submit("chat", "llm", 4*GiB)
		b.ends(lost, Result{Outcome: Unreached})
		if others {
			b.end(other)
		}
		want := Bytes(0)
		if others {
			want = 30 * GiB
		}
		b.reads(want)
		b.holds("llm", want, want)
	}
}

func TestANeighbourIsNotTheReturnOfTheDead(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(GiB)
	chat := b.submit("chat", "llm", 0)
	b.reads(31 * GiB)
	b.at(40)
	b.end(chat)
	b.reads(31 * GiB)
	b.submit("heavy", "flux", 10*GiB)
	o := b.order(Unload, "llm")
	b.reads(GiB)
	b.s.Unloaded(b.now, o.ID, Ended{Failed: true, Dead: true, MustWake: true})
	o = b.order(Return, "llm")
	b.reads(GiB)
	if b.s.box.residency.TakesMemory(o.ID) {
		t.Error("what the neighbour holds is taken for its loading")
	}
}

func TestAReadingFromBeforeTheLoadProvesNothing(t *testing.T) {
	fails := func(b *rig) { b.s.Observe(b.now, Reading{GPU: "g0", Err: errors.New("a bad day")}) }
	for name, later := range map[string]func(*rig){"readings fail": fails, "none comes": func(*rig) {}} {
		t.Run(name, func(t *testing.T) {
			b := newRig(t, swapBox())
			b.reads(0)
			b.at(1)
			later(b)
			b.end(b.submit("chat", "llm", 0))
			b.at(2)
			later(b)
			if err := b.s.UnloadByHand(b.now, "llm"); err != nil {
				t.Fatal(err)
			}
			o := b.order(Unload, "llm")
			if freed, enough, _ := b.s.box.residency.Freed(o.ID); enough || freed > 0 {
				t.Errorf("%v have come back, enough: %v; want nothing before it was asked", freed, enough)
			}
			b.s.Unloaded(b.now, o.ID, Ended{Failed: true})
			if most := b.account("llm").High; most != 30*GiB {
				t.Errorf("it may hold %v, want what no reading says is gone", most)
			}
		})
	}
}

func TestAReloadKeepsTheMemoryOfABackendItRemoves(t *testing.T) {
	b, image := imageWaits(t)
	if err := b.s.Reconfigure(b.now, without(swapBox(), "llm")); err != nil {
		t.Fatal(err)
	}
	b.runs(image, false)
	for range 3 {
		b.reads(0)
	}
	b.runs(image, true)
}

// asleepInDispute is a box where captions sleeps and may be brought back, and
// what runs is not known to hold what was there before.
func TestNothingIsWokenBesideALoneRun(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.end(b.submit("light", "captions", 0))
	b.reads(8 * GiB)
	b.at(40)
	b.submit("chat", "llm", 16*GiB) // 46 of 40
	o := b.order(Unload, "captions")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
	b.at(41)
	b.reads(32 * GiB)
	b.at(80)
	b.noOrder() // it may be llm's
	if err := b.s.WakeByHand(b.now, "captions"); err == nil {
		b.order(Wake, "captions")
	}

	b = newRig(t, swapBox())
	b.sleeps("llm", 0)
	for range 3 {
		b.reads(0)
	}
	alone := new(Ticket)
	b.s.Submit(b.now, alone, Request{Class: "light", Backend: "captions", VRAM: GiB, Unknown: true})
	b.runs(alone, true)
	if err := b.s.WakeByHand(b.now, "llm"); err == nil {
		t.Error("it is woken beside work that has the card to itself")
	}
	b.noOrder()
}

func TestAReadingBringsBackWhatSleeps(t *testing.T) {
	b, image := imageWaits(t)
	o := b.order(Unload, "llm")
	b.reads(0)
	b.s.Unloaded(b.now, o.ID, Ended{MustWake: true})
	b.end(image)
	for range 80 {
		b.after(1)
		b.reads(24 * GiB)
	}
	b.noOrder() // flux keeps what it took
	for range 3 {
		b.reads(0)
	}
	b.order(Wake, "llm")
}

// Waiting costs less than a swap for as long as the estimate says so.
func TestOverdueWorkDoesNotKeepMemoryFromBeingFreed(t *testing.T) {
	cfg := swapBox()
	cfg.GPUs[0].Memory = 60 * GiB
	cfg.Backends[2].Replicas[0].Places[0].Resident = GiB
	b := newRig(t, cfg)
	b.end(b.submit("chat", "llm", 0)) // 30 kept
	b.at(40)
	b.submit("light", "captions", 17*GiB) // said to take 10 s, and does not end
	b.submit("heavy", "flux", 0)          // 24, which are there when either has gone
	for b.now < 9*time.Minute {
		due, ok := b.s.Next()
		if !ok {
			break
		}
		b.now = max(b.now+time.Millisecond, due)
		b.s.Tick(b.now)
		if orders := b.s.Orders(); len(orders) > 0 {
			b.wants("the backend that is unloaded", orders[0].Backend, "llm")
			return
		}
	}
	t.Errorf("at %v nothing was told to unload", b.now)
}

// One that could not be woken is woken at once when its process is another, and only
// after a while when it is the same.
func TestAProcessThatIsBackIsWokenAtOnce(t *testing.T) {
	b := newRig(t, swapBox())
	b.reads(0)
	b.sleeps("llm", 0)
	b.submit("chat", "llm", 0)
	b.s.Loaded(b.now, b.order(Wake, "llm").ID, Ended{Failed: true})
	b.after(1)
	b.noOrder()
	b.s.SetThere(b.now, "llm", 0, false)
	b.noOrder()
	b.s.SetThere(b.now, "llm", 0, true)
	b.order(Wake, "llm")
}
