package admission

import (
	"testing"
	"time"
)

// measureBox has three engines that fit beside each other: one that returns
// memory, one that keeps it, one whose resident memory is to be learned.
func measureBox() Config {
	class := Class{Name: "work", Slots: 8, QueueLimit: 100, QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second}
	engine := func(name string, resident Bytes) Backend {
		return Backend{Name: name, ReturnsMemory: true, Replicas: []Replica{{Places: []Place{{GPU: "g0", Resident: resident}}}}}
	}
	keeps, learns := engine("keeps", 0), engine("learns", 0)
	keeps.ReturnsMemory, learns.LearnsResident = false, true
	return Config{GPUs: []GPU{{Name: "g0", Memory: 48 * GiB}}, Classes: []Class{class},
		Backends: []Backend{engine("returns", 4*GiB), keeps, learns}}
}

// finish ends a run that came to its end by itself.
func (b *box) finish(t *Ticket) {
	t.teaches = true
	b.s.End(b.now, t)
}

// alone submits work that keeps the card to itself.
func (b *box) alone(backend string, vram Bytes) *Ticket {
	t := new(Ticket)
	b.s.Submit(b.now, t, Request{Class: "work", Backend: backend, VRAM: vram, Alone: true, Estimate: Estimate{P50: time.Second, P95: time.Second}})
	return t
}

// seesProcesses is a reading that says whose the memory is.
func (b *box) seesProcesses(used Bytes, of map[string]Bytes) {
	r := Reading{GPU: "g0", Total: 48 * GiB, Used: used, Source: "nvml", Processes: []Process{}}
	for name, n := range of {
		r.Processes = append(r.Processes, Process{PID: 1 + len(r.Processes), Name: name, Used: n, Backend: name})
	}
	b.s.Observe(b.now, r)
}

// measured wants the peaks that were told since it was last asked.
func (b *box) measured(want ...Bytes) {
	b.t.Helper()
	got := []Bytes{}
	for _, m := range b.s.takings() {
		got = append(got, m.peak)
	}
	if len(got) != len(want) {
		b.t.Fatalf("measured %v, want %v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			b.t.Fatalf("measured %v, want %v", got, want)
		}
	}
}

func (b *box) holding(backend string) holding {
	return b.s.live.holdings[b.s.backendIndex[backend].replicas[0].accounts[0]]
}

func TestARunIsMeasured(t *testing.T) {
	t.Run("by totals while nothing else runs", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.reads(0)
		b.end(b.submit("work", "returns", 0)) // it has loaded
		for range calmReadings {
			b.reads(4 * GiB)
		}
		for range calmReadings {
			b.reads(6 * GiB) // a stranger has come
		}
		run := b.submit("work", "returns", 10*GiB)
		b.reads(9 * GiB)
		b.reads(18 * GiB)
		b.reads(12 * GiB)
		b.finish(run)
		b.measured(12 * GiB) // of 18, less 2 and the 4 that are resident
	})
	t.Run("not where others ran meanwhile", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.reads(0)
		first := b.submit("work", "returns", 10*GiB)
		b.reads(14 * GiB)
		other := b.submit("work", "keeps", 10*GiB)
		b.reads(24 * GiB)
		b.finish(first)
		b.finish(other)
		b.measured() // of the first too: it may have taken more since
		b.reads(10 * GiB)
		b.measured()
	})
	t.Run("by its processes whoever else runs", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.seesProcesses(0, nil)
		first, other := b.submit("work", "returns", 10*GiB), b.submit("work", "keeps", 10*GiB)
		b.seesProcesses(30*GiB, map[string]Bytes{"returns": 16 * GiB, "keeps": 8 * GiB})
		b.seesProcesses(30*GiB, map[string]Bytes{"returns": 12 * GiB, "keeps": 9 * GiB})
		b.finish(first)
		b.finish(other)
		b.measured(12*GiB, 9*GiB)
	})
	t.Run("not where two run on its account", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.seesProcesses(0, nil)
		first, other := b.submit("work", "returns", 10*GiB), b.submit("work", "returns", 10*GiB)
		b.seesProcesses(30*GiB, map[string]Bytes{"returns": 26 * GiB})
		b.finish(first)
		b.seesProcesses(16*GiB, map[string]Bytes{"returns": 14 * GiB})
		b.finish(other)
		b.measured()
	})
	t.Run("not where it failed or nothing could be read", func(t *testing.T) {
		b := newBox(t, measureBox())
		blind := b.submit("work", "returns", 10*GiB)
		b.reads(20 * GiB)
		b.finish(blind)
		failed := b.submit("work", "returns", 10*GiB)
		b.reads(20 * GiB)
		b.end(failed)
		b.measured()
	})
	t.Run("not where a stranger has gone meanwhile", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.reads(0)
		for range calmReadings {
			b.reads(20 * GiB)
		}
		run := b.submit("work", "returns", GiB)
		b.reads(5 * GiB)
		b.finish(run)
		b.measured()
	})
	t.Run("afterwards where it was short and its engine keeps memory", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.reads(0)
		short := b.submit("work", "keeps", 10*GiB)
		b.finish(short)
		b.measured()
		b.reads(11 * GiB)
		b.measured(11 * GiB)
		b.reads(11 * GiB)
		b.measured()
	})
	t.Run("not afterwards where its engine returns memory or others have started", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.reads(0)
		b.finish(b.submit("work", "returns", 10*GiB))
		b.reads(4 * GiB)
		short := b.submit("work", "keeps", 10*GiB)
		b.finish(short)
		other := b.submit("work", "returns", GiB)
		b.reads(15 * GiB)
		b.end(other)
		b.reads(15 * GiB)
		b.measured()
	})
}

