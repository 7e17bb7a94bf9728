package admission

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// turnBox is a swapBox whose backends take turns.
func turnBox() Config {
	cfg := swapBox()
	cfg.GPUs[0].Turn = 30 * time.Second
	cfg.Classes[0].Slots = 1
	return cfg
}

// carriesOut ends the unloads that are ordered.
func (b *rig) carriesOut() {
	for _, o := range slices.Clone(b.s.Orders()) {
		b.s.Unloaded(b.now, o.ID, Ended{})
	}
}

// A question to a model of chats does not end the turn of the images: it says whose
// turn it is, and until when.
func TestAHeadWaitsForATurnAndSaysSo(t *testing.T) {
	b := newRig(t, turnBox())
	b.submit("heavy", "flux", 10*GiB)
	b.at(2)
	chat := b.submit("chat", "llm", 0)
	b.runs(chat, false)
	b.noOrder()
	w, _ := b.s.Explain(b.now, chat.ID())
	if want := (Turn{Backend: "flux", Ends: time.Unix(32, 0)}); w.Reason != ReasonTurn || w.Turn == nil || *w.Turn != want {
		t.Fatalf("it waits for %q, turn %+v, want that of %+v", w.Reason, w.Turn, want)
	}
	// Images go on coming: each is granted until one would end after the turn.
	for at := 10.0; at < 30; at += 10 {
		b.at(at - 5)
		next := b.submit("heavy", "flux", 10*GiB)
		b.at(at)
		b.end(b.s.running[0])
		b.runs(next, true)
	}
	b.at(29)
	late := b.submit("heavy", "flux", 10*GiB)
	b.runs(late, false)
	b.reason(chat, ReasonReclaiming)
	b.at(30)
	b.end(b.s.running[0])
	b.order(Unload, "flux")
}

// What was unloaded for a request is not taken by one that ranks before it.
func TestWhatWasFreedForAHeadIsTheHeads(t *testing.T) {
	b := newRig(t, turnBox())
	image := b.submit("heavy", "flux", 10*GiB)
	b.at(1)
	next := b.submit("heavy", "flux", 10*GiB)
	b.at(2)
	chat := b.submit("chat", "llm", 0)
	b.at(33)
	b.end(image)
	b.runs(next, false)
	o := b.order(Unload, "flux")
	if o.For != chat.ID() {
		t.Fatalf("the unload is for %d, want %d", o.For, chat.ID())
	}
	b.at(36)
	b.s.Unloaded(b.now, o.ID, Ended{})
	b.runs(chat, true)
	b.runs(next, false)
}

// The room is not kept for one that leaves, nor for one that could not start.
func TestWhatWasFreedIsFreeWhenTheHeadLeaves(t *testing.T) {
	b := newRig(t, turnBox())
	b.s.SetLoaded(0, "llm", 0, false, true)
	image := b.submit("heavy", "flux", 10*GiB)
	b.at(1)
	next := b.submit("heavy", "flux", 10*GiB)
	b.at(2)
	chat := b.submit("chat", "llm", 0)
	b.at(33)
	b.end(image)
	b.s.Unloaded(b.now, b.order(Unload, "flux").ID, Ended{})
	wake := b.order(Wake, "llm")
	b.runs(next, false)
	b.s.Loaded(b.now, wake.ID, Ended{Failed: true})
	b.carriesOut() // it could not be woken, and is told to give back what it may have taken
	b.runs(next, true)
	b.s.Leave(b.now, chat, CodeClientCancelled)
	b.end(next)
	b.runs(b.submit("heavy", "flux", 10*GiB), true)
}

// A backend that is idle and has nothing queued does not keep the card.
func TestAnIdleBackendGivesTheCardUp(t *testing.T) {
	b := newRig(t, turnBox())
	b.end(b.submit("chat", "llm", 0))
	b.at(1)
	b.submit("heavy", "flux", 10*GiB)
	b.order(Unload, "llm") // it was loaded a second ago, and is asked for rarely

	// One that is asked for all the time is given as long as to unload and load it
	// would take, at the most.
	b = newRig(t, turnBox())
	for range 20 {
		b.end(b.submit("chat", "llm", 0))
		b.after(1)
	}
	image := b.submit("heavy", "flux", 10*GiB)
	b.noOrder()
	b.reason(image, ReasonTurn)
	for range 40 {
		if b.after(1); b.s.box.residency.UnloadsFor(image) {
			break
		}
	}
	if b.now > 38*time.Second { // 3 s to unload and 15 s to load 30 GiB, since 19 s
		t.Errorf("it gives the card up after %v, want 18 s of idleness at the most", b.now)
	}
	b.order(Unload, "llm")
}

