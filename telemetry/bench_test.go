package telemetry

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/anteroom-gpu/anteroom/admission"
)

// discard is a collector that takes no time.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }

// BenchmarkRequest is what a request costs here, from Begin to End: metrics and
// the log line always, spans as sampled.
func BenchmarkRequest(b *testing.B) {
	for _, c := range []struct {
		name    string
		tracing bool
		sample  float64
		level   string
	}{
		{"off", false, 0, "info"},
		{"off-quiet", false, 0, "error"},
		{"never", true, 0, "info"},
		{"sampled", true, 1, "info"},
	} {
		b.Run(c.name, func(b *testing.B) {
			config := usual()
			config.Traces.Exporter, config.Log.Level = "none", c.level
			telemetry, err := Start(context.Background(), config, "bench", io.Discard)
			if err != nil {
				b.Fatal(err)
			}
			defer telemetry.Shutdown(context.Background())
			if c.tracing {
				telemetry.trace(TracesConfig{Sample: c.sample}, through(discard{}))
			}
			r, header := generate(), http.Header{}
			b.ReportAllocs()
			for b.Loop() {
				now := time.Now()
				q := telemetry.Begin(r, pattern)
				q.Classify("images", "heavy", "flux", 34*admission.GiB)
				q.Wait(now)
				q.Admitted(now, 1, 0, 0, 0, nil)
				q.Execute(now, flux, pattern, header)
				q.Executed(now, Execution{Status: http.StatusOK, RPC: -1})
				q.End(now, Ending{Status: http.StatusOK, RPC: -1, In: 17, Out: 4096})
			}
		})
	}
}

// BenchmarkScrape is what one collection of /metrics costs.
func BenchmarkScrape(b *testing.B) {
	telemetry, err := Start(context.Background(), usual(), "bench", io.Discard)
	if err != nil {
		b.Fatal(err)
	}
	defer telemetry.Shutdown(context.Background())
	telemetry.Observe(box())
	run(telemetry, generate())
	r, _ := http.NewRequest(http.MethodGet, "/metrics", nil)
	b.ReportAllocs()
	for b.Loop() {
		telemetry.MetricsHandler().ServeHTTP(nowhere{}, r)
	}
}

type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (nowhere) WriteHeader(int)             {}
