// Package telemetry writes traces, metrics and logs. All names that it uses are in
// names.go, which is a contract.
//
// Nothing in it waits for a collector: spans go into a bounded queue, and a span that does
// not fit is dropped. Spans that cannot be exported are counted and dropped. With tracing
// off no span is made, and a caller's trace context reaches the backend as it came.
package telemetry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/propagators/autoprop"
	"go.opentelemetry.io/otel"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// scope names the instrumentation to OpenTelemetry.
const scope = "github.com/anteroom-gpu/anteroom"

// Telemetry is the running telemetry of a process. Its methods may be called from several
// goroutines at once, and never wait for a collector.
type Telemetry struct {
	// History is the store of what happened in the last minutes; nil: nothing is kept.
	History *timeline.Store

	log        *slog.Logger
	lines      *lineWriter // nil: log writes the lines of requests
	tracer     *tracer     // nil: tracing is off
	propagator propagation.TextMapPropagator
	w3c        bool     // propagator is W3C's trace context alone
	stale      []string // the headers, canonical, that it writes
	meters     *sdkmetric.MeterProvider
	handler    http.Handler
	metrics    metrics
	contention contention
	clients    bool     // clients' addresses are told
	models     []string // that metrics tell apart in any case
	bounds     atomic.Pointer[Bounds]
	peers      sync.Map // address → *peer
	sources    atomic.Pointer[Sources]
	spansLost  atomic.Int64
	logs       *LogWriter // nil: lines are written at once
	reloadGood atomic.Bool
}

// Sources are what the gauges read when they are collected. A nil one reports
// nothing.
type Sources struct {
	Admission func() admission.Snapshot
	// Breakers gives the breaker state of each backend's replicas, in order:
	// closed, half-open, open.
	Breakers func() map[string][]string
	// Memory gives the declared and the measured memory of each route.
	Memory func() []RouteMemory
}

// RouteMemory is what the requests of a route take on each GPU.
type RouteMemory struct {
	Route               string
	Declared, P95, Most admission.Bytes
}

// Start sets the providers up. Log lines go to logs, one Write each.
func Start(ctx context.Context, c Config, version string, logs io.Writer) (*Telemetry, error) {
	t := &Telemetry{clients: c.Client, models: c.Models}
	t.log, t.lines = newLog(c.Log, logs)
	t.bounds.Store(new(Bounds))
	t.History = timeline.New(timeline.Config{For: c.History.For, Bytes: int64(c.History.Memory)}, time.Now())
	if w, ok := logs.(*LogWriter); ok {
		t.logs = w
		w.whenLost(func(lines int64) {
			t.log.Warn("log lines were dropped because the log was not read in time", "lines", lines)
		})
	}
	t.reloadGood.Store(true)
	err := checkEnvironment()
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if t.propagator, t.w3c, err = propagator(); err != nil {
		return nil, err
	}
	for _, name := range t.propagator.Fields() {
		t.stale = append(t.stale, http.CanonicalHeaderKey(name))
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(), resource.WithProcessExecutableName(),
		resource.WithAttributes(semconv.ServiceName(c.ServiceName), semconv.ServiceVersion(version)),
		resource.WithFromEnv(), // last, so that OTEL_SERVICE_NAME wins
	)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	otel.SetErrorHandler(t.complain())
	to, err := spanSink(ctx, c.Traces, about, logs, t.log)
	if err != nil {
		return nil, fmt.Errorf("telemetry: traces: %w", err)
	}
	if to != nil {
		t.trace(c.Traces, to)
	}
	if err := t.measure(ctx, c, about); err != nil {
		return nil, fmt.Errorf("telemetry: metrics: %w", err)
	}
	return t, nil
}

