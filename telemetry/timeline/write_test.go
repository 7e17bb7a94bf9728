package timeline

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// day is a history with one of everything.
func day() History {
	ran := func(from, wait, execute int) Request {
		return Request{At: at(from), Asked: at(from), Ended: at(from + wait + execute), Route: "images", Class: "heavy", Backend: "flux", Result: "ok",
			Grant: 1, Wait: float64(wait), Execute: float64(execute), VRAM: 34 << 30, Priority: 3}
	}
	left := ran(4, 3, 0)
	left.Ended, left.Execute, left.Result, left.Grant = at(7), -1, "cancelled", 0
	refused := ran(5, 0, 0)
	refused.Ended, refused.Execute, refused.Result, refused.Code = at(5), -1, "refused", "queue_full"
	unknown := refused
	unknown.Class, unknown.Route = "light", "captions"
	passed := Request{At: at(1), Ended: at(2), Route: "pass", Backend: "flux", Result: "ok", Execute: 1, Wait: -1}
	urgent := ran(2, 18, 20)
	urgent.Priority, urgent.Deadline, urgent.Tenant = 1, 60, "acme"
	return History{Since: at(0), Until: at(100),
		Requests: []Request{passed, unknown, refused, left, ran(0, 0, 18), urgent},
		Decisions: []Decision{{At: at(20), Kind: Unload, Backend: "vqa", Took: 2, Bytes: 5, Note: "2 of 2 were freed"},
			{At: at(30), Kind: Breaker, Action: "open", Backend: "vqa", Note: "nothing listens"}, {At: at(40), Kind: Control, Action: "pause",
				Class: "heavy", By: "alice"},
			{At: at(1), Kind: Granted, Class: "heavy"}},
		Samples: []Sample{{At: at(10), Classes: []ClassSample{{Name: "heavy", Queued: 1, Running: 1}}, GPUs: []GPUSample{{Name: "gpu0", Unmanaged: 7,
			Owners: []OwnerSample{{Backend: "flux", Booked: 34 << 30}, {Backend: "vqa", Replica: 1, Booked: 3}}}}}}}
}

func TestARecordIsATrace(t *testing.T) {
	var out bytes.Buffer
	if err := WriteCSV(&out, day()); err != nil {
		t.Fatal(err)
	}
	const want = `# 4 requests, complete from 2026-11-27T12:00:00Z to 2026-11-27T12:01:40Z; what passed without a grant, and what still runs, is not among them
# 1 that never ran are left out: nothing of their class ran that would say for how long
at,class,execute,vram,tenant,priority,deadline,leave,route
0.000000,heavy,18.000000,36507222016,,,,,images
2.000000,heavy,20.000000,36507222016,acme,1,60.000000,,images
4.000000,heavy,19.000000,36507222016,,,,3.000000,images
5.000000,heavy,19.000000,36507222016,,,,,images
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// The events are held against the format's description: each phase has what it needs,
// times are microseconds, begins have ends, and runs of one lane do not overlap.
func TestATraceIsOneForViewers(t *testing.T) {
	var out bytes.Buffer
	if err := WriteTrace(&out, day()); err != nil {
		t.Fatal(err)
	}
	var trace struct {
		TraceEvents []struct {
			Ph, Name, Cat, ID, S string
			Pid, Tid             *int
			Ts                   *float64
			Dur                  float64
			Args                 map[string]any
		}
	}
	if err := json.Unmarshal(out.Bytes(), &trace); err != nil {
		t.Fatal(err)
	}
	names, open, lanes, count := map[int]string{}, map[string]float64{}, map[[2]int]float64{}, map[string]int{}
	for _, e := range trace.TraceEvents {
		if e.Pid == nil || e.Tid == nil || e.Ts == nil || e.Name == "" {
			t.Fatalf("%+v lacks pid, tid, ts or name", e)
		}
		count[e.Ph]++
		key := e.Cat + e.ID
		switch e.Ph {
		case "M":
			names[*e.Pid], _ = e.Args["name"].(string)
		case "b":
			if _, twice := open[key]; twice || e.ID == "" {
				t.Errorf("%s begins twice, or has no id", key)
			}
			open[key] = *e.Ts
		case "e":
			if from, ok := open[key]; !ok || *e.Ts < from {
				t.Errorf("%s ends at %v and began at %v", key, *e.Ts, from)
			}
			delete(open, key)
		case "X":
			lane := [2]int{*e.Pid, *e.Tid}
			if *e.Ts < lanes[lane] {
				t.Errorf("%s begins at %v in a lane that is free from %v on", e.Name, *e.Ts, lanes[lane])
			}
			lanes[lane] = *e.Ts + e.Dur
		case "C":
			for key, value := range e.Args {
				if _, number := value.(float64); !number {
					t.Errorf("the counter %s has %s: %v, want a number", e.Name, key, value)
				}
			}
		case "i":
			if !slices.Contains([]string{"g", "p", "t"}, e.S) {
				t.Errorf("the instant %s has the scope %q", e.Name, e.S)
			}
		default:
			t.Errorf("%s has the phase %q", e.Name, e.Ph)
		}
		if names[*e.Pid] == "" {
			t.Errorf("%s is on a track without a name", e.Name)
		}
	}
	if len(open) > 0 {
		t.Errorf("%v never end", open)
	}
	if count["X"] != 4 || count["b"] != 2 || count["C"] != 2 || count["i"] != 2 {
		t.Errorf("got %v, want 3 runs and an order, 2 waits, 2 counters, 2 instants", count)
	}
	for _, want := range []string{"class heavy", "pass", "orders", "gpu gpu0"} {
		if !strings.Contains(out.String(), `"name":"`+want+`"`) {
			t.Errorf("there is no track %q", want)
		}
	}
}
