package telemetry

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// span is a plain record. It is filled while the request is served, and encoded after that.
// One goroutine at a time may use it. The methods do nothing on a nil span, which is one
// that is not kept.
type span struct {
	tracer       *tracer
	name         string
	kind         trace.SpanKind
	id, parent   trace.SpanContext
	began, ended time.Time
	attributes   []byte // encoded, as the fields attributes of Span; each key once
	count        int    // of attributes
	events       []sdktrace.Event
	links        []sdktrace.Link
	status       sdktrace.Status
	dropped      struct{ attributes, events, links int } // by the limits
}

// records is a pool of unused spans.
var records = sync.Pool{New: func() any {
	return &span{attributes: make([]byte, 0, 1<<10), events: make([]sdktrace.Event, 0, 2)}
}}

// recycle gives a span's memory back. Nothing may hold a part of it any more.
func recycle(s *span) {
	clear(s.events)
	clear(s.links)
	*s = span{attributes: s.attributes[:0], events: s.events[:0], links: s.links[:0]}
	records.Put(s)
}

// tracer makes spans. A nil one is tracing that is off.
type tracer struct {
	sampler sdktrace.Sampler
	limits  sdktrace.SpanLimits
	out     *outbox
}

// root opens a span without a parent in this process: in its caller's trace if remote is
// valid, else in a new one. The span is nil if the sampler does not keep it; its context is
// valid in both cases.
func (t *tracer) root(remote trace.SpanContext, name string, kind trace.SpanKind, began time.Time) (trace.SpanContext, *span) {
	id, attributes := t.decide(remote, name, kind)
	if !id.IsSampled() {
		return id, nil
	}
	s := t.record(id, remote, name, kind, began)
	s.add(attributes...)
	return id, s
}

// decide returns the context of a span without a parent in this process, and the sampler's
// result. The span is kept if its context is sampled.
func (t *tracer) decide(remote trace.SpanContext, name string, kind trace.SpanKind) (trace.SpanContext, []attribute.KeyValue) {
	is := trace.SpanContextConfig{TraceID: remote.TraceID(), SpanID: newSpanID(), TraceFlags: remote.TraceFlags()}
	if !is.TraceID.IsValid() {
		is.TraceID = newTraceID()
	}
	decided := t.sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: withSpan(remote), TraceID: is.TraceID, Name: name, Kind: kind})
	is.TraceState, is.TraceFlags = decided.Tracestate, is.TraceFlags.WithSampled(decided.Decision == sdktrace.RecordAndSample)
	return trace.NewSpanContext(is), decided.Attributes
}

// child opens a span under another one of this process. It is kept if its parent is: every
// sampler of the SDK decides in the same way for all spans of a trace.
func (t *tracer) child(parent trace.SpanContext, name string, kind trace.SpanKind, began time.Time) *span {
	return t.record(parent.WithSpanID(newSpanID()), parent, name, kind, began)
}

func (t *tracer) record(id, parent trace.SpanContext, name string, kind trace.SpanKind, began time.Time) *span {
	s := records.Get().(*span)
	s.tracer, s.id, s.parent, s.name, s.kind, s.began = t, id, parent, name, kind, began
	return s
}

func newSpanID() (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], rand.Uint64()|1) // all zero is not valid
	return id
}

func newTraceID() (id trace.TraceID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64()|1)
	return id
}

// add adds attributes whose keys it does not have yet. They are encoded at once, because
// storing them would cost more, also for the garbage collector.
func (s *span) add(attributes ...attribute.KeyValue) {
	if s == nil {
		return
	}
	most := s.tracer.limits.AttributeCountLimit
	for i := range attributes {
		if most >= 0 && s.count >= most {
			s.dropped.attributes++
			continue
		}
		s.count++
		s.attributes = appendAttribute(s.attributes, 9, s.within(&attributes[i]))
	}
}

// within is an attribute with a value that is not too long.
func (s *span) within(a *attribute.KeyValue) *attribute.KeyValue {
	longest := s.tracer.limits.AttributeValueLengthLimit
	if longest >= 0 && a.Value.Type() == attribute.STRING && len(a.Value.AsString()) > longest {
		shorter := a.Key.String(shorten(a.Value.AsString(), longest))
		return &shorter
	}
	return a
}

// shorten cuts a text to so many characters.
func shorten(text string, most int) string {
	n := 0
	for i := range text {
		if n == most {
			return text[:i]
		}
		n++
	}
	return text
}

// event adds an event. Its attributes belong to the span from then on.
func (s *span) event(name string, at time.Time, attributes ...attribute.KeyValue) {
	if s == nil {
		return
	}
	e := sdktrace.Event{Name: name, Time: at, Attributes: attributes}
	if most := s.tracer.limits.AttributePerEventCountLimit; most >= 0 && len(attributes) > most {
		e.Attributes, e.DroppedAttributeCount = attributes[:most], len(attributes)-most
	}
	s.events, s.dropped.events = limited(s.events, e, s.tracer.limits.EventCountLimit, s.dropped.events)
}

// link adds a link.
func (s *span) link(l sdktrace.Link) {
	if s == nil {
		return
	}
	if most := s.tracer.limits.AttributePerLinkCountLimit; most >= 0 && len(l.Attributes) > most {
		l.Attributes, l.DroppedAttributeCount = l.Attributes[:most], len(l.Attributes)-most
	}
	s.links, s.dropped.links = limited(s.links, l, s.tracer.limits.LinkCountLimit, s.dropped.links)
}

// limited appends if there is room, and replaces the oldest entry otherwise. A negative
// limit means no limit.
func limited[T any](all []T, one T, most, dropped int) ([]T, int) {
	switch {
	case most == 0:
		return all, dropped // the SDK does not count these
	case most > 0 && len(all) == most:
		copy(all, all[1:])
		all[most-1] = one
		return all, dropped + 1
	}
	return append(all, one), dropped
}

// fail sets the span's status to error.
func (s *span) fail(about string) {
	if s != nil {
		s.status = sdktrace.Status{Code: codes.Error, Description: about}
	}
}

// end closes the span and gives it to the outbox. It must not be used after that.
func (s *span) end(at time.Time) {
	if s == nil {
		return
	}
	s.ended = at
	s.tracer.out.put(s)
}