func TestEnginesThatKeepMoreThanIsBookedAreToldApart(t *testing.T) {
	cfg := measureBox()
	cfg.Backends[0].ReturnsMemory = false
	b := newBox(t, cfg)
	b.reads(0)
	// Both take twice of what was declared, and keep it.
	used := map[string]Bytes{}
	for range 5 {
		for _, name := range []string{"returns", "keeps"} {
			truth := map[string]Bytes{"returns": 12 * GiB, "keeps": 10 * GiB}[name]
			run := b.submit("work", name, map[string]Bytes{"returns": 2 * GiB, "keeps": 5 * GiB}[name])
			used[name] = truth
			b.reads(used["returns"] + used["keeps"])
			b.finish(run)
			b.measured(truth - b.s.accounts[b.s.backendIndex[name].replicas[0].accounts[0]].resident)
			b.reads(used["returns"] + used["keeps"])
		}
	}
}

// One that loads while the desk begins is no stranger.
func TestResidentMemoryIsLearnedOfAnEngineThatIsStillLoading(t *testing.T) {
	b := newBox(t, measureBox())
	b.reads(GiB)
	b.s.SetLoaded(b.now, "learns", 0, true, true)
	for _, used := range []Bytes{3 * GiB, 8 * GiB, 16 * GiB, 16 * GiB, 16 * GiB} {
		b.reads(used)
	}
	first := b.alone("learns", 0)
	b.runs(first, true)
	b.reads(23 * GiB)
	b.finish(first)
	for range 2 * calmReadings {
		b.reads(23 * GiB)
	}
	if got := b.s.Snapshot(b.now).Backends[2].Accounts[0]; got.Resident != 23*GiB {
		t.Errorf("it is taken to hold %v, want all 23 GiB: whose the first was nobody knows", got.Resident)
	}
}

// What has come since the start may be an engine's that loads by itself.
func TestARunIsNotMeasuredWhileItIsOpenWhoseSomethingIs(t *testing.T) {
	b := newBox(t, measureBox())
	b.reads(0)
	b.reads(3 * GiB)
	run := b.submit("work", "returns", 10*GiB)
	b.reads(14 * GiB)
	b.finish(run)
	b.measured()
}

func TestARunBesideASwapIsNotMeasured(t *testing.T) {
	b, image := imageWaits(t)
	o := b.order(Reclaim, "llm")
	b.reads(0)
	b.s.Reclaimed(b.now, o.ID, Ended{})
	b.runs(image, true)
	b.reads(GiB) // it loads
	b.end(b.submit("light", "captions", 0))
	if err := b.s.ReclaimByHand(b.now, "captions"); err != nil {
		t.Fatal(err)
	}
	b.finish(image)
	b.measured()
}

func TestResidentMemoryIsLearned(t *testing.T) {
	b := newBox(t, measureBox())
	b.reads(GiB)
	first := b.alone("learns", 0)
	b.reads(35 * GiB)
	b.finish(first)
	b.measured(34 * GiB) // its weights are not known yet
	b.reads(30 * GiB)    // what it returns comes late
	if h := b.holding("learns"); h.kept != 0 {
		t.Errorf("after one reading it is believed to keep %v", h.kept)
	}
	for range 2 * calmReadings {
		b.reads(23 * GiB)
	}
	s := b.s.Snapshot(b.now)
	account := s.Backends[2].Accounts[0]
	if account.Resident != 22*GiB || account.AtRest != 22*GiB || account.Kept != 22*GiB || s.GPUs[0].Outside != GiB {
		t.Fatalf("at rest 22 GiB are its own and 1 GiB is not: %+v, outside %v", account, s.GPUs[0].Outside)
	}
	second := b.submit("work", "learns", 12*GiB)
	b.runs(second, true)
	b.reads(35 * GiB)
	b.finish(second)
	b.measured(12 * GiB)

	// A reload goes on with it; its own word is taken, that of others is not.
	if err := b.s.Reconfigure(b.now, measureBox()); err != nil {
		t.Fatal(err)
	}
	if got := b.s.Snapshot(b.now).Backends[2].Accounts[0].Resident; got != 22*GiB {
		t.Errorf("after a reload it is %v", got)
	}
	if !b.s.SetResident(b.now, "learns", 0, "g0", 20*GiB) || b.s.SetResident(b.now, "returns", 0, "g0", GiB) || b.s.SetResident(b.now, "learns", 1, "g0", GiB) {
		t.Error("SetResident takes what it should not, or does not take what it should")
	}
}

