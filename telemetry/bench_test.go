package telemetry

import (
	"context"
	"io"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/anteroom-gpu/anteroom/admission"
)

// discard is a client whose collector takes no time.
type discard struct{}

func (discard) Start(context.Context) error                                  { return nil }
func (discard) Stop(context.Context) error                                   { return nil }
func (discard) UploadTraces(context.Context, []*tracepb.ResourceSpans) error { return nil }

// usualRequest is one that is admitted at once and answered well.
func usualRequest(telemetry *Telemetry, r *http.Request, header http.Header) {
	now := time.Now()
	q := telemetry.Begin(r, pattern)
	q.Classify("images", "heavy", "flux", 34*admission.GiB)
	q.Wait(now)
	q.Admitted(now, 1, 0, 0, 0, nil)
	q.Execute(now, flux, pattern, header)
	q.Executed(now, Execution{Status: http.StatusOK, RPC: -1})
	q.End(now, Ending{Status: http.StatusOK, RPC: -1, In: 17, Out: 4096})
}

// TestARequestAllocatesLittle guards what a request with its three spans, its metrics
// and its line costs here: 7 to 12 allocations are usual.
func TestARequestAllocatesLittle(t *testing.T) {
	noOTEL(t)
	config := usual()
	config.Traces.Exporter = "none"
	telemetry, err := Start(t.Context(), config, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer telemetry.Shutdown(context.Background())
	to, _ := startOTLP(t.Context(), discard{}, resource.Empty())
	telemetry.trace(TracesConfig{Sample: 1}, to)
	r, header := generate(), http.Header{}
	usualRequest(telemetry, r, header)
	if n := testing.AllocsPerRun(1000, func() { usualRequest(telemetry, r, header) }); n > 14 {
		t.Errorf("a request makes %.0f allocations, want at most 14", n)
	}
}

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
				to, _ := startOTLP(b.Context(), discard{}, resource.Empty())
				telemetry.trace(TracesConfig{Sample: c.sample}, to)
			}
			r, header := generate(), http.Header{}
			b.ReportAllocs()
			began := cpuTime(b)
			for b.Loop() {
				usualRequest(telemetry, r, header)
				if c.tracing && telemetry.spansLost.Load() > 0 {
					b.Fatal("spans were lost, and cost nothing then")
				}
				if c.tracing {
					runtime.Gosched() // to those that encode
				}
			}
			// What the goroutine that encodes takes, and the garbage collector, is in this.
			b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
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
