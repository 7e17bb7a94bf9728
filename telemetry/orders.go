package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// Order is an unload or a wake that is under way.
type Order struct {
	t       *Telemetry
	name    string
	backend string
	began   time.Time
	span    *span // nil: tracing is off, or this trace is not kept
}

// Done is the result of an order.
type Done struct {
	Asked  admission.Bytes // that were to be freed, or are taken
	Freed  admission.Bytes // that were seen to be freed
	GPUs   []string        // of the replica
	Failed bool
	Note   string
}

// OutOfMemory counts an out-of-memory answer to the request and adds it to the history.
// result is OOMRetried or OOMPassed.
func (q *Request) OutOfMemory(result string) {
	q.t.metrics.oom.Add(context.Background(), 1, metric.WithAttributes(attribute.String(AttrBackend, q.backend), attribute.String(AttrResult, result)))
	q.t.History.AddDecision(timeline.Decision{At: time.Now(), Kind: timeline.OOM, Class: q.class, Backend: q.backend, Replica: q.replica,
		Grant: q.grant, Position: -1, Action: result, Trace: timeline.TraceID(q.id.TraceID())})
}

// Ordered begins a trace of an order to a backend: SpanUnload or SpanWake. The order is
// done for the waiting request with the id grant (0: for none). If q is that request, the
// two are linked.
func (t *Telemetry) Ordered(name string, began time.Time, backend string, grant uint64, q *Request) *Order {
	o := &Order{t: t, name: name, backend: backend, began: began}
	if t.tracer == nil {
		return o
	}
	var id trace.SpanContext
	id, o.span = t.tracer.root(trace.SpanContext{}, name+" "+backend, trace.SpanKindInternal, began)
	o.span.add(attribute.String(AttrBackend, backend), attribute.Int64(AttrGrant, int64(grant)))
	if wait := q.waiting(); wait.IsValid() {
		o.span.link(sdktrace.Link{SpanContext: wait})
	}
	q.link(id, backend)
	return o
}

// waiting is the span context of the request's admission.wait; not valid: there is none.
func (q *Request) waiting() trace.SpanContext {
	if q == nil {
		return trace.SpanContext{}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waitContext
}

// link leads from the request's admission.wait to the span of an order.
func (q *Request) link(to trace.SpanContext, backend string) {
	if q == nil || !to.IsValid() {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.orders = append(q.orders, sdktrace.Link{SpanContext: to, Attributes: []attribute.KeyValue{attribute.String(AttrBackend, backend)}})
}

// End closes the order's span and counts it.
func (o *Order) End(at time.Time, d Done) {
	result := ResultOK
	if d.Failed {
		result = ResultFailed
	}
	ctx, m := context.Background(), &o.t.metrics
	by := metric.WithAttributes(attribute.String(AttrOrder, o.name), attribute.String(AttrBackend, o.backend), attribute.String(AttrResult, result))
	m.orders.Record(ctx, max(0, at.Sub(o.began)).Seconds(), by)
	if o.name == SpanWake && !d.Failed {
		m.loads.Add(ctx, 1, metric.WithAttributes(attribute.String(AttrBackend, o.backend)))
	}
	if o.name == SpanUnload {
		backend := metric.WithAttributes(attribute.String(AttrBackend, o.backend))
		m.asked.Add(ctx, int64(d.Asked), backend)
		m.freed.Add(ctx, int64(d.Freed), backend)
		for _, gpu := range d.GPUs {
			m.swaps.Add(ctx, 1, metric.WithAttributes(attribute.String(AttrGPU, gpu)))
		}
	}
	o.span.add(attribute.Int64(AttrVRAM, int64(d.Asked)), attribute.Int64(AttrFreed, int64(d.Freed)), attribute.String(AttrResult, result))
	if d.Failed {
		o.span.fail(brief(d.Note))
	}
	o.span.end(at)
}

// Malformed counts and logs a request that the HTTP parser refused, so that it never
// became one. It may be called from any goroutine.
func (t *Telemetry) Malformed(status int, client string) {
	t.metrics.malformed.Add(context.Background(), 1, metric.WithAttributes(attribute.Int("http.response.status_code", clampStatus(status))))
	if t.clients {
		t.log.Warn("a request that is not HTTP was refused", "status", status, "client", hostOf(client))
		return
	}
	t.log.Warn("a request that is not HTTP was refused", "status", status)
}
