package backend_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
)

// of is a backend with a reclaim.
func of(reclaim backend.ReclaimConfig) backend.Config {
	return backend.Config{URL: "http://127.0.0.1:1", Breaker: backend.BreakerConfig{Failures: 5, Open: 30 * time.Second}, Reclaim: reclaim}
}

// mistakes is what Check reports, as "path: problem".
func mistakes(c backend.Config) []string {
	var all []string
	c.Check(func(path, problem string) { all = append(all, path+": "+problem) })
	return all
}

func TestEveryMistakeOfAReclaimHasItsPlaceAndItsCure(t *testing.T) {
	type config = backend.ReclaimConfig
	for _, c := range []struct {
		path, says string
		reclaim    config
	}{
		{"preset", "not known: want a1111 or comfyui or kokoro or llama-server or llama-swap or ollama or sglang or triton or vllm " +
			"or whisper, or call", config{Preset: "comfy"}},
		{"preset", "not known", config{Preset: "VLLM", Wake: "POST /x"}},
		{"call", `"free": not a call: want a method and a path, such as POST /free`, config{Call: "free"}},
		{"call", "not a call", config{Call: "POST"}},
		{"call", "not a call", config{Call: "POST "}},
		{"call", "not a call", config{Call: "/free"}},
		{"call", "not a call", config{Call: "POST free"}},
		{"call", "not a call", config{Call: "post /free"}},
		{"call", "not a call", config{Call: "POST /free now"}},
		{"call", "not a call", config{Call: "POST  /free"}},
		{"call", "not a call", config{Call: "POST /free#now"}},
		{"call", "not a call", config{Call: "POST http://other/free"}},
		{"call", "not a call", config{Call: "POST //other/free"}},
		{"call", "not a call", config{Call: "POST /%zz"}},
		{"call", "not a call", config{Call: "P(ST /free"}},
		{"call", "not a call", config{Preset: "vllm", Call: "sleep"}},
		{"wake", "want a method and a path, such as POST /wake_up", config{Call: "POST /sleep", Wake: "/wake_up"}},
		{"probe", "want a method and a path, such as GET /health", config{Call: "POST /sleep", Probe: "/health"}},
		{"probe", "is asked once", config{Preset: "triton", Probe: "GET /v2/models/{{model}}/ready"}},
		{"body", "not JSON", config{Call: "POST /free", Body: "{unload_models: true}"}},
		{"body", "not JSON", config{Preset: "ollama", Body: `{"model":{{model}}}`}},
		{"call", "missing beside what belongs to it: want one such as POST /free", config{Body: "{}"}},
		{"call", "missing beside what belongs to it", config{Wake: "POST /wake_up"}},
		{"wake_body", "not JSON", config{Call: "POST /sleep", Wake: "POST /wake", WakeBody: "["}},
		{"wake", "missing beside its body: want one such as POST /wake_up", config{Call: "POST /sleep", WakeBody: "{}"}},
		{"stop", "missing beside start: want a command", config{Preset: "ollama", Start: backend.Command{"systemctl", "start", "ollama"}}},
		{"probe", "missing beside start", config{Stop: backend.Command{"a"}, Start: backend.Command{"b"}}},
		{"stop", "no program", config{Stop: backend.Command{"", "stop"}}},
		{"stop", "zero byte", config{Stop: backend.Command{"a", "b\x00"}}},
		{"models", "none for {{model}} to stand for", config{Call: "POST /unload/{{model}}"}},
		{"models", "none for {{model}} to stand for", config{Preset: "comfyui", Body: `{"m":"{{model}}"}`}},
		{"models", "none for {{model}} to stand for", config{Call: "POST /unload", Wake: "POST /load", WakeBody: `"{{model}}"`}},
		{"models", "no call or body names them", config{Preset: "vllm", Models: []string{"a"}}},
		{"models", "not a model", config{Preset: "ollama", Models: []string{"a", ""}}},
		{"timeout", "want 0s or more", config{Preset: "vllm", Timeout: -1}},
		{"settle", "want 0s or more", config{Preset: "vllm", Settle: -time.Second}},
	} {
		got := mistakes(of(c.reclaim))
		if len(got) != 1 || !strings.HasPrefix(got[0], "reclaim."+c.path+": ") || !strings.Contains(got[0], c.says) {
			t.Errorf("%+v:\ngot %q\nwant %s: … %s", c.reclaim, got, c.path, c.says)
		}
	}
	b := of(config{})
	b.MinResidency = -1
	if got, want := mistakes(b), []string{"min_residency: -1ns: too small: want 0s or more"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAGoodReclaimHasNoMistakes(t *testing.T) {
	for _, reclaim := range []backend.ReclaimConfig{
		{},
		{Timeout: 30 * time.Second, Settle: 10 * time.Second},
		{Probe: "GET /health"},
		{Call: "POST /free?deep=1"},
		{Call: "POST /free", Body: " [1] ", Probe: "GET /up"},
		{Call: "POST /free", Body: "all=yes"},
		{Call: "POST /free/{{model}}", Models: []string{"a"}},
		{Call: "POST /free", Wake: "POST /load/{{model}}", Models: []string{"a"}},
		{Stop: backend.Command{"docker", "stop", "it"}},
		{Stop: backend.Command{"docker", "stop", "it"}, Start: backend.Command{"docker", "start", "it"}, Probe: "GET /health"},
		{Preset: "vllm", Stop: backend.Command{"docker", "stop", "it"}, Start: backend.Command{"docker", "start", "it"}},
		{Preset: "llama-swap", Models: []string{"a"}},
		{Preset: "triton", Models: []string{"a"}},
	} {
		b := of(reclaim)
		b.Pinned, b.MinResidency = true, time.Minute // it may be reclaimed by hand
		if got := mistakes(b); got != nil {
			t.Errorf("%+v: got %q", reclaim, got)
		}
	}
	enabled := backend.ReclaimConfig{Stop: backend.Command{"a"}}
	if !enabled.Enabled() || (backend.ReclaimConfig{Wake: "POST /x", Probe: "GET /y"}).Enabled() {
		t.Error("enabled is what has a call or a stop")
	}
	// The health check is a probe.
	b := of(backend.ReclaimConfig{Stop: backend.Command{"a"}, Start: backend.Command{"b"}})
	b.Health = backend.HealthConfig{Path: "/up", Every: time.Second}
	if got := mistakes(b); got != nil {
		t.Errorf("with a health check: got %q", got)
	}
}
