package configs

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// A card and a backend with a preset are a complete configuration.
func TestEachPresetIsComplete(t *testing.T) {
	if n := len(backend.Engines()); n < 14 {
		t.Fatalf("%d presets", n)
	}
	for _, engine := range backend.Engines() {
		file := filepath.Join(t.TempDir(), "a.yaml")
		put(t, file, fmt.Sprintf("gpus: {gpu0: {memory: 48GiB}}\nbackends: {it: {url: \"http://127.0.0.1:8188\", preset: %s}}\n", engine))
		c := load(t, Options{File: file})
		if len(c.Warnings()) > 0 {
			t.Errorf("%s: %v", engine, c.Warnings())
		}
		b := c.Routing.Backends["it"]
		if b.GPU != "gpu0" || !b.Resident.Learn {
			t.Errorf("%s: on %q, resident %+v", engine, b.GPU, b.Resident)
		}
		work := slices.IndexFunc(c.Routing.Routes, func(r routing.RouteConfig) bool { return !r.Pass })
		if work < 0 || !c.Routing.Classes[c.Routing.Routes[work].Class].VRAM.Learn {
			t.Errorf("%s: routes %+v", engine, c.Routing.Routes)
		}
	}
}

// The file's own routes and keys come first.
func TestAPresetAddsToTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	put(t, file, `
gpus: {gpu0: {memory: 48GiB}, gpu1: {memory: 24GiB, device: 1}}
listeners: {ui: {listen: "127.0.0.1:8288", backend: comfy}}
classes: {heavy: {slots: 2, vram: 10GiB}}
backends:
  comfy: {url: "http://127.0.0.1:8188", preset: comfyui, gpu: gpu0, resident: 24GiB}
  chat: {url: "http://127.0.0.1:8000", preset: vllm, gpu: gpu1, models: ["qwen*"], class: talk}
  ollama: {url: "http://127.0.0.1:11434", preset: ollama, gpu: gpu1, models: [llama3]}
routes:
  - {name: mine, match: {method: POST, path: /v1/embeddings}, class: heavy, backend: chat}
`)
	c := load(t, Options{File: file})
	var got []string
	for _, r := range c.Routing.Routes {
		got = append(got, fmt.Sprintf("%s %s%s %v %v to %s for %s %s %v", r.Name, r.Listener, r.Match.Method, len(r.Match.Path), r.Match.Model,
			r.Backend, r.Class,
			map[bool]string{true: "pass"}[r.Pass], r.Merge))
	}
	want := `mine [POST] 1 [] to chat for heavy  []
chat [POST] 10 [] to chat for talk  []
chat-by-model [POST] 5 [qwen*] to chat for talk  []
chat-sockets [GET] 1 [] to chat for talk  []
comfy ui[POST] 2 [] to comfy for heavy  []
ollama [POST] 4 [] to ollama for light  []
ollama-by-model [POST] 5 [llama3] to ollama for light  []
models [GET] 1 [] to chat for  pass [ollama]
chat-free [] 13 [] to chat for  pass []
ollama-free [] 13 [] to ollama for  pass []
comfy-rest ui[] 1 [] to comfy for  pass []`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if k := c.Routing.Classes["heavy"]; k.Slots != 2 || k.VRAM.Amount != 10*admission.GiB || k.Estimate != 18*time.Second ||
		c.Routing.Classes["talk"].Slots != 8 {
		t.Errorf("classes %+v", c.Routing.Classes)
	}
}

// What is said of a listener takes no route from backends that are reached elsewhere.
func TestARouteOfAListenerLeavesTheOthersTheirPresets(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	put(t, file, `
gpus: {gpu0: {memory: 48GiB}}
listeners:
  own: {listen: "127.0.0.1:18001", backend: server}
  ui: {listen: "127.0.0.1:18188", backend: comfy}
classes: {mine: {slots: 1, vram: 10GiB}}
backends:
  server: {url: "http://127.0.0.1:8001", gpu: gpu0}
  chat: {url: "http://127.0.0.1:8000", preset: vllm}
  comfy: {url: "http://127.0.0.1:8188", preset: comfyui}
routes:
  - {match: {path: /**}, listener: own, class: mine, backend: server}
  - {match: {path: "/**"}, listener: ui, class: mine, backend: comfy}
`)
	c := load(t, Options{File: file})
	of := make(map[string]int)
	for _, r := range c.Routing.Routes {
		of[r.Backend]++
	}
	if of["server"] != 1 || of["chat"] < 2 || of["comfy"] != 1 {
		t.Errorf("routes by backend: %v, want one of server, those of vLLM's preset, and none but the file's of comfy", of)
	}
}

// A model's other names are routes of its backend, before those for every model.
func TestAliasesAreRoutesOfAPreset(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	put(t, file, `
gpus: {gpu0: {memory: 48GiB}}
backends: {chat: {url: "http://127.0.0.1:8000", preset: vllm, aliases: {gpt-4o: qwen, "org/small": tiny}}}
`)
	c := load(t, Options{File: file})
	var got []string
	for _, r := range c.Routing.Routes[:3] {
		got = append(got, fmt.Sprintf("%s %s %s %s %v", r.Name, r.Match.Model, r.RewriteModel, r.Class, len(r.Match.Path) > 5))
	}
	if want := "chat-as-gpt-4o [gpt-4o] qwen light true; chat-as-org/small [org/small] tiny light true; " +
		"chat []  light true"; strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
	if table, err := routing.NewTable(c.Routing); err != nil || len(table.Aliases()) != 2 {
		t.Errorf("%v, aliases %v", err, table.Aliases())
	}
}
