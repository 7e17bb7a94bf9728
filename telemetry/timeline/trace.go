package timeline

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// traceEvent is one event of the Trace Event Format, which Perfetto, chrome://tracing
// and speedscope read: docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
type traceEvent struct {
	Phase    string         `json:"ph"` // X a run, b and e a wait, C a counter, i an instant, M a name
	Name     string         `json:"name"`
	Category string         `json:"cat,omitempty"`
	Process  int            `json:"pid"`
	Thread   int            `json:"tid"`
	Time     float64        `json:"ts"` // µs
	Length   *float64       `json:"dur,omitempty"`
	ID       string         `json:"id,omitempty"`
	Scope    string         `json:"s,omitempty"`
	Args     map[string]any `json:"args,omitempty"`
}

// tracer gives tracks their numbers.
type tracer struct {
	events []traceEvent
	tracks map[string]int
}

func micros(t time.Time) float64 { return float64(t.UnixNano()) / 1e3 }

// track is the number of a group of lanes: a class, a GPU, the orders.
func (t *tracer) track(name string) int {
	if n, ok := t.tracks[name]; ok {
		return n
	}
	n := len(t.tracks) + 1
	t.tracks[name] = n
	t.events = append(t.events, traceEvent{Phase: "M", Name: "process_name", Process: n, Args: map[string]any{"name": name}})
	return n
}

// WriteTrace writes a history for a trace viewer: for each class a lane for each slot
// with its runs, and its waits, which may overlap; the orders to backends; each GPU's
// memory by owner and each class's queue as counters; and what operators and breakers
// did, as instants.
func WriteTrace(w io.Writer, h History) error {
	t := &tracer{tracks: make(map[string]int)}
	t.requests(h.Requests)
	for _, d := range h.Decisions {
		t.decision(d)
	}
	for _, s := range h.Samples {
		t.sample(s)
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, `{"displayTimeUnit":"ms","otherData":{"complete_since":%q},"traceEvents":[`, h.Since.UTC().Format(time.RFC3339Nano))
	for i, e := range t.events {
		text, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('\n')
		out.Write(text)
	}
	out.WriteString("\n]}\n")
	return out.Flush()
}

// requests draws runs and waits.
func (t *tracer) requests(all []Request) {
	all = slices.Clone(all)
	began := func(r Request) time.Time { return r.Ended.Add(-time.Duration(r.Execute * 1e9)) }
	slices.SortStableFunc(all, func(a, b Request) int { return began(a).Compare(began(b)) })
	lanes := make(map[string][]time.Time) // when each is free
	for i, r := range all {
		name := "class " + r.Class
		if r.Class == "" {
			name = "pass"
		}
		about := map[string]any{"route": r.Route, "backend": r.Backend, "result": r.Result, "status": r.Status, "vram_bytes": r.VRAM, "trace_id": r.Trace}
		for key, value := range map[string]string{"tenant": r.Tenant, "model": r.Model, "code": r.Code, "reason": r.Reason} {
			if value != "" {
				about[key] = value
			}
		}
		if r.Wait > 0 && !r.Asked.IsZero() {
			id, waits := strconv.Itoa(i+1), "waits: "+cmp.Or(r.Reason, "its turn")
			process := t.track(name)
			t.events = append(t.events,
				traceEvent{Phase: "b", Category: "wait", Name: waits, ID: id, Process: process, Time: micros(r.Asked), Args: about},
				traceEvent{Phase: "e", Category: "wait", Name: waits, ID: id, Process: process, Time: micros(r.Asked) + r.Wait*1e6})
		}
		if r.Execute < 0 {
			continue
		}
		start := began(r)
		free := lanes[name]
		lane := slices.IndexFunc(free, func(at time.Time) bool { return !at.After(start) })
		if lane < 0 {
			lane, free = len(free), append(free, time.Time{})
		}
		free[lane], lanes[name] = r.Ended, free
		length := r.Execute * 1e6
		t.events = append(t.events, traceEvent{Phase: "X", Category: "run", Name: cmp.Or(r.Backend, r.Route) + " " + r.Result, Process: t.track(name),
			Thread: lane + 1, Time: micros(start), Length: &length, Args: about})
	}
}

// decision draws an order to a backend, or what an operator or a breaker did.
func (t *tracer) decision(d Decision) {
	about := map[string]any{"note": d.Note, "reason": d.Reason, "backend": d.Backend, "replica": d.Replica}
	switch d.Kind {
	case Unload, Wake:
		length := d.Took * 1e6
		about["bytes"], about["failed"] = d.Bytes, d.Failed
		t.events = append(t.events, traceEvent{Phase: "X", Category: "order", Name: d.Kind + " " + d.Backend, Process: t.track("orders"), Thread: 1,
			Time: micros(d.At) - length, Length: &length, Args: about})
	case Breaker, Control, Reload:
		name := d.Kind + " " + cmp.Or(d.Action, d.Reason) + " " + cmp.Or(d.Backend, d.Class)
		t.events = append(t.events, traceEvent{Phase: "i", Category: d.Kind, Name: name, Process: t.track("orders"), Thread: 1,
			Time: micros(d.At), Scope: "g", Args: about})
	}
}

// sample draws the counters.
func (t *tracer) sample(s Sample) {
	for _, g := range s.GPUs {
		held := map[string]any{"unmanaged": g.Unmanaged, "unattributed": g.Unattributed}
		for _, o := range g.Owners {
			name := o.Backend
			if o.Replica > 0 {
				name += "/" + strconv.Itoa(o.Replica)
			}
			held[name] = o.Booked
		}
		t.events = append(t.events, traceEvent{Phase: "C", Name: "memory", Process: t.track("gpu " + g.Name), Time: micros(s.At), Args: held})
	}
	for _, c := range s.Classes {
		t.events = append(t.events, traceEvent{Phase: "C", Name: "requests", Process: t.track("class " + c.Name), Time: micros(s.At),
			Args: map[string]any{"running": c.Running, "queued": c.Queued}})
	}
}