// Three backends take turns: the one that waits longest is next.
func TestTheLongestWaitHasTheNextTurn(t *testing.T) {
	cfg := turnBox()
	cfg.Backends[2].Replicas[0].Places[0].Resident = 30 * GiB
	cfg.Classes[0].Slots = 4
	b := newRig(t, cfg)
	waits := map[*Ticket]time.Duration{}
	var longest time.Duration
	for step := range 2000 {
		b.after(.5)
		b.carriesOut()
		for _, name := range []string{"flux", "llm", "captions"} {
			if step%8 == 0 {
				x := b.submit(map[string]string{"flux": "heavy", "llm": "chat", "captions": "light"}[name], name, GiB)
				waits[x] = b.now
			}
		}
		for _, x := range slices.Clone(b.s.running) {
			if b.now-x.run.Started >= 2*time.Second {
				b.end(x)
			}
		}
		for x, since := range waits {
			if x.state == stateRunning || x.state == stateOver {
				longest = max(longest, x.Waited())
				delete(waits, x)
			} else {
				longest = max(longest, b.now-since)
			}
		}
	}
	if most := 2 * (30 + 10 + 1) * time.Second; longest > most {
		t.Errorf("a request waited for %v, want 2 turns with a run each at the most, %v", longest, most)
	}
}

// What nothing will make room for says so within 10 s, also while other work runs.
func TestNeverByItselfWhileOthersWork(t *testing.T) {
	cfg := turnBox()
	cfg.Backends[1].Reclaims = false
	b := newRig(t, cfg)
	b.end(b.submit("chat", "llm", 0)) // it retains 30 GiB
	image := b.submit("heavy", "flux", 10*GiB)
	caption := b.submit("light", "captions", GiB)
	told := 0
	for b.now < 11*time.Second {
		b.after(1)
		next := b.submit("light", "captions", GiB)
		b.runs(next, true)
		b.end(caption)
		caption = next
		told += len(b.s.Stuck())
	}
	b.reason(image, ReasonNotByItself)
	w, _ := b.s.Explain(b.now, image.ID())
	if want := "30GiB of g0 and has no reclaim"; told != 1 || !strings.Contains(w.Detail, want) {
		t.Errorf("it is told %d times, and says %q; want once, and %q", told, w.Detail, want)
	}
}

// A process in the way is named, and a lone run.
func TestReasonsNameWhatIsInTheWay(t *testing.T) {
	b := newRig(t, turnBox())
	b.seesProcesses(20*GiB, map[string]Bytes{"flux": 0, "llm": 0, "captions": 0, "train.py": 20 * GiB})
	image := b.submit("heavy", "flux", 10*GiB)
	b.reason(image, ReasonUnmanagedMemory)
	w, _ := b.s.Explain(b.now, image.ID())
	if len(w.Processes) != 1 || w.Processes[0].Name != "train.py" || w.Processes[0].PID != 4 || w.Processes[0].Used != 20*GiB ||
		!strings.Contains(w.Detail, "train.py (PID 4) of no backend holds 20GiB of g0") {
		t.Errorf("it says %q and %+v", w.Detail, w.Processes)
	}

	b = newRig(t, turnBox())
	b.reads(0)
	b.readsFor(2, 0)
	first := b.ask(Request{Class: "heavy", Backend: "flux", VRAM: GiB, Unknown: true})
	b.runs(first, true)
	caption := b.submit("light", "captions", GiB)
	for _, why := range []Reason{ReasonLoneRun, ReasonRest} { // also after others may start beside it
		b.readsFor(9, 40*GiB)
		b.reason(caption, why)
		if w, _ := b.s.Explain(b.now, caption.ID()); w.LoneRun != first.ID() {
			t.Errorf("it says %q, lone run %d, want %d", w.Detail, w.LoneRun, first.ID())
		}
	}
}

