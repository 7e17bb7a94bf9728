package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
)

func runCheck(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("check", "", "Say everything that serve would refuse about a configuration, without starting.", stderr)
	options := configFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	config, mistakes := loadConfig(options())
	warnings := configs.Mistakes{}
	if config != nil {
		warnings = append(warnings, config.Warnings()...)
		if err := config.Proxy.Limits.CheckSpool(); err != nil {
			warnings = append(warnings, configs.Mistake{File: options().File, Path: "limits.spool", Problem: err.Error()})
		}
	}

	code := 0
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
		fmt.Fprintf(stdout, "good: %d GPUs, %d classes, %d backends, %d routes\n", len(config.GPUs),
			len(config.Routing.Classes), len(config.Routing.Backends), len(config.Routing.Routes))
		for i, r := range config.Routing.Routes {
			if !r.Pass && r.Match.Method == "" {
				fmt.Fprintf(stdout, "past admission: GET, HEAD, OPTIONS and DELETE %s of %s\n", cmp.Or(r.Match.Path, "/**"), cmp.Or(r.Name, fmt.Sprintf("routes[%d]", i)))
			}
		}
		printTurns(stdout, config.Turns(), config.Longest)
	}
	return code
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
