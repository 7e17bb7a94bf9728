package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// engineFlags describe the model server that `anteroom engine` simulates. A figure that is
// not given is that of the kind.
type engineFlags struct {
	list    bool
	name    string
	traps   []string
	figures []func(*simulation.Kind)
}

func (e *engineFlags) add(fs *flag.FlagSet) {
	fs.BoolVar(&e.list, "list", false, "list the kinds and their traps, and end")
	fs.StringVar(&e.name, "kind", "", "`KIND` of model server: "+strings.Join(kindNames(), ", "))
	fs.Func("trap", "`TRAP` to switch on; several: with commas, or the flag again", func(text string) error {
		e.traps = append(e.traps, strings.Split(text, ",")...)
		return nil
	})
	figure := func(name, usage string, parse func(string) (func(*simulation.Kind), error)) {
		fs.Func(name, usage, func(text string) error {
			set, err := parse(text)
			e.figures = append(e.figures, set)
			return err
		})
	}
	fs.BoolFunc("returns-memory", "give a run's memory back at its end, and do not keep it in the allocator", func(text string) error {
		e.figures = append(e.figures, func(k *simulation.Kind) { k.ReturnsMemory = text == "true" })
		return nil
	})
	figure("models", "serve `NAME=SIZE,...` in place of the kind's models; without a size: the kind's weights", parseModels)
	figure("weights", "`SIZE` of the first model's weights", func(text string) (func(*simulation.Kind), error) {
		b, err := admission.ParseBytes(text)
		return func(k *simulation.Kind) { k.Weights = b }, err
	})
	figure("per-run", "`SIZE` of what a run takes beside the weights", func(text string) (func(*simulation.Kind), error) {
		b, err := admission.ParseBytes(text)
		return func(k *simulation.Kind) {
			k.PerRun = b
			for i := range k.Others {
				k.Others[i].PerRun = b
			}
		}, err
	})
	figure("load", "`TIME` that loading weights takes", func(text string) (func(*simulation.Kind), error) {
		d, err := parseTime(text)
		return func(k *simulation.Kind) {
			// Loading from main memory takes no longer than loading from disk.
			k.Load, k.Wake = d, min(k.Wake, d)
			for i := range k.Others {
				k.Others[i].Load = d
			}
		}, err
	})
	figure("parallel", "how many runs at once have full speed, with --contention; `N` such as 2.5, 0: any number",
		func(text string) (func(*simulation.Kind), error) {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil || !(n >= 0) {
				return nil, errors.New("want a number such as 2.5, or 0")
			}
			return func(k *simulation.Kind) { k.Parallel = n }, nil
		})
	figure("run", "`SHORTEST-LONGEST` time of a run, such as 17s-20s", parseRun)
}

// kind is what the flags ask for.
func (e *engineFlags) kind() (simulation.Kind, error) {
	for _, k := range simulation.Kinds() {
		if k.Name != e.name {
			continue
		}
		if err := k.CheckTraps(e.traps); err != nil {
			return k, fmt.Errorf("--trap: %w", err)
		}
		for _, set := range e.figures {
			set(&k)
		}
		return k, nil
	}
	return simulation.Kind{}, fmt.Errorf("--kind %q: want one of %s", e.name, strings.Join(kindNames(), ", "))
}

func kindNames() (names []string) {
	for _, k := range simulation.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

// printRoutes prints routes of the form "METHOD /path", those of one method together.
func printRoutes(w io.Writer, routes []string, indent string) {
	const width = 120
	paths := map[string][]string{}
	for _, r := range routes {
		method, path, ok := strings.Cut(r, " ")
		if !ok {
			method, path = "any", "other path"
		}
		paths[method] = append(paths[method], path)
	}
	for _, method := range slices.Sorted(maps.Keys(paths)) {
		line := fmt.Sprintf("%s%-6s", indent, method)
		for _, path := range paths[method] {
			if len(line)+1+len(path) > width {
				fmt.Fprintln(w, line)
				line = indent + "      "
			}
			line += " " + path
		}
		fmt.Fprintln(w, line)
	}
}

// listKinds prints the kinds. A kind always has the traps in brackets.
func listKinds(w io.Writer) {
	fmt.Fprint(w, "KIND          stands for, its TRAPS, of which it has those in brackets always, and its routes\n")
	for _, k := range simulation.Kinds() {
		fmt.Fprintf(w, "%-14s%s\n", k.Name, k.Does)
		traps := k.Traps
		for _, t := range k.Always {
			traps = append(traps, "("+t+")")
		}
		fmt.Fprintf(w, "%14s%s\n", "", strings.Join(traps, " "))
		printRoutes(w, k.Serves(), strings.Repeat(" ", 14))
	}
	fmt.Fprint(w, "\nTRAP\n")
	for _, t := range simulation.Traps() {
		fmt.Fprintf(w, "%-18s%s\n", t.Name, t.Does)
	}
}

func parseTime(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, errors.New("want a time such as 8s")
	}
	return d, nil
}

func parseRun(text string) (func(*simulation.Kind), error) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	shortest, err := parseTime(from)
	longest, err2 := parseTime(to)
	if err != nil || err2 != nil || longest < shortest {
		return nil, errors.New("want two times such as 17s-20s, or one")
	}
	return func(k *simulation.Kind) { k.Shortest, k.Longest = shortest, longest }, nil
}

func parseModels(text string) (func(*simulation.Kind), error) {
	type named struct {
		name string
		size admission.Bytes
		own  bool
	}
	var list []named
	for item := range strings.SplitSeq(text, ",") {
		n := named{name: item}
		if i := strings.LastIndexByte(item, '='); i >= 0 {
			size, err := admission.ParseBytes(item[i+1:])
			if err != nil {
				return nil, err
			}
			n = named{item[:i], size, true}
		}
		if n.name == "" {
			return nil, errors.New("want names such as llama3.2=4GiB,qwen2.5vl=8GiB")
		}
		list = append(list, n)
	}
	return func(k *simulation.Kind) {
		first := simulation.Model{Weights: k.Weights, Load: k.Load, PerRun: k.PerRun}
		k.Others = nil
		for i, n := range list {
			m := first
			if m.Name = n.name; n.own {
				m.Weights = n.size
			}
			if i == 0 {
				k.Model, k.Weights = m.Name, m.Weights
			} else {
				k.Others = append(k.Others, m)
			}
		}
	}, nil
}
