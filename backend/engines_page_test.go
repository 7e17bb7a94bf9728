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
	b.WriteString("# Engines\n\n`preset: NAME` on a backend brings what is known of its engine. With a card in `gpus` it is a " +
		"complete configuration:\n\n" +
		"```yaml\ngpus: {gpu0: {memory: 48GiB}}\nbackends: {comfy: {url: \"http://127.0.0.1:8188\", preset: comfyui}}\n```\n\n" +
		markdown.Wrap("", "", "Work asks as the class `heavy` or `light`, which are made where the file has none of that name; `class` of the "+
			"backend names another one. "+
			"Routes of the file come first. Where two engines have the same path, `models` tells which of them a request is for, or a "+
			"`listeners` entry gives "+
			"one of them a port of its own. "+
			"`/v1/models` and `/api/tags` of several backends are answered as one list.") + "\n" +
		"`anteroom engine --kind KIND` runs a simulated one of each. This page is made by `go test ./backend -run EnginesPage -rewrite`.\n")
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
		list("work of class "+p.socketClass+" while they are open, WebSockets", p.sockets)
		list("needs no card", p.free)
		list("closed to clients, unless a route names it", append(append([]string{}, p.controls...), p.posted...))
		if p.call != "" {
			text := fmt.Sprintf("unloaded by `%s`", p.call)
			if p.wake != "" {
				text += fmt.Sprintf(", woken by `%s`", p.wake)
			}
			if p.needs != "" {
				text += fmt.Sprintf("; it must be started with %s, and the file must say `reclaim: {preset: %s}`", p.needs, name)
			}
			b.WriteString(markdown.Wrap("- ", "  ", text))
		}
		stops := "goes on when its caller leaves, and keeps its slot until it has ended (`cancel: ignored`)"
		if p.cancel == "aborts" {
			stops = "stops when its caller leaves (`cancel: aborts`)"
		}
		fmt.Fprintf(&b, "- its work %s\n", stops)
		if p.early != nil {
			b.WriteString("- it answers before its work is done, and is followed to the real end (`completion`)\n")
		}
		if p.health != "" {
			fmt.Fprintf(&b, "- health: `GET %s`\n", p.health)
		}
		if p.preserveHost {
			b.WriteString("- it sees the Host that the client sent (`preserve_host`)\n")
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
