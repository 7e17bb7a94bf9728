package telemetry

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

// stuck is an exporter that does not come back, whatever its context says,
// until it is let through.
type stuck struct {
	release chan struct{}
	got     atomic.Int64
}

func (s *stuck) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	s.got.Add(int64(len(spans)))
	<-s.release
	return nil
}

func (*stuck) Shutdown(context.Context) error { return nil }

// In a synctest bubble a caller that waits for the exporter is a deadlock, and
// the test panics.
func TestAStuckExporterStopsNoRequest(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
	synctest.Test(t, func(t *testing.T) {
		telemetry := start(t, usual(), &logs{})
		exporter := &stuck{release: make(chan struct{})}
		telemetry.trace(TracesConfig{Sample: 1}, through(exporter))
		const requests, each, room = 1000, 3, 64
		for range requests {
			run(telemetry, generate())
		}
		if lost := telemetry.spansLost.Load(); lost != requests*each-room {
			t.Errorf("%d spans are counted as lost, want %d: all but the %d that fit", lost, requests*each-room, room)
		}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := telemetry.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("shutdown: %v, want the deadline's end", err)
		}
		if d := time.Since(began); d != 5*time.Second {
			t.Errorf("shutdown took %s, want the 5s that it had", d)
		}
		close(exporter.release)
		synctest.Wait()
		if got := exporter.got.Load(); got != room {
			t.Errorf("%d spans left in the end, want %d", got, room)
		}
	})
}

// Not even a part that does not look at its context keeps the process.
func TestShutdownEndsByItsDeadline(t *testing.T) {
	noOTEL(t)
	synctest.Test(t, func(t *testing.T) {
		telemetry := start(t, usual(), &logs{})
		deaf := deafSink{release: make(chan struct{})}
		telemetry.trace(TracesConfig{Sample: 1}, deaf)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := telemetry.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 5*time.Second {
			t.Errorf("shutdown: %v after %s, want the deadline's end after 5s", err, time.Since(began))
		}
		close(deaf.release)
	})
}

type deafSink struct{ release chan struct{} }

func (deafSink) add(*span)                        {}
func (deafSink) send(context.Context) error       { return nil }
func (d deafSink) shutdown(context.Context) error { <-d.release; return nil }

func TestEverySpanIsEitherExportedOrCountedAsLost(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
	telemetry := start(t, usual(), &logs{})
	exporter := &flaky{}
	telemetry.trace(TracesConfig{Sample: 1}, through(exporter))
	const callers, requests, each = 8, 200, 3
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			for range requests {
				run(telemetry, generate())
			}
		})
	}
	all.Wait()
	if err := telemetry.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	exported, lost := exporter.took.Load(), telemetry.spansLost.Load()
	if exported+lost != callers*requests*each || exported == 0 || lost == 0 {
		t.Errorf("%d spans exported and %d lost, want some of both and %d together", exported, lost, callers*requests*each)
	}
}

// flaky fails every other time.
type flaky struct{ calls, took atomic.Int64 }

func (f *flaky) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	if f.calls.Add(1)%2 == 0 {
		return errors.New("the collector has no room")
	}
	f.took.Add(int64(len(spans)))
	return nil
}

func (*flaky) Shutdown(context.Context) error { return nil }

// The outbox must not be full for ever once a collector is back.
func TestSpansLeaveAgainWhenTheCollectorIsBack(t *testing.T) {
	noOTEL(t)
	t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
	telemetry := start(t, usual(), &logs{})
	back := &returning{InMemoryExporter: tracetest.NewInMemoryExporter()}
	telemetry.trace(TracesConfig{Sample: 1}, through(back))
	back.away.Store(true)
	for range 3 {
		for range 2 {
			run(telemetry, generate())
		}
		telemetry.tracer.out.flush(t.Context()) // the error may have gone to the log
	}
	if lost := telemetry.spansLost.Load(); lost != 18 {
		t.Errorf("%d spans are counted as lost, want all 18", lost)
	}
	back.away.Store(false)
	run(telemetry, generate())
	if found := spans(t, telemetry, back.InMemoryExporter); len(found) != 3 {
		t.Errorf("%d spans left after the collector's return, want 3", len(found))
	}
}

