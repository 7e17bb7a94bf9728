package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// holds is what a replica of b holds on all its cards.
func holds(b admin.Backend, replica int) (booked, retained int64) {
	for _, a := range b.Accounts {
		if a.Replica == replica {
			booked, retained = booked+a.Booked, retained+a.Retained
		}
	}
	return booked, retained
}

// stateOf describes what is unusual about the i-th replica of b.
func stateOf(b admin.Backend, i int) string {
	r := b.Replicas[i]
	return words(when(b.Draining, "draining"), when(!b.Available, "unavailable"), when(!r.Healthy, "unhealthy"), when(b.Pinned, "pinned"), r.Note)
}

// waitsFor is what a request waits for, in a few words.
func waitsFor(w admin.Waiter) string {
	why := string(w.Reason)
	if w.Resource != "" {
		why += " (" + w.Resource + ")"
	}
	return words(why, when(w.Strict, "strict"))
}

// view is a command that shows an answer of the admin API as a table.
type view struct {
	name, does, path string
	print            func(w io.Writer, answer []byte) error
}

var views = []view{
	{"status", "show the cards, the queues, the backends and what runs", "/api/state", printStatus},
	{"queue", "show what waits, and why", "/api/queue", printQueue},
	{"backends", "show the backends and their memory", "/api/backends", printBackends},
}

func (v view) command() command { return command{v.name, v.does, v.run} }

func (v view) run(args []string, stdout, stderr io.Writer) int {
	fs := newFlags(v.name, "", strings.ToUpper(v.does[:1])+v.does[1:]+", of a running proxy.", stderr)
	reach := clientFlags(fs)
	asJSON := fs.Bool("json", false, "print JSON")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	var answer json.RawMessage
	err := reach().get(v.path, &answer)
	if err == nil && *asJSON {
		printJSON(stdout, answer)
	} else if err == nil {
		err = v.print(stdout, answer)
	}
	if err != nil {
		fmt.Fprintf(stderr, "anteroom %s: %v\n", v.name, err)
		return 1
	}
	return 0
}

// table prints rows of columns; the first is the heading.
func table(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
}

func bytesOf(n int64) string { return admission.Bytes(n).String() }

func secondsOf(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(100 * time.Millisecond).String()
}

// words joins those that are not empty; none: a dash.
func words(all ...string) string {
	var said []string
	for _, s := range all {
		if s != "" {
			said = append(said, s)
		}
	}
	if len(said) == 0 {
		return "-"
	}
	return strings.Join(said, ", ")
}

// when returns the word if the condition is true, else an empty text.
func when(is bool, word string) string {
	if is {
		return word
	}
	return ""
}

func printStatus(w io.Writer, answer []byte) error {
	var s admin.State
	if err := json.Unmarshal(answer, &s); err != nil {
		return err
	}
	fmt.Fprintf(w, "mode %s%s\n\n", s.Mode, when(s.Draining, ", draining"))
	rows := [][]string{{"GPU", "CAPACITY", "BOOKED", "UNMANAGED", "UNATTRIBUTED", "AVAILABLE", "STATE"}}
	for _, g := range s.GPUs {
		state := words(g.Source, when(g.Stale, "stale"), when(g.Lost, "lost"), g.Error)
		rows = append(rows, []string{g.Name, bytesOf(g.Capacity), bytesOf(g.Booked), bytesOf(g.Unmanaged), bytesOf(g.Unattributed),
			bytesOf(g.Available), state})
	}
	table(w, rows)
	rows = [][]string{{"\nCLASS", "RUNNING", "SLOTS", "QUEUED", "LIMIT", "OLDEST", "GRANTED", "REFUSED", "STATE"}}
	for _, c := range s.Classes {
		rows = append(rows, []string{c.Name, fmt.Sprint(c.Running), fmt.Sprint(c.Slots), fmt.Sprint(c.Queued), fmt.Sprint(c.QueueLimit),
			secondsOf(c.OldestWait),
			fmt.Sprint(c.Granted), fmt.Sprint(c.Refused), words(when(c.Paused, "paused"))})
	}
	table(w, rows)
	fmt.Fprintln(w)
	tableOfBackends(w, s.Backends)
	if len(s.Running) == 0 {
		return nil
	}
	rows = [][]string{{"\nGRANT", "CLASS", "BACKEND", "TENANT", "VRAM", "RUNS FOR"}}
	for _, r := range s.Running {
		rows = append(rows, []string{fmt.Sprint(r.ID), r.Class, r.Backend, words(r.Tenant), bytesOf(r.VRAM), secondsOf(r.Elapsed)})
	}
	table(w, rows)
	return nil
}

func printBackends(w io.Writer, answer []byte) error {
	var b admin.Backends
	if err := json.Unmarshal(answer, &b); err != nil {
		return err
	}
	tableOfBackends(w, b.Backends)
	return nil
}

func tableOfBackends(w io.Writer, backends []admin.Backend) {
	rows := [][]string{{"BACKEND", "URL", "RESIDENCY", "RUNNING", "BREAKER", "BOOKED", "RETAINED", "UNLOADS", "STATE"}}
	for _, b := range backends {
		for i, r := range b.Replicas {
			booked, retained := holds(b, r.Replica)
			name, running := b.Name, fmt.Sprint(b.Running) // of all replicas
			if i > 0 {
				name, running = fmt.Sprintf("%s/%d", b.Name, r.Replica), ""
			}
			rows = append(rows, []string{name, r.URL, words(r.Residency), running, r.Breaker, bytesOf(booked), bytesOf(retained),
				fmt.Sprint(r.Swaps), stateOf(b, i)})
		}
	}
	table(w, rows)
}

func printQueue(w io.Writer, answer []byte) error {
	var q admin.Queue
	if err := json.Unmarshal(answer, &q); err != nil {
		return err
	}
	if len(q.Waiting) == 0 {
		fmt.Fprintln(w, "nothing waits")
		return nil
	}
	rows := [][]string{{"ID", "CLASS", "POSITION", "BACKEND", "TENANT", "VRAM", "WAITED", "STARTS IN", "WAITS FOR"}}
	for _, x := range q.Waiting {
		in := "-"
		if x.EstimatedStart != nil {
			in = secondsOf(max(0, time.Until(*x.EstimatedStart).Seconds()))
		}
		rows = append(rows, []string{fmt.Sprint(x.ID), x.Class, fmt.Sprint(x.Position), x.Backend, words(x.Tenant), bytesOf(x.VRAM),
			secondsOf(x.Waited), in,
			waitsFor(x)})
	}
	table(w, rows)
	return nil
}
