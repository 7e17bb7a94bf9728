package configs

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
)

func TestReadsTheSmallestFile(t *testing.T) {
	text, err := os.ReadFile("testdata/smallest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(string(text), "\n"); lines > 10 {
		t.Errorf("it has %d lines, want 10", lines)
	}
	c := load(t, Options{File: "testdata/smallest.yaml"})
	light, ok := c.Routing.Classes["light"]
	if !ok || light.Slots != 8 || light.VRAM.Amount != 512*admission.MiB || light.Estimate != 1500*time.Millisecond {
		t.Errorf("classes.light is %+v", light)
	}
	if light.Queue.Limit != 100 || light.StrictAfter != 5*time.Second {
		t.Errorf("classes.light did not begin with the defaults: %+v", light)
	}
	if b := c.Routing.Backends["flux"]; b.Cancel != "ignored" || b.Breaker.Failures != 5 || b.URL != "http://127.0.0.1:8001" {
		t.Errorf("backends.flux is %+v", b)
	}
	if r := c.Routing.Routes; len(r) != 2 || r[1].Class != "light" || r[1].Match.Path[0] != "/v1/vqa" {
		t.Errorf("routes are %+v", r)
	}
	if room := c.Routing.Room["gpu0"]; room != 47*admission.GiB {
		t.Errorf("room is %v, want 47GiB", room)
	}
	if c.Proxy.Listen != "127.0.0.1:8080" || c.Proxy.Limits.Body != admission.GiB || c.Telemetry.Traces.Sample != 1 {
		t.Errorf("the rest did not begin with the defaults: %+v", c)
	}
	want := admission.Config{
		GPUs: []admission.GPU{{Name: "gpu0", Device: "0", Memory: 48 * admission.GiB, Reserve: admission.GiB, Reads: true,
			TrialAfter: 10 * time.Second, Turn: 30 * time.Second}},
		Classes: []admission.Class{
			{Name: "heavy", Slots: 1, QueueLimit: 100, QueueBytes: admission.GiB, QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second},
			{Name: "light", Slots: 8, QueueLimit: 100, QueueBytes: admission.GiB, QueueTimeout: 10 * time.Minute, StrictAfter: 5 * time.Second},
		},
		Backends: []admission.Backend{
			{Name: "flux", MinResidency: 30 * time.Second, Replicas: []admission.Replica{{Name: "http://127.0.0.1:8001",
				Places: []admission.Place{{GPU: "gpu0"}}}}},
			{Name: "vqa", MinResidency: 30 * time.Second, Replicas: []admission.Replica{{Name: "http://127.0.0.1:8002",
				Places: []admission.Place{{GPU: "gpu0"}}}}},
		},
	}
	if got := c.Admission(); !reflect.DeepEqual(got, want) {
		t.Errorf("the controller is told\n%+v\nwant\n%+v", got, want)
	}
}

func TestTellsTheControllerWhereEachReplicaIs(t *testing.T) {
	file := write(t, `
gpus:
  gpu0: {memory: 48GiB}
  gpu1: {memory: 48GiB, device: 1}
  gpu2: {memory: 24GiB, device: 2}
classes: {light: {vram: 1GiB}}
backends:
  one: {url: "http://one:1", gpu: gpu0, resident: 7GiB}
  near: {urls: ["http://near:1", "unix:/run/near"], gpu: gpu0, resident: 2GiB}
  wide: {url: "http://wide:1", resident: {gpu1: 20GiB, gpu0: 10GiB}}
  far:
    gpu: gpu0
    resident: 3GiB
    replicas:
      - {url: "http://far:1"}
      - {url: "http://far:2", gpu: gpu1}
      - {url: "http://far:3", gpu: gpu2, resident: 4GiB}
      - {url: "http://far:4", resident: {gpu1: 5GiB, gpu2: 6GiB}}
      - {url: "http://far:5", gpu: gpu2, resident: {gpu1: 5GiB, gpu2: 6GiB}}
  none: {urls: ["http://none:1", "http://none:2"]}
routes:
  - {match: {path: /one}, class: light, backend: one}
  - {match: {path: /near}, class: light, backend: near}
  - {match: {path: /wide}, class: light, backend: wide}
  - {match: {path: /far}, class: light, backend: far}
  - {match: {path: /none}, pass: true, backend: none}
`)
	told := func(c *Config) string {
		var b strings.Builder
		for _, backend := range c.Admission().Backends {
			b.WriteString(backend.Name)
			for _, r := range backend.Replicas {
				fmt.Fprintf(&b, " %s", r.Name)
				for _, p := range r.Places {
					fmt.Fprintf(&b, " %s:%v", p.GPU, p.Resident)
				}
			}
			b.WriteString("\n")
		}
		return b.String()
	}
	c := load(t, Options{File: file})
	want := `far http://far:1 gpu0:3GiB http://far:2 gpu1:3GiB http://far:3 gpu2:4GiB http://far:4 gpu1:5GiB gpu2:6GiB http://far:5 gpu1:5GiB gpu2:6GiB
near http://near:1 gpu0:2GiB unix:/run/near gpu0:2GiB
none http://none:1 http://none:2
one http://one:1 gpu0:7GiB
wide http://wide:1 gpu0:10GiB gpu1:20GiB
`
	if got := told(c); got != want {
		t.Errorf("the controller is told\n%swant\n%s", got, want)
	}
	c = load(t, Options{File: file, Env: []string{
		"ANTEROOM_BACKENDS__ONE__RESIDENT=9GiB", "ANTEROOM_BACKENDS__WIDE__RESIDENT=8GiB", "ANTEROOM_BACKENDS__WIDE__GPU=gpu1",
		"ANTEROOM_BACKENDS__NEAR__URLS=http://near:3, http://near:4",
	}})
	got := told(c)
	for _, want := range []string{"one http://one:1 gpu0:9GiB\n", "wide http://wide:1 gpu1:8GiB\n",
		"near http://near:3 gpu0:2GiB http://near:4 gpu0:2GiB\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("with the environment the controller is told\n%swant %s", got, want)
		}
	}
}

