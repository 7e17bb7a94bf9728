package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Kind is a sort of model server: what it takes, for how long, and how it
// behaves. Its routes are all that differs beside these figures.
type Kind struct {
	Name  string
	Model string // as /v1/models lists it
	// Weights are held from their loading on, which takes Load. Zero: the
	// weights come and go with each run and are part of PerRun.
	Weights admission.Bytes
	Load    time.Duration
	// PerRun is what one run takes beside the weights.
	PerRun admission.Bytes
	// ReturnsMemory gives PerRun back to the card when a run ends. False: it
	// stays in the engine's allocator for the next run.
	ReturnsMemory bool
	// Shortest and Longest bound a run's time, which is drawn evenly.
	Shortest, Longest time.Duration
	// Concurrency is how many runs there are at once; others wait inside the
	// engine. Zero: no bound.
	Concurrency int
	// Aborts stops a run when its caller leaves. False: it goes on.
	Aborts bool
	// Routes adds the kind's own routes. /health and /v1/models every engine has.
	Routes func(*Engine, *http.ServeMux)
}

// Kinds are the engines that can be asked for by name.
func Kinds() []Kind { return []Kind{Flux(), VQA()} }

// Flux is an image server: 34 GiB at work, one image at a time, deaf to callers
// that leave.
func Flux() Kind {
	return Kind{
		Name: "flux", Model: "flux",
		Weights: 22 * admission.GiB, Load: 8 * time.Second,
		PerRun: 12 * admission.GiB, Concurrency: 1,
		Shortest: 17 * time.Second, Longest: 20 * time.Second,
		Routes: imageRoutes,
	}
}

// VQA is a small server that answers questions about images.
func VQA() Kind {
	return Kind{
		Name: "vqa", Model: "vqa",
		Weights: 512 * admission.MiB, Load: 2 * time.Second,
		PerRun:   480 * admission.MiB,
		Shortest: time.Second, Longest: 2 * time.Second,
		Aborts: true, Routes: questionRoutes,
	}
}

// Engine is one simulated model server. It is an http.Handler.
type Engine struct {
	kind    Kind
	card    *Card
	options Options
	routes  http.ServeMux
	life    context.Context // ends with Close
	end     context.CancelFunc
	places  chan struct{} // nil: no bound
	runs    sync.WaitGroup
	refused atomic.Int64
	ready   atomic.Bool

	loading chan struct{} // held while loading; a channel, so that waiting for it can end

	mu     sync.Mutex
	random *rand.Rand      // guarded by mu
	loaded admission.Bytes // guarded by mu; of the weights
	cached admission.Bytes // guarded by mu; kept by the allocator, in no run
	closed bool            // guarded by mu
}

// Options are what an engine is run with.
type Options struct {
	Speed float64 // times faster than the simulated box; 0: 1
	Seed  uint64  // of the run times
	// Sleep waits for a real time or until ctx ends, and then returns its error.
	// Nil: a timer.
	Sleep func(ctx context.Context, d time.Duration) error
}

// NewEngine makes an engine on a card. It loads its weights with Load, or else
// for its first request. The caller ends it by Close.
func NewEngine(kind Kind, card *Card, o Options) *Engine {
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	e := &Engine{kind: kind, card: card, options: o, loading: make(chan struct{}, 1), random: rand.New(rand.NewPCG(o.Seed, 0))}
	e.life, e.end = context.WithCancel(context.Background())
	if kind.Concurrency > 0 {
		e.places = make(chan struct{}, kind.Concurrency)
	}
	e.ready.Store(kind.Weights == 0)
	e.routes.HandleFunc("GET /health", e.health)
	e.routes.HandleFunc("GET /v1/models", e.models)
	if kind.Routes != nil {
		kind.Routes(e, &e.routes)
	}
	return e
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ServeHTTP answers the kind's routes.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.routes.ServeHTTP(w, r) }

// OutOfMemory is how many requests ended for want of memory, whether or not
// their callers saw the answer.
func (e *Engine) OutOfMemory() int { return int(e.refused.Load()) }

// Close ends the runs that are going on and gives all memory back. Nothing may
// be asked of the engine any more.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.end()
	e.runs.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	held := e.loaded + e.cached
	e.loaded, e.cached = 0, 0
	return e.card.Free(held)
}

var errClosed = errors.New("the engine has ended")

