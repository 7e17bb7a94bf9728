package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// The parts of the admin API's answers that the tables show. --json prints the answers as
// they came.

type stateView struct {
	At       time.Time
	Mode     string
	Draining bool
	GPUs     []struct {
		Name, Source, Error string
		Capacity            int64 `json:"capacity_bytes"`
		Reserve             int64 `json:"reserve_bytes"`
		Booked              int64 `json:"booked_bytes"`
		Retained            int64 `json:"retained_bytes"`
		Unmanaged           int64 `json:"unmanaged_bytes"`
		Unattributed        int64 `json:"unattributed_bytes"`
		Available           int64 `json:"available_bytes"`
		Stale, Lost         bool
		Processes           []processView
	}
	Classes []struct {
		Name                   string
		Slots, Running, Queued int
		QueueLimit             int     `json:"queue_limit"`
		Oldest                 float64 `json:"oldest_wait_s"`
		Paused                 bool
		Granted, Refused       uint64
	}
	Backends []backendView
	Running  []struct {
		ID             uint64
		Class, Backend string
		Tenant         string
		VRAM           int64      `json:"vram_bytes"`
		Elapsed        float64    `json:"elapsed_s"`
		EstimatedEnd   *time.Time `json:"estimated_end"`
	}
}

type processView struct {
	PID     int
	Name    string
	Used    int64 `json:"used_bytes"`
	Backend string
}

type backendView struct {
	Name                string
	Slots, Running      int
	Available, Draining bool
	Pinned              bool
	Replicas            []struct {
		Replica                       int
		URL, Breaker, Residency, Note string
		Healthy                       bool
		Swaps                         uint64
	}
	Accounts []struct {
		Replica  int
		GPU      string
		Booked   int64 `json:"booked_bytes"`
		Retained int64 `json:"retained_bytes"`
	}
}

// holds is what a replica holds on all its cards.
func (b backendView) holds(replica int) (booked, retained int64) {
	for _, a := range b.Accounts {
		if a.Replica == replica {
			booked, retained = booked+a.Booked, retained+a.Retained
		}
	}
	return booked, retained
}

// stateOf describes what is unusual about the i-th replica.
func (b backendView) stateOf(i int) string {
	r := b.Replicas[i]
	return words(when(b.Draining, "draining"), when(!b.Available, "unavailable"), when(!r.Healthy, "unhealthy"), when(b.Pinned, "pinned"), r.Note)
}

type queueView struct{ Waiting []waiterView }

type waiterView struct {
	ID                     uint64
	Class, Backend, Tenant string
	VRAM                   int64   `json:"vram_bytes"`
	Waited                 float64 `json:"waited_s"`
	Position               int
	Reason, Resource, Says string
	BlockedBy              struct {
		Running []uint64
		Idle    []struct {
			Backend string
			High    int64 `json:"high_bytes"`
		}
		Processes []processView
	} `json:"blocked_by"`
	EstimatedStart *time.Time `json:"estimated_start"`
	Strict         bool
}

// waitsFor is what a request waits for, in a few words.
func (w waiterView) waitsFor() string {
	why := w.Reason
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
	var s stateView
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
			secondsOf(c.Oldest),
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
	var b struct{ Backends []backendView }
	if err := json.Unmarshal(answer, &b); err != nil {
		return err
	}
	tableOfBackends(w, b.Backends)
	return nil
}

func tableOfBackends(w io.Writer, backends []backendView) {
	rows := [][]string{{"BACKEND", "URL", "RESIDENCY", "RUNNING", "BREAKER", "BOOKED", "RETAINED", "UNLOADS", "STATE"}}
	for _, b := range backends {
		for i, r := range b.Replicas {
			booked, retained := b.holds(r.Replica)
			name, running := b.Name, fmt.Sprint(b.Running) // of all replicas
			if i > 0 {
				name, running = fmt.Sprintf("%s/%d", b.Name, r.Replica), ""
			}
			rows = append(rows, []string{name, r.URL, words(r.Residency), running, r.Breaker, bytesOf(booked), bytesOf(retained),
				fmt.Sprint(r.Swaps), b.stateOf(i)})
		}
	}
	table(w, rows)
}

func printQueue(w io.Writer, answer []byte) error {
	var q queueView
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
			x.waitsFor()})
	}
	table(w, rows)
	return nil
}
