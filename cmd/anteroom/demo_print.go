package main

import (
	"fmt"
	"io"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// reference is what was measured with such traffic before there was a proxy of
// this kind: one queue, then two classes.
var reference = map[string]string{
	"light wait": "15.2 → 0.1", "light execution": "1.8 → 1.9", "light total": "17.0 → 2.0", "throughput × fifo": "~3.5",
}

// printScene prints one scene as a table.
func printScene(w io.Writer, s simulation.Scene, by map[string]simulation.Result) {
	fmt.Fprintf(w, "\n%s: %s\n", s.Name, s.Says)
	fmt.Fprintf(w, "  %-24s%12s%12s%12s", "", "fifo", fmt.Sprintf("static 1+%d", s.StaticSlots), "anteroom")
	// The reference's traffic is that of steady and backlog.
	compared := s.Name != "wide_lights" && !s.Contention
	if compared {
		fmt.Fprintf(w, "   reference")
	}
	fmt.Fprintln(w)
	row := func(name, unit, format string, of func(simulation.Result) any) {
		fmt.Fprintf(w, "  %-24s", name+unit)
		for _, arm := range arms {
			fmt.Fprintf(w, "%12s", fmt.Sprintf(format, of(by[arm])))
		}
		if compared && (reference[name] != "") && (s.Name == "backlog") == (name == "throughput × fifo") {
			fmt.Fprintf(w, "   %s", reference[name])
		}
		fmt.Fprintln(w)
	}
	row("light requests", "", "%d", func(r simulation.Result) any { return r.Light.Requests })
	row("light wait", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Wait })
	row("light execution", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Execute })
	row("light total", ", s", "%.2f", func(r simulation.Result) any { return r.Light.Total })
	row("heavy requests", "", "%d", func(r simulation.Result) any { return r.Heavy.Requests })
	row("heavy wait", ", s", "%.2f", func(r simulation.Result) any { return r.Heavy.Wait })
	row("gap between heavies", ", s", "%.2f", func(r simulation.Result) any { return r.Heavy.Gap })
	row("throughput", ", per minute", "%.1f", func(r simulation.Result) any { return r.Throughput })
	row("throughput × fifo", "", "%.2f", func(r simulation.Result) any { return r.Throughput / by["fifo"].Throughput })
	row("peak memory", ", GiB", "%.1f", func(r simulation.Result) any { return float64(r.Peak) / float64(admission.GiB) })
	row("out of memory", "", "%d", func(r simulation.Result) any { return r.OutOfMemory })
	row("over budget", "", "%d", func(r simulation.Result) any { return r.Over })
	if s.Contention {
		fmt.Fprintln(w, "  the same traffic as in backlog: a real card without MPS gives each process its part of the time, whether or not the process can use it up")
	}
	if s.Name == "backlog" {
		fmt.Fprintf(w, "  at best %.2f × a fifo that loses nothing between requests: Σ all work ÷ max(Σ heavy, Σ light ÷ %d)\n", s.Bound(), s.LightSlots)
	}
}

// demoJSON is what --json prints: the figures by scene and arm.
func demoJSON(figures map[string]map[string]simulation.Result) any {
	return map[string]any{"scenes": figures}
}