// begin counts a run or a load, which Close waits for. After a nil error the
// caller calls runs.Done.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	e.runs.Add(1)
	return nil
}

// loadSteps is how many pieces weights come in: a card fills up while they load.
const loadSteps = 8

// Load brings the weights onto the card, where they stay. It returns at once if
// they are there, and an *OutOfMemory, with nothing taken, where they do not fit.
func (e *Engine) Load(ctx context.Context) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.runs.Done()
	return e.load(ctx)
}

func (e *Engine) load(ctx context.Context) error {
	if e.ready.Load() {
		return nil
	}
	select {
	case e.loading <- struct{}{}:
		defer func() { <-e.loading }()
	case <-ctx.Done():
		return ctx.Err()
	case <-e.life.Done():
		return errClosed
	}
	if e.ready.Load() {
		return nil
	}
	// From here on it goes on without its caller: a model that is half loaded is
	// of no use to the next one.
	var taken admission.Bytes
	for step := range admission.Bytes(loadSteps) {
		piece := e.kind.Weights*(step+1)/loadSteps - taken
		err := e.card.Alloc(piece)
		if err == nil {
			taken += piece
			err = e.options.Sleep(e.life, e.real(e.kind.Load)/loadSteps)
		}
		if err != nil {
			return errors.Join(err, e.card.Free(taken))
		}
	}
	e.mu.Lock()
	e.loaded = taken
	e.mu.Unlock()
	e.ready.Store(true)
	return nil
}

func (e *Engine) real(d time.Duration) time.Duration {
	return time.Duration(float64(d) / e.options.Speed)
}

// executeHeader says, in an answer, how long the run took, in seconds of the
// simulated box, without any waiting inside the engine. In a request it says how
// long the run shall take, so that one load can be played again.
const executeHeader = "X-Execute-Seconds"

// maxRun bounds what a request may ask for.
const maxRun = time.Hour

// length is how long the run for a request shall take.
func (e *Engine) length(r *http.Request) (time.Duration, error) {
	text := r.Header.Get(executeHeader)
	if text == "" {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.kind.Shortest + time.Duration(e.random.Int64N(int64(e.kind.Longest-e.kind.Shortest)+1)), nil
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0 && seconds <= maxRun.Seconds()) {
		return 0, fmt.Errorf("%s %q: want seconds from 0 to %.0f", executeHeader, text, maxRun.Seconds())
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// run does one piece of work of that length in equal steps and calls step after
// each; nil: nobody is to be told. It waits for the weights, for a place and for
// time, and returns how long the work itself took. Its error is an *OutOfMemory
// where the card is full, else that of ctx, of step, or errClosed.
func (e *Engine) run(ctx context.Context, length time.Duration, steps int, step func(int) error) (took time.Duration, err error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.runs.Done()
	ctx, cancel := e.until(ctx)
	defer cancel()
	defer func() {
		if full := (*OutOfMemory)(nil); errors.As(err, &full) {
			e.refused.Add(1)
		}
	}()
	if e.places != nil {
		select {
		case e.places <- struct{}{}:
			defer func() { <-e.places }()
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	if err := e.load(ctx); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := e.take(); err != nil {
		return 0, err
	}
	for i := range steps {
		// Towards a fixed end, so that late timers do not add up.
		due := start.Add(e.real(length) * time.Duration(i+1) / time.Duration(steps))
		if err = e.options.Sleep(ctx, time.Until(due)); err != nil {
			err = context.Cause(ctx)
			break
		}
		if step == nil {
			continue
		}
		if err = step(i); err != nil {
			break
		}
	}
	took = time.Duration(float64(time.Since(start)) * e.options.Speed)
	return took, errors.Join(err, e.give())
}

// until is ctx that ends with the engine, and goes on without the caller where
// the kind does.
func (e *Engine) until(ctx context.Context) (context.Context, context.CancelFunc) {
	if !e.kind.Aborts {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(errClosed) })
	return ctx, func() { stop(); cancel(nil) }
}

// take gets a run's memory: first what the allocator has kept.
func (e *Engine) take() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := min(e.cached, e.kind.PerRun)
	if err := e.card.Alloc(e.kind.PerRun - kept); err != nil {
		return err
	}
	e.cached -= kept
	return nil
}

// give puts a run's memory back.
func (e *Engine) give() error {
	if e.kind.ReturnsMemory {
		return e.card.Free(e.kind.PerRun)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cached += e.kind.PerRun
	return nil
}
