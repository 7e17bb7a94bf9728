package simulation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Engine is one simulated model server. It is an http.Handler.
type Engine struct {
	kind    Kind
	card    *Card
	options Options
	clock   Clock // of options
	traps   map[string]bool
	models  []*model
	routes  Routes
	life    context.Context // ends with Close
	end     context.CancelCauseFunc
	swap    chan struct{} // held while one model makes way for another
	runs    sync.WaitGroup
	refused atomic.Int64
	up      atomic.Bool // it has come up: the first weights are, or were, there
	dead    atomic.Bool // as a process that has crashed

	mu     sync.Mutex
	random *rand.Rand // guarded by mu
	closed bool       // guarded by mu
	broken error      // guarded by mu; of what was done in the background
}

// Options are what an engine is run with.
type Options struct {
	Speed float64 // times faster than the simulated box; 0: 1
	Seed  uint64  // of the run times
	// Traps are switched on; the kind must have them.
	Traps []string
	// Exit ends the process when a trap says that it dies. Nil: connections are
	// cut and the memory goes back, as if it had ended.
	Exit func()
	// Contention says that the engines on its card share the processor by time slices,
	// each as one process: see Speed. Run times are then those that a run has alone.
	Contention bool
	// Clock is what its runs take time by. Nil: the wall clock.
	Clock Clock
}

// NewEngine makes an engine on a card. It loads its weights with Load, or else
// for its first request. The caller ends it by Close. It panics where the kind
// has no trap of a name.
func NewEngine(kind Kind, card *Card, o Options) *Engine {
	if err := kind.CheckTraps(o.Traps); err != nil {
		panic("simulation: " + err.Error())
	}
	if o.Speed == 0 {
		o.Speed = 1
	}
	if o.Clock == nil {
		o.Clock = WallClock{}
	}
	e := &Engine{
		kind: kind, card: card, options: o, clock: o.Clock, traps: make(map[string]bool),
		swap: make(chan struct{}, 1), random: rand.New(rand.NewPCG(o.Seed, 0)),
	}
	for _, t := range o.Traps {
		// Those that it has of itself are in its figures and routes already.
		e.traps[t] = slices.Contains(kind.Traps, t)
	}
	e.life, e.end = context.WithCancelCause(context.Background())
	for _, about := range kind.models() {
		m := &model{Model: about, loading: make(chan struct{}, 1), takes: about.Load}
		m.life, m.cut = context.WithCancelCause(e.life)
		m.ready.Store(m.Weights == 0)
		if kind.Concurrency > 0 {
			m.places = make(chan struct{}, kind.Concurrency)
		}
		if kind.Explicit && len(e.models) > 0 {
			m.asleep = make(chan struct{})
		}
		e.models = append(e.models, m)
	}
	e.up.Store(kind.Weights == 0 || kind.Lazy)
	kind.Routes(e, &e.routes)
	return e
}

// ServeHTTP answers the kind's routes.
func (e *Engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !e.dead.Load() {
		e.routes.mux.ServeHTTP(w, r)
	}
	if e.dead.Load() {
		panic(http.ErrAbortHandler)
	}
}

// OutOfMemory is how many requests ended for want of memory, whether or not
// their callers saw the answer.
func (e *Engine) OutOfMemory() int { return int(e.refused.Load()) }

// Close ends the runs that are going on and gives all memory back. Nothing may
// be asked of the engine any more.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.end(errClosed)
	e.runs.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	var held admission.Bytes
	for _, m := range e.models {
		held += m.loaded + m.cached + m.left
		m.loaded, m.cached, m.left = 0, 0, 0
	}
	return errors.Join(e.broken, e.card.Free(held))
}

// note keeps an error of the background for Close, unless it is that very end.
func (e *Engine) note(err error) {
	if err == nil || errors.Is(err, errClosed) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.broken = errors.Join(e.broken, err)
}

// begin counts what Close waits for. After a nil error the caller calls
// runs.Done.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	e.runs.Add(1)
	return nil
}

// Load brings the first model's weights onto the card, where they stay. It
// returns at once if they are there or if the kind is Lazy, and an *OutOfMemory,
// with nothing taken, where they do not fit.
func (e *Engine) Load(ctx context.Context) error {
	if e.kind.Lazy {
		return nil
	}
	return e.bring(ctx, e.models[0])
}

// count notes an *OutOfMemory, and returns the error.
func (e *Engine) count(err error) error {
	if full := (*OutOfMemory)(nil); errors.As(err, &full) {
		e.refused.Add(1)
	}
	return err
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
	return time.Duration(math.Round(seconds * float64(time.Second))), nil
}

// after does work that goes on when its request has been answered. It ends with
// the engine, whose Close waits for it.
func (e *Engine) after(do func()) error {
	if err := e.begin(); err != nil {
		return err
	}
	e.clock.Go(func() {
		defer e.runs.Done()
		do()
	})
	return nil
}

// aborts says whether a run ends when its caller leaves.
func (e *Engine) aborts() bool { return e.kind.Aborts && !e.traps[ignoresCallers] }

// caller is the context of a run for r.
func (e *Engine) caller(r *http.Request) context.Context {
	if e.aborts() {
		return r.Context()
	}
	return context.WithoutCancel(r.Context())
}

// run does one piece of work on m, of that length, in equal steps and calls step
// after each; nil: nothing is to be told. It waits for the weights, for a place
// and for time, and returns how long the work itself took. Its error is an
// *OutOfMemory where the card is full, else that of ctx, of step, errAsleep,
// errCut or errClosed.
func (e *Engine) run(ctx context.Context, m *model, length time.Duration, steps int, step func(int) error) (took time.Duration, err error) {
	if err := e.begin(); err != nil {
		return 0, err
	}
	defer e.runs.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(errClosed) })()
	defer func() { e.count(err) }()
	// A request that meets a sleeper takes no place.
	if err := e.meet(ctx, m); err != nil {
		return 0, err
	}
	if m.places != nil {
		if e.clock.Take(ctx, m.places) != nil {
			return 0, context.Cause(ctx)
		}
		defer func() { <-m.places }()
	}
	life, err := e.enter(ctx, m)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.leave(m)) }()
	defer context.AfterFunc(life, func() { cancel(context.Cause(life)) })()
	start := e.clock.Now()
	if err := e.take(m); err != nil {
		return 0, err
	}
	e.card.enter(e, 1)
	defer e.card.enter(e, -1)
	for i := range steps {
		if e.options.Contention {
			err = e.card.work(ctx, e, e.kind.Parallel, e.real(length)/time.Duration(steps))
		} else {
			// Towards a fixed end, so that late timers do not add up.
			due := start.Add(e.real(length) * time.Duration(i+1) / time.Duration(steps))
			err = e.clock.Sleep(ctx, due.Sub(e.clock.Now()))
		}
		if err != nil {
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
	took = time.Duration(float64(e.clock.Now().Sub(start)) * e.options.Speed)
	return took, errors.Join(err, e.give(m))
}

// model is the one of that name. Nil: there is none. Every name is the first's
// where there is one model.
func (e *Engine) model(name string) *model {
	if len(e.models) == 1 || name == "" {
		return e.models[0]
	}
	for _, m := range e.models {
		if m.Name == name || m.Name == name+":latest" {
			return m
		}
	}
	return nil
}
