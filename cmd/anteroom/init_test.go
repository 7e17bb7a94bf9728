package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// six starts six engines as a user has them, and gives the flags that name them.
func six(t *testing.T) (flags []string) {
	card := simulation.NewCard(48 * admission.GiB)
	for _, kind := range []simulation.Kind{simulation.VLLM(), simulation.ComfyUI(), simulation.Ollama(), simulation.Whisper(),
		simulation.TEI(), simulation.Diffusers()} {
		e := simulation.NewEngine(kind, card, simulation.Options{Speed: 1000})
		t.Cleanup(func() { e.Close() })
		server := httptest.NewServer(e)
		t.Cleanup(server.Close)
		flags = append(flags, "--to", server.URL)
	}
	return flags
}

func TestInitWritesAFileThatCheckAccepts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	// A card as AMD's driver shows it.
	device := filepath.Join(t.TempDir(), "card0")
	if err := os.MkdirAll(filepath.Join(device, "device"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, bytes := range map[string]string{"mem_info_vram_total": "51539607552", "mem_info_vram_used": "1073741824"} {
		if err := os.WriteFile(filepath.Join(device, "device", name), []byte(bytes), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	flags := append(six(t), "--only", "--yes", "--source", "amdgpu", "--device", device, "--out", file)
	code, stdout, stderr := anteroom(append([]string{"init"}, flags...)...)
	if code != 0 || !strings.Contains(stdout, "wrote "+file) {
		t.Fatalf("%d, %s, %s", code, stdout, stderr)
	}
	c, err := configs.Load(configs.Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("check warns: %v", w)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines++
		}
	}
	if lines > 40 || len(c.Routing.Backends) != 6 {
		t.Errorf("%d lines, %d backends:\n%s", lines, len(c.Routing.Backends), text)
	}
	if code, _, stderr := anteroom(append([]string{"init"}, flags...)...); code != 1 || !strings.Contains(stderr, "--force") {
		t.Errorf("over a file that is there: %d, %s", code, stderr)
	}
	if code, stdout, _ := anteroom(append([]string{"init", "--dry-run"}, flags...)...); code != 0 || !strings.Contains(stdout, "preset: comfyui") {
		t.Errorf("dry run: %d, %s", code, stdout)
	}
}

func TestInitSaysWhatItCannotFind(t *testing.T) {
	for _, c := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--only", "--source", "declared", "--to", "http://127.0.0.1:1"}, "want its size by --memory"},
		{[]string{"--only", "--memory", "48", "--source", "declared"}, "want the card's size, such as 24GiB"},
		{[]string{"--only", "--memory", "48GiB", "--source", "declared", "--to", "http://127.0.0.1:1"}, "http://127.0.0.1:1 does not answer"},
		{[]string{"--only", "--memory", "48GiB", "--source", "declared"}, "no engine was found at the usual ports: start it first, or name it by --to URL"},
		{[]string{"--only", "--source", "auto", "--device", "none-of-these", "--to", "http://127.0.0.1:1"}, "want its size by --memory"},
		{[]string{"--to", "comfy=http://127.0.0.1:1"}, "is no engine: want one of"},
		{[]string{"--to", "nowhere"}, "want a server's address"},
	} {
		if code, _, stderr := anteroom(append([]string{"init", "--dry-run"}, c.flags...)...); code == 0 || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: %d, %s, want %q", c.flags, code, stderr, c.want)
		}
	}
}

// Servers of one's own have no preset: what is named by --to, or is on the card, gets a
// class and a rule for all that it is asked for.
func TestInitTakesInServersThatItDoesNotKnow(t *testing.T) {
	own := func() string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotFound) }))
		t.Cleanup(server.Close)
		return server.URL
	}
	declared := []string{"init", "--dry-run", "--only", "--source", "declared", "--memory", "24GiB"}
	for name, c := range map[string]struct {
		flags     []string
		backends  int
		listeners int
	}{
		"one":                    {[]string{"--to", own()}, 1, 0},
		"two":                    {[]string{"--to", own(), "--to", own()}, 2, 2},
		"beside one of a preset": {append(six(t), "--to", own()), 7, 3}, // ComfyUI and TEI have theirs
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := anteroom(append(declared, c.flags...)...)
			if code != 0 || stderr != "" {
				t.Fatalf("%d, %s", code, stderr)
			}
			cfg, err := configs.Load(configs.Options{File: "written", Text: []byte(stdout)})
			if err != nil {
				t.Fatalf("%v\n%s", err, stdout)
			}
			if w := cfg.Warnings(); len(w) > 0 {
				t.Errorf("check warns: %v\n%s", w, stdout)
			}
			if len(cfg.Routing.Backends) != c.backends || strings.Count(stdout, "{listen: ") != c.listeners {
				t.Errorf("want %d backends, %d listeners:\n%s", c.backends, c.listeners, stdout)
			}
		})
	}
	quiet := none([]found{{url: "http://127.0.0.1:3000"}})
	if !strings.Contains(quiet, "--to http://127.0.0.1:3000 takes it in") {
		t.Errorf("of a server on a well-known port that is not known it says: %s", quiet)
	}
}
