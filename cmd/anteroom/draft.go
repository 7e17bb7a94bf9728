package main

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/gpu"
	"github.com/anteroom-gpu/anteroom/backend"
)

// draft writes a configuration for the cards and servers that were found, with comments
// that say what was seen and what was guessed. What is not known is a comment.
// used are the ports that are taken; of nil ones, where it listens is left as usual.
func draft(cards []card, servers []found, used []gpu.Listening) string {
	d := drafting{taken: make(map[uint16]bool)}
	for _, l := range used {
		d.taken[l.At.Port()] = true
	}
	for _, f := range servers {
		if u, err := url.Parse(f.url); err == nil {
			port, _ := strconv.ParseUint(u.Port(), 10, 16)
			d.taken[uint16(port)] = true
		}
	}
	if used != nil {
		d.addresses()
	}
	d.cards(cards)
	d.classes(cards, servers)
	d.backends(cards, servers)
	return d.String()
}

type drafting struct {
	strings.Builder
	taken map[uint16]bool // ports
}

func (d *drafting) line(format string, args ...any) { fmt.Fprintf(d, format+"\n", args...) }

// port gives a port that nothing uses, from the wanted one on.
func (d *drafting) port(wanted uint16) uint16 {
	for d.taken[wanted] {
		wanted++
	}
	d.taken[wanted] = true
	return wanted
}

// addresses writes where it listens, where that is not as usual.
func (d *drafting) addresses() {
	d.line("# Written by `anteroom init`. `anteroom check -c FILE` says what is wrong with it,")
	d.line("# `anteroom explain -c FILE POST /path` what becomes of a request.")
	if p := d.port(8080); p != 8080 {
		d.line("listen: 127.0.0.1:%d   # 8080 is taken", p)
	}
	if p := d.port(9090); p != 9090 {
		d.line("admin: {listen: \"127.0.0.1:%d\"}   # 9090 is taken", p)
	}
}

func (d *drafting) cards(cards []card) {
	d.line("\ngpus:")
	for i, c := range cards {
		var keys []string
		if c.Device != strconv.Itoa(i) || len(cards) > 1 {
			keys = append(keys, "device: "+strconv.Quote(c.Device))
		}
		if c.Source != "auto" {
			keys = append(keys, "source: "+c.Source)
		}
		size := c.Memory
		if size == 0 {
			size = c.reading.Total
		}
		keys = append(keys, "memory: "+size.String())
		if c.given {
			d.line("  # As --memory says: the card cannot be read, so that the ledger alone counts.")
		} else {
			d.line("  # %s by %s, %s of it in use now.", c.reading.Total, c.reading.Source, c.reading.Used)
		}
		d.line("  gpu%d: {%s}", i, strings.Join(keys, ", "))
	}
}

// classes writes what a request takes, where nothing can be learned of it.
func (d *drafting) classes(cards []card, servers []found) {
	if !cards[0].given {
		return
	}
	d.line("\n# What a request takes: guesses, because nothing is measured where the card is not read.")
	d.line("classes:")
	for _, c := range []struct {
		name, keys string
		share      admission.Bytes
	}{{backend.Heavy, "slots: 1, estimate: 18s", 2}, {backend.Light, "slots: 8, estimate: 2s", 16}} {
		if slices.ContainsFunc(servers, func(f found) bool {
			return slices.ContainsFunc((backend.Config{Preset: f.Engine}).Routes(), func(r backend.Route) bool { return r.Class == c.name })
		}) {
			d.line("  %s: {%s, vram: %s}", c.name, c.keys, cards[0].Memory/c.share)
		}
	}
}

func (d *drafting) backends(cards []card, servers []found) {
	known := slices.DeleteFunc(slices.Clone(servers), func(f found) bool { return f.Engine == "" })
	own := separate(known)
	d.line("\nbackends:")
	for _, f := range known {
		d.line("  # %s, by %s.%s", f.Engine, f.Because, f.seen(cards))
		keys := []string{"url: " + strconv.Quote(f.url), "preset: " + f.Engine}
		if len(cards) > 1 {
			on := max(0, f.card)
			keys = append(keys, fmt.Sprintf("gpu: gpu%d", on))
			if f.card < 0 {
				d.line("  # Which card it is on is a guess.")
			}
		}
		if len(cards) == 1 && cards[0].given {
			keys = append(keys, "gpu: gpu0")
		}
		if shares(f, known, own) {
			keys = append(keys, "models: ["+quoted(f.Models)+"]")
		}
		d.line("  %s: {%s}", f.name, strings.Join(keys, ", "))
	}
	for _, f := range servers {
		switch {
		case f.Engine == "" && f.err == nil:
			d.line("  # %s answers, and is none of the engines that are known: write a backend and routes for it.", f.url)
		case f.Engine == "":
			d.line("  # %s does not answer: %v", f.url, f.err)
		}
	}
	if len(own) == 0 {
		return
	}
	d.line("\n# Engines whose paths are those of others have ports of their own.")
	d.line("listeners:")
	for _, f := range known {
		if !own[f.name] {
			continue
		}
		u, _ := url.Parse(f.url) // it was read when it was given
		port, _ := strconv.ParseUint(u.Port(), 10, 16)
		d.line("  %s: {listen: \"127.0.0.1:%d\", backend: %s}", f.name, d.port(uint16(min(port+10000, 60000))), f.name)
	}
}

// seen says what is known of a server beside its engine.
func (f found) seen(cards []card) string {
	var text string
	if f.held > 0 {
		text += fmt.Sprintf(" It holds %s of gpu%d now.", f.held, f.card)
	}
	if n := len(f.Models); n > 0 {
		text += " It serves " + strings.Join(f.Models[:min(n, 4)], ", ")
		if n > 4 {
			text += fmt.Sprintf(" and %d more", n-4)
		}
		text += "."
	}
	return text
}

// work are the paths at which an engine's work is asked for.
func work(engine string) (paths []string, everything bool) {
	for _, r := range (backend.Config{Preset: engine}).Routes() {
		if r.Class != "" {
			paths = append(paths, r.Paths...)
		} else if slices.Contains(r.Paths, "/**") {
			everything = true
		}
	}
	return paths, everything
}

// separate are the servers that need a port of their own: those that want all paths
// where another does too, and those that list no models, where another has their paths.
func separate(all []found) map[string]bool {
	own := make(map[string]bool)
	wide := slices.DeleteFunc(slices.Clone(all), func(f found) bool { _, everything := work(f.Engine); return !everything })
	if len(wide) > 1 {
		for _, f := range wide {
			own[f.name] = true
		}
	}
	for _, f := range all {
		if len(f.Models) == 0 && shares(f, all, own) {
			own[f.name] = true
		}
	}
	return own
}

// shares says that the models tell a server's requests from another's on the main
// listener.
func shares(f found, all []found, own map[string]bool) bool {
	paths, _ := work(f.Engine)
	return !own[f.name] && slices.ContainsFunc(all, func(other found) bool {
		theirs, _ := work(other.Engine)
		return other.name != f.name && !own[other.name] && slices.ContainsFunc(paths, func(p string) bool { return slices.Contains(theirs, p) })
	})
}

func quoted(all []string) string {
	list := make([]string, len(all))
	for i, text := range all {
		list[i] = strconv.Quote(strings.ReplaceAll(text, "${", "$${"))
		if short, is := strings.CutSuffix(text, ":latest"); is {
			list[i] += ", " + strconv.Quote(short) // as Ollama's clients may write it
		}
	}
	return strings.Join(list, ", ")
}
