package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/simulation/replay/configured"
)

// several collects the values of a flag that may be given often.
type several []string

func (s *several) String() string { return strings.Join(*s, ",") }

func (s *several) Set(text string) error {
	if text == "" {
		return errors.New("want a value")
	}
	*s = append(*s, text)
	return nil
}

// baselines are the schedules to compare with, by the name of --baseline.
var baselines = map[string]func(*replay.Box, *replay.Trace) (*replay.Log, error){
	"fifo":        replay.FIFO,
	"clairvoyant": replay.Clairvoyant,
	"one-tenant":  replay.OneTenant,
}

// simulated is one run and its result.
type simulated struct {
	box    *replay.Box
	log    *replay.Log
	result *replay.Result
}

func runSimulate(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("simulate", "", "Play a trace against a configuration's rules in virtual time.", stderr)
	var files, beside several
	fs.Var(&files, "config", "play against the configuration in `FILE`; may be given often")
	fs.Var(&files, "c", "short for --config `FILE`")
	from := fs.String("trace", "", "read the trace from `FILE`, or - for standard input: CSV with the columns at, class and execute, "+
		"and where wanted vram, tenant, priority, deadline, leave and route")
	fs.Var(&beside, "baseline", "add a `SCHEDULE` to compare with: fifo (one queue, one request at a time), clairvoyant (a list "+
		"schedule that knows how long everything runs) or one-tenant (the same rules with fairness off); may be given often")
	learned := fs.String("learned", "", "let work slow down other work on its GPU as a proxy has learned, by its state `FILE`: the "+
		"trace's times are then those that a request has alone")
	asJSON := fs.Bool("json", false, "print JSON")
	pictures := fs.String("svg", "", "write pictures of each run into `DIR`")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	wrong := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "anteroom simulate: "+format+"\n", a...)
		return 2
	}
	for _, name := range beside {
		if baselines[name] == nil {
			return wrong("--baseline %q: want fifo, clairvoyant or one-tenant", name)
		}
	}
	switch {
	case len(files) == 0:
		return wrong("no configuration: want one or more with -c FILE")
	case *from == "":
		return wrong("no trace: want one with --trace FILE")
	}

	boxes, turns, trace, mistakes := loadSimulation(files, *from, *learned)
	if len(mistakes) > 0 {
		fmt.Fprintln(stderr, strings.Join(mistakes, "\n"))
		return 1
	}
	for _, box := range boxes {
		for _, what := range box.Unplayed {
			fmt.Fprintf(stderr, "%s: %s\n", box.Name, what)
		}
		if slices.ContainsFunc(box.Admission.Backends, func(b admission.Backend) bool { return b.Reclaims }) && len(beside) > 0 {
			fmt.Fprintf(stderr, "%s: reclaim: the baselines make no room: what a backend keeps stays\n", box.Name)
		}
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, err)
		return 1
	}
	runs, err := simulate(boxes, trace, beside)
	if err != nil {
		return fail(err)
	}
	if *pictures != "" {
		if err := drawRuns(*pictures, runs, trace); err != nil {
			return fail(err)
		}
	}
	results := []*replay.Result{}
	for _, r := range runs {
		results = append(results, r.result)
	}
	if *asJSON {
		printJSON(stdout, map[string]any{"runs": results})
	} else if err := replay.WriteTable(stdout, results); err != nil {
		return fail(err)
	} else {
		for i, box := range boxes {
			longest := replay.Longest(box, trace)
			printTurns(stdout, turns[i], func(backend string) time.Duration { return longest[backend] })
		}
	}
	return 0
}

// loadSimulation reads the configurations and the trace, and reports all mistakes in them.
// Without a file for learned, runs do not slow each other down. The turns are those of each
// box.
func loadSimulation(files []string, from, learned string) (boxes []*replay.Box, turns [][]configs.Turn, trace *replay.Trace, mistakes []string) {
	for _, file := range files {
		box, inTurn, wrong := loadBox(file)
		for _, m := range wrong {
			mistakes = append(mistakes, m.String())
		}
		boxes, turns = append(boxes, box), append(turns, inTurn)
	}
	trace, err := readTrace(from)
	if err != nil {
		mistakes = append(mistakes, err.Error())
	}
	if learned == "" {
		return boxes, turns, trace, mistakes
	}
	slower, err := readSlower(learned)
	if err != nil {
		mistakes = append(mistakes, err.Error())
	}
	for _, box := range boxes {
		if box != nil {
			box.Slower = slower
		}
	}
	return boxes, turns, trace, mistakes
}

// simulate plays the trace against each box, and by each baseline.
func simulate(boxes []*replay.Box, trace *replay.Trace, beside []string) ([]simulated, error) {
	var runs []simulated
	add := func(box *replay.Box, how func(*replay.Box, *replay.Trace) (*replay.Log, error)) error {
		log, err := how(box, trace)
		if err != nil {
			return err
		}
		result, err := replay.Judge(box, trace, log)
		runs = append(runs, simulated{box, log, result})
		return err
	}
	var mistakes []error
	for _, box := range boxes {
		if err := add(box, replay.Admission); err != nil {
			mistakes = append(mistakes, err)
			continue
		}
		for _, name := range beside {
			named := *box
			named.Name = fmt.Sprintf("%s (%s)", box.Name, name)
			if err := add(&named, baselines[name]); err != nil {
				return nil, err
			}
		}
	}
	return runs, errors.Join(mistakes...)
}

func readTrace(file string) (*replay.Trace, error) {
	if file == "-" {
		return replay.Read("standard input", os.Stdin)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return replay.Read(file, f)
}

// readSlower reads from a proxy's state file how much work slows down other work.
func readSlower(file string) (replay.Slower, error) {
	m, _, err := readState(file)
	if err != nil {
		return nil, err
	}
	slower := replay.Slower{}
	for _, r := range m.Routes {
		history := new(admission.History)
		if err := json.Unmarshal(r.Learned, history); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, r.Route, err)
		}
		if by := replay.SlowerThan(history.Learned()); by != nil {
			slower[r.Route] = by
		}
	}
	if len(slower) == 0 {
		return nil, fmt.Errorf("%s: no route has run often enough both alone and beside others (4 times): want the state of a proxy that "+
			"has served for longer", file)
	}
	return slower, nil
}

// drawRuns writes the pictures of each run, named after its configuration.
func drawRuns(dir string, runs []simulated, trace *replay.Trace) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	taken := map[string]int{}
	for _, r := range runs {
		name := pictureName(r.box.Name)
		if taken[name]++; taken[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, taken[name])
		}
		for _, picture := range []struct {
			name string
			draw func(*replay.Box, *replay.Trace, *replay.Log) ([]byte, error)
		}{{"gantt", replay.DrawGantt}, {"waits", replay.DrawWaits}, {"vram", replay.DrawVRAM}} {
			svg, err := picture.draw(r.box, trace, r.log)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name+"-"+picture.name+".svg"), svg, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// pictureName is a file's name for a run: dir/a.yaml (fifo) becomes a-fifo.
func pictureName(run string) string {
	file, baseline, _ := strings.Cut(run, " (")
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if baseline != "" {
		name += "-" + strings.TrimSuffix(baseline, ")")
	}
	return name
}

// loadBox reads a configuration as a box to play against, and the turns of its backends.
func loadBox(file string) (*replay.Box, []configs.Turn, configs.Mistakes) {
	c, mistakes := loadConfig(configs.Options{File: file, Env: os.Environ()})
	if len(mistakes) > 0 {
		return nil, nil, mistakes
	}
	box, mistakes := configured.Box(file, c)
	return box, c.Turns(), mistakes
}