// propagator is W3C's trace context or what OTEL_PROPAGATORS asks for. Baggage is left out:
// it is forwarded like any header and is not needed here, and errors of reading it would be
// logged with a client's text. The result says whether only W3C's propagator is used.
func propagator() (p propagation.TextMapPropagator, w3c bool, err error) {
	var names []string
	for name := range strings.SplitSeq(cmp.Or(os.Getenv("OTEL_PROPAGATORS"), "tracecontext"), ",") {
		if name = strings.TrimSpace(name); name != "" && name != "baggage" {
			names = append(names, name)
		}
	}
	if p, err = autoprop.TextMapPropagator(names...); err != nil {
		return nil, false, fmt.Errorf("telemetry: OTEL_PROPAGATORS: %w", err)
	}
	return p, slices.Equal(names, []string{"tracecontext"}), nil
}

// complain logs errors of OpenTelemetry's libraries once a minute, because a dead collector
// causes some every few seconds.
func (t *Telemetry) complain() otel.ErrorHandlerFunc {
	var next atomic.Int64
	return func(err error) {
		now := time.Now().Unix()
		if n := next.Load(); now >= n && next.CompareAndSwap(n, now+60) {
			t.log.Warn("telemetry is in trouble", "error", brief(err.Error()))
		}
	}
}

// disabled is OTEL_SDK_DISABLED, which the SDK for Go does not read.
func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

func asked(names ...string) bool {
	for _, n := range names {
		if os.Getenv(n) != "" {
			return true
		}
	}
	return false
}

// maxAttribute bounds the length of an attribute, in bytes, because clients choose some of
// them: a path may be as long as a header.
const maxAttribute = 2048

// trace sets the tracer up.
func (t *Telemetry) trace(c TracesConfig, to sink) {
	limits := sdktrace.NewSpanLimits() // with what OTEL_* says
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = maxAttribute
	}
	t.tracer = &tracer{sampler: samplerOf(c.Sample), limits: limits, out: newOutbox(to, &t.spansLost)}
}

// measure sets the meters up: for Prometheus to collect, and for OTLP where
// OTEL_METRICS_EXPORTER asks.
func (t *Telemetry) measure(ctx context.Context, c Config, about *resource.Resource) error {
	options := []sdkmetric.Option{sdkmetric.WithResource(about)}
	if c.Metrics.NativeHistograms {
		options = append(options, sdkmetric.WithView(sdkmetric.NewView(sdkmetric.Instrument{Kind: sdkmetric.InstrumentKindHistogram},
			sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}})))
	}
	if c.Metrics.Prometheus {
		registry := prometheus.NewRegistry()
		registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		reader, err := otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
		if err != nil {
			return err
		}
		options = append(options, sdkmetric.WithReader(reader))
		t.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true, Registry: registry})
	}
	reader, err := metricReader(ctx, t.log)
	if err != nil {
		return err
	}
	if reader != nil {
		options = append(options, sdkmetric.WithReader(reader))
	}
	t.meters = sdkmetric.NewMeterProvider(options...)
	return t.metrics.make(t, t.meters.Meter(scope))
}

// Observe sets what the gauges read; until then they report nothing.
func (t *Telemetry) Observe(s Sources) { t.sources.Store(&s) }

// Log is the process's logger.
func (t *Telemetry) Log() *slog.Logger { return t.log }

// MetricsHandler serves /metrics; nil where it is off.
func (t *Telemetry) MetricsHandler() http.Handler { return t.handler }

// Reloaded counts a reload of the configuration, and whether it was accepted.
func (t *Telemetry) Reloaded(ok bool) {
	t.reloadGood.Store(ok)
	t.metrics.reloaded(ok)
	t.History.AddDecision(timeline.Decision{At: time.Now(), Kind: timeline.Reload, Position: -1, Failed: !ok})
}

// Shutdown flushes and ends the providers, both at once, because each may wait
// for a dead collector until ctx ends.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	ended := make(chan error, 2)
	go func() { ended <- t.meters.Shutdown(ctx) }()
	go func() {
		if t.tracer == nil {
			ended <- nil
			return
		}
		ended <- t.tracer.out.shutdown(ctx)
	}()
	var errs error
	for range 2 {
		select {
		case err := <-ended:
			errs = errors.Join(errs, err)
		case <-ctx.Done():
			return errors.Join(errs, ctx.Err())
		}
	}
	return errs
}
