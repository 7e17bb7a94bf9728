package telemetry

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// wire is a client that keeps the message as a collector would read it.
type wire struct{ got *tracepb.ResourceSpans }

func (*wire) Start(context.Context) error { return nil }
func (*wire) Stop(context.Context) error  { return nil }

func (w *wire) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	text, err := proto.Marshal(spans[0])
	if err != nil {
		return err
	}
	w.got = new(tracepb.ResourceSpans)
	return proto.Unmarshal(text, w.got)
}

// everyKind is attributes of every kind, and of every size that is written in another way.
var everyKind = []attribute.KeyValue{attribute.String("text", "a cat"), attribute.String("empty", ""),
	attribute.String("long", strings.Repeat("x", 200)),
	attribute.String("longer", strings.Repeat("ö", 20_000)), attribute.Int("number", -7), attribute.Int64("large", 1<<60), attribute.Int("zero", 0),
	attribute.Float64("share", 0.25), attribute.Bool("yes", true), attribute.Bool("no", false),
	attribute.String("most", strings.Repeat("x", 0x7f-6-len("most"))), attribute.String("more", strings.Repeat("x", 0x80-6-len("more")))}

// full makes a span with everything that one can have.
func full(t *tracer) *span {
	state, _ := trace.ParseTraceState("vendor=1,other=2")
	remote := trace.NewSpanContext(trace.SpanContextConfig{TraceID: newTraceID(), SpanID: newSpanID(), TraceFlags: trace.FlagsSampled,
		TraceState: state, Remote: true})
	at := time.Unix(1700000000, 123456789)
	_, s := t.root(remote, "POST /x", trace.SpanKindServer, at)
	s.add(everyKind...)
	s.event("first", at.Add(time.Second))
	s.event("second", at.Add(2*time.Second), attribute.String("reason", "resources"), attribute.Int("position", 3))
	s.link(sdktrace.Link{SpanContext: remote, Attributes: []attribute.KeyValue{attribute.String("backend", "flux")}})
	s.link(sdktrace.Link{SpanContext: s.id})
	s.fail("it broke")
	s.ended = at.Add(time.Minute)
	return s
}

