package backend

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/markdown"
)

var rewritePage = flag.Bool("rewrite", false, "write docs/engines.md anew")

// docs/engines.md is what the presets say.
func TestEnginesPageIsCurrent(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Engines\n\n" +
		markdown.Wrap("", "", "`preset: NAME` on a backend brings what is known of its engine. A backend with a preset and a card "+
			"in `gpus` are a complete configuration:") + "\n" +
		"```yaml\ngpus: {gpu0: {memory: 48GiB}}\nbackends: {comfy: {url: \"http://127.0.0.1:8188\", preset: comfyui}}\n```\n\n" +
		markdown.Wrap("", "", "The preset adds routes behind those of the file, so the file's own routes match first. Work has the class "+
			"`heavy` or `light`, which is created if the file has no class of that name; `class` of the backend names another one. "+
			"If two engines have the same path, `models` of a backend decides which engine gets a request, or a "+
			"`listeners` entry gives one of them a port of its own. "+
			"`/v1/models` and `/api/tags` of several backends are answered as one list.") + "\n" +
		markdown.Wrap("", "", "Requests that need no card are forwarded at once. Paths that are closed to clients answer 403 "+
			"`control_route`, unless a route of the file names them. `anteroom engine --kind KIND` runs a simulated server of each "+
			"engine (`tts` is kokoro's), and `--list` lists the kinds.") + "\n" +
		"This page is written by `go test ./backend -run EnginesPage -rewrite`.\n")
	list := func(title string, paths []string) {
		if len(paths) > 0 {
			b.WriteString(markdown.Wrap("- "+title+": ", "  ", "`"+strings.Join(paths, "`, `")+"`"))
		}
	}
	for _, name := range Engines() {
		p := presets[name]
		fmt.Fprintf(&b, "\n## %s\n\n", name)
		list("heavy work, by POST", p.heavy)
		list("light work, by POST", p.light)
		list("WebSockets that are "+p.socketClass+" work while they are open", p.sockets)
		list("needs no card", p.free)
		list("closed to clients", p.controls)
		list("closed to clients, except by GET", p.posted)
		if p.call != "" {
			text := fmt.Sprintf("unloaded by `%s`", p.call)
			if p.wake != "" {
				text += fmt.Sprintf(", woken by `%s`", p.wake)
			}
			if p.needs != "" {
				text += fmt.Sprintf(". It must be started with %s, and the file must say `reclaim: {preset: %s}`", p.needs, name)
			}
			b.WriteString(markdown.Wrap("- ", "  ", text))
		}
		stops := "stops when its caller leaves (`cancel: aborts`)"
		if p.cancel != "aborts" {
			stops = "goes on when its caller leaves, and keeps its slot and its memory until it has ended (`cancel: ignored`)"
		}
		if p.abandon > 0 {
			stops += fmt.Sprintf(", or for %.0f minutes at most (`abandon_after`)", p.abandon.Minutes())
		}
		b.WriteString(markdown.Wrap("- ", "  ", "its work "+stops))
		if p.early != nil {
			b.WriteString("- it answers before its work is done; Anteroom follows the work to its end (`completion`)\n")
		}
		if p.health != "" {
			fmt.Fprintf(&b, "- health check: `GET %s`\n", p.health)
		}
		if p.preserveHost {
			b.WriteString("- it gets the Host header that the client sent (`preserve_host`)\n")
		}
	}
	const page = "../docs/engines.md"
	if *rewritePage {
		if err := os.WriteFile(page, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("%s is not what the presets say: want go test ./backend -run EnginesPage -rewrite", page)
	}
}
