package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// said is a writer that hands each write over. It has room for all that is said.
type said chan string

func (s said) Write(p []byte) (int, error) {
	s <- string(p)
	return len(p), nil
}

func TestTheDemoPlaysEverySceneThroughEveryArm(t *testing.T) {
	var news bytes.Buffer
	d := demo{scenes: []simulation.Scene{brief()}, runs: 1, news: &news}
	figures, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, arm := range arms {
		r := figures["brief"][arm]
		if r.Light.Requests != 20 || r.Heavy.Requests != 2 || r.OutOfMemory != 0 || r.Over != 0 || r.Failed != 0 || r.Late != 0 {
			t.Errorf("%s: %+v, want every request answered in time, no memory short", arm, r)
		}
		if r.Light.Execute != 1 || r.Peak < int64(34*admission.GiB) || r.Peak > int64(47*admission.GiB) || r.Throughput == 0 {
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
	news := make(said, 100)
	ctx, stop := context.WithCancel(t.Context())
	long := brief()
	long.Jobs = append(long.Jobs, simulation.Job{At: 10000 * time.Hour, Execute: time.Second}) // the test stops it
	d := demo{scenes: []simulation.Scene{long}, runs: 1, speed: 200, news: news}
	ended := make(chan error)
	go func() { _, err := d.run(ctx); ended <- err }()
	line := strings.Fields(<-news)
	if len(line) != 4 || line[2] != "brief" {
		t.Fatalf("the first line says %q", line)
	}
	<-news
	// It is the page's address; the state that the page shows is beside it.
	res, err := http.Get(line[3] + "api/state")
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
	all := make(figures)
	for _, s := range simulation.Scenes() {
		for _, arm := range arms {
			all.add(s, arm, played{})
		}
	}
	var out bytes.Buffer
	printJSON(&out, demoJSON(all))
	var got map[string]map[string]map[string]json.RawMessage
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for _, scene := range []string{"steady", "backlog", "wide_lights", "contention"} {
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
	for _, speed := range []float64{0, 200} {
		d := demo{scenes: []simulation.Scene{s}, runs: 1, speed: speed, news: new(bytes.Buffer)}
		figures, err := d.run(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if r := figures["brief"]["static"]; r.OutOfMemory == 0 || r.Over == 0 || r.Failed != 0 {
			t.Errorf("speed %g, static: %+v, want eight lights of 3 GiB beside a heavy to be too many", speed, r)
		}
		if r := figures["brief"]["anteroom"]; r.OutOfMemory != 0 || r.Over != 0 || r.Failed != 0 {
			t.Errorf("speed %g, anteroom: %+v, want no memory short", speed, r)
		}
	}
}

// What does not depend on the machine's speed is the same in both times.
func TestVirtualAndRealTimeAgreeOnWhatIsAnswered(t *testing.T) {
	virtual, err := demo{scenes: []simulation.Scene{brief()}, runs: 1, news: new(bytes.Buffer)}.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	overSockets, err := demo{scenes: []simulation.Scene{brief()}, runs: 1, speed: 200, news: new(bytes.Buffer)}.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, arm := range arms {
		v, r := virtual["brief"][arm], overSockets["brief"][arm]
		if v.Light.Requests != r.Light.Requests || v.Heavy.Requests != r.Heavy.Requests || v.OutOfMemory != r.OutOfMemory ||
			v.Over != r.Over || v.Failed != r.Failed {
			t.Errorf("%s: in virtual time %+v, in real time %+v", arm, v.Result, r.Result)
		}
	}
}

// scenesPlayed are all scenes in virtual time, once for the tests that only look.
var scenesPlayed = sync.OnceValues(func() (figures, error) {
	return demo{scenes: simulation.Scenes(), runs: 1, news: io.Discard}.run(context.Background())
})

func TestVirtualTimeIsTheSameEachTime(t *testing.T) {
	once := func(all figures, err error) string {
		var out bytes.Buffer
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range simulation.Scenes() {
			for _, arm := range arms {
				fmt.Fprintf(&out, "%s %s %+v %+v %+v\n", s.Name, arm, all[s.Name][arm].Result, all[s.Name][arm].seen, all[s.Name][arm].memory)
			}
		}
		return out.String()
	}
	if a, b := once(scenesPlayed()), once(demo{scenes: simulation.Scenes(), runs: 1, news: io.Discard}.run(t.Context())); a != b {
		t.Error("two plays differ")
	}
}

func TestADemoOfWhichARequestFailsPrintsWhatItHas(t *testing.T) {
	s := brief()
	for range 1100 { // more than its queue takes
		s.Jobs = append(s.Jobs, simulation.Job{Execute: time.Second})
	}
	d := demo{scenes: []simulation.Scene{s}, runs: 1, news: new(bytes.Buffer)}
	all, err := d.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const refused = 1120 - 1000 - 4 // four run at once
	if r := all["brief"]["anteroom"]; r.Failed != refused || r.Light.Requests != 1120-refused || r.Heavy.Requests != 2 {
		t.Errorf("%+v, want %d failures", r.Result, refused)
	}
	var table, trouble strings.Builder
	printScene(&table, s, all["brief"])
	if failed := printTrouble(&trouble, d, all); !failed {
		t.Error("no failure is said")
	}
	if want := fmt.Sprintf("brief, anteroom: %d requests failed; the first: 429", refused); !strings.Contains(trouble.String(), want) {
		t.Errorf("%q is not in %s", want, &trouble)
	}
	if want := fmt.Sprint(refused, "\n"); !strings.Contains(table.String(), want) {
		t.Errorf("no failures in\n%s", &table)
	}
}

func TestAMachineThatFallsBehindTheClockIsSaid(t *testing.T) {
	d := demo{scenes: []simulation.Scene{brief()}, speed: 20}
	for late, said := range map[float64]bool{0: false, 0.05: false, 0.5: true} {
		all := make(figures)
		for _, arm := range arms {
			all.add(brief(), arm, played{})
		}
		all.add(brief(), "static", played{Result: simulation.Result{Late: late}})
		var trouble strings.Builder
		if printTrouble(&trouble, d, all) {
			t.Errorf("%g s late is a failure", late)
		}
		if strings.Contains(trouble.String(), "too slow to keep the clock: at --speed 20") != said {
			t.Errorf("%g s late: it says %q", late, &trouble)
		}
	}
}

func TestTheDemosPageStandsAlone(t *testing.T) {
	d := demo{scenes: simulation.Scenes()}
	all, err := scenesPlayed()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "demo.html")
	path, err := writePage(name, d, all)
	if err != nil || path != name {
		t.Fatalf("got %q, %v", path, err)
	}
	page, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, address := range []string{"http:", "https:", "src=", "href=", "url(", "@import", "<script"} {
		if strings.Contains(text, address) {
			t.Errorf("the page has %q", address)
		}
	}
	if n := strings.Count(text, "<svg"); n != len(d.scenes)*len(arms) {
		t.Errorf("%d pictures, want one for each scene and arm", n)
	}
	for _, s := range d.scenes {
		waits := fmt.Sprintf("<td>%.2f</td>", all[s.Name]["fifo"].Light.Wait)
		if !strings.Contains(text, waits) || !strings.Contains(text, s.Says) {
			t.Errorf("%s: the table is not in the page", s.Name)
		}
	}
	for _, picture := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(text, -1) {
		if err := xml.Unmarshal([]byte(picture), new(struct{})); err != nil {
			t.Errorf("%v in %.100s", err, picture)
		}
	}
}

func TestTheDemoIsAskedRightly(t *testing.T) {
	for _, args := range [][]string{{"--speed", "20"}, {"--real", "--speed", "0"}, {"now"}} {
		var said strings.Builder
		if code := runDemo(args, &said, &said); code != 2 {
			t.Errorf("%q: exit code %d, and it says %s", args, code, &said)
		}
	}
	var out, said strings.Builder
	t.Chdir(t.TempDir())
	page, err := filepath.Abs(pageName)
	if err != nil {
		t.Fatal(err)
	}
	if code := runDemo(nil, &out, &said); code != 0 || said.Len() > 0 {
		t.Fatalf("exit code %d, and it says %s", code, &said)
	}
	for _, want := range []string{"It shows:", "Pictures:  " + page, "Next:", "wide_lights"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
	// Where there is no browser, it says where the page lies.
	t.Setenv("PATH", "")
	said.Reset()
	if code := runDemo([]string{"--open"}, io.Discard, &said); code != 1 || !strings.Contains(said.String(), "open "+page+" by hand") {
		t.Errorf("exit code %d, and it says %s", code, &said)
	}
}

func TestTheReadmesFiguresAreTheDemos(t *testing.T) {
	var out strings.Builder
	all, err := scenesPlayed()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range simulation.Scenes() {
		printScene(&out, s, all[s.Name])
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	lines, shown := strings.Split(out.String(), "\n"), 0
	for i, block := range strings.Split(string(readme), "\n```") {
		if i%2 == 0 || !strings.Contains(block, "fifo ") {
			continue
		}
		for _, line := range strings.Split(block, "\n")[1:] {
			shown++
			if !slices.Contains(lines, line) {
				t.Errorf("README.md shows %q, which the demo does not print", line)
			}
		}
	}
	if shown == 0 {
		t.Error("README.md shows nothing of what the demo prints")
	}
}
