package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

func TestAnEngineSharesACardAndEndsCleanly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "card")
	card, err := simulation.OpenCard(dir, 40*admission.GiB)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	p := process("engine", "--kind", "flux", "--card", dir, "--speed", "1000")
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	said := bufio.NewReader(out)
	line, _ := said.ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "flux on ")
	if !ok {
		t.Fatalf("it says %q", line)
	}
	if line, _ = said.ReadString('\n'); line != "  GET    /health /v1/models\n" {
		t.Errorf("of its routes it says %q", line)
	}
	res, err := http.Post(url+"/v1/images/generations", "application/json", strings.NewReader(`{"prompt":"a bird"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("X-Execute-Seconds") == "" {
		t.Errorf("got %s, %v", res.Status, res.Header)
	}
	if m, err := card.Memory(); err != nil || m.Used != 34*admission.GiB {
		t.Errorf("got %+v, %v, want 34 GiB, weights and cache", m, err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("it ended with %v, want 0", err)
	}
	if m, err := card.Memory(); err != nil || m.Used != 0 {
		t.Errorf("got %+v, %v, want an empty card", m, err)
	}
}

func TestAnEngineIsToldWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		word string
	}{
		"no kind":         {[]string{"engine"}, 2, "want one of flux, vqa, ollama"},
		"an unknown kind": {[]string{"engine", "--kind", "sdxl"}, 2, "want one of flux, vqa, ollama"},
		"another kind's trap": {[]string{"engine", "--kind", "triton", "--trap", "residue,hangs-asleep"}, 2,
			`"hangs-asleep": triton has keeps-memory, residue`},
		"no trap":            {[]string{"engine", "--kind", "gradio", "--trap", ""}, 2, `trap ""`},
		"no weights":         {[]string{"engine", "--kind", "vqa", "--weights", "much"}, 2, "34GiB"},
		"times upside down":  {[]string{"engine", "--kind", "vqa", "--run", "20s-17s"}, 2, "17s-20s"},
		"a time before now":  {[]string{"engine", "--kind", "vqa", "--load", "-1s"}, 2, "8s"},
		"models of no name":  {[]string{"engine", "--kind", "ollama", "--models", "=4GiB"}, 2, "llama3.2=4GiB"},
		"no speed":           {[]string{"engine", "--kind", "vqa", "--speed", "0"}, 2, "want more than 0"},
		"no size":            {[]string{"engine", "--kind", "vqa", "--memory", "much"}, 2, "48GiB"},
		"a card that is not": {[]string{"engine", "--kind", "vqa", "--card", "/dev/null/card"}, 1, "/dev/null/card"},
		"no such address":    {[]string{"engine", "--kind", "vqa", "--listen", "nowhere"}, 1, "nowhere"},
		"a demo too slow":    {[]string{"demo", "--speed", "-1"}, 2, "want more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := anteroom(c.args...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.word) {
				t.Errorf("got %d, %q, %q, want %d and %q", code, stdout, stderr, c.code, c.word)
			}
		})
	}
}

// The card is looked at from outside, and the engine is a process of its own.
func TestATrapKillsTheProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "card")
	card, err := simulation.OpenCard(dir, 40*admission.GiB)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	p := process("engine", "--kind", "vllm", "--trap", "residue", "--trap", "dies-asleep,frees-late",
		"--weights", "30GiB", "--load", "1s", "--run", "1s", "--models", "small", "--card", dir, "--speed", "1000")
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	line, _ := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "vllm on ")
	if !ok {
		t.Fatalf("it says %q", line)
	}
	post := func(path string) (*http.Response, error) {
		return http.Post(url+path, "application/json", strings.NewReader(`{"model":"small","messages":[]}`))
	}
	for _, path := range []string{"/v1/chat/completions", "/sleep?mode=wait"} {
		res, err := post(path)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v, %v", path, res, err)
		}
		res.Body.Close()
	}
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	card.Watch(watching, "gpu0", 5*time.Millisecond, nil, func(r admission.Reading) {
		if r.Used == 3*admission.GiB {
			stop()
		}
	})
	if res, err := post("/v1/chat/completions"); err == nil {
		t.Errorf("asleep it answers %s", res.Status)
	}
	if err := p.Wait(); err == nil || p.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v, want 1", err)
	}
	if m, err := card.Memory(); err != nil || m.Used != 0 {
		t.Errorf("got %+v, %v, want what it held to be free", m, err)
	}
}

func TestFiguresOfAnEngineAreThoseOfItsFlags(t *testing.T) {
	var e engineFlags
	fs := newFlags("engine", "", "", io.Discard)
	e.add(fs)
	err := fs.Parse([]string{
		"--kind", "ollama", "--models", "hf.co/a=b/c=2GiB,tiny", "--per-run", "1GiB", "--load", "500ms", "--run", "2s-3s", "--returns-memory",
	})
	if err != nil {
		t.Fatal(err)
	}
	k, err := e.kind()
	if err != nil {
		t.Fatal(err)
	}
	tiny := []simulation.Model{{Name: "tiny", Weights: 4 * admission.GiB, Load: 500 * time.Millisecond, PerRun: admission.GiB}}
	if k.Model != "hf.co/a=b/c" || k.Weights != 2*admission.GiB || k.PerRun != admission.GiB || !slices.Equal(k.Others, tiny) ||
		k.Load != 500*time.Millisecond || k.Wake != k.Load || k.Shortest != 2*time.Second || k.Longest != 3*time.Second || !k.ReturnsMemory {
		t.Errorf("got %+v", k)
	}
}

func TestTheListSaysWhatThereIs(t *testing.T) {
	code, stdout, stderr := anteroom("engine", "--list")
	if code != 0 || stderr != "" {
		t.Fatalf("got %d, %q", code, stderr)
	}
	for _, k := range simulation.Kinds() {
		if !strings.Contains(stdout, "\n"+k.Name+" ") || !strings.Contains(stdout, k.Does) {
			t.Errorf("no word of %s:\n%s", k.Name, stdout)
		}
		for _, route := range k.Serves() {
			if _, path, ok := strings.Cut(route, " "); ok && !strings.Contains(stdout, " "+path) {
				t.Errorf("no word of %s of %s:\n%s", route, k.Name, stdout)
			}
		}
	}
	for _, trap := range simulation.Traps() {
		if !strings.Contains(stdout, "\n"+trap.Name+" ") || strings.Count(stdout, trap.Name) < 2 {
			t.Errorf("no word of %s, or no kind has it:\n%s", trap.Name, stdout)
		}
	}
}