func TestTakesFlagsOverEnvironmentOverFileOverDefaults(t *testing.T) {
	file := write(t, smallest(t)+"listen: 127.0.0.1:1001\nadmin: {listen: 127.0.0.1:1002}\nmode: observe\n")
	c := load(t, Options{
		File:  file,
		Env:   []string{"ANTEROOM_ADMIN__LISTEN=127.0.0.1:2002", "ANTEROOM_MODE=enforce", "ANTEROOM_TRUSTED=10.0.0.0/8, 192.0.2.1", "HOME=/"},
		Flags: map[string]string{"admin.listen": "127.0.0.1:3002"},
	})
	got := []string{c.Proxy.Listen, c.Proxy.Mode, c.Proxy.Admin.Listen, strings.Join(c.Proxy.Trusted, " "), c.Proxy.Drain.Queued}
	want := []string{"127.0.0.1:1001", "enforce", "127.0.0.1:3002", "10.0.0.0/8 192.0.2.1", "serve"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestFindsTheNamesThatVariablesMean(t *testing.T) {
	text := strings.NewReplacer("light", "Image-to-text").Replace(smallest(t))
	c := load(t, Options{File: write(t, text), Env: []string{
		"ANTEROOM_CLASSES__IMAGE_TO_TEXT__SLOTS=16",
		"ANTEROOM_CLASSES__IMAGE_TO_TEXT__QUEUE__TIMEOUT=30s",
		"ANTEROOM_BACKENDS__SPARE__URL=http://127.0.0.1:8009",
		"ANTEROOM_BACKENDS__SPARE__SLOTS=3",
	}})
	if k := c.Routing.Classes["Image-to-text"]; k.Slots != 16 || k.Queue.Timeout != 30*time.Second || k.VRAM.Amount != 512*admission.MiB {
		t.Errorf("the class is %+v", k)
	}
	if len(c.Routing.Classes) != 2 {
		t.Errorf("there are %d classes, want 2", len(c.Routing.Classes))
	}
	if b := c.Routing.Backends["spare"]; b.URL != "http://127.0.0.1:8009" || b.Slots != 3 || b.Protocol != "http" {
		t.Errorf("the backend that only the environment has is %+v", b)
	}
}

func TestReadsACommandAsAListOrAsALine(t *testing.T) {
	text := strings.NewReplacer(
		`8001", gpu: gpu0`, `8001", gpu: gpu0, reclaim: {stop: docker stop 'flux 1', start: "sh -c 'x && y'", probe: GET /up}, pinned: true`,
		`8002", gpu: gpu0`, `8002", gpu: gpu0, reclaim: {stop: [docker, stop, 5], start: [], preset: vllm, timeout: 5s}, min_residency: 1m`,
	).Replace(smallest(t))
	c := load(t, Options{File: write(t, text), Env: []string{"ANTEROOM_BACKENDS__VQA__RECLAIM__START=docker start \"vqa, 1\""}})
	flux, vqa := c.Routing.Backends["flux"], c.Routing.Backends["vqa"]
	want := backend.ReclaimConfig{Stop: backend.Command{"docker", "stop", "flux 1"}, Start: backend.Command{"sh", "-c", "x && y"}, Probe: "GET /up",
		Models: []string{}, Timeout: 30 * time.Second, Settle: 10 * time.Second}
	if !reflect.DeepEqual(flux.Reclaim, want) || !flux.Pinned || flux.MinResidency != 30*time.Second {
		t.Errorf("flux is %+v", flux)
	}
	want = backend.ReclaimConfig{Stop: backend.Command{"docker", "stop", "5"}, Start: backend.Command{"docker", "start", "vqa, 1"}, Preset: "vllm",
		Models: []string{}, Timeout: 5 * time.Second, Settle: 10 * time.Second}
	if !reflect.DeepEqual(vqa.Reclaim, want) || vqa.Pinned || vqa.MinResidency != time.Minute {
		t.Errorf("vqa is %+v", vqa)
	}
}

func TestLoadsAllFromTheEnvironmentButTheRoutes(t *testing.T) {
	_, err := Load(Options{Env: []string{"ANTEROOM_BACKENDS__A__URL=http://127.0.0.1:1"}})
	if err == nil || !strings.Contains(err.Error(), "routes: there are none") {
		t.Errorf("got %v, want a word on the routes", err)
	}
}

func TestSaysWhatIsNeededWhereThereIsNothing(t *testing.T) {
	_, err := Load(Options{})
	if want := "no configuration: want a file (-c FILE) with gpus and backends, as `anteroom init` writes it"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestRefusesWhatIsNotAFileOfRules(t *testing.T) {
	dir := t.TempDir()
	refuses := func(name, file, want string) {
		t.Run(name, func(t *testing.T) {
			_, err := Load(Options{File: file})
			if err == nil || !strings.HasPrefix(err.Error(), file+":1:1: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %s", err, want)
			}
		})
	}
	refuses("that is missing", filepath.Join(dir, "none.yaml"), "cannot be read: no such file")
	refuses("that is a directory", dir, "is a directory")
	refuses("that is empty", write(t, ""), "the file is empty")
	refuses("that is null", write(t, "~\n"), "the file is empty")
	refuses("that is huge", write(t, strings.Repeat("# padding\n", 1<<17)), "larger than 1MiB")
	if os.Geteuid() != 0 {
		closed := write(t, smallest(t))
		if err := os.Chmod(closed, 0); err != nil {
			t.Fatal(err)
		}
		refuses("that is closed to us", closed, "cannot be read: permission denied")
	}
}

// Ten thousand aliases of a thousand keys each are a file of 130 KiB and ten
// million values.
func TestBoundsWhatAliasesMakeOfAFile(t *testing.T) {
	var b strings.Builder
	b.WriteString(smallest(t))
	b.WriteString("  - &r\n    class: light\n    backend: vqa\n    match:\n      headers:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "        h%d: x\n", i)
	}
	for range 10_000 {
		b.WriteString("  - *r\n")
	}
	_, err := Load(Options{File: write(t, b.String())})
	if err == nil || !strings.Contains(err.Error(), "more than 100000 values") {
		t.Errorf("got %.200v, want a bound", err)
	}
}

// A half-written file is either not YAML, or lacks something, or happens to be
// a configuration of its own; it never panics and never has mistakes without
// a place.
func TestReadsAnyBeginningOfAFile(t *testing.T) {
	text := smallest(t)
	for n := range len(text) {
		_, err := Load(Options{File: write(t, text[:n])})
		if err == nil {
			continue
		}
		for _, m := range err.(Mistakes) {
			if m.Line < 1 || m.Column < 1 || m.Problem == "" {
				t.Fatalf("of the first %d bytes: %+v", n, m)
			}
		}
	}
}

func TestKeepsSecretsOutOfWhatItShows(t *testing.T) {
	c := load(t, Options{File: "testdata/smallest.yaml", Env: []string{
		"ANTEROOM_ADMIN__TOKEN=hunter2",
	}})
	if c.Proxy.Admin.Token != "hunter2" {
		t.Fatalf("the token is %q", c.Proxy.Admin.Token)
	}
	text, err := json.Marshal(c.Public())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "hunter2") || !strings.Contains(string(text), `"token":"(set)"`) {
		t.Errorf("it shows %s", text)
	}
	if !strings.Contains(string(text), `"slots":8`) || !strings.Contains(string(text), `"strict_after":"5s"`) {
		t.Errorf("it does not show what is in force: %s", text)
	}
	if c.Proxy.Admin.Token != "hunter2" || c.Public()["admin"].(map[string]any)["token"] != "(set)" {
		t.Error("showing changed the configuration")
	}
}

func TestEveryDefaultHasAFieldAndEveryFieldADefault(t *testing.T) {
	d := readDefaults()
	var walk func(s *schema, v any, path string)
	walk = func(s *schema, v any, path string) {
		switch s.kind {
		case section:
			m, ok := v.(map[string]any)
			if !ok {
				t.Errorf("%s has no default", path)
				return
			}
			for key, below := range s.keys {
				if m[key] == nil {
					t.Errorf("%s has no default", join(path, key))
					continue
				}
				walk(below, m[key], join(path, key))
			}
		case entries:
			m, _ := v.(map[string]any)
			if len(m) != 1 || m[template] == nil {
				t.Errorf("%s has %d entries, want %q alone", path, len(m), template)
				return
			}
			walk(s.elem, m[template], join(path, template))
		case list:
			items, _ := v.([]any)
			if s.elem.kind == section {
				if len(items) != 1 {
					t.Errorf("%s has %d entries, want one", path, len(items))
					return
				}
				walk(s.elem, items[0], path+"[]")
			}
		}
	}
	// That each default has a field was checked by reading it: an unknown key
	// is a mistake there as everywhere.
	walk(schemaRoot, d.values, "")
}

func TestEveryDefaultIsExplained(t *testing.T) {
	var walk func(n *yaml.Node, path string)
	walk = func(n *yaml.Node, path string) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				key, value := n.Content[i], n.Content[i+1]
				if key.HeadComment == "" && n.HeadComment == "" && !(i == 0 && n.Line == key.Line) {
					t.Errorf("%s has no comment", join(path, key.Value))
				}
				walk(value, join(path, key.Value))
			}
		case yaml.SequenceNode:
			for _, item := range n.Content {
				walk(item, path+"[]")
			}
		}
	}
	walk(readDefaults().root, "")
}