// What the SDK's own exporter sends of the same spans is the measure.
func TestSpansAreEncodedAsTheSDKEncodesThem(t *testing.T) {
	for name, limits := range map[string]sdktrace.SpanLimits{
		"without limits": {AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1, LinkCountLimit: -1,
			AttributePerEventCountLimit: -1, AttributePerLinkCountLimit: -1},
		"with limits": {AttributeValueLengthLimit: 100, AttributeCountLimit: 6, EventCountLimit: 1, LinkCountLimit: 1,
			AttributePerEventCountLimit: 1, AttributePerLinkCountLimit: 0},
		"with nothing": {AttributeValueLengthLimit: 0},
	} {
		t.Run(name, func(t *testing.T) {
			about := resource.NewSchemaless(attribute.String("service.name", "anteroom"), attribute.Int("process.pid", 7))
			makes := &tracer{sampler: sdktrace.AlwaysSample(), limits: limits}
			var sdk, own wire
			exporter, err := otlptrace.New(t.Context(), &sdk)
			if err != nil {
				t.Fatal(err)
			}
			by, err := startOTLP(t.Context(), &own, about)
			if err != nil {
				t.Fatal(err)
			}
			reference := &exporterSink{exporter: exporter, about: about}
			server := full(makes)
			for _, s := range []*span{server, makes.child(server.id, "GET", trace.SpanKindClient, server.began)} {
				copied := *s
				reference.add(&copied)
				if s == server {
					// What it has is read from the bytes, and is to be what the SDK keeps.
					if is, want := reference.spans[0].Attributes(), sdkAttributes(t, limits); !slices.Equal(is, want) {
						t.Errorf("got the attributes\n%v\nwant\n%v", is, want)
					}
				}
				mine := *s
				mine.attributes = slices.Clone(s.attributes)
				mine.events, mine.links = append([]sdktrace.Event(nil), s.events...), append([]sdktrace.Link(nil), s.links...)
				by.add(&mine)
			}
			for _, to := range []sink{reference, by} {
				if err := to.send(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if !proto.Equal(sdk.got, own.got) || len(sdk.got.ScopeSpans[0].Spans) != 2 {
				t.Errorf("got\n%v\nwant two spans\n%v", own.got, sdk.got)
			}
		})
	}
}

// sdkAttributes are what a span of the SDK's has of attributes.
func sdkAttributes(t *testing.T, limits sdktrace.SpanLimits) []attribute.KeyValue {
	var ended sdktrace.ReadOnlySpan
	provider := sdktrace.NewTracerProvider(sdktrace.WithRawSpanLimits(limits), sdktrace.WithSyncer(last{&ended}))
	_, s := provider.Tracer(scope).Start(t.Context(), "x")
	s.SetAttributes(everyKind...)
	s.End()
	return ended.Attributes()
}

// The SDK's own span under the same limits is the measure of what is kept.
func TestTheLimitsOfSpansAreTheSDKs(t *testing.T) {
	for _, limits := range []sdktrace.SpanLimits{
		{AttributeValueLengthLimit: 3, AttributeCountLimit: 2, EventCountLimit: 2, LinkCountLimit: 2, AttributePerEventCountLimit: 1,
			AttributePerLinkCountLimit: 1},
		{AttributeValueLengthLimit: -1, AttributeCountLimit: -1, EventCountLimit: -1, LinkCountLimit: -1, AttributePerEventCountLimit: -1,
			AttributePerLinkCountLimit: -1},
		{},
	} {
		var ended sdktrace.ReadOnlySpan
		provider := sdktrace.NewTracerProvider(sdktrace.WithRawSpanLimits(limits), sdktrace.WithSyncer(last{&ended}))
		_, theirs := provider.Tracer(scope).Start(t.Context(), "x")
		_, ours := (&tracer{sampler: sdktrace.AlwaysSample(), limits: limits}).root(trace.SpanContext{}, "x", trace.SpanKindInternal, time.Now())
		for _, name := range []string{"one", "two", "three"} {
			a, b := attribute.String(name, "größer"), attribute.String("b", name)
			theirs.SetAttributes(a)
			ours.add(a)
			theirs.AddEvent(name, trace.WithAttributes(a, b))
			ours.event(name, time.Now(), a, b)
			link := trace.Link{SpanContext: ours.id, Attributes: []attribute.KeyValue{a, b}}
			theirs.AddLink(link)
			ours.link(sdktrace.Link{SpanContext: link.SpanContext, Attributes: link.Attributes})
		}
		theirs.End()
		var want, got wire
		for to, s := range map[*wire]sdktrace.ReadOnlySpan{&want: ended, &got: snapshot(ours)} {
			exporter, _ := otlptrace.New(t.Context(), to)
			if err := exporter.ExportSpans(t.Context(), []sdktrace.ReadOnlySpan{s}); err != nil {
				t.Fatal(err)
			}
		}
		a, b := want.got.ScopeSpans[0].Spans[0], got.got.ScopeSpans[0].Spans[0]
		for _, s := range []*tracepb.Span{a, b} {
			s.TraceId, s.SpanId, s.StartTimeUnixNano, s.EndTimeUnixNano = nil, nil, 0, 0
			for _, e := range s.Events {
				e.TimeUnixNano = 0
			}
		}
		if !proto.Equal(a, b) {
			t.Errorf("with %+v got\n%v\nwant\n%v", limits, b, a)
		}
	}
}

// last keeps the span that ended.
type last struct{ span *sdktrace.ReadOnlySpan }

func (l last) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	*l.span = spans[0]
	return nil
}
func (last) Shutdown(context.Context) error { return nil }

func snapshot(s *span) sdktrace.ReadOnlySpan {
	e := &exporterSink{about: resource.Empty()}
	e.add(s)
	return e.spans[0]
}

// A collector would refuse the whole batch for one text that is none.
func TestTextThatIsNotUTF8IsReplaced(t *testing.T) {
	var got wire
	to, _ := startOTLP(t.Context(), &got, resource.Empty())
	makes := &tracer{sampler: sdktrace.AlwaysSample(), limits: sdktrace.NewSpanLimits()}
	_, s := makes.root(trace.SpanContext{}, "x\xff", trace.SpanKindInternal, time.Now())
	s.add(attribute.String("a\xfe", "b\xfd"))
	to.add(s)
	if err := to.send(t.Context()); err != nil {
		t.Fatal(err)
	}
	read := got.got.ScopeSpans[0].Spans[0]
	if a := read.Attributes[0]; read.Name != "x\uFFFD" || a.Key != "a\uFFFD" || a.Value.GetStringValue() != "b\uFFFD" {
		t.Errorf("got %v, want each byte that is no text replaced", read)
	}
}
