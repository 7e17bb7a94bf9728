package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// brief is a scene that is over at once: a heavy with lights beside it, through
// all three arms.
func brief() simulation.Scene {
	s := simulation.Scene{Name: "brief", Says: "a heavy and some lights", LightMemory: 3 * admission.GiB, LightSlots: 16, StaticSlots: 4}
	s.Jobs = []simulation.Job{{Heavy: true, Execute: 17 * time.Second}, {Heavy: true, Execute: 18 * time.Second}}
	for range 20 {
		s.Jobs = append(s.Jobs, simulation.Job{Execute: time.Second})
	}
	return s
}

// said is a writer that hands each write over.
type said chan string

func (s said) Write(p []byte) (int, error) {
	s <- string(p)
	return len(p), nil
}

func TestTheDemoPlaysEverySceneThroughEveryArm(t *testing.T) {
	var news bytes.Buffer
	d := demo{scenes: []simulation.Scene{brief()}, runs: 1, speed: 200, news: &news}
	figures, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, arm := range arms {
		r := figures["brief"][arm]
		if r.Light.Requests != 20 || r.Heavy.Requests != 2 || r.OutOfMemory != 0 || r.Over != 0 {
			t.Errorf("%s: %+v, want every request answered, no memory short", arm, r)
		}
		if r.Light.Execute < 1 || r.Peak < int64(34*admission.GiB) || r.Peak > int64(47*admission.GiB) || r.Throughput == 0 {
			t.Errorf("%s: %+v", arm, r)
		}
	}
	if a, f := figures["brief"]["anteroom"].Light.Wait, figures["brief"]["fifo"].Light.Wait; a >= f {
		t.Errorf("a light waits %.1f s behind Anteroom, %.1f s in one queue", a, f)
	}
	var table strings.Builder
	printScene(&table, d.scenes[0], figures["brief"])
	for _, want := range []string{"fifo", "static 1+4", "anteroom", "light wait, s", "gap between heavies, s", "out of memory", "peak memory, GiB"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("%q is not in\n%s", want, &table)
		}
	}
}

func TestTheDemosStatusCanBeReadWhileItRuns(t *testing.T) {
	news := make(said)
	ctx, stop := context.WithCancel(t.Context())
	long := brief()
	long.Jobs = append(long.Jobs, simulation.Job{At: time.Hour, Execute: time.Second})
	d := demo{scenes: []simulation.Scene{long}, runs: 1, speed: 200, news: news}
	ended := make(chan error)
	go func() { _, err := d.run(ctx); ended <- err }()
	line := strings.Fields(<-news)
	if len(line) != 4 || line[2] != "brief" {
		t.Fatalf("the first line says %q", line)
	}
	<-news
	res, err := http.Get(line[3])
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var state map[string]any
	if err := json.NewDecoder(res.Body).Decode(&state); err != nil || res.StatusCode != http.StatusOK || len(state) == 0 {
		t.Errorf("got %s, %v, %v", res.Status, state, err)
	}
	stop()
	if err := <-ended; err == nil {
		t.Error("an interrupted demo has figures")
	}
	if res, err := http.Get(line[3]); err == nil {
		res.Body.Close()
		t.Error("the proxy outlives the demo")
	}
}

func TestTheDemosJSONNamesScenesAndArms(t *testing.T) {
	figures := make(map[string]map[string]simulation.Result)
	for _, s := range simulation.Scenes() {
		figures[s.Name] = make(map[string]simulation.Result)
		for _, arm := range arms {
			figures[s.Name][arm] = simulation.Result{}
		}
	}
	var out bytes.Buffer
	printJSON(&out, demoJSON(figures))
	var got map[string]map[string]map[string]json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, scene := range []string{"steady", "backlog", "wide_lights"} {
		for _, arm := range []string{"fifo", "static", "anteroom"} {
			if !strings.Contains(string(got["scenes"][scene][arm]), `"over_budget"`) {
				t.Errorf("%s, %s: %s", scene, arm, got["scenes"][scene][arm])
			}
		}
	}
	if len(got) != 1 || len(got["scenes"]) != 4 || !slices.Equal(arms, []string{"fifo", "static", "anteroom"}) {
		t.Errorf("got %s", &out)
	}
}

func TestAStaticSplitThatIsTooWideRunsOutOfMemory(t *testing.T) {
	s := brief()
	s.StaticSlots = 8
	d := demo{scenes: []simulation.Scene{s}, runs: 1, speed: 200, news: new(bytes.Buffer)}
	figures, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := figures["brief"]["static"]; r.OutOfMemory == 0 || r.Over == 0 {
		t.Errorf("static: %+v, want eight lights of 3 GiB beside a heavy to be too many", r)
	}
	if r := figures["brief"]["anteroom"]; r.OutOfMemory != 0 || r.Over != 0 {
		t.Errorf("anteroom: %+v, want no memory short", r)
	}
}
