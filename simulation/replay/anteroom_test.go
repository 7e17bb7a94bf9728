package replay

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/internal/race"
)

func TestALightRunsBesideAHeavyAndAnotherHeavyWaits(t *testing.T) {
	trace := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n2,light,1.5\n")
	tells(t, story(t, Admission, card(), trace), `
		0 heavy of 0 starts
		2 light of 2 starts
		3.5 light of 2 ends
		18 heavy of 0 ends
		18 heavy of 1 starts
		35 heavy of 1 ends`)
}

func TestAHeavysPlaceIsKeptForIt(t *testing.T) {
	box := card()
	// No protection helps it: the reservation alone must do.
	box.Admission.Classes[0].StrictAfter, box.Admission.Classes[1].StrictAfter = time.Hour, time.Hour
	box.Routes[1].Estimate = estimate(10)
	trace := read(t, "at,class,execute,vram\n0,light,10,20GiB\n1,heavy,18,\n2,light,8,13GiB\n3,light,10,14GiB\n")
	tells(t, story(t, Admission, box, trace), `
		0 light of 0 starts
		2 light of 2 starts
		10 light of 0 ends
		10 heavy of 1 starts
		10 light of 2 ends
		28 heavy of 1 ends
		28 light of 3 starts
		38 light of 3 ends`)
}

func TestWorkEndsBeforeARequestOfTheSameMomentArrives(t *testing.T) {
	// Else the queue would be full.
	box := card()
	box.Admission.Classes[0].QueueLimit = 1
	trace := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n18,heavy,17\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		18 heavy of 0 ends
		18 heavy of 1 starts
		35 heavy of 1 ends
		35 heavy of 18 starts
		52 heavy of 18 ends`)
}

func TestARowsOwnMemoryCounts(t *testing.T) {
	// Beside 34 GiB there is room for 13.
	trace := read(t, "at,class,execute,vram\n0,heavy,18,\n1,light,1,14GiB\n2,light,1,13GiB\n2,light,1,50000000000000\n")
	tells(t, story(t, Admission, card(), trace), `
		0 heavy of 0 starts
		2 light of 2 starts
		2 light of 2 never_fits
		3 light of 2 ends
		18 heavy of 0 ends
		18 light of 1 starts
		19 light of 1 ends`)
}

func TestTheClientLeaves(t *testing.T) {
	for name, want := range map[string]string{
		"from the queue": `
			0 heavy of 0 starts
			4 heavy of 1 leaves
			18 heavy of 0 ends`,
		"from work that its backend stops": `
			0 light of 0 starts
			3 light of 0 leaves`,
		"from work that goes on without it": `
			0 heavy of 0 starts
			18 heavy of 0 leaves
			18 heavy of 1 starts
			35 heavy of 1 ends`,
	} {
		t.Run(name, func(t *testing.T) {
			trace := map[string]string{
				"from the queue":                    "at,class,execute,leave\n0,heavy,18,\n1,heavy,17,3\n",
				"from work that its backend stops":  "at,class,execute,leave\n0,light,18,3\n",
				"from work that goes on without it": "at,class,execute,leave\n0,heavy,18,3\n1,heavy,17,\n",
			}[name]
			tells(t, story(t, Admission, card(), read(t, trace)), want)
		})
	}
}

func TestWhatMayWaitIsLimited(t *testing.T) {
	box := card()
	box.Admission.Classes[0].QueueLimit = 1
	box.Admission.Classes[0].QueueTimeout = 10 * time.Second
	trace := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n2,heavy,17\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		2 heavy of 2 queue_full
		11 heavy of 1 queue_timeout
		18 heavy of 0 ends`)
}

func TestADeadlineThatCannotBeMetIsRefused(t *testing.T) {
	// Before a run has been seen only the deadline itself counts, then the fastest.
	trace := read(t, "at,class,execute,deadline\n0,heavy,18,100\n1,heavy,18,5\n19,heavy,18,5\n20,heavy,18,100\n")
	box := card()
	box.Learn = true
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		6 heavy of 1 deadline_unmeetable
		18 heavy of 0 ends
		19 heavy of 19 deadline_unmeetable
		20 heavy of 20 starts
		38 heavy of 20 ends`)
}

func TestWorkThatTakesTooLongHasNoAnswer(t *testing.T) {
	box := card()
	box.Routes[0].ExecutionTimeout = 10 * time.Second
	box.Routes[1].ExecutionTimeout = time.Second
	trace := read(t, "at,class,execute\n0,heavy,18\n1,light,3\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		1 light of 1 starts
		2 light of 1 execution_timeout
		18 heavy of 0 execution_timeout`)
}

