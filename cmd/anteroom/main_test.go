package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestMain lets the test binary be the command, as a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_THE_COMMAND") != "" {
		main()
	}
	if role := os.Getenv("BENCH_ROLE"); role != "" {
		serveRole(role)
	}
	// No other process on this machine has the locks of these tests' cards.
	directory, err := os.MkdirTemp("", "runtime")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_RUNTIME_DIR", directory)
	code := m.Run()
	os.RemoveAll(directory)
	os.Exit(code)
}

// process is the command, not started yet.
func process(args ...string) *exec.Cmd {
	p := exec.Command(os.Args[0], args...)
	p.Env = append(os.Environ(), "RUN_THE_COMMAND=1", "GORACE=atexit_sleep_ms=0")
	return p
}

// anteroom runs a command as main would.
func anteroom(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = run(args, &out, &err)
	return code, out.String(), err.String()
}

func TestAnswersWrongUseWithTwo(t *testing.T) {
	for name, args := range map[string][]string{
		"no command":                 {},
		"an unknown command":         {"serf"},
		"an unknown flag":            {"check", "--files", "x"},
		"an argument too many":       {"check", "-c", "x", "y"},
		"an argument too few":        {"explain", "-c", "x", "POST"},
		"a path without a slash":     {"explain", "-c", "x", "POST", "v1"},
		"a header without a colon":   {"explain", "-c", "x", "POST", "/v1", "-H", "X"},
		"a body file that is not":    {"explain", "-c", "x", "POST", "/v1", "--body", "@none"},
		"a method that cannot exist": {"explain", "-c", "x", "P OST", "/v1"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := anteroom(args...)
			if code != 2 || stdout != "" || stderr == "" {
				t.Errorf("got %d, %q, %q, want 2 and a word on standard error", code, stdout, stderr)
			}
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

func TestWhatCannotBeWrittenIsAFailure(t *testing.T) {
	var stderr bytes.Buffer
	if code := run([]string{"version"}, full{}, &stderr); code != 1 || !strings.Contains(stderr.String(), "no space left") {
		t.Errorf("got %d and %q, want 1 and the reason", code, stderr.String())
	}
}

func TestListsItsCommands(t *testing.T) {
	code, stdout, _ := anteroom("help")
	if code != 0 {
		t.Errorf("got %d, want 0", code)
	}
	for _, c := range []string{"serve", "check", "explain", "demo", "engine", "version"} {
		if !strings.Contains(stdout, "\n  "+c+" ") {
			t.Errorf("%s is not in %s", c, stdout)
		}
	}
	if code, _, stderr := anteroom("help", "check"); code != 0 || !strings.Contains(stderr, "usage: anteroom check") {
		t.Errorf("help check: %d, %s", code, stderr)
	}
	if code, stdout, _ := anteroom("version"); code != 0 || !strings.HasPrefix(stdout, "anteroom ") {
		t.Errorf("version: %d, %s", code, stdout)
	}
}

const rules = `
gpus: {gpu0: {memory: 48GiB}}
classes:
  heavy: {slots: 1, vram: 34GiB, estimate: 18s}
  light: {slots: 8, vram: 512MiB, estimate: 1.5s}
backends:
  flux: {url: "http://127.0.0.1:8001", gpu: gpu0}
  vqa: {url: "http://127.0.0.1:8002", gpu: gpu0}
  cpu: {url: "http://127.0.0.1:8003"}
routes:
  - {name: images, match: {method: POST, path: /v1/images/generations}, class: heavy, backend: flux}
  - {name: captions, match: {method: POST, path: /v1/chat/completions, when: 'body.model == "caption"'}, class: light, backend: vqa}
  - {match: {method: POST, path: /v1/tenant, headers: {X-Kind: small}, host: gpu.example}, class: light, backend: cpu}
  - {name: rest, match: {method: GET, path: /**}, pass: true, backend: vqa}
`

func write(t testing.TB, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "anteroom.yaml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestChecksAFile(t *testing.T) {
	good := write(t, strings.Replace(rules, "  cpu: {", "  cpu: {returns_memory: true, ", 1))
	code, stdout, stderr := anteroom("check", "-c", good)
	if code != 0 || stdout != "good: 1 GPU, 2 classes, 3 backends, 4 routes\npast admission: GET of /** to vqa\n" ||
		!strings.Contains(stderr, "warning: ") {
		t.Errorf("got %d, %q, %q", code, stdout, stderr)
	}
	bad := write(t, strings.NewReplacer("slots: 8", "slots: 0", "backend: flux", "backend: flus").Replace(rules))
	code, stdout, stderr = anteroom("check", "--config", bad, "--listen", "nowhere")
	if code != 1 || stdout != "" {
		t.Errorf("got %d, %q, want 1 and nothing", code, stdout)
	}
	for _, want := range []string{bad + ":5:18: classes.light.slots: ", bad + ":11:96: routes[0].backend: ", "flag --listen: listen: "} {
		if !strings.Contains(stderr, want) {
			t.Errorf("%q is not in\n%s", want, stderr)
		}
	}
}

func TestChecksAFileInJSON(t *testing.T) {
	type result struct {
		OK       *bool
		Mistakes []struct {
			File, Path, Problem string
			Line, Column        int
		}
		Warnings []struct{ Path string }
	}
	read := func(args ...string) (code int, r result) {
		code, stdout, _ := anteroom(append([]string{"check", "--json"}, args...)...)
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || r.OK == nil || r.Mistakes == nil || r.Warnings == nil {
			t.Fatalf("%v: %s", err, stdout)
		}
		return code, r
	}
	if code, r := read("-c", write(t, rules)); code != 0 || !*r.OK || len(r.Mistakes) != 0 || len(r.Warnings) == 0 ||
		r.Warnings[0].Path != "backends.cpu.gpu" {
		t.Errorf("got %d, %+v", code, r)
	}
	bad := write(t, "lisen: x\n"+rules)
	code, r := read("-c", bad)
	if code != 1 || *r.OK || len(r.Mistakes) != 1 || r.Mistakes[0].File != bad || r.Mistakes[0].Line != 1 || r.Mistakes[0].Column != 1 ||
		r.Mistakes[0].Path != "lisen" {
		t.Errorf("got %d, %+v", code, r)
	}
	if code, r := read(); code != 1 || *r.OK || !strings.Contains(r.Mistakes[0].Problem, "-c FILE") {
		t.Errorf("with no file: got %d, %+v", code, r)
	}
}

func TestExplainsARequest(t *testing.T) {
	file := write(t, rules)
	body := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(body, []byte(`{"model": "caption"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	explained := func(args ...string) (int, explanation, map[string]any) {
		t.Helper()
		code, stdout, stderr := anteroom(append([]string{"explain", "--json", "-c", file}, args...)...)
		var e explanation
		var keys map[string]any
		if json.Unmarshal([]byte(stdout), &e) != nil || json.Unmarshal([]byte(stdout), &keys) != nil {
			t.Fatalf("%v: %d, %q, %q", args, code, stdout, stderr)
		}
		return code, e, keys
	}
	check := func(name string, want explanation, args ...string) {
		t.Run(name, func(t *testing.T) {
			code, got, _ := explained(args...)
			if got.Reason == "" {
				t.Error("there is no reason")
			}
			if (got.Verdict == nil) != got.Pass {
				t.Errorf("the verdict is %+v", got.Verdict)
			}
			got.Reason, got.Verdict = "", nil
			if code != 0 || !reflect.DeepEqual(got, want) {
				t.Errorf("got %d, %+v, want %+v", code, got, want)
			}
		})
	}
	heavy := explanation{Route: "images", Class: "heavy", Backend: "flux", Estimate: 18, Demand: demandJSON{map[string]int64{"gpu0": 34 << 30}, 1}}
	light := explanation{Route: "captions", Class: "light", Backend: "vqa", Estimate: 1.5, Demand: demandJSON{map[string]int64{"gpu0": 512 << 20}, 1}}
	check("by its path", heavy, "POST", "/v1/images/generations")
	check("with flags behind the path", light, "POST", "/v1/chat/completions?x=1", "--body", `{"model": "caption"}`)
	check("with a body from a file", light, "--body", "@"+body, "post", "/v1/chat/completions")
	check("by its headers and host", explanation{Route: "routes[2]", Class: "light", Backend: "cpu", Estimate: 1.5,
		Demand: demandJSON{map[string]int64{}, 1}}, "POST", "/v1/tenant", "-H", "X-Kind: small", "-H", "Host: gpu.example")
	check("that passes", explanation{Route: "rest", Backend: "vqa", Pass: true, Demand: demandJSON{map[string]int64{}, 0}}, "GET", "/anything")

	t.Run("for a backend on several cards", func(t *testing.T) {
		file := write(t, `
gpus: {gpu0: {memory: 48GiB}, gpu1: {memory: 24GiB, device: 1}, gpu2: {memory: 48GiB, device: 2}}
classes: {heavy: {vram: 18GiB, estimate: 18s}}
backends:
  flux:
    resident: 2GiB
    replicas:
      - {url: "http://127.0.0.1:8001", gpu: gpu0}
      - {url: "http://127.0.0.1:8002", resident: {gpu1: 3GiB, gpu2: 4GiB}}
      - {url: "http://127.0.0.1:8003", gpu: gpu0}
routes: [{match: {path: /**}, class: heavy, backend: flux}]
`)
		_, stdout, stderr := anteroom("explain", "-c", file, "POST", "/x")
		for _, want := range []string{
			"backend   flux (http://127.0.0.1:8001, http://127.0.0.1:8002, http://127.0.0.1:8003)\n",
			"demand    18GiB on gpu0, beside the 2GiB that flux holds\nor        18GiB on gpu1, beside the 3GiB that flux holds and 18GiB on gpu2, " +
				"beside the 4GiB that flux holds\nestimate",
		} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%q is not in\n%s%s", want, stdout, stderr)
			}
		}
		_, stdout, _ = anteroom("explain", "--json", "-c", file, "POST", "/x")
		var e explanation
		if err := json.Unmarshal([]byte(stdout), &e); err != nil {
			t.Fatal(err)
		}
		if want := map[string]int64{"gpu0": 18 << 30, "gpu1": 18 << 30, "gpu2": 18 << 30}; !reflect.DeepEqual(e.Demand.VRAM, want) {
			t.Errorf("the demand is %v, want %v", e.Demand.VRAM, want)
		}
	})
	t.Run("that no route wants", func(t *testing.T) {
		code, e, keys := explained("POST", "/v1/tenant")
		if code != 1 || !strings.Contains(e.Reason, "no route matches") {
			t.Errorf("got %d, %+v", code, e)
		}
		for _, key := range []string{"route", "class", "backend", "pass", "demand", "estimate_s", "reason"} {
			if _, ok := keys[key]; !ok {
				t.Errorf("%s is missing in %v", key, keys)
			}
		}
		if len(keys) != 7 {
			t.Errorf("got %v, want seven keys", keys)
		}
		if code, stdout, stderr := anteroom("explain", "-c", file, "POST", "/v1/tenant"); code != 1 || stdout != "" ||
			!strings.Contains(stderr, "404 no_route") {
			t.Errorf("for people: %d, %q, %q", code, stdout, stderr)
		}
	})
	t.Run("for what controls an engine", func(t *testing.T) {
		file := write(t, strings.Replace(rules, `8002",`, `8002", reclaim: {preset: vllm},`, 1))
		code, _, stderr := anteroom("explain", "-c", file, "GET", "/is_sleeping")
		if want := "/is_sleeping controls backend vqa, which rest does not open by a wildcard: want a rule with that path, if clients may ask " +
			"for it: it would be answered 403 control_route"; code != 1 || !strings.Contains(stderr, want) {
			t.Errorf("got %d, %q, want %s", code, stderr, want)
		}
	})
	t.Run("whose path has no single meaning", func(t *testing.T) {
		file := write(t, strings.Replace(rules, "routes:", "routes:\n  - {match: {path: /static/**}, pass: true, backend: vqa}", 1))
		code, _, stderr := anteroom("explain", "-c", file, "POST", "/static/..%2fv1/images/generations")
		if code != 1 || !strings.Contains(stderr, "400 ambiguous_path") {
			t.Errorf("got %d, %q, want 1 and ambiguous_path", code, stderr)
		}
		if code, e, _ := explained("GET", "/a%2fb"); code != 0 || e.Route != "rest" {
			t.Errorf("got %d, %+v, want rest", code, e)
		}
	})
	t.Run("that names no method and needs no card", func(t *testing.T) {
		code, e, _ := explained("GET", "/v1/chat/completions")
		if code != 0 || e.Route != "rest" && (!e.Pass || !strings.Contains(e.Reason, "needs no card")) {
			t.Errorf("got %d, %+v, want a pass", code, e)
		}
	})
	t.Run("for people", func(t *testing.T) {
		code, stdout, stderr := anteroom("explain", "-c", file, "POST", "/v1/images/generations")
		for _, want := range []string{"route     images\n", "backend   flux (http://127.0.0.1:8001)\n", "class     heavy (1 at once)\n",
			"demand    34GiB on gpu0\n", "estimate  18s\n"} {
			if !strings.Contains(stdout, want) {
				t.Errorf("%q is not in\n%s%s", want, stdout, stderr)
			}
		}
		if code != 0 {
			t.Errorf("got %d, want 0", code)
		}
	})
	t.Run("under a configuration that is wrong", func(t *testing.T) {
		if code, _, stderr := anteroom("explain", "-c", write(t, "lisen: x\n"), "GET", "/"); code != 1 ||
			!strings.Contains(stderr, "lisen: unknown key: want listen") {
			t.Errorf("got %d, %s", code, stderr)
		}
	})
}