func TestWhatWaitsIsCutToWhatIsLeftBesideLearnedWeights(t *testing.T) {
	b := newBox(t, measureBox())
	b.reads(0)
	first := b.submit("work", "learns", 40*GiB)
	waits := b.submit("work", "learns", 40*GiB)
	b.runs(waits, false)
	b.s.SetResident(b.now, "learns", 0, "g0", 22*GiB)
	b.end(first)
	b.runs(waits, false) // the card rests for its readings
	b.at(5)
	b.runs(waits, true) // none came
	if waits.shape.vram != 26*GiB {
		t.Errorf("it is booked with %v, want the 26 GiB that are left", waits.shape.vram)
	}
	b.end(waits)
	if h := b.holding("learns"); h.running != 0 || b.s.live.booked[0] != h.kept {
		t.Errorf("the books are left with %+v, booked %v", h, b.s.live.booked[0])
	}
}

func TestWhatLearningAddedIsNoReasonToRefuse(t *testing.T) {
	b := newBox(t, measureBox())
	ask := func(vram, raised Bytes) *Ticket {
		x := new(Ticket)
		b.s.Submit(b.now, x, Request{Class: "work", Backend: "returns", VRAM: vram, Raised: raised})
		return x
	}
	x := ask(60*GiB, 30*GiB)
	b.runs(x, true)
	if x.shape.vram != 44*GiB {
		t.Errorf("booked %v, want the 44 GiB that are there beside 4", x.shape.vram)
	}
	if y := ask(60*GiB, 10*GiB); y.rejection == nil || y.rejection.Code != CodeNeverFits {
		t.Errorf("its own figure never fits, and it is %+v", y.rejection)
	}
}

func TestARestartWithAllEnginesLoaded(t *testing.T) {
	restart := func(t *testing.T, used Bytes) *box {
		b := newBox(t, measureBox())
		b.s.SetResident(b.now, "learns", 0, "g0", 20*GiB)
		for name, kept := range map[string]Bytes{"returns": 4 * GiB, "keeps": 18 * GiB, "learns": 20 * GiB} {
			if !b.s.Recall(name, 0, "g0", kept) {
				t.Fatalf("%s is not known", name)
			}
		}
		if b.s.Recall("gone", 0, "g0", GiB) || b.s.Recall("keeps", 0, "g7", GiB) {
			t.Error("it recalls what is not configured")
		}
		b.reads(used)
		return b
	}
	t.Run("nobody is locked out by memory that is their own", func(t *testing.T) {
		b := restart(t, 44*GiB)
		if s := b.s.Snapshot(b.now).GPUs[0]; s.Booked != 42*GiB || s.Outside != 2*GiB {
			t.Fatalf("booked %v, outside %v; want 42 and 2 GiB", s.Booked, s.Outside)
		}
		// All at once, and no turn alone.
		b.runs(b.submit("work", "keeps", 18*GiB), true)
		b.runs(b.submit("work", "learns", 2*GiB), true)
		b.runs(b.submit("work", "returns", 2*GiB), true)
	})
	t.Run("an engine killed meanwhile is not booked", func(t *testing.T) {
		b := restart(t, 24*GiB) // it was `keeps`
		if s := b.s.Snapshot(b.now).GPUs[0]; s.Booked != 0 || s.Outside != 24*GiB {
			t.Fatalf("booked %v, outside %v; want none and 24 GiB", s.Booked, s.Outside)
		}
		x := b.submit("work", "learns", 8*GiB)
		b.runs(x, true) // what is there may be its own
		b.reads(24 * GiB)
		b.end(x)
		b.at(5)
		b.reads(24 * GiB) // and this tells
		b.runs(b.submit("work", "keeps", 18*GiB), true)
	})
	t.Run("an engine killed later is not booked for ever", func(t *testing.T) {
		b := restart(t, 42*GiB)
		for range calmReadings {
			b.reads(22 * GiB)
		}
		if got := b.s.live.booked[0]; got != 22*GiB {
			t.Errorf("%v are booked, 22 GiB are there", got)
		}
	})
	t.Run("what the driver says comes first", func(t *testing.T) {
		b := newBox(t, measureBox())
		b.s.Recall("keeps", 0, "g0", 18*GiB)
		b.seesProcesses(10*GiB, map[string]Bytes{"keeps": 9 * GiB})
		if h := b.holding("keeps"); h.kept != 9*GiB {
			t.Errorf("it is believed to keep %v of 9 GiB", h.kept)
		}
	})
	t.Run("a figure a little above what is seen is taken for it", func(t *testing.T) {
		b := restart(t, 40*GiB)
		if got := b.s.live.booked[0]; got > 40*GiB || got < 40*GiB-KiB {
			t.Errorf("%v are booked of the 40 GiB that are there", got)
		}
	})
}