// A value in use must be the one that default.yaml says, and no other: fields
// that nothing reads from there would stay zero.
func TestTheDefaultsAreTheOnesInUse(t *testing.T) {
	c := load(t, Options{File: "testdata/smallest.yaml"})
	defaults := readDefaults().values
	for key, s := range schemaRoot.keys {
		if s.kind == entries || key == "routes" {
			continue
		}
		if !reflect.DeepEqual(c.values[key], defaults[key]) {
			t.Errorf("%s is %v, want %v", key, c.values[key], defaults[key])
		}
	}
}

func TestNoKeyIsBothHereAndForLater(t *testing.T) {
	for pattern := range later {
		s := schemaRoot
		for key := range strings.SplitSeq(strings.ReplaceAll(pattern, "[]", ".[]"), ".") {
			switch {
			case s == nil:
			case key == "*" || key == "[]":
				s = s.elem
			default:
				s = s.keys[key]
			}
		}
		if s != nil {
			t.Errorf("%s has a field", pattern)
		}
	}
}

func FuzzLoad(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text), "ANTEROOM_CLASSES__LIGHT__SLOTS=3")
	}
	f.Add("a: &a [*a]\nroutes: *a\n", "ANTEROOM_")
	f.Add("classes: &a {b: *a}\n", "ANTEROOM_CLASSES__=")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, variable string) {
		file := filepath.Join(dir, "fuzz.yaml")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Options{File: file, Env: []string{variable}})
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v and %v", c, err)
		}
		if c != nil {
			c.Admission()
			c.Public()
		}
	})
}

