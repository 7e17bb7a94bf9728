package routing_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/routing"
)

func TestEveryMistakeOfAReclaimHasItsPlaceAndItsCure(t *testing.T) {
	type config = routing.ReclaimConfig
	for _, c := range []struct {
		path, says string
		reclaim    config
	}{
		{"preset", "not known: want a1111 or comfyui or llama-server or llama-swap or ollama or sglang or triton or vllm, or call", config{Preset: "comfy"}},
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
		{"stop", "missing beside start: want a command", config{Preset: "ollama", Start: routing.Command{"systemctl", "start", "ollama"}}},
		{"probe", "missing beside start", config{Stop: routing.Command{"a"}, Start: routing.Command{"b"}}},
		{"stop", "no program", config{Stop: routing.Command{"", "stop"}}},
		{"stop", "zero byte", config{Stop: routing.Command{"a", "b\x00"}}},
		{"models", "none for {{model}} to stand for", config{Call: "POST /unload/{{model}}"}},
		{"models", "none for {{model}} to stand for", config{Preset: "comfyui", Body: `{"m":"{{model}}"}`}},
		{"models", "none for {{model}} to stand for", config{Call: "POST /unload", Wake: "POST /load", WakeBody: `"{{model}}"`}},
		{"models", "no call or body names them", config{Preset: "vllm", Models: []string{"a"}}},
		{"models", "not a model", config{Preset: "ollama", Models: []string{"a", ""}}},
		{"timeout", "want 0s or more", config{Preset: "vllm", Timeout: -1}},
		{"settle", "want 0s or more", config{Preset: "vllm", Settle: -time.Second}},
	} {
		got := mistakes(reclaiming(c.reclaim, light("it", path("/x"))))
		if len(got) != 1 || !strings.HasPrefix(got[0], "backends.vqa.reclaim."+c.path+": ") || !strings.Contains(got[0], c.says) {
			t.Errorf("%+v:\ngot %q\nwant %s: … %s", c.reclaim, got, c.path, c.says)
		}
	}
	c := reclaiming(config{}, light("it", path("/x")))
	b := c.Backends["vqa"]
	b.MinResidency = -1
	c.Backends["vqa"] = b
	if got, want := mistakes(c), []string{"backends.vqa.min_residency: -1ns: too small: want 0s or more"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAGoodReclaimHasNoMistakes(t *testing.T) {
	for _, reclaim := range []routing.ReclaimConfig{
		{},
		{Timeout: 30 * time.Second, Settle: 10 * time.Second},
		{Probe: "GET /health"},
		{Call: "POST /free?deep=1"},
		{Call: "POST /free", Body: " [1] ", Probe: "GET /up"},
		{Call: "POST /free", Body: "all=yes"},
		{Call: "POST /free/{{model}}", Models: []string{"a"}},
		{Call: "POST /free", Wake: "POST /load/{{model}}", Models: []string{"a"}},
		{Stop: routing.Command{"docker", "stop", "it"}},
		{Stop: routing.Command{"docker", "stop", "it"}, Start: routing.Command{"docker", "start", "it"}, Probe: "GET /health"},
		{Preset: "vllm", Stop: routing.Command{"docker", "stop", "it"}, Start: routing.Command{"docker", "start", "it"}},
		{Preset: "llama-swap", Models: []string{"a"}},
		{Preset: "triton", Models: []string{"a"}},
	} {
		c := reclaiming(reclaim, light("it", path("/x")))
		b := c.Backends["vqa"]
		b.Pinned, b.MinResidency = true, time.Minute // it may be reclaimed by hand
		c.Backends["vqa"] = b
		if got := mistakes(c); got != nil {
			t.Errorf("%+v: got %q", reclaim, got)
		}
	}
	enabled := routing.ReclaimConfig{Stop: routing.Command{"a"}}
	if !enabled.Enabled() || (routing.ReclaimConfig{Wake: "POST /x", Probe: "GET /y"}).Enabled() {
		t.Error("enabled is what has a call or a stop")
	}
	// The health check is a probe.
	c := reclaiming(routing.ReclaimConfig{Stop: routing.Command{"a"}, Start: routing.Command{"b"}}, light("it", path("/x")))
	b := c.Backends["vqa"]
	b.Health = routing.HealthConfig{Path: "/up", Every: time.Second}
	c.Backends["vqa"] = b
	if got := mistakes(c); got != nil {
		t.Errorf("with a health check: got %q", got)
	}
}
