package replay

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Prospect is what would become of one request.
type Prospect struct {
	Starts bool
	// Wait is how long it waits until it starts, or until it is refused.
	Wait time.Duration
	// Unloads are the backends that are unloaded for it, in the order of their unloads.
	Unloads []string
	Code    admission.Code // why it is refused; empty: it is not
	Detail  string         // of the refusal; empty: the code says it all
	// Waiter is what it waits for when it has arrived; the zero Waiter: it does not wait.
	Waiter admission.Waiter
}

// apart is the time between the requests of Ask: what is idle is idle for long.
const apart = time.Hour

// Ask says what would become of a request for a route that needs vram. Nothing runs when
// it comes. Each backend is loaded; where worked is set, the largest request of each other
// backend has come and ended before, so that its allocator holds what that took.
func Ask(box *Box, r Route, vram admission.Bytes, worked bool) (Prospect, error) {
	alone := *box
	alone.Routes = []Route{r}
	trace := &Trace{tenants: []string{""}}
	add := func(r Route, vram admission.Bytes) {
		trace.Rows = append(trace.Rows, Row{
			At: time.Duration(len(trace.Rows)+1) * apart, Execute: max(1, min(r.Estimate.P50, apart/2)), VRAM: vram,
			kind: int32(len(trace.kinds)), Priority: -1,
		})
		trace.kinds = append(trace.kinds, kind{class: r.Class, route: r.Name, rows: 1})
	}
	for _, b := range box.Admission.Backends {
		largest := -1
		for i, other := range box.Routes {
			if worked && other.Backend == b.Name && other.Backend != r.Backend && (largest < 0 || other.VRAM > box.Routes[largest].VRAM) {
				largest = i
			}
		}
		if largest >= 0 {
			alone.Routes = append(alone.Routes, box.Routes[largest])
			add(box.Routes[largest], -1)
		}
	}
	add(r, vram)
	return ask(&alone, trace)
}

// ask plays a trace and says what became of its last request.
func ask(box *Box, trace *Trace) (Prospect, error) {
	var p Prospect
	plan, err := newPlan(box, trace)
	if err != nil {
		return p, err
	}
	d, err := newController(plan)
	if err != nil {
		return p, err
	}
	last := int32(len(trace.Rows) - 1)
	arrived := trace.Rows[last].At
	d.atRest = func() error {
		for t, request := range d.waiting {
			if request == last && p.Waiter.ID == 0 {
				p.Waiter, _ = d.rules.Explain(d.now, t.ID())
			}
		}
		return nil
	}
	if err := d.play(); err != nil {
		return p, err
	}
	for _, e := range d.log.Events {
		switch {
		case e.What == Freed && e.At >= arrived && !p.Starts && p.Code == "":
			if name := box.Admission.Backends[e.Request].Name; !slices.Contains(p.Unloads, name) {
				p.Unloads = append(p.Unloads, name)
			}
		case e.What == Started && e.Request == last:
			p.Starts, p.Wait = true, e.At-arrived
		case e.What == Gone && e.Request == last:
			p.Code, p.Wait = d.log.Code(e), e.At-arrived
			if d.refused != nil {
				p.Detail = d.refused.Detail
			}
		}
	}
	return p, nil
}