func load(t *testing.T, o Options) *Config {
	t.Helper()
	c, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func smallest(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("testdata/smallest.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "anteroom.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// What a reference stands for is in force and is shown nowhere.
func TestReferencesAreInForceAndNotShown(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	put(t, filepath.Join(dir, "token"), "s3cret-of-a-file\n")
	put(t, filepath.Join(dir, "more.yaml"), `
classes: {light: {vram: 1GiB, slots: "${SLOTS}"}}
routes: [{name: second, match: {path: /b}, class: light, backend: a}]
`)
	put(t, file, `
include: [more.yaml]
admin: {token: "${file:token}"}
gpus: {gpu0: {memory: 48GiB}}
backends: {a: {url: "http://127.0.0.1:${PORT}", gpu: gpu0, returns_memory: true}}
routes: [{name: first, match: {path: /a, when: 'body.x == "$${y}"'}, class: light, backend: a}]
`)
	c, err := Load(Options{File: file, Env: []string{"PORT=1", "PORT=8001", "SLOTS=7"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.Proxy.Admin.Token != "s3cret-of-a-file" || c.Routing.Backends["a"].URL != "http://127.0.0.1:8001" || c.Routing.Classes["light"].Slots != 7 {
		t.Errorf("token %q, url %q, slots %d", c.Proxy.Admin.Token, c.Routing.Backends["a"].URL, c.Routing.Classes["light"].Slots)
	}
	if r := c.Routing.Routes; len(r) != 2 || r[0].Name != "first" || r[1].Name != "second" || r[0].Match.When != `body.x == "${y}"` {
		t.Errorf("routes %+v", r)
	}
	shown := fmt.Sprint(c.Public())
	if strings.Contains(shown, "s3cret") || strings.Contains(shown, "8001") || !strings.Contains(shown, "http://127.0.0.1:${PORT}") {
		t.Errorf("shown: %s", shown)
	}
}
