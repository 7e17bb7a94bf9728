package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
)

func runCheck(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("check", "[--diff OLD NEW]", "Say everything that serve would refuse about a configuration, without starting.", stderr)
	options := configFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	diff := fs.Bool("diff", false, "say what changes from one file to another, and for which requests; -c is not given")
	wanted := 0
	if slices.Contains(args, "--diff") || slices.Contains(args, "-diff") {
		wanted = 2
	}
	arguments, code, done := parseMixed(fs, args, wanted)
	if done {
		return code
	}
	if *diff && wanted == 2 {
		return runDiff(options(), arguments[0], arguments[1], *asJSON, stdout, stderr)
	}
	config, mistakes := loadConfig(options())
	warnings := configs.Mistakes{}
	if config != nil {
		warnings = append(warnings, config.Warnings()...)
		if err := config.Proxy.Limits.CheckSpool(); err != nil {
			warnings = append(warnings, configs.Mistake{File: options().File, Path: "limits.spool", Problem: err.Error()})
		}
	}

	code = 0
	if len(mistakes) > 0 {
		code = 1
	}
	if *asJSON {
		printJSON(stdout, map[string]any{"ok": code == 0, "mistakes": append(configs.Mistakes{}, mistakes...), "warnings": warnings})
		return code
	}
	for _, m := range mistakes {
		fmt.Fprintln(stderr, m)
	}
	for _, w := range warnings {
		fmt.Fprintln(stderr, "warning:", w)
	}
	if config != nil {
		fmt.Fprintf(stdout, "good: %s, %s, %s, %s\n", counted(len(config.GPUs), "GPU", "GPUs"),
			counted(len(config.Routing.Classes), "class", "classes"), counted(len(config.Routing.Backends), "backend", "backends"),
			counted(len(config.Routing.Routes), "route", "routes"))
		for _, r := range config.Routing.Routes {
			methods := "GET, HEAD, OPTIONS and DELETE"
			switch {
			case r.Pass:
				methods = cmp.Or(strings.Join(r.Match.Method, ", "), "every method")
			case len(r.Match.Method) > 0:
				continue
			}
			on := ""
			if r.Listener != "" {
				on = " on listener " + r.Listener
			}
			fmt.Fprintf(stdout, "past admission: %s of %s%s to %s\n", methods, cmp.Or(strings.Join(r.Match.Path, ", "), "/**"), on,
				strings.Join(append([]string{r.Backend}, r.Merge...), ", "))
		}
		printTurns(stdout, config.Turns(), config.Longest)
	}
	return code
}

// counted is a number with its noun.
func counted(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}

// printTurns says how long the backends that do not fit together wait for each other.
func printTurns(w io.Writer, turns []configs.Turn, longest func(backend string) time.Duration) {
	for _, t := range turns {
		fmt.Fprintf(w, "turns on %s: %s waits for %s for up to %v: turn %v + the longest run", t.GPU, t.Backend, strings.Join(t.Others, " and "),
			t.Bound(longest).Round(100*time.Millisecond), t.Turn)
		for _, other := range t.Others {
			fmt.Fprintf(w, " (%s: %v)", other, longest(other).Round(100*time.Millisecond))
		}
		if len(t.Others) > 1 {
			fmt.Fprint(w, ", for each of them,")
		}
		fmt.Fprintf(w, " + %v to unload and load\n", t.Moving.Round(100*time.Millisecond))
	}
}

// loadConfig loads a configuration that serve can start with: its rules
// compile too. The configuration is nil where there are mistakes.
func loadConfig(o configs.Options) (*configs.Config, configs.Mistakes) {
	config, err := configs.Load(o)
	if err != nil {
		return nil, asMistakes(o, err)
	}
	if _, err := routing.NewTable(config.Routing); err != nil {
		return nil, asMistakes(o, err)
	}
	return config, nil
}

func asMistakes(o configs.Options, err error) configs.Mistakes {
	if m, ok := err.(configs.Mistakes); ok {
		return m
	}
	return configs.Mistakes{{File: o.File, Problem: err.Error()}}
}

func printJSON(w io.Writer, v any) {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	e.Encode(v)
}
