package telemetry

import (
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// phaseOf is a phase's length in seconds; -1: there was none.
func phaseOf(d time.Duration, was bool) float64 {
	if !was {
		return -1
	}
	return max(0, d).Seconds()
}

// recordOf is the history's record of a request that is over for its client. The caller
// holds mu.
func (q *Request) recordOf(at time.Time, e Ending, v verdict, total time.Duration) timeline.Request {
	path := brief(q.url.EscapedPath())
	if q.url.RawQuery != "" || q.url.Host != "" {
		path = strings.Clone(path) // else all of the request's line is kept for it
	}
	r := timeline.Request{At: q.began, Route: q.route, Class: q.class, Backend: q.backend, Replica: q.replica, Tenant: q.tenant, Model: q.model,
		Method: q.method, Path: path, Status: e.Status, Result: v.result, Code: v.code, Reason: string(q.reason),
		Grant: q.grant, Position: q.position, VRAM: int64(q.vram), Priority: q.priority, In: e.In, Out: e.Out, Trace: timeline.TraceID(q.id.TraceID()),
		Receive: phaseOf(q.received, q.received >= 0), Wait: phaseOf(q.waited, q.queued), Execute: -1, Total: total.Seconds(),
		First: phaseOf(e.FirstByte.Sub(q.executeBegan), !e.FirstByte.IsZero() && q.sends > 0 && !v.own),
		Open:  phaseOf(at.Sub(e.Opened), !e.Opened.IsZero())}
	if q.queued {
		r.Asked = q.waitBegan
		if !q.deadline.IsZero() {
			r.Deadline = q.deadline.Sub(q.waitBegan).Seconds()
		}
	}
	return r
}

// keep gives a record to the history, or holds it until the work has ended. The caller
// holds mu.
func (q *Request) keep(r timeline.Request, at time.Time, works bool) {
	if works {
		held := r
		q.record = &held
		return
	}
	q.finish(r, at)
}

// finish gives a record to the history, now that the work has ended too. The caller
// holds mu.
func (q *Request) finish(r timeline.Request, at time.Time) {
	r.Ended, r.Execute = at, phaseOf(q.executed, q.executed >= 0)
	if q.record != nil && r.Result == ResultOK {
		if result := q.outcome.result(); result != ResultOK {
			r.Result, r.Code = result, q.outcome.code // a job that failed
		}
	}
	q.record = nil
	q.t.History.AddRequest(r)
}

// decided adds a decision on the request to the history.
func (q *Request) decided(kind string, at time.Time, waited time.Duration, reason string, stay *admission.Stay) {
	if q.t.History == nil {
		return
	}
	d := timeline.Decision{At: at, Kind: kind, Class: q.class, Backend: q.backend, Replica: q.replica, Grant: q.grant, Position: q.position,
		Wait: max(0, waited).Seconds(), Reason: reason, Trace: timeline.TraceID(q.id.TraceID())}
	if stay != nil {
		d.Resource, d.Expected = stay.Last.Resource, stay.Expected.Seconds()
	}
	q.t.History.AddDecision(d)
}
