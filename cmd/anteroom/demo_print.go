package main

import (
	"flag"
	"fmt"
	"io"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// isSet says that a flag was given.
func isSet(fs *flag.FlagSet, name string) (given bool) {
	fs.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// armSays describes each arm in words.
var armSays = map[string]string{
	"fifo":     "one queue for both servers, one request at a time",
	"static":   "fixed slots for each server: the most that never run out of memory",
	"anteroom": "Anteroom's admission controller: a request starts when its memory fits",
}

// printBox says what is played.
func printBox(w io.Writer) {
	fmt.Fprint(w, `A simulated 48 GiB card is shared by two simulated model servers. A heavy request makes an image: 34 GiB,
17 to 20 s. A light one answers a question: 1 to 2 s. The same requests come to the servers in three ways:

`)
	for _, arm := range arms {
		fmt.Fprintf(w, "  %-10s%s\n", arm, armSays[arm])
	}
	fmt.Fprintf(w, "\n%s\n\n", slowdown)
}

// slowdown says what the simulated card does not simulate.
const slowdown = "Runs slow each other down in the scene contention alone. On a real card they do wherever both servers compute."

// row is one line of a scene's table.
type row struct {
	name, unit, format string
	of                 func(simulation.Result) any
}

// tableRows are a scene's figures. Some are relative to the fifo arm.
func tableRows(by map[string]played) []row {
	return []row{
		{"light requests", "", "%d", func(r simulation.Result) any { return r.Light.Requests }},
		{"light wait", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Wait }},
		{"light execution", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Execute }},
		{"light total", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Total }},
		{"heavy requests", "", "%d", func(r simulation.Result) any { return r.Heavy.Requests }},
		{"heavy wait", ", s", "%.2f", func(r simulation.Result) any { return r.Heavy.Wait }},
		{"gap between heavies", ", s", "%.2f", func(r simulation.Result) any { return r.Heavy.Gap }},
		{"throughput", ", per minute", "%.1f", func(r simulation.Result) any { return r.Throughput }},
		{"throughput × fifo", "", "%.2f", func(r simulation.Result) any { return ratio(r.Throughput, by["fifo"].Throughput) }},
		{"peak memory", ", GiB", "%.1f", func(r simulation.Result) any { return float64(r.Peak) / float64(admission.GiB) }},
		{"out of memory", "", "%d", func(r simulation.Result) any { return r.OutOfMemory }},
		{"over budget", "", "%d", func(r simulation.Result) any { return r.Over }},
		{"failed", "", "%d", func(r simulation.Result) any { return r.Failed }},
	}
}

// ratio is a ÷ b; 0 if b is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// armTitle heads an arm's column.
func armTitle(s simulation.Scene, arm string) string {
	if arm == "static" {
		return fmt.Sprintf("static 1+%d", s.StaticSlots)
	}
	return arm
}

// reference is what was measured with such traffic without Anteroom: with one queue, then
// with two classes.
var reference = map[string]string{
	"light wait": "15.2 → 0.1", "light execution": "1.8 → 1.9", "light total": "17.0 → 2.0", "throughput × fifo": "~3.5",
}

// referenceFor is the reference of one figure of a scene; empty: there is none.
// Its traffic is that of steady and backlog.
func referenceFor(s simulation.Scene, name string) string {
	switch {
	case s.Name == "steady" && name != "throughput × fifo", s.Name == "backlog" && name == "throughput × fifo":
		return reference[name]
	}
	return ""
}

// printScene prints one scene as a table.
func printScene(w io.Writer, s simulation.Scene, by map[string]played) {
	fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Says)
	fmt.Fprintf(w, "  %-24s", "")
	for _, arm := range arms {
		fmt.Fprintf(w, "%12s", armTitle(s, arm))
	}
	if s.Name == "steady" || s.Name == "backlog" {
		fmt.Fprint(w, "   reference")
	}
	fmt.Fprintln(w)
	for _, r := range tableRows(by) {
		fmt.Fprintf(w, "  %-24s", r.name+r.unit)
		for _, arm := range arms {
			fmt.Fprintf(w, "%12s", fmt.Sprintf(r.format, r.of(by[arm].Result)))
		}
		if text := referenceFor(s, r.name); text != "" {
			fmt.Fprintf(w, "   %s", text)
		}
		fmt.Fprintln(w)
	}
	if text := note(s); text != "" {
		fmt.Fprintln(w, " ", text)
	}
}

