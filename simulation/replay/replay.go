// Package replay plays a trace of requests against the admission rules in
// virtual time: hours of traffic in a second, and the same decisions each time.
//
// What it promises:
//
//   - The rules are admission.Scheduler itself, driven as a live process would
//     drive it: arrivals, ends, clients that leave, and the ticks it asks for.
//   - At one moment, work ends first, then clients leave, then what is due by
//     the clock happens, then cards are read, then requests arrive, in the order
//     of the trace.
//   - Every figure comes from the log of what started and ended where, by
//     books of its own; the scheduler is not asked how it did.
//   - The same box and the same trace give the same log, whatever runs beside.
package replay

import (
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Box is what a configuration says of the machine and of the requests that
// come to it.
type Box struct {
	Name      string // what its runs are called; the configuration's file
	Admission admission.Config
	Routes    []Route // the first of a class stands for the class
	// Fair says that a trace's tenants are told apart; else all requests are one
	// tenant's.
	Fair bool
	// Urgency is how much earlier a request counts for each step that its
	// priority is below 3, RFC 9218's default, and later above. Zero: a
	// priority changes nothing.
	Urgency time.Duration
	// Learn says that estimates are learned from what has ended, as serve does;
	// else each request has its route's.
	Learn bool
	// Turns are those that backends take, as the configuration says.
	Turns []Turn
	// Slower says how much work slows down other work on its GPU; nil: not at all.
	Slower Slower
	// Readings are those of the GPUs that a sensor reads.
	Readings Readings
	// Wakes are the backends that have to be woken after they were unloaded.
	Wakes map[string]bool
	// Unplayed says what of the configuration is not played.
	Unplayed []string
}

// Turn is a backend that takes turns on a GPU with others which do not fit beside it.
type Turn struct {
	GPU, Backend string
	// Bound is the longest that its queue head waits for the others, where the longest
	// run of each of them is known.
	Bound func(longest func(backend string) time.Duration) time.Duration
}

// Route is what a request of one route asks for.
type Route struct {
	Name    string
	Class   string
	Backend string
	// VRAM is the demand where the trace has none of its own.
	VRAM     admission.Bytes
	Estimate admission.Estimate
	// ExecutionTimeout is how long a client waits for work that runs; 0: for
	// ever.
	ExecutionTimeout time.Duration
	// Aborts says that the backend stops when its client is gone. Else the work
	// goes on to its end and keeps what it has taken.
	Aborts bool
}

// plan is a trace as one box understands it.
type plan struct {
	box    *Box
	trace  *Trace
	routes []route // by the trace's kinds
}

// route is a Route with its names looked up.
type route struct {
	Route
	class, backend int // in the box's Admission
	history        *admission.History
}

// newPlan finds every row's route. Its error is Mistakes where the trace names
// what the box does not have.
func newPlan(box *Box, trace *Trace) (*plan, error) {
	p := &plan{box: box, trace: trace, routes: make([]route, len(trace.kinds))}
	var mistakes Mistakes
	for i, k := range trace.kinds {
		found, problem := box.find(k)
		if problem != "" {
			at, name := k.classAt, "class"
			if k.route != "" {
				at, name = k.routeAt, "route"
			}
			mistakes.add(Mistake{File: trace.File, Line: at.line, Column: at.column, Name: name, Problem: problem + k.others()})
			continue
		}
		r := route{Route: found, history: new(admission.History)}
		for _, other := range p.routes[:i] {
			if other.Name == r.Name && other.history != nil {
				r.history = other.history
			}
		}
		r.class = slices.IndexFunc(box.Admission.Classes, func(c admission.Class) bool { return c.Name == r.Class })
		r.backend = slices.IndexFunc(box.Admission.Backends, func(b admission.Backend) bool { return b.Name == r.Backend })
		if r.class < 0 || r.backend < 0 {
			return nil, fmt.Errorf("replay: route %q of %s names class %q and backend %q, and one of them is not there", r.Name, box.Name, r.Class, r.Backend)
		}
		p.routes[i] = r
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return p, nil
}

// find gives the route that a row stands for, or what is wrong with it.
func (b *Box) find(k kind) (Route, string) {
	if k.route == "" {
		for _, r := range b.Routes {
			if r.Class == k.class {
				return r, ""
			}
		}
		var classes []string
		for _, r := range b.Routes {
			if !slices.Contains(classes, r.Class) {
				classes = append(classes, r.Class)
			}
		}
		return Route{}, fmt.Sprintf("%s: no route of %s has it: want %s", quote(k.class), b.Name, choice(classes))
	}
	var names []string
	for _, r := range b.Routes {
		if r.Name == k.route {
			if r.Class != k.class {
				return Route{}, fmt.Sprintf("%s: its class is %s in %s, and the row says %s: want them to agree", quote(k.route), r.Class, b.Name, k.class)
			}
			return r, ""
		}
		names = append(names, r.Name)
	}
	return Route{}, fmt.Sprintf("%s: %s has no such route: want %s", quote(k.route), b.Name, choice(names))
}

func (p *plan) route(row *Row) *route { return &p.routes[row.kind] }

func (p *plan) vram(row *Row) admission.Bytes {
	if row.VRAM >= 0 {
		return row.VRAM
	}
	return p.route(row).VRAM
}

// run is what becomes of a request that starts: when its work ends, and what
// its client sees of it.
func (p *plan) run(row *Row, start time.Duration) (end time.Duration, fate Fate) {
	r := p.route(row)
	done := start + row.Execute
	gone, fate := done, Completed
	if limit := start + r.ExecutionTimeout; r.ExecutionTimeout > 0 && limit < gone {
		gone, fate = limit, TimedOut
	}
	if leave := row.At + row.Leave; row.Leave > 0 && leave < gone {
		gone, fate = leave, Left
	}
	if r.Aborts {
		return gone, fate
	}
	return done, fate
}

// request is what the controller is asked.
func (p *plan) request(row *Row, epoch time.Time) admission.Request {
	r := p.route(row)
	q := admission.Request{Class: r.Class, Backend: r.Backend, VRAM: p.vram(row)}
	q.Estimate = r.history.Estimate(q.VRAM, r.Estimate)
	q.Beside = r.history.Beside(q.VRAM)
	if p.box.Fair {
		q.Tenant = p.trace.tenants[row.tenant]
	}
	if row.Priority >= 0 {
		q.Boost = time.Duration(3-row.Priority) * p.box.Urgency
	}
	if row.Deadline > 0 {
		q.Deadline, q.Fastest = epoch.Add(row.At+row.Deadline), r.history.Fastest(q.VRAM)
	}
	return q
}

// budget is what a GPU may have booked.
func budget(g admission.GPU) admission.Bytes { return max(0, g.Memory-g.Reserve) }
