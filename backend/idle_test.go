package backend

import (
	"context"
	"io"
	"net"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestAConnectionIsNotUsedAgainAfterTheTimeThatTheBackendGives counts the
// connections that requests some time apart take.
func TestAConnectionIsNotUsedAgainAfterTheTimeThatTheBackendGives(t *testing.T) {
	for _, c := range []struct {
		keepAlive string
		idle      time.Duration
		apart     time.Duration
		requests  int
		want      int // connections
	}{
		{"", 0, 3 * time.Second, 5, 1},
		{"", 0, 5 * time.Second, 5, 5},
		{"", time.Minute, 30 * time.Second, 5, 1},
		{"timeout=1", 0, 900 * time.Millisecond, 5, 5},
		{"timeout=1", 0, 100 * time.Millisecond, 5, 1},
		{"timeout=1", 0, 300 * time.Millisecond, 5, 3},
		{"max=100, timeout=2", 0, 1800 * time.Millisecond, 5, 5},
		{`Timeout="5"`, 0, 4 * time.Second, 5, 5},
		{"timeout=5", 0, 3500 * time.Millisecond, 5, 2},
		{"timeout=0", 0, time.Millisecond, 5, 5},
		{"timeout=60", 0, 5 * time.Second, 5, 5}, // no longer than idle
		{"timeout=x", 0, 3 * time.Second, 5, 1},
		{"timeout=-1", 0, 3 * time.Second, 5, 1},
	} {
		inBubble(t, func(w http.ResponseWriter, r *http.Request) {
			if c.keepAlive != "" {
				w.Header().Set("Keep-Alive", c.keepAlive)
			}
			io.WriteString(w, "fine")
		}, func(t *testing.T, b *bench) {
			var mu sync.Mutex
			dialled := 0
			if c.idle > 0 {
				b.transport.Load().IdleConnTimeout = c.idle
			}
			dial := b.transport.Load().DialContext
			b.transport.Load().DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				dialled++
				mu.Unlock()
				return dial(ctx, network, address)
			}
			for range c.requests {
				if err := b.get("/"); err != nil {
					t.Fatal(err)
				}
				b.wait(c.apart)
			}
			mu.Lock()
			defer mu.Unlock()
			if dialled != c.want {
				t.Errorf("%q, %v apart: %d connections, want %d", c.keepAlive, c.apart, dialled, c.want)
			}
		})
	}
}

// TestAPresetBringsWhatItsEngineDoes wherever the file names it, and the file's
// own words count before it.
func TestAPresetBringsWhatItsEngineDoes(t *testing.T) {
	for name, c := range map[string]struct{ config, want Config }{
		"none":       {Config{}, Config{Cancel: "ignored"}},
		"an engine":  {Config{Preset: "vllm"}, Config{Preset: "vllm", Cancel: "aborts", Health: HealthConfig{Path: "/health"}}},
		"in reclaim": {Config{Reclaim: ReclaimConfig{Preset: "vllm"}}, Config{Cancel: "aborts", Reclaim: ReclaimConfig{Preset: "vllm"}}},
		"in completion": {Config{Completion: CompletionConfig{Preset: "comfyui"}}, Config{Cancel: "ignored", PreserveHost: true,
			AbandonAfter: 5 * time.Minute, Completion: CompletionConfig{Preset: "comfyui"}}},
		"its own words": {Config{Preset: "sglang", Cancel: "ignored", Health: HealthConfig{Path: "/up"}, Errors: "problem"},
			Config{Preset: "sglang", Cancel: "ignored", Health: HealthConfig{Path: "/up"}, Errors: "problem"}},
		"ComfyUI": {Config{Preset: "comfyui"}, Config{Preset: "comfyui", Cancel: "ignored", PreserveHost: true, AbandonAfter: 5 * time.Minute,
			Health:     HealthConfig{Path: "/system_stats"},
			Completion: CompletionConfig{Preset: "comfyui"}, Reclaim: ReclaimConfig{Preset: "comfyui"}}},
		"ComfyUI, but": {Config{Preset: "comfyui", Completion: CompletionConfig{Preset: "none"}, Reclaim: ReclaimConfig{Call: "POST /x"}},
			Config{Preset: "comfyui", Cancel: "ignored", PreserveHost: true, AbandonAfter: 5 * time.Minute, Health: HealthConfig{Path: "/system_stats"},
				Completion: CompletionConfig{Preset: "none"}, Reclaim: ReclaimConfig{Call: "POST /x"}}},
		"Ollama": {Config{Preset: "ollama", Errors: "auto"}, Config{Preset: "ollama", Cancel: "aborts", Errors: "auto",
			Health:  HealthConfig{Path: "/api/version"},
			Reclaim: ReclaimConfig{Preset: "ollama"}}},
		"one that hangs": {Config{Preset: "a1111"}, Config{Preset: "a1111", Cancel: "ignored", AbandonAfter: 30 * time.Minute,
			Completion: CompletionConfig{Preset: "a1111"}}},
	} {
		if got := c.config.Resolve(); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		if again := c.config.Resolve().Resolve(); !reflect.DeepEqual(again, c.want) {
			t.Errorf("%s: twice is not once: %+v", name, again)
		}
	}
	for _, engine := range Engines() {
		controls := Config{Preset: engine}.Controls()
		if engine == "comfyui" {
			controls = Config{Completion: CompletionConfig{Preset: engine}}.Controls()
		}
		// Those that are closed to what changes something are by four methods.
		if want := len(presets[engine].controls) + 4*len(presets[engine].posted); len(controls) != want {
			t.Errorf("%s: %d controls, want %d", engine, len(controls), want)
		}
	}
	if slices.Contains(presetNames(), "gradio") || !slices.Contains(Engines(), "gradio") {
		t.Error("gradio has no call that frees memory, and is an engine all the same")
	}
}