// What is uncertain, and when it is tried, is said beforehand.
func TestAReasonSaysWhatIsUncertainAndWhenItIsTried(t *testing.T) {
	cfg := turnBox()
	cfg.Backends[0].Reclaims = false
	b := newRig(t, cfg)
	held := map[string]Bytes{"flux": 34 * GiB, "llm": 0, "captions": 0}
	b.seesProcesses(34*GiB, held)
	caption := b.submit("light", "captions", 10*GiB) // as declared, 18 GiB in all
	b.reason(caption, ReasonTrial)
	w, _ := b.s.Explain(b.now, caption.ID())
	if w.Doubt != "demand" || !w.TrialAt.Equal(time.Unix(10, 0)) {
		t.Fatalf("it says that %q is in doubt, and tried at %v; want the demand, at 10 s", w.Detail, w.TrialAt)
	}
	for b.now < 9*time.Second {
		b.after(1)
		b.seesProcesses(34*GiB, held)
	}
	b.runs(caption, false)
	b.at(10)
	b.seesProcesses(34*GiB, held)
	b.runs(caption, true)
}

// The bound on a head's wait rests on no estimate: 2 to 4 backends of which no two fit
// together, with estimates that are random numbers.
func TestTurnsRestOnNoEstimate(t *testing.T) {
	const (
		turn, longestRun, unload, load = 20 * time.Second, 8 * time.Second, 3 * time.Second, 6 * time.Second
		step                           = 200 * time.Millisecond
	)
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 13))
		cfg := Config{GPUs: []GPU{{Name: "g0", Memory: 48 * GiB, Turn: turn}}}
		wakes := map[string]bool{}
		names := []string{"a", "b", "c", "d"}[:2+r.IntN(3)]
		for _, name := range names {
			cfg.Classes = append(cfg.Classes, Class{Name: name, Slots: 1 + r.IntN(3), QueueLimit: 1000, StrictAfter: 5 * time.Second})
			cfg.Backends = append(cfg.Backends, Backend{Name: name, Reclaims: true, MinResidency: time.Minute, ReturnsMemory: r.IntN(2) == 0,
				Replicas: []Replica{{Places: []Place{{"g0", 26 * GiB}}}}})
			wakes[name] = r.IntN(2) == 0
		}
		b := newRig(t, cfg)
		ends := map[*Ticket]time.Duration{}
		orders := map[Order]time.Duration{}
		bound := time.Duration(len(names)-1) * (turn + longestRun + unload + load + 6*step)
		rates := make([]int, len(names))
		for i := range rates {
			rates[i] = 10 + r.IntN(200)
		}
		for b.now < 6*time.Minute {
			b.until(b.now + step)
			for o, at := range orders {
				if b.now < at {
					continue
				}
				delete(orders, o)
				if o.Kind == Unload {
					b.s.Unloaded(b.now, o.ID, Ended{MustWake: wakes[o.Backend]})
				} else {
					b.s.Loaded(b.now, o.ID, Ended{})
				}
			}
			for i, name := range names {
				if r.IntN(rates[i]) == 0 {
					b.ask(Request{Class: name, Backend: name, VRAM: GiB, Estimate: Estimate{P50: time.Duration(r.Int64N(int64(time.Minute)))}})
				}
			}
			for _, x := range slices.Clone(b.s.running) {
				if ends[x] == 0 {
					ends[x] = x.run.Started + time.Duration(r.Int64N(int64(longestRun)))
				} else if b.now >= ends[x] {
					b.end(x)
				}
			}
			for _, o := range b.s.Orders() {
				took := unload
				if o.Kind == Wake {
					took = load
				}
				orders[o] = b.now + took
			}
			for _, sh := range b.s.shapes.active {
				if sh.head != nil && b.now-sh.blockedSince > bound {
					w, _ := b.s.Explain(b.now, sh.head.ID())
					t.Fatalf("seed %d, %d backends: at %v a head of %s has waited for %v, want %v at most: %+v", seed, len(names), b.now, sh.backend.cfg.Name,
						b.now-sh.blockedSince, bound, w)
				}
			}
			granted := b.s.starts
			b.s.Tick(b.now)
			if b.s.starts != granted {
				t.Fatalf("seed %d: at %v another pass grants something", seed, b.now)
			}
		}
	}
}
