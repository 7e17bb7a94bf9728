package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what the commands print into examples/traces/README.md")

const (
	oneCard = `
gpus: {gpu0: {memory: 48GiB, source: declared}}
classes:
  heavy: {slots: 1, vram: 34GiB, estimate: 18s}
  light: {slots: 64, vram: 512MiB, estimate: 1.5s}
backends:
  flux: {url: "http://127.0.0.1:8001", gpu: gpu0, returns_memory: true}
  vqa: {url: "http://127.0.0.1:8002", gpu: gpu0, returns_memory: true, cancel: aborts}
routes:
  - {match: {method: GET, path: /**}, pass: true, backend: vqa}
  - {name: images, match: {method: POST, path: /v1/images/generations}, class: heavy, backend: flux}
  - {match: {method: POST, path: /v1/large}, class: heavy, backend: flux, vram: 40GiB}
  - {name: questions, match: {method: POST, path: /v1/chat/completions}, class: light, backend: vqa, vram: 'gib(1) * num(body.n, 1)'}
`
	threeRequests = "at,class,execute\n0,heavy,18\n1,heavy,17\n2,light,1.5\n"
)

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// simulated is what simulate --json prints.
type simulatedJSON struct {
	Runs []struct {
		Config  string
		Classes map[string]struct {
			Requests, Completed, Left int
			Refused                   map[string]int
			Wait                      map[string]float64 `json:"wait_s"`
			Total                     map[string]float64 `json:"total_s"`
		}
		Makespan    float64            `json:"makespan_s"`
		Bound       float64            `json:"bound_s"`
		Throughput  float64            `json:"throughput_rps"`
		Peak        map[string]int64   `json:"peak_vram_bytes"`
		OverBudget  *int               `json:"over_budget"`
		Utilisation map[string]float64 `json:"slot_utilisation"`
		Decisions   string
		Swaps       int
		Turns       []struct {
			GPU, Backend string
			Bound        float64 `json:"bound_s"`
		}
		Tenants []struct {
			Tenant, Class             string
			Requests, Completed, Left int
			Refused                   map[string]int
			Wait                      map[string]float64 `json:"wait_s"`
			Total                     map[string]float64 `json:"total_s"`
		}
	}
}

func simulateJSON(t *testing.T, args ...string) simulatedJSON {
	t.Helper()
	code, stdout, stderr := anteroom(append([]string{"simulate", "--json"}, args...)...)
	if code != 0 || stderr != "" {
		t.Fatalf("got %d, %s", code, stderr)
	}
	var got simulatedJSON
	d := json.NewDecoder(strings.NewReader(stdout))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		t.Fatalf("%v in %s", err, stdout)
	}
	return got
}

func TestSimulatesConfigurationsSideBySide(t *testing.T) {
	one := writeFile(t, "one.yaml", oneCard)
	other := writeFile(t, "other.yaml", strings.Replace(oneCard, "slots: 1,", "slots: 2,", 1))
	trace := writeFile(t, "trace.csv", threeRequests)
	got := simulateJSON(t, "-c", one, "--config", other, "--trace", trace, "--baseline", "fifo", "--baseline", "clairvoyant")
	var names []string
	for _, r := range got.Runs {
		names = append(names, r.Config)
	}
	want := []string{one, one + " (fifo)", one + " (clairvoyant)", other, other + " (fifo)", other + " (clairvoyant)"}
	if !slices.Equal(names, want) {
		t.Fatalf("got runs %q, want %q", names, want)
	}
	controller, fifo := got.Runs[0], got.Runs[1]
	if controller.Classes["light"].Wait["max"] != 0 || fifo.Classes["light"].Wait["max"] != 33 || controller.Makespan != 35 || fifo.Makespan != 36.5 {
		t.Errorf("the light waits %v s until %v s, in a single queue %v s until %v s; want 0, 35, 33 and 36.5", controller.Classes["light"].Wait["max"],
			controller.Makespan, fifo.Classes["light"].Wait["max"], fifo.Makespan)
	}
	// The expression of the light route has no body to look at: its class counts.
	if controller.Peak["gpu0"] != 34<<30+512<<20 || *controller.OverBudget != 0 {
		t.Errorf("the peak is %d, want a heavy and a light", controller.Peak["gpu0"])
	}
	// 2 × 34 GiB do not fit, whatever the slots.
	if got.Runs[3].Makespan != 35 || got.Runs[3].Utilisation["heavy"] != 0.5 {
		t.Errorf("with two slots: %+v", got.Runs[3])
	}
	again := simulateJSON(t, "-c", one, "--config", other, "--trace", trace, "--baseline", "fifo", "--baseline", "clairvoyant")
	if !reflect.DeepEqual(got, again) {
		t.Error("the second time it prints something else")
	}
}

