package telemetry

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// outbox bounds the spans that have ended and not left yet, and counts those
// that never will. The batch processor under it drops in silence when its queue
// is full, so the outbox is full first.
type outbox struct {
	sdktrace.SpanProcessor
	limit int64
	held  atomic.Int64
	lost  *atomic.Int64
}

func newOutbox(exporter sdktrace.SpanExporter, lost *atomic.Int64) *outbox {
	limit := queueSize()
	o := &outbox{limit: int64(limit), lost: lost}
	o.SpanProcessor = sdktrace.NewBatchSpanProcessor(&outboxExporter{exporter, o}, sdktrace.WithMaxQueueSize(limit))
	return o
}

// queueSize is what OTEL_BSP_MAX_QUEUE_SIZE says, as in the SDK.
func queueSize() int {
	if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		return n
	}
	return sdktrace.DefaultMaxQueueSize
}

// OnEnd takes the span or counts it as lost; it never waits.
func (o *outbox) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if o.held.Add(1) > o.limit {
		o.held.Add(-1)
		o.lost.Add(1)
		return
	}
	o.SpanProcessor.OnEnd(s)
}

// outboxExporter tells the outbox what has left it, one way or the other.
type outboxExporter struct {
	sdktrace.SpanExporter
	from *outbox
}

func (e *outboxExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := e.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		e.from.lost.Add(int64(len(spans)))
	}
	e.from.held.Add(-int64(len(spans)))
	return err
}