// note explains a scene's figures; empty: there is nothing to explain.
func note(s simulation.Scene) string {
	switch {
	case s.Contention:
		return "the same traffic as in backlog: a card without MPS gives each process its part of the time, whether or not it can use it up"
	case s.Name == "backlog":
		return bound(s)
	}
	return ""
}

// bound says what the best possible schedule of a scene reaches.
func bound(s simulation.Scene) string {
	return fmt.Sprintf("at best %.2f × a fifo that loses nothing between requests: Σ all work ÷ max(Σ heavy, Σ light ÷ %d)",
		s.Bound(), s.LightSlots)
}

// meaning says what each scene shows, in a sentence.
func meaning(scenes []simulation.Scene, f figures) (lines []string) {
	for _, s := range scenes {
		fifo, static, anteroom := f[s.Name]["fifo"], f[s.Name]["static"], f[s.Name]["anteroom"]
		switch s.Name {
		case "steady":
			lines = append(lines, fmt.Sprintf("Light requests wait %.1f s behind the images in one queue, and %.2f s with Anteroom.",
				fifo.Light.Wait, anteroom.Light.Wait))
		case "backlog":
			lines = append(lines, fmt.Sprintf("The same work is done %.1f times faster, with %d requests out of memory.",
				ratio(anteroom.Throughput, fifo.Throughput), anteroom.OutOfMemory))
		case "contention":
			lines = append(lines, fmt.Sprintf("Where the servers slow each other down, the work of backlog is done %.1f times faster than in one queue.",
				ratio(anteroom.Throughput, fifo.Throughput)))
		case "wide_lights":
			lines = append(lines, fmt.Sprintf("Where light requests take 3 GiB, fixed slots answer %d of them and Anteroom %d; "+
				"a heavy one waits %.1f s, not %.1f s.", static.Light.Requests, anteroom.Light.Requests, anteroom.Heavy.Wait, static.Heavy.Wait))
		}
	}
	return lines
}

// printMeaning says what the tables show.
func printMeaning(w io.Writer, scenes []simulation.Scene, f figures) {
	fmt.Fprintln(w)
	for i, line := range meaning(scenes, f) {
		head := ""
		if i == 0 {
			head = "It shows:"
		}
		fmt.Fprintf(w, "%-11s%s\n", head, line)
	}
}

// printNext says what to do next.
func printNext(w io.Writer) {
	fmt.Fprint(w, "Next:      put it in front of your own servers: README.md, \"Put it in front of your own\".\n")
}

// tooLate is the lateness, in the machine's seconds, from which on it shows in the tables.
const tooLate = 0.1

// printTrouble prints what makes the figures wrong, if anything does, and reports whether
// any request failed.
func printTrouble(w io.Writer, d demo, f figures) (failed bool) {
	late := 0.0
	for _, s := range d.scenes {
		for _, arm := range arms {
			p := f[s.Name][arm]
			late = max(late, p.Late)
			if p.err != nil {
				failed = true
				fmt.Fprintf(w, "anteroom demo: %s, %s: %d requests failed; the first: %v\n", s.Name, arm, max(1, p.Failed), p.err)
			}
		}
	}
	if late > tooLate && d.speed > 0 {
		fmt.Fprintf(w, "anteroom demo: this machine was too slow to keep the clock: at --speed %g requests were sent and runs ended "+
			"up to %.1f s late on the mean, and the times above are too long. Use a lower --speed, or leave out --real.\n", d.speed, late)
	}
	return failed
}

// demoJSON is what --json prints: the figures by scene and arm.
func demoJSON(f figures) any {
	out := make(map[string]map[string]simulation.Result)
	for scene, by := range f {
		out[scene] = make(map[string]simulation.Result)
		for arm, p := range by {
			out[scene][arm] = p.Result
		}
	}
	return map[string]any{"scenes": out}
}