func TestSimulatesBackendsThatMakeRoom(t *testing.T) {
	trace := writeFile(t, "trace.csv", "at,class,execute\n0,chat,3\n10,images,18\n60,chat,3\n61,captions,1.5\n")
	got := simulateJSON(t, "-c", "../../examples/one-card-three-engines/anteroom.yaml", "--trace", trace).Runs[0]
	for _, class := range []string{"images", "chat", "captions"} {
		if c := got.Classes[class]; c.Completed != c.Requests {
			t.Errorf("%s: %+v, want all to be done", class, c)
		}
	}
	// The chat's model is idle and no chat waits, so that it is unloaded in 3 s. The
	// image runs for 18 s and its 34 GiB stay; the second chat waits until they are
	// gone, and for 11 s while its model is loaded.
	if wait := got.Classes["images"].Wait["max"]; wait != 3 {
		t.Errorf("the image waits for %v s, want 3 to unload", wait)
	}
	if wait := got.Classes["chat"].Wait["max"]; wait != 14 {
		t.Errorf("the second chat waits for %v s, want 3 to unload and 11 to load 22 GiB", wait)
	}
	// Captions need 1 s, images 18 and chats 3. A turn is 30 s, an unload 3 and a load
	// 12 of ComfyUI's 24 GiB, 11 of vLLM's 22.
	if len(got.Turns) != 2 || got.Turns[0].Backend != "comfyui" || got.Turns[0].Bound != 30+3+3+12 || got.Turns[1].Bound != 30+18+3+11 {
		t.Errorf("the bounds of turns are %+v, want 48 s for comfyui and 62 for vllm", got.Turns)
	}
	if got.Swaps != 2 || *got.OverBudget != 0 || got.Peak["gpu0"] > 47<<30 {
		t.Errorf("%d swaps, %d times over budget, a peak of %d; want 2, none and 47 GiB at the most", got.Swaps, *got.OverBudget, got.Peak["gpu0"])
	}
}

func TestSimulateSaysWhatItDoesNotPlay(t *testing.T) {
	file := writeFile(t, "one.yaml", "mode: observe\n"+strings.NewReplacer("vram: 34GiB", "vram: learn", ", source: declared", "").Replace(oneCard))
	_, _, stderr := anteroom("simulate", "-c", file, "--trace", writeFile(t, "trace.csv", threeRequests))
	for _, want := range []string{"mode: observe", "route images: vram: learn"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("it says %q, and nothing of %s", stderr, want)
		}
	}
}

func TestSimulatesARouteThatHasNoName(t *testing.T) {
	trace := writeFile(t, "trace.csv", "at,class,execute,route\n0,heavy,18,routes[2]\n")
	if got := simulateJSON(t, "-c", writeFile(t, "one.yaml", oneCard), "--trace", trace).Runs[0].Peak["gpu0"]; got != 40<<30 {
		t.Errorf("the peak is %d, want 40 GiB", got)
	}
}

func TestSimulatesWhatComesOnStandardInput(t *testing.T) {
	stdin(t, []byte(threeRequests))
	if got := simulateJSON(t, "-c", writeFile(t, "one.yaml", oneCard), "--trace", "-"); got.Runs[0].Makespan != 35 {
		t.Errorf("got %+v", got)
	}
}

// stdin puts a text on standard input during the test.
func stdin(t *testing.T, text []byte) {
	t.Helper()
	f, err := os.Open(writeFile(t, "stdin", string(text)))
	if err != nil {
		t.Fatal(err)
	}
	before := os.Stdin
	os.Stdin = f
	t.Cleanup(func() { os.Stdin = before; f.Close() })
}

func TestDrawsEachRun(t *testing.T) {
	one := writeFile(t, "one.yaml", oneCard)
	dir := filepath.Join(t.TempDir(), "new", "pictures")
	code, stdout, stderr := anteroom("simulate", "-c", one, "-c", one, "--trace", writeFile(t, "trace.csv", threeRequests), "--baseline",
		"fifo", "--svg", dir)
	if code != 0 || stdout == "" || stderr != "" {
		t.Fatalf("got %d, %q, %q", code, stdout, stderr)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
		svg, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		d := xml.NewDecoder(bytes.NewReader(svg))
		for {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", f.Name(), err)
			}
		}
	}
	var want []string
	for _, run := range []string{"one", "one-2", "one-fifo", "one-fifo-2"} {
		for _, picture := range []string{"gantt", "vram", "waits"} {
			want = append(want, run+"-"+picture+".svg")
		}
	}
	if slices.Sort(want); !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

