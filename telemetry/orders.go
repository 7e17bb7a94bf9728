package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Order is an unload or a wake that has ended.
type Order struct {
	Backend string
	Bytes   admission.Bytes // that were to be freed, or are taken
	Freed   admission.Bytes // that were seen to be freed
	For     uint64          // the request it was done for; 0: none
	Failed  bool
	Note    string
}

// OutOfMemory counts an out-of-memory answer of a backend: OOMRetried or
// OOMPassed.
func (t *Telemetry) OutOfMemory(backend, result string) {
	t.metrics.oom.Add(context.Background(), 1, metric.WithAttributes(attribute.String(AttrBackend, backend), attribute.String(AttrResult, result)))
}

// Ordered makes a trace of its own of an order that has ended, and counts it.
// name is SpanUnload or SpanWake.
func (t *Telemetry) Ordered(name string, began, ended time.Time, o Order) {
	result := ResultOK
	if o.Failed {
		result = ResultFailed
	}
	ctx := context.Background()
	t.metrics.orders.Record(ctx, max(0, ended.Sub(began)).Seconds(), metric.WithAttributes(
		attribute.String(AttrOrder, name), attribute.String(AttrBackend, o.Backend), attribute.String(AttrResult, result)))
	if t.tracer == nil {
		return
	}
	_, span := t.tracer.Start(ctx, name, trace.WithTimestamp(began), trace.WithAttributes(
		attribute.String(AttrBackend, o.Backend), attribute.Int64(AttrVRAM, int64(o.Bytes)), attribute.Int64(AttrFreed, int64(o.Freed)),
		attribute.Int64(AttrGrant, int64(o.For)), attribute.String(AttrResult, result)))
	if o.Failed {
		span.SetStatus(codes.Error, brief(o.Note))
	}
	span.End(trace.WithTimestamp(ended))
}