type returning struct {
	*tracetest.InMemoryExporter
	away atomic.Bool
}

func (r *returning) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if r.away.Load() {
		return errors.New("away")
	}
	return r.InMemoryExporter.ExportSpans(ctx, spans)
}

// A collector's listener, and what it does with each connection.
var deadCollectors = map[string]func(t *testing.T, called chan<- struct{}) string{
	"refuses": func(t *testing.T, called chan<- struct{}) string {
		l := listen(t)
		l.Close()
		close(called) // nothing will tell
		return l.Addr().String()
	},
	"is a black hole": func(t *testing.T, called chan<- struct{}) string {
		return accept(t, called, func(net.Conn) {})
	},
	"resets": func(t *testing.T, called chan<- struct{}) string {
		return accept(t, called, func(c net.Conn) {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		})
	},
}

// accept closes called at the first connection.
func accept(t *testing.T, called chan<- struct{}, each func(net.Conn)) string {
	l := listen(t)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var once sync.Once
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			each(c)
			once.Do(func() { close(called) })
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

func TestADeadCollectorStopsNoRequest(t *testing.T) {
	for name, dead := range deadCollectors {
		for _, scheme := range []string{"http", "grpc"} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				noOTEL(t)
				t.Setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
				t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16")
				t.Setenv("OTEL_BSP_EXPORT_TIMEOUT", "20") // ms: what is left after the test ends soon
				telemetry := start(t, usual(), &logs{})
				called, drained := make(chan struct{}), make(chan struct{})
				config := TracesConfig{Exporter: "otlp", Endpoint: scheme + "://" + dead(t, called), Sample: 1}
				to, err := spanSink(t.Context(), config, resource.Empty(), nil, telemetry.log)
				if err != nil {
					t.Fatal(err)
				}
				telemetry.trace(config, &ending{to, drained})
				t.Cleanup(func() {
					telemetry.tracer.out.shutdown(context.Background()) // where the cancel came before the shutdown
					<-drained
				})
				const requests, each, room = 1000, 3, 64
				for range requests {
					run(telemetry, generate())
				}
				<-called
				lost := telemetry.spansLost.Load()
				if lost < requests*each-room || lost > requests*each {
					t.Errorf("%d spans are counted as lost, want %d but for the %d that may still be held", lost, requests*each, room)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ended := make(chan error)
				go func() { ended <- telemetry.Shutdown(ctx) }()
				cancel()
				if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("shutdown: %v, want its context's end", err)
				}
			})
		}
	}
}

// ending closes drained when the outbox needs its sink no more, which may be long
// after Shutdown has returned.
type ending struct {
	sink
	drained chan struct{}
}

func (e *ending) shutdown(ctx context.Context) error {
	defer close(e.drained)
	return e.sink.shutdown(ctx)
}

// What cannot be exported must not flood the log either.
func TestADeadCollectorIsSaidOnceAMinute(t *testing.T) {
	noOTEL(t)
	synctest.Test(t, func(t *testing.T) {
		out := &logs{}
		log, _ := newLog(usual().Log, out)
		complain := (&Telemetry{log: log}).complain()
		lines := func() int { return strings.Count(out.String(), "\n") }
		for range 59 {
			complain(errors.New("refused"))
			time.Sleep(time.Second)
		}
		if n := lines(); n != 1 {
			t.Errorf("%d lines in the first minute, want 1:\n%s", n, out)
		}
		time.Sleep(time.Second)
		complain(errors.New("refused"))
		if n := lines(); n != 2 {
			t.Errorf("%d lines after a minute, want 2:\n%s", n, out)
		}
	})
}
