package replay

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// LoadBox makes the box of a configuration. load_test.go sets it: package configured knows
// this one, so that this one's own tests cannot import it.
var LoadBox func(file string) (*Box, error)

// example loads one of the example configurations and one of the traces.
func example(t testing.TB, config, trace string) (*Box, *Trace) {
	t.Helper()
	dir := filepath.Join("..", "..", "examples", "traces")
	box, err := LoadBox(filepath.Join(dir, config+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	// What is wrong stays wrong here: promises may not rest on learning.
	box.Learn = !strings.HasPrefix(config, "estimates-")
	f, err := os.Open(filepath.Join(dir, trace+".csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := Read(trace+".csv", f)
	if err != nil {
		t.Fatal(err)
	}
	return box, rows
}

// examples are the traces with the configurations that they are played against.
var examples = []struct{ config, trace string }{
	{"mixed", "mixed"}, {"estimates-third", "mixed"}, {"estimates-triple", "mixed"},
	{"flood", "flood"}, {"estimates-third", "flood"}, {"estimates-triple", "flood"},
	{"three-classes", "three-classes"}, {"two-tenants", "two-tenants"}, {"two-gpus", "two-gpus"},
}

// logs keeps what the controller did with an example: several tests look at it.
var logs = map[[2]string]*Log{}

// run plays an example.
func run(t testing.TB, config, trace string) (*Box, *Trace, *Log) {
	t.Helper()
	box, rows := example(t, config, trace)
	key := [2]string{config, trace}
	if logs[key] == nil {
		log, err := Admission(box, rows)
		if err != nil {
			t.Fatal(err)
		}
		logs[key] = log
	}
	return box, rows, logs[key]
}

func figures(t testing.TB, box *Box, trace *Trace, log *Log) *Result {
	t.Helper()
	r, err := Judge(box, trace, log)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func figuresOf(t testing.TB, config, trace string) *Result {
	t.Helper()
	box, rows, log := run(t, config, trace)
	return figures(t, box, rows, log)
}

func eachExample(t *testing.T, do func(t *testing.T, box *Box, trace *Trace, log *Log)) {
	for _, e := range examples {
		t.Run(e.trace+" with "+e.config, func(t *testing.T) {
			box, trace, log := run(t, e.config, e.trace)
			do(t, box, trace, log)
		})
	}
}

func TestExamplesStayWithinTheBudgetAndNearTheBound(t *testing.T) {
	eachExample(t, func(t *testing.T, box *Box, trace *Trace, log *Log) {
		r := figures(t, box, trace, log)
		for _, g := range box.Admission.GPUs {
			if peak := admission.Bytes(r.Peak[g.Name]); peak > budget(g) || peak == 0 {
				t.Errorf("the peak of %s is %v, want some and %v at most", g.Name, peak, budget(g))
			}
		}
		if r.OverBudget > 0 {
			t.Errorf("over the budget %d times", r.OverBudget)
		}
		if r.Makespan > 1.05*r.Bound {
			t.Errorf("the last work ends at %.1f s, want within 5 %% of %.1f s", r.Makespan, r.Bound)
		}
	})
}

func TestExamplesStarveNoClass(t *testing.T) {
	eachExample(t, func(t *testing.T, box *Box, trace *Trace, log *Log) {
		longest, strict := time.Duration(0), time.Duration(0)
		for i := range trace.Rows {
			longest = max(longest, trace.Rows[i].Execute)
		}
		for _, c := range box.Admission.Classes {
			strict = max(strict, c.StrictAfter)
		}
		// The head is protected after so long, and what ran then has ended.
		limit := strict + longest
		p, err := newPlan(box, trace)
		if err != nil {
			t.Fatal(err)
		}
		all := passages(p, log)
		for class, c := range box.Admission.Classes {
			if got := drought(all, class); got > limit {
				t.Errorf("%s waits and none of it starts for %v, want %v at most", c.Name, got, limit)
			}
		}
	})
}

// drought is the longest time in which requests of a class waited and none of
// them started.
func drought(all []passage, class int) time.Duration {
	type change struct {
		at      time.Duration
		waiting int
		started bool
	}
	var changes []change
	for _, x := range all {
		if x.class == class {
			changes = append(changes, change{at: x.arrived, waiting: 1}, change{at: x.start, waiting: -1, started: x.ran})
		}
	}
	slices.SortStableFunc(changes, func(a, b change) int { return cmp.Compare(a.at, b.at) })
	var worst, since time.Duration
	waiting := 0
	for i := 0; i < len(changes); {
		at := changes[i].at
		if waiting > 0 {
			worst = max(worst, at-since)
		} else {
			since = at
		}
		for ; i < len(changes) && changes[i].at == at; i++ {
			waiting += changes[i].waiting
			if changes[i].started {
				since = at
			}
		}
	}
	return worst
}

func TestLightsDoNotWaitInTheMixedTrace(t *testing.T) {
	for _, config := range []string{"mixed", "estimates-third", "estimates-triple"} {
		light := figuresOf(t, config, "mixed").Classes["light"]
		if light.Wait.P99 > 0.1 || light.Completed != light.Requests {
			t.Errorf("%s: %d of %d lights are done, p99 of the wait %v s, want all and 0.1 s at most", config, light.Completed, light.Requests, light.Wait.P99)
		}
	}
}

func TestAFloodOfLightsDelaysNoHeavyForLong(t *testing.T) {
	for _, e := range examples {
		if e.trace != "flood" && e.trace != "mixed" {
			continue
		}
		t.Run(e.trace+" with "+e.config, func(t *testing.T) {
			box, trace, log := run(t, e.config, e.trace)
			with := starts(trace, log)
			heavies := trace.Without(func(r *Row) bool { return trace.Class(r) != "heavy" })
			log, err := Admission(box, heavies)
			if err != nil {
				t.Fatal(err)
			}
			alone := starts(heavies, log)
			allowed := time.Duration(0)
			for i := range trace.Rows {
				if row := &trace.Rows[i]; trace.Class(row) == "light" {
					allowed = max(allowed, row.Execute)
				}
			}
			for _, c := range box.Admission.Classes {
				if c.Name == "heavy" {
					allowed += c.StrictAfter
				}
			}
			if len(with) != len(alone) || len(with) == 0 {
				t.Fatalf("%d heavies start, and %d alone on the card", len(with), len(alone))
			}
			for at, started := range with {
				if late := started - alone[at]; late > allowed {
					t.Errorf("the heavy of %v starts %v later than alone on the card, want %v at most", at, late, allowed)
				}
			}
		})
	}
}

// starts gives when the heavies started, by arrival.
func starts(trace *Trace, log *Log) map[time.Duration]time.Duration {
	out := map[time.Duration]time.Duration{}
	for _, e := range log.Events {
		if row := &trace.Rows[e.Request]; e.What == Started && trace.Class(row) == "heavy" {
			out[row.At] = e.At
		}
	}
	return out
}

func TestAWideMiddleClassCostsTheHeaviesLittle(t *testing.T) {
	box, trace := example(t, "three-classes", "three-classes")
	with := play(t, Admission, box, trace).Classes["heavy"].Wait
	alone := play(t, Admission, box, trace.Without(func(r *Row) bool { return trace.Class(r) != "heavy" })).Classes["heavy"].Wait
	if with.P50 > alone.P50+10 {
		t.Errorf("p50 of the heavies' wait is %v s, and %v s alone on the card: want 10 s more at most", with.P50, alone.P50)
	}
}

func TestAPoliteTenantDoesNotQueueBehindAGreedyOne(t *testing.T) {
	box, trace := example(t, "two-tenants", "two-tenants")
	polite := func(how func(*Box, *Trace) (*Log, error)) Spread {
		for _, x := range play(t, how, box, trace).Tenants {
			if x.Tenant == "polite" {
				return x.Wait
			}
		}
		t.Fatal("there is no polite tenant")
		return Spread{}
	}
	fair, off := polite(Admission), polite(OneTenant)
	if fair.P50*10 > off.P50 {
		t.Errorf("p50 of the polite tenant's wait is %v s, and %v s with fairness off: want ten times less", fair.P50, off.P50)
	}
}

func TestTwoCardsWorkSideBySide(t *testing.T) {
	box, trace, both := run(t, "two-gpus", "two-gpus")
	onLarge := trace.Without(func(r *Row) bool { return trace.kinds[r.kind].route == "sketches" })
	log, err := Admission(box, onLarge)
	if err != nil {
		t.Fatal(err)
	}
	together, alone := starts(trace, both), starts(onLarge, log)
	if len(alone) == 0 || len(alone) == len(together) {
		t.Fatalf("%d heavies on the large card, %d on both", len(alone), len(together))
	}
	for at, start := range alone {
		if together[at] != start {
			t.Errorf("the image of %v starts at %v, and without the small card's work at %v", at, together[at], start)
		}
	}
	if r := figures(t, box, trace, both); r.Peak["small"] <= int64(18*admission.GiB) {
		t.Errorf("the small card's peak is %v, want two sketches and a question", admission.Bytes(r.Peak["small"]))
	}
	var questions [2]int // by replica
	for _, e := range both.Events {
		if e.What == Started && trace.Class(&trace.Rows[e.Request]) == "light" {
			questions[e.Replica]++
		}
	}
	if questions[0] == 0 || questions[1] == 0 {
		t.Errorf("the replicas got %v questions, want some on each card", questions)
	}
}
