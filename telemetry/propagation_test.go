package telemetry

import (
	"net/http"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

const (
	callersTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callersSpan  = "00f067aa0ba902b7"
	sampled      = "00-" + callersTrace + "-" + callersSpan + "-01"
)

func from(headers ...string) *http.Request {
	r := generate()
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// parent reads what a backend's traceparent says.
func parent(t *testing.T, header http.Header) (traceID, spanID, flags string) {
	t.Helper()
	parts := strings.Split(header.Get("Traceparent"), "-")
	if len(parts) != 4 || len(header["Traceparent"]) != 1 {
		t.Fatalf("the backend got traceparent %q, want one of four parts", header["Traceparent"])
	}
	return parts[1], parts[2], parts[3]
}

func TestTheCallersTraceGoesOnToTheBackend(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	_, header := run(telemetry, from("Traceparent", sampled, "Tracestate", "vendor=1", "Baggage", "user=7"))
	found := spans(t, telemetry, memory)
	server := found[serverName]
	if server.SpanContext.TraceID().String() != callersTrace || server.Parent.SpanID().String() != callersSpan || !server.Parent.IsRemote() {
		t.Errorf("the server span is in trace %s under %s, want %s under the caller's %s",
			server.SpanContext.TraceID(), server.Parent.SpanID(), callersTrace, callersSpan)
	}
	traceID, spanID, flags := parent(t, header)
	if traceID != callersTrace || spanID != found["POST"].SpanContext.SpanID().String() || flags != "01" {
		t.Errorf("the backend got %s, want trace %s, the client span %s, sampled",
			header.Get("Traceparent"), callersTrace, found["POST"].SpanContext.SpanID())
	}
	if header.Get("Tracestate") != "vendor=1" || header.Get("Baggage") != "user=7" {
		t.Errorf("the backend got tracestate %q and baggage %q, want the caller's", header.Get("Tracestate"), header.Get("Baggage"))
	}
}

func TestACallerThatIsNotSampledStaysSo(t *testing.T) {
	telemetry, memory, _ := recorded(t, usual())
	_, header := run(telemetry, from("Traceparent", strings.TrimSuffix(sampled, "01")+"00"))
	if traceID, _, flags := parent(t, header); traceID != callersTrace || flags != "00" {
		t.Errorf("the backend got %s, want trace %s, not sampled", header.Get("Traceparent"), callersTrace)
	}
	if found := spans(t, telemetry, memory); len(found) != 0 {
		t.Errorf("%d spans were exported, want none", len(found))
	}
}

// Nothing that a caller sends as trace context can break a request.
func TestAMalformedTraceContextBeginsANewTrace(t *testing.T) {
	huge := strings.Repeat("k=v,", 2_500) // 10 kB
	for name, headers := range map[string][]string{
		"no trace context":          {},
		"not a traceparent":         {"Traceparent", "hello"},
		"an empty traceparent":      {"Traceparent", ""},
		"a trace of zeros":          {"Traceparent", "00-00000000000000000000000000000000-" + callersSpan + "-01"},
		"a span of zeros":           {"Traceparent", "00-" + callersTrace + "-0000000000000000-01"},
		"upper case":                {"Traceparent", strings.ToUpper(sampled)},
		"the forbidden version":     {"Traceparent", "ff" + sampled[2:]},
		"too long":                  {"Traceparent", sampled + "-" + strings.Repeat("0", 10_000)},
		"10 kB of baggage":          {"Baggage", huge},
		"both":                      {"Traceparent", "\x00\n" + sampled, "Baggage", huge},
		"a tracestate without home": {"Traceparent", "hello", "Tracestate", "vendor=1"},
	} {
		t.Run(name, func(t *testing.T) {
			telemetry, memory, _ := recorded(t, usual())
			_, header := run(telemetry, from(headers...))
			found := spans(t, telemetry, memory)
			server, client := found[serverName], found["POST"]
			if len(found) != 3 || server.Parent.IsValid() || !server.SpanContext.TraceID().IsValid() || server.SpanContext.TraceID().String() == callersTrace {
				t.Fatalf("got %d spans, the server's in trace %s under %v: want 3 in a new trace", len(found), server.SpanContext.TraceID(), server.Parent)
			}
			traceID, spanID, _ := parent(t, header)
			if traceID != server.SpanContext.TraceID().String() || spanID != client.SpanContext.SpanID().String() {
				t.Errorf("the backend got %s, want trace %s and span %s", header.Get("Traceparent"), server.SpanContext.TraceID(), client.SpanContext.SpanID())
			}
			if state := header["Tracestate"]; state != nil {
				t.Errorf("the backend got the tracestate %q of another trace", state)
			}
		})
	}
}

// Baggage is between a caller and a backend, whatever OTEL_PROPAGATORS says.
func TestBaggagePassesAsItCame(t *testing.T) {
	for name, baggage := range map[string]string{
		"usual": "user=7; p=1 , city=K%C3%B6ln", "malformed": "a cat, =, ;;", "10 kB": strings.Repeat("k=v,", 2_500),
	} {
		for _, propagators := range []string{"", "tracecontext,baggage"} {
			t.Run(name+" with "+propagators, func(t *testing.T) {
				noOTEL(t)
				t.Setenv("OTEL_PROPAGATORS", propagators)
				out := &logs{}
				telemetry := start(t, usual(), out)
				telemetry.trace(TracesConfig{Sample: 1}, through(tracetest.NewInMemoryExporter()))
				q, header := run(telemetry, from("Traceparent", sampled, "Baggage", baggage))
				if header.Get("Baggage") != baggage {
					t.Errorf("the backend got baggage %.60q, want %.60q", header.Get("Baggage"), baggage)
				}
				if q.SpanContext().TraceID().String() != callersTrace {
					t.Errorf("the trace is %s, want the caller's", q.SpanContext().TraceID())
				}
				if n := strings.Count(out.String(), "\n"); n != 1 {
					t.Errorf("the log has %d lines, want the request's alone:\n%s", n, out)
				}
			})
		}
	}
}

func TestWithTracingOffTheTraceContextPassesAsItCame(t *testing.T) {
	noOTEL(t)
	telemetry := start(t, usual(), &logs{})
	for name, headers := range map[string][]string{
		"nothing":   {},
		"a trace":   {"Traceparent", sampled, "Tracestate", "vendor=1", "Baggage", "user=7"},
		"malformed": {"Traceparent", "hello", "Tracestate", "=", "Baggage", strings.Repeat("k=v,", 2_500)},
	} {
		t.Run(name, func(t *testing.T) {
			r := from(headers...)
			_, header := run(telemetry, r)
			if len(header) != len(r.Header) {
				t.Errorf("the backend got %v, want %v", header, r.Header)
			}
			for name, values := range r.Header {
				if header.Get(name) != values[0] {
					t.Errorf("the backend got %s %q, want %q", name, header[name], values)
				}
			}
		})
	}
}

// The id is on the log line and in X-Anteroom-Request-Id, with or without
// tracing.
func TestEveryRequestHasAnIDOfItsOwnWithTracingOff(t *testing.T) {
	noOTEL(t)
	telemetry := start(t, usual(), &logs{})
	seen := map[trace.SpanID]bool{}
	for range 100 {
		q, _ := run(telemetry, from("Traceparent", sampled))
		id := q.SpanContext()
		if id.TraceID().String() != callersTrace || !id.IsValid() || id.IsSampled() {
			t.Fatalf("the id is %s-%s, want one in the caller's trace, not sampled", id.TraceID(), id.SpanID())
		}
		seen[id.SpanID()] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 requests had %d ids", len(seen))
	}
	one, _ := run(telemetry, generate())
	two, _ := run(telemetry, generate())
	if a, b := one.SpanContext(), two.SpanContext(); !a.IsValid() || !b.IsValid() || a.TraceID() == b.TraceID() {
		t.Errorf("without a caller's trace the ids are %s and %s, want two that are valid", a.TraceID(), b.TraceID())
	}
}

func TestOTELPropagatorsIsHonoured(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_PROPAGATORS", "b3")
	c := usual()
	c.Traces.Exporter = "console"
	telemetry := start(t, c, &logs{})
	q, header := run(telemetry, from("B3", callersTrace+"-"+callersSpan+"-1", "Traceparent", "left alone"))
	if q.SpanContext().TraceID().String() != callersTrace {
		t.Errorf("the trace is %s, want the caller's", q.SpanContext().TraceID())
	}
	if got := header.Get("B3"); !strings.HasPrefix(got, callersTrace) || strings.Contains(got, callersSpan) {
		t.Errorf("the backend got b3 %q, want the caller's trace and our span", got)
	}
	if got := header.Get("Traceparent"); got != "left alone" {
		t.Errorf("the backend got traceparent %q, want it as it came", got)
	}
}

func TestAnUnknownPropagatorStopsTheStart(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_PROPAGATORS", "tracecontext, baggage, pigeon")
	if _, err := Start(t.Context(), usual(), "test", &logs{}); err == nil || !strings.Contains(err.Error(), "pigeon") {
		t.Errorf("got %v, want an error that names the pigeon", err)
	}
	t.Setenv("OTEL_PROPAGATORS", "tracecontext, baggage")
	start(t, usual(), &logs{})
}