func TestSimulateSaysWhatIsWrong(t *testing.T) {
	good, trace := writeFile(t, "one.yaml", oneCard), writeFile(t, "trace.csv", threeRequests)
	unsized := writeFile(t, "unsized.yaml", strings.Replace(oneCard, "memory: 48GiB, source: declared", "memory: 0", 1))
	for name, x := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no configuration": {[]string{"--trace", trace}, 2, "no configuration: want one or more with -c FILE"},
		"no trace":         {[]string{"-c", good}, 2, "no trace: want one with --trace FILE"},
		"an empty name":    {[]string{"-c", "", "--trace", trace}, 2, "want a value"},
		"an unknown baseline": {[]string{"-c", good, "--trace", trace, "--baseline", "lifo"}, 2,
			`--baseline "lifo": want fifo, clairvoyant or one-tenant`},
		"an argument":           {[]string{"-c", good, "--trace", trace, "more"}, 2, "1 argument: want 0"},
		"no such configuration": {[]string{"-c", "none.yaml", "--trace", trace}, 1, "none.yaml"},
		"no such trace":         {[]string{"-c", good, "--trace", "none.csv"}, 1, "none.csv"},
		"a wrong configuration": {[]string{"-c", writeFile(t, "bad.yaml", "clases: {}\n"), "--trace", trace}, 1, "bad.yaml:1:1: clases"},
		"a wrong trace": {[]string{"-c", good, "--trace", writeFile(t, "bad.csv", "at,class,execute\nx,heavy,1\n")}, 1,
			`bad.csv:2:1: at: "x": not a number: want seconds, such as 17.5`},
		"a class that is not": {[]string{"-c", good, "--trace", writeFile(t, "bad.csv", "at,class,execute\n0,middle,1\n")}, 1,
			`bad.csv:2:3: class: "middle": no route of ` + good + " has it: want heavy or light"},
		"a card of unknown size":     {[]string{"-c", unsized, "--trace", trace}, 1, "gpus.gpu0.memory: 0: says that the driver knows it"},
		"a directory that is a file": {[]string{"-c", good, "--trace", trace, "--svg", trace}, 1, trace},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := anteroom(append([]string{"simulate"}, x.args...)...)
			if code != x.code || stdout != "" || !strings.Contains(stderr, x.want) {
				t.Errorf("got %d, %q, %q, want %d and %q", code, stdout, stderr, x.code, x.want)
			}
		})
	}
	// All files' mistakes at once.
	_, _, stderr := anteroom("simulate", "-c", unsized, "-c", "none.yaml", "--trace", "none.csv")
	for _, want := range []string{"gpus.gpu0.memory", "none.yaml", "none.csv"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%s is not in %q", want, stderr)
		}
	}
}

// TestTheTracesReadmePrintsWhatIsTrue runs every command of the examples'
// README and compares what it prints. With -rewrite it writes it there.
func TestTheTracesReadmePrintsWhatIsTrue(t *testing.T) {
	t.Chdir(filepath.Join("..", "..", "examples", "traces"))
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	commands := 0
	rest := string(text)
	for {
		before, block, found := strings.Cut(rest, "```console\n")
		got.WriteString(before)
		if !found {
			break
		}
		block, rest, _ = strings.Cut(block, "```\n")
		got.WriteString("```console\n")
		for line := range strings.Lines(block) {
			if command, ok := strings.CutPrefix(line, "$ "); ok {
				commands++
				got.WriteString(line + shell(t, strings.TrimSpace(command)))
			}
		}
		got.WriteString("```\n")
	}
	if commands < 6 {
		t.Errorf("there are %d commands, want one for each trace", commands)
	}
	if *rewrite {
		if err := os.WriteFile("README.md", []byte(got.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if got.String() != string(text) {
		t.Errorf("the figures are others now; look at them with go test ./cmd/anteroom -run Readme -rewrite. It would be\n%s", got.String())
	}
}

// shell runs a line such as `grep … | anteroom simulate …`, of which the last
// command is ours.
func shell(t *testing.T, line string) string {
	t.Helper()
	input, ours, piped := strings.Cut(line, " | ")
	if !piped {
		ours = line
	} else {
		out, err := exec.Command("sh", "-c", input).Output()
		if err != nil {
			t.Fatalf("%s: %v", input, err)
		}
		stdin(t, out)
	}
	args, ok := strings.CutPrefix(ours, "anteroom ")
	if !ok {
		t.Fatalf("%q is not a command of ours", ours)
	}
	code, stdout, stderr := anteroom(strings.Fields(args)...)
	if code != 0 || stderr != "" {
		t.Fatalf("%s: %d, %s", line, code, stderr)
	}
	// A line that ends in blanks is an editor's quarrel.
	var b strings.Builder
	for l := range strings.Lines(strings.TrimRight(stdout, "\n") + "\n") {
		b.WriteString(strings.TrimRight(l, " \n") + "\n")
	}
	return b.String()
}
