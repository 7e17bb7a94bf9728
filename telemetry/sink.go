package telemetry

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// exporterSink gives spans to one of the SDK's exporters.
type exporterSink struct {
	exporter sdktrace.SpanExporter
	about    *resource.Resource
	spans    []sdktrace.ReadOnlySpan
}

// add converts a span to the type that exporters take. Only the SDK can implement that
// type; tracetest makes one.
func (e *exporterSink) add(s *span) {
	e.spans = append(e.spans, tracetest.SpanStub{
		Name: s.name, SpanContext: s.id, Parent: s.parent, SpanKind: s.kind, StartTime: s.began, EndTime: s.ended,
		Attributes: s.keyValues(), Events: s.events, Links: s.links, Status: s.status,
		DroppedAttributes: s.dropped.attributes, DroppedEvents: s.dropped.events, DroppedLinks: s.dropped.links,
		Resource: e.about, InstrumentationScope: instrumentation.Scope{Name: scope},
	}.Snapshot())
}

// keyValues reads the attributes again.
func (s *span) keyValues() []attribute.KeyValue {
	var read tracepb.Span
	if err := proto.Unmarshal(s.attributes, &read); err != nil {
		panic("telemetry: " + err.Error()) // it was encoded here
	}
	var all []attribute.KeyValue
	for _, a := range read.Attributes {
		switch key := attribute.Key(a.Key); v := a.Value.Value.(type) {
		case *commonpb.AnyValue_BoolValue:
			all = append(all, key.Bool(v.BoolValue))
		case *commonpb.AnyValue_IntValue:
			all = append(all, key.Int64(v.IntValue))
		case *commonpb.AnyValue_DoubleValue:
			all = append(all, key.Float64(v.DoubleValue))
		case *commonpb.AnyValue_StringValue:
			all = append(all, key.String(v.StringValue))
		}
	}
	return all
}

func (e *exporterSink) send(ctx context.Context) error {
	spans := e.spans
	e.spans = nil // an exporter may keep them
	return e.exporter.ExportSpans(ctx, spans)
}

func (e *exporterSink) shutdown(ctx context.Context) error { return e.exporter.Shutdown(ctx) }

// otlpSink encodes spans as it gets them, and sends the bytes through the SDK's
// client for HTTP or gRPC, which knows how to retry.
type otlpSink struct {
	client otlptrace.Client
	about  *tracepb.ResourceSpans // everything but the spans
	spans  []byte                 // each as a field of ScopeSpans
}

// startOTLP makes no connection.
func startOTLP(ctx context.Context, client otlptrace.Client, about *resource.Resource) (sink, error) {
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	of := new(resourcepb.Resource)
	of.ProtoReflect().SetUnknown(appendAttributes(nil, 1, about.Attributes()))
	return &otlpSink{client: client, about: &tracepb.ResourceSpans{Resource: of, SchemaUrl: about.SchemaURL(),
		ScopeSpans: []*tracepb.ScopeSpans{{Scope: &commonpb.InstrumentationScope{Name: scope}}}}}, nil
}

func (o *otlpSink) add(s *span) {
	o.spans = appendSpan(o.spans, s)
	recycle(s)
}

// send passes the encoded spans on as unknown fields of a protobuf message, which are
// written as they are.
func (o *otlpSink) send(ctx context.Context) error {
	o.about.ScopeSpans[0].ProtoReflect().SetUnknown(o.spans)
	err := o.client.UploadTraces(ctx, []*tracepb.ResourceSpans{o.about})
	o.spans = o.spans[:0] // the client has made a message of them
	return err
}

func (o *otlpSink) shutdown(ctx context.Context) error { return o.client.Stop(ctx) }
