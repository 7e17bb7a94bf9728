package telemetry

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/anteroom-gpu/anteroom/admission"
)

// logs is a writer that the SDK's goroutines and the test may use at once.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer // guarded by mu
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// noOTEL takes OTEL_* away for the test's time: a test must not depend on the
// environment that it runs in.
func noOTEL(t *testing.T) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "") // so that it is put back
			os.Unsetenv(name)
		}
	}
}

func usual() Config {
	return Config{
		ServiceName: "anteroom", Traces: TracesConfig{Sample: 1},
		Metrics: MetricsConfig{Prometheus: true}, Log: LogConfig{Format: "json", Level: "info"},
		History: HistoryConfig{For: 15 * time.Minute, Memory: 32 * admission.MiB},
	}
}

// start is Start with an end.
func start(t testing.TB, c Config, out *logs) *Telemetry {
	t.Helper()
	telemetry, err := Start(context.Background(), c, "test", out)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		telemetry.Shutdown(context.Background()) // the tests that look at its error have called it
	})
	return telemetry
}

// recorded is a set-up whose spans can be read by spans.
func recorded(t *testing.T, c Config) (*Telemetry, *tracetest.InMemoryExporter, *logs) {
	t.Helper()
	noOTEL(t)
	out := &logs{}
	telemetry, memory := start(t, c, out), tracetest.NewInMemoryExporter()
	telemetry.trace(c.Traces, through(memory))
	return telemetry, memory, out
}

// through is a sink for one of the SDK's exporters.
func through(exporter sdktrace.SpanExporter) sink {
	return &exporterSink{exporter: exporter, about: resource.Empty()}
}

// spans are those that have ended, by name.
func spans(t *testing.T, telemetry *Telemetry, memory *tracetest.InMemoryExporter) map[string]tracetest.SpanStub {
	t.Helper()
	if err := telemetry.tracer.out.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := map[string]tracetest.SpanStub{}
	for _, s := range memory.GetSpans() {
		if _, twice := found[s.Name]; twice {
			t.Errorf("the span %q ended twice", s.Name)
		}
		found[s.Name] = s
	}
	return found
}

func attributes(list []attribute.KeyValue) map[string]any {
	m := map[string]any{}
	for _, a := range list {
		m[string(a.Key)] = a.Value.AsInterface()
	}
	return m
}

// generate is a POST as a client sends it.
func generate() *http.Request {
	return httptest.NewRequest(http.MethodPost, "http://box/v1/images/generations?key=querysecret", strings.NewReader("a cat in the rain"))
}

const (
	pattern = "/v1/images/generations"
	flux    = "http://127.0.0.1:8001"
)

// stayed is what a request met in the queue that had the room kept for another
// at first, and then found too little of it.
var stayed = &admission.Stay{
	First:    admission.Blocked{Reason: admission.ReasonReservedForOther, Resource: "gpu0", Need: 34 << 30, Free: 40 << 30},
	Last:     admission.Blocked{Reason: admission.ReasonResources, Resource: "gpu0", Need: 34 << 30, Free: 30 << 30},
	Expected: 1500 * time.Millisecond,
	Steps:    []admission.Step{{Reason: admission.ReasonReservedForOther}, {At: time.Second, Reason: admission.ReasonResources}},
}

// run plays a request that waits two seconds, runs eighteen and is answered
// with a 200, and gives the headers that went to the backend.
func run(telemetry *Telemetry, r *http.Request) (*Request, http.Header) {
	q := telemetry.Begin(r, pattern)
	at := time.Now()
	header := r.Header.Clone()
	q.Classify("images", "heavy", "flux", 34*admission.GiB)
	q.Wait(at)
	at = at.Add(2 * time.Second)
	q.Admitted(at, 7, 0, 3, 2*time.Second, stayed)
	q.Execute(at, flux, pattern, header)
	at = at.Add(18 * time.Second)
	q.Executed(at, Execution{Status: http.StatusOK, RPC: -1})
	q.End(at, Ending{Status: http.StatusOK, RPC: -1, In: 17, Out: 4096})
	return q, header
}

// refuse plays a request that is refused after having waited for so long.
func refuse(telemetry *Telemetry, r *http.Request, status int, rejection *admission.Rejection) *Request {
	q := telemetry.Begin(r, pattern)
	at := time.Now()
	q.Classify("images", "heavy", "flux", 34*admission.GiB)
	q.Wait(at)
	at = at.Add(rejection.Waited)
	q.Refused(at, rejection)
	q.End(at, Ending{Status: status, RPC: -1, Code: string(rejection.Code), In: 17})
	return q
}