func TestWhatNeverStartsIsSaid(t *testing.T) {
	// The first keeps its 40 GiB for good, and no timeout ends the second.
	box := card()
	box.Admission.Backends[0].ReturnsMemory = false
	box.Admission.Classes[1].QueueTimeout = 0
	trace := read(t, "at,class,execute,vram\n0,heavy,18,40GiB\n1,light,1,10GiB\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		18 heavy of 0 ends
		18 light of 1 never_started`)
}

func TestARouteStandsForItself(t *testing.T) {
	box := card()
	box.Routes = append(box.Routes, Route{Name: "small", Class: "heavy", Backend: "flux", VRAM: admission.GiB, Estimate: estimate(1)})
	box.Admission.Classes[0].Slots = 2
	trace := read(t, "at,class,execute,route\n0,heavy,18,\n1,heavy,1,small\n2,heavy,18,images\n")
	tells(t, story(t, Admission, box, trace), `
		0 heavy of 0 starts
		1 heavy of 1 starts
		2 heavy of 1 ends
		18 heavy of 0 ends
		18 heavy of 2 starts
		36 heavy of 2 ends`)
}

// twoCards is a box whose light backend is on both cards, and whose heavy one
// takes room on the first or, spread out, on both at once.
func twoCards(spread bool) *Box {
	box := card()
	box.Admission.GPUs = append(box.Admission.GPUs, admission.GPU{Name: "gpu1", Memory: 24 * admission.GiB})
	box.Admission.Backends[1].Replicas = append(box.Admission.Backends[1].Replicas, admission.Replica{Places: []admission.Place{{GPU: "gpu1"}}})
	if spread {
		places := &box.Admission.Backends[0].Replicas[0].Places
		*places = append(*places, admission.Place{GPU: "gpu1"})
		box.Routes[0].VRAM = 20 * admission.GiB
	}
	return box
}

func TestWhatFindsNoRoomOnOneCardRunsOnTheOther(t *testing.T) {
	trace := read(t, "at,class,execute,vram\n0,heavy,18,\n1,light,2,14GiB\n")
	for name, how := range schedules {
		if name == "fifo" {
			continue
		}
		r := play(t, how, twoCards(false), trace)
		if r.Classes["light"].Wait.Max != 0 || r.Peak["gpu1"] != int64(14*admission.GiB) || r.OverBudget > 0 {
			t.Errorf("%s: the light waits %v s, the peaks are %v", name, r.Classes["light"].Wait.Max, r.Peak)
		}
	}
}

func TestABackendOnTwoCardsTakesRoomOnBoth(t *testing.T) {
	// 24 GiB have no room for 20 and 14, but 47 have.
	trace := read(t, "at,class,execute,vram\n0,heavy,18,\n1,light,2,14GiB\n1,light,2,14GiB\n")
	for name, how := range schedules {
		if name == "fifo" {
			continue
		}
		r := play(t, how, twoCards(true), trace)
		if r.Peak["gpu0"] != int64(34*admission.GiB) || r.Peak["gpu1"] != int64(20*admission.GiB) || r.Classes["light"].Wait.Max != 2 || r.OverBudget > 0 {
			t.Errorf("%s: the second light waits %v s, the peaks are %v, want 2 s, 34 and 20 GiB", name, r.Classes["light"].Wait.Max, r.Peak)
		}
	}
}

func TestTenantsTakeTurnsUnlessFairnessIsOff(t *testing.T) {
	trace := read(t, "at,class,execute,tenant\n0,heavy,18,a\n1,heavy,18,a\n2,heavy,18,a\n3,heavy,18,b\n")
	box := card()
	box.Fair = true
	// The head that waits since 1 s keeps its place.
	if fair := story(t, Admission, box, trace); !strings.Contains(fair, "\n36 heavy of 3 starts") {
		t.Errorf("b does not come as soon as it can:\n%s", fair)
	}
	off := story(t, OneTenant, box, trace)
	if !strings.Contains(off, "\n54 heavy of 3 starts") {
		t.Errorf("with fairness off b does not come last:\n%s", off)
	}
	box.Fair = false
	if got := story(t, Admission, box, trace); got != off {
		t.Errorf("a box that does not tell tenants apart gives\n%swant\n%s", got, off)
	}
}

func TestAnUrgentRequestCountsAsEarlier(t *testing.T) {
	trace := read(t, "at,class,execute,priority\n0,heavy,18,\n1,heavy,18,\n2,heavy,18,\n12,heavy,18,0\n")
	for urgency, want := range map[time.Duration]string{
		// Counts as of 12 − 3 × 3.5 s. The head that waits since 1 s stays.
		3500 * time.Millisecond: "36 heavy of 12 starts",
		3 * time.Second:         "54 heavy of 12 starts",
		0:                       "54 heavy of 12 starts",
	} {
		box := card()
		box.Urgency = urgency
		if got := story(t, Admission, box, trace); !strings.Contains(got, "\n"+want) {
			t.Errorf("%v: there is no %q in\n%s", urgency, want, got)
		}
	}
}

func TestSaysWhatTheBoxDoesNotHave(t *testing.T) {
	trace := read(t, "at,class,execute,route\n0,heavy,18,\n1,midle,1,\n2,light,1,images\n3,heavy,1,sketches\n4,midle,1,\n")
	for name, how := range schedules {
		_, err := how(card(), trace)
		want := `trace.csv:3:3: class: "midle": no route of card has it: want heavy or light (and in 1 more rows)
trace.csv:4:11: route: "images": its class is heavy in card, and the row says light: want them to agree
trace.csv:5:11: route: "sketches": card has no such route: want images or questions`
		if err == nil || err.Error() != want {
			t.Errorf("%s: got\n%v\nwant\n%s", name, err, want)
		}
	}
}

// jumble is a random trace for the card, with every column in use.
func jumble(r *rand.Rand, rows int) string {
	var b strings.Builder
	b.WriteString("at,class,execute,vram,tenant,priority,deadline,leave\n")
	at := 0.0
	some := func(chance float64, text string) string {
		if r.Float64() < chance {
			return text
		}
		return ""
	}
	for range rows {
		at += r.ExpFloat64() * 2
		class, execute := "light", 1+r.Float64()
		if r.IntN(4) == 0 {
			class, execute = "heavy", 17+3*r.Float64()
		}
		fmt.Fprintf(&b, "%.1f,%s,%.1f,%s,%s,%s,%s,%s\n", at, class, execute,
			some(0.3, fmt.Sprintf("%dGiB", 1+r.IntN(50))), some(0.5, []string{"a", "b", "c"}[r.IntN(3)]), some(0.4, fmt.Sprint(r.IntN(8))),
			some(0.2, fmt.Sprint(5+r.IntN(200))), some(0.2, fmt.Sprint(1+r.IntN(60))))
	}
	return b.String()
}

func TestHoldsItsPromisesOnAnyTrace(t *testing.T) {
	for seed := range uint64(race.Some(100)) {
		r := rand.New(rand.NewPCG(seed, 0))
		trace := read(t, jumble(r, 60))
		box := card()
		box.Fair = true
		box.Urgency = time.Duration(r.IntN(3)) * 10 * time.Second
		box.Admission.Classes[1].Slots = 1 + r.IntN(8)
		box.Admission.Backends[r.IntN(2)].Slots = r.IntN(4)
		box.Admission.Backends[1].ReturnsMemory = r.IntN(2) == 0
		for name, how := range schedules {
			got := play(t, how, box, trace)
			if name != "fifo" && got.OverBudget > 0 {
				t.Errorf("seed %d: %s was over the budget %d times", seed, name, got.OverBudget)
			}
			if got.Makespan < got.Bound-1e-6 {
				t.Errorf("seed %d: %s ended at %v, before the bound %v", seed, name, got.Makespan, got.Bound)
			}
			if again := play(t, how, box, trace); again.Decisions != got.Decisions {
				t.Errorf("seed %d: %s decided otherwise the second time", seed, name)
			}
		}
	}
}

func TestTheHashIsThatOfTheDecisions(t *testing.T) {
	one := read(t, "at,class,execute\n0,heavy,18\n1,heavy,17\n2,light,1.5\n")
	hash := play(t, Admission, card(), one).Decisions
	if len(hash) != len("sha256:")+64 || !strings.HasPrefix(hash, "sha256:") {
		t.Fatalf("got %q, want sha256: and 64 digits", hash)
	}
	for name, other := range map[string]string{
		"another start":   "at,class,execute\n0,heavy,18.1\n1,heavy,17\n2,light,1.5\n",
		"another request": "at,class,execute\n0,heavy,18\n1,light,1.5\n2,heavy,17\n",
		"one more":        "at,class,execute\n0,heavy,18\n1,heavy,17\n2,light,1.5\n3,light,1\n",
	} {
		if got := play(t, Admission, card(), read(t, other)).Decisions; got == hash {
			t.Errorf("%s: the hash stays the same", name)
		}
	}
	// Nothing is decided when work ends.
	if got := play(t, Admission, card(), read(t, "at,class,execute\n0,heavy,18\n1,heavy,17.3\n2,light,1.7\n")).Decisions; got != hash {
		t.Error("the hash is another with the same decisions")
	}
}

func BenchmarkController(b *testing.B) {
	box, trace := example(b, "mixed", "mixed")
	used := func() time.Duration { // the processor's time, which others on the machine do not take
		var r syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
			b.Fatal(err)
		}
		return time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	before := used()
	for b.Loop() {
		if _, err := Admission(box, trace); err != nil {
			b.Fatal(err)
		}
	}
	requests := float64(len(trace.Rows)) * float64(b.N)
	b.ReportMetric(requests/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(requests/(used()-before).Seconds(), "requests/cpu-s")
}
