package telemetry

import (
	"context"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// sink is where spans go: by OTLP as bytes that are made here, or through one of the
// SDK's exporters. One goroutine uses it.
type sink interface {
	// add takes a span. Its caller must not use it any more.
	add(*span)
	// send sends what was added since the last call, and forgets it.
	send(context.Context) error
	shutdown(context.Context) error
}

// outbox is a bounded queue of spans that have ended and are not sent yet. It counts the
// spans that are lost. put never blocks. A goroutine gives the spans to the sink in
// portions, and sends them when they make a batch or have waited for the delay. Sizes and
// times are those of the SDK's batch processor, with its variables OTEL_BSP_*.
type outbox struct {
	sink           sink
	batch          int
	delay, timeout time.Duration
	limit          int
	lost           *atomic.Int64

	mu      sync.Mutex
	waiting []*span // guarded by mu
	held    int     // guarded by mu; waiting, with the sink, or being sent

	wake    chan struct{}      // a portion waits
	flushes chan chan struct{} // each is closed when what waited has been sent
	stop    chan context.Context
	stopped sync.Once
	done    chan struct{}
	err     error // of the sink's end; set before done is closed
}

// portion is how many spans are encoded at a time: so few that the encoding does not delay
// a request.
const portion = 64

func newOutbox(s sink, lost *atomic.Int64) *outbox {
	o := &outbox{sink: s, lost: lost, limit: fromEnvironment("OTEL_BSP_MAX_QUEUE_SIZE", sdktrace.DefaultMaxQueueSize),
		batch:   fromEnvironment("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", sdktrace.DefaultMaxExportBatchSize),
		delay:   time.Duration(fromEnvironment("OTEL_BSP_SCHEDULE_DELAY", sdktrace.DefaultScheduleDelay)) * time.Millisecond,
		timeout: time.Duration(fromEnvironment("OTEL_BSP_EXPORT_TIMEOUT", sdktrace.DefaultExportTimeout)) * time.Millisecond,
		wake:    make(chan struct{}, 1), flushes: make(chan chan struct{}), stop: make(chan context.Context, 1), done: make(chan struct{})}
	if o.batch > o.limit {
		o.batch = min(sdktrace.DefaultMaxExportBatchSize, o.limit)
	}
	go o.run()
	return o
}

func fromEnvironment(name string, usual int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return usual
}

// put takes the span or counts it as lost; it never waits.
func (o *outbox) put(s *span) {
	o.mu.Lock()
	if o.held >= o.limit {
		o.mu.Unlock()
		o.lost.Add(1)
		recycle(s)
		return
	}
	o.held++
	o.waiting = append(o.waiting, s)
	enough := len(o.waiting) == min(portion, o.batch)
	o.mu.Unlock()
	if enough {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// run gives spans to the sink until the shutdown.
func (o *outbox) run() {
	defer close(o.done)
	timer := time.NewTimer(o.delay)
	defer timer.Stop()
	added := 0 // and not sent
	send := func() {
		if added > 0 {
			o.send(added)
			added = 0
		}
		timer.Reset(o.delay)
	}
	var spare []*span
	take := func() {
		o.mu.Lock()
		taken := o.waiting
		o.waiting = spare
		o.mu.Unlock()
		for _, s := range taken {
			o.sink.add(s)
			if added++; added == o.batch {
				send()
			}
		}
		clear(taken)
		spare = taken[:0]
	}
	for {
		select {
		case <-o.wake:
			take()
		case <-timer.C:
			take()
			send()
		case flushed := <-o.flushes:
			take()
			send()
			close(flushed)
		case ctx := <-o.stop:
			take()
			send()
			o.err = o.sink.shutdown(ctx)
			return
		}
	}
}

// send sends n spans that were added, or counts them as lost.
func (o *outbox) send(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), o.timeout)
	defer cancel()
	if err := o.sink.send(ctx); err != nil {
		o.lost.Add(int64(n))
		otel.Handle(err)
	}
	o.mu.Lock()
	o.held -= n
	o.mu.Unlock()
}

// flush waits until what was put in before has been sent or lost.
func (o *outbox) flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case o.flushes <- flushed:
	case <-o.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-flushed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// shutdown sends the spans that are held and ends the sink, also after ctx has ended. It
// waits for that until ctx ends. A second call returns at once.
func (o *outbox) shutdown(ctx context.Context) (err error) {
	o.stopped.Do(func() {
		o.stop <- ctx
		select {
		case <-o.done:
			err = o.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	})
	return err
}
