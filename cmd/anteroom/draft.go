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
// that say what was found and what was guessed. Unknown settings are comments. used are the
// ports in use; if it is nil, the listeners keep their default ports.
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

// port returns the first unused port from the wanted one on.
func (d *drafting) port(wanted uint16) uint16 {
	for d.taken[wanted] {
		wanted++
	}
	d.taken[wanted] = true
	return wanted
}

// addresses writes the addresses of the listeners that differ from the defaults.
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

// classes writes the demand of a request, if no preset gives it or it cannot be learned.
func (d *drafting) classes(cards []card, servers []found) {
	given := cards[0].given
	unknown := slices.DeleteFunc(slices.Clone(servers), func(f found) bool { return f.name == "" || f.Engine != "" })
	if !given && len(unknown) == 0 {
		return
	}
	share := cards[0].share(servers)
	vram := func(slots admission.Bytes) string {
		if !given {
			return "learn"
		}
		return (share / slots).String()
	}
	if given {
		d.line("\n# What requests take: guesses, an equal share of the card for what each server may run at once, because")
		d.line("# nothing is measured where the card is not read.")
	} else {
		d.line("\n# What a request takes is read off the card.")
	}
	d.line("classes:")
	for _, f := range unknown {
		d.line("  # slots: how many requests %s works on at once.", f.name)
		d.line("  %s: {slots: 1, vram: %s}", f.name, vram(1))
	}
	if given && slices.ContainsFunc(servers, func(f found) bool { return f.asksFor(backend.Heavy) }) {
		d.line("  %s: {slots: 1, estimate: 18s, vram: %s}", backend.Heavy, vram(1))
	}
	if given && slices.ContainsFunc(servers, func(f found) bool { return f.asksFor(backend.Light) }) {
		d.line("  %s: {slots: 8, estimate: 2s, vram: %s}", backend.Light, vram(8))
	}
}

// share is a guess of the memory of a class on one server, so that everything that the
// servers may hold fits on the card.
func (c card) share(servers []found) admission.Bytes {
	var parts admission.Bytes
	for _, f := range servers {
		for _, holds := range []bool{f.name != "" && f.Engine == "", f.asksFor(backend.Heavy), f.asksFor(backend.Light)} {
			if holds {
				parts++
			}
		}
	}
	const step = 256 * admission.MiB
	free := c.Memory - min(admission.GiB, c.Memory/16) // gpus.X.reserve
	return max(free/max(parts, 1)/step*step, step)
}

// asksFor says that a route of the server's preset has a class.
func (f found) asksFor(class string) bool {
	return slices.ContainsFunc((backend.Config{Preset: f.Engine}).Routes(), func(r backend.Route) bool { return r.Class == class })
}

func (d *drafting) backends(cards []card, servers []found) {
	known := slices.DeleteFunc(slices.Clone(servers), func(f found) bool { return f.name == "" })
	own := separate(known)
	d.line("\nbackends:")
	for _, f := range known {
		keys := []string{"url: " + strconv.Quote(f.url)}
		if f.Engine == "" {
			d.line("  # It answers, and is none of the engines that are known.%s", f.seen(cards))
		} else {
			d.line("  # %s, by %s.%s", f.Engine, f.Because, f.seen(cards))
			keys = append(keys, "preset: "+f.Engine)
		}
		if len(cards) > 1 {
			on := max(0, f.card)
			keys = append(keys, fmt.Sprintf("gpu: gpu%d", on))
			if f.card < 0 {
				d.line("  # Which card it is on is a guess.")
			}
		}
		if len(cards) == 1 && (cards[0].given || f.Engine == "") {
			keys = append(keys, "gpu: gpu0")
		}
		if shares(f, known, own) {
			keys = append(keys, "models: ["+quoted(f.Models)+"]")
		}
		d.line("  %s: {%s}", f.name, strings.Join(keys, ", "))
	}
	for _, f := range servers {
		switch {
		case f.name == "" && f.err == nil:
			d.line("  # %s answers, and is none of the engines that are known: --to %s takes it in.", f.url, f.url)
		case f.err != nil:
			d.line("  # %s does not answer: %v", f.url, f.err)
		}
	}
	d.routes(known, own)
	d.listeners(known, own)
}

// routes writes one rule for each server without a preset. The rule matches all requests
// for that server.
func (d *drafting) routes(known []found, own map[string]bool) {
	begun := false
	for _, f := range known {
		if f.Engine != "" {
			continue
		}
		if !begun {
			d.line("\n# GET, HEAD, OPTIONS and DELETE go past admission. The first rule that matches counts: calls")
			d.line("# that need no card have a rule before it, as {match: {path: /status}, pass: true, backend: %s}.", f.name)
			d.line("routes:")
			begun = true
		}
		listener := when(own[f.name], "listener: "+f.name+", ")
		d.line("  - {match: {path: /**}, %sclass: %s, backend: %s}", listener, f.name, f.name)
	}
}

// listeners writes a port for each server whose paths other servers have too.
func (d *drafting) listeners(known []found, own map[string]bool) {
	if len(own) == 0 {
		return
	}
	d.line("\n# Servers whose paths are those of others have ports of their own: clients go there.")
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

// seen describes what is known of a server beside its engine.
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
	if engine == "" {
		return nil, true
	}
	for _, r := range (backend.Config{Preset: engine}).Routes() {
		if r.Class != "" {
			paths = append(paths, r.Paths...)
		} else if slices.Contains(r.Paths, "/**") {
			everything = true
		}
	}
	return paths, everything
}

// separate are the servers that need a port of their own: servers that take all paths if
// another one does too, and servers that list no models if another one has their paths.
func separate(all []found) map[string]bool {
	own := make(map[string]bool)
	wide := slices.DeleteFunc(slices.Clone(all), func(f found) bool { _, everything := work(f.Engine); return !everything })
	if len(wide) > 1 {
		for _, f := range wide {
			own[f.name] = true
		}
	}
	for _, f := range all {
		// A rule for all paths would match before the routes of presets.
		if len(f.Models) == 0 && shares(f, all, own) || f.Engine == "" && len(all) > 1 {
			own[f.name] = true
		}
	}
	return own
}

// shares says that a server can be on the main listener with others, because the models
// decide which server gets a request.
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
