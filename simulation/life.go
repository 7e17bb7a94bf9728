package simulation

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// model is one of an engine's models, and what it holds of the card.
type model struct {
	Model
	ready   atomic.Bool   // the weights are there; goes to false under the engine's mu while no run is on it
	loading chan struct{} // held while loading; a channel, so that waiting for it can end
	places  chan struct{} // nil: no bound

	// All below are guarded by the engine's mu.
	loaded admission.Bytes // of the weights
	cached admission.Bytes // kept by the allocator, in no run
	left   admission.Bytes // stayed behind when it was unloaded
	atWork admission.Bytes // of the runs
	takes  time.Duration   // how long the next load takes
	runs   int             // that may use the weights, or wait for them
	begun  int             // how many runs there ever were
	asleep chan struct{}   // closed when it wakes; nil: it is awake
	wanted chan struct{}   // closed when it has been unloaded, after its runs; nil: nobody asked
	life   context.Context
	cut    context.CancelCauseFunc // ends life, and with it the runs
	until  time.Time               // it is unloaded then, if nobody asks for it; of Ollama's
	forget context.CancelFunc      // ends the wait for that; may be nil
}

var (
	errClosed = errors.New("the engine has ended")
	errAsleep = errors.New("the engine is asleep")
	errCut    = errors.New("the request was aborted")
)

// loadSteps is how many pieces weights come in: a card fills up while they load.
const loadSteps = 8

// load brings a model's weights onto the card.
func (e *Engine) load(ctx context.Context, m *model) error {
	if m.ready.Load() {
		return nil
	}
	if err := e.await(ctx, func(ctx context.Context) error { return e.clock.Take(ctx, m.loading) }); err != nil {
		return err
	}
	defer func() { <-m.loading }()
	if m.ready.Load() {
		return nil
	}
	e.mu.Lock()
	left, takes := m.left, m.takes
	m.left = 0
	e.mu.Unlock()
	// From here on it goes on without its caller: a model that is half loaded is
	// of no use to the next one.
	taken := left
	for step := range admission.Bytes(loadSteps) {
		piece := max(0, m.Weights*(step+1)/loadSteps-taken)
		err := e.card.Alloc(piece)
		if err == nil {
			taken += piece
			err = e.clock.Sleep(e.life, e.real(takes)/loadSteps)
		}
		if err != nil {
			e.mu.Lock()
			defer e.mu.Unlock()
			m.left += left
			return errors.Join(e.mine(err), e.card.Free(taken-left))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	m.loaded = m.Weights
	m.cached += taken - m.Weights
	m.ready.Store(true)
	e.up.Store(true)
	return nil
}

// enter waits until a run on m may begin, with its weights on the card. After a
// nil error the caller calls leave; the run must end when the context that it
// returns does.
func (e *Engine) enter(ctx context.Context, m *model) (context.Context, error) {
	done, err := e.clear(ctx, m)
	if err != nil {
		return nil, err
	}
	defer done()
	life, err := e.join(ctx, m)
	if err != nil {
		return nil, err
	}
	// Whoever is in keeps the weights from being unloaded: they stay loaded.
	if err := e.load(ctx, m); err != nil {
		return nil, errors.Join(err, e.leave(m))
	}
	return life, nil
}

// clear unloads the other models where only one may be there. Until done is
// called no other takes m's place.
func (e *Engine) clear(ctx context.Context, m *model) (done func(), err error) {
	if !e.kind.Single && !e.traps[oneAtATime] {
		return func() {}, nil
	}
	if e.clock.Take(ctx, e.swap) != nil {
		return nil, context.Cause(ctx)
	}
	for _, other := range e.models {
		if other == m {
			continue
		}
		if err := e.free(ctx, other, true); err != nil {
			<-e.swap
			return nil, err
		}
	}
	return func() { <-e.swap }, nil
}

// join counts a run on m as soon as it is awake.
func (e *Engine) join(ctx context.Context, m *model) (context.Context, error) {
	for {
		if err := e.meet(ctx, m); err != nil {
			return nil, err
		}
		e.mu.Lock()
		if m.asleep == nil {
			m.runs++
			m.begun++
			defer e.mu.Unlock()
			return m.life, nil
		}
		e.mu.Unlock()
	}
}

// leave ends a run.
func (e *Engine) leave(m *model) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.runs--
	if m.runs > 0 || m.wanted == nil {
		return nil
	}
	close(m.wanted)
	m.wanted = nil
	return e.release(m)
}

// bring loads m for nobody's run.
func (e *Engine) bring(ctx context.Context, m *model) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.runs.Done()
	done, err := e.clear(ctx, m)
	if err != nil {
		return err
	}
	defer done()
	e.mu.Lock()
	m.runs++
	e.mu.Unlock()
	return e.count(errors.Join(e.load(ctx, m), e.leave(m)))
}

// mine makes an error of a full card name what this engine holds as its process's, though
// others use the same Card. The caller holds mu.
func (e *Engine) mine(err error) error {
	full, ok := errors.AsType[*OutOfMemory](err)
	if !ok {
		return err
	}
	own := *full
	own.Held = 0
	for _, m := range e.models {
		own.Held += m.loaded + m.cached + m.left + m.atWork
	}
	return &own
}

// take gets a run's memory: first what the allocator has kept.
func (e *Engine) take(m *model) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	own := min(m.cached, m.PerRun)
	if err := e.card.Alloc(m.PerRun - own); err != nil {
		return e.mine(err)
	}
	m.cached -= own
	m.atWork += m.PerRun
	return nil
}

// give puts a run's memory back.
func (e *Engine) give(m *model) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.atWork -= m.PerRun
	if e.kind.ReturnsMemory {
		return e.card.Free(m.PerRun)
	}
	m.cached += m.PerRun
	return nil
}

// free unloads what m holds, when no run is on it. Where that is not now, it
// returns when it has happened, or at once if wait is false.
func (e *Engine) free(ctx context.Context, m *model, wait bool) error {
	if err := e.begin(); err != nil {
		return err
	}
	defer e.runs.Done()
	e.mu.Lock()
	if m.runs == 0 && !e.traps[afterCurrent] {
		defer e.mu.Unlock()
		return e.release(m)
	}
	if m.wanted == nil {
		m.wanted = make(chan struct{})
	}
	wanted := m.wanted
	e.mu.Unlock()
	if !wait {
		return nil
	}
	return e.await(ctx, func(ctx context.Context) error { return e.clock.Wait(ctx, wanted) })
}

// await is a wait that also ends with the engine, by errClosed.
func (e *Engine) await(ctx context.Context, wait func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(e.life, func() { cancel(errClosed) })()
	if wait(ctx) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// release gives back what m holds, as far as the traps let it. The caller holds
// mu, has begun, and no run is on m.
func (e *Engine) release(m *model) error {
	held := m.loaded + m.cached + m.left
	if held == 0 {
		return nil
	}
	m.ready.Store(m.Weights == 0)
	m.loaded, m.cached, m.left = 0, 0, 0
	m.takes = e.again(e.kind.Wake, m)
	switch {
	case e.traps[keepsMemory]:
		m.left = held
	case e.traps[residue]:
		m.left = min(held, residueLeft)
	}
	back := held - m.left
	if !e.traps[freesLate] || back == 0 {
		return e.card.Free(back)
	}
	e.runs.Add(1)
	e.clock.Go(func() {
		defer e.runs.Done()
		// Its end means that the engine has ended, and then it is time as well.
		_ = e.clock.Sleep(e.life, e.real(lateBy))
		e.note(e.card.Free(back))
	})
	return nil
}

// again is how long weights take that were there before; zero: as long as the
// first time.
func (e *Engine) again(d time.Duration, m *model) time.Duration {
	if d == 0 {
		d = m.Load
	}
	if e.traps[slowWake] {
		d *= slowBy
	}
	return d
}

// trim gives back what the allocator keeps, if no run is on m.
func (e *Engine) trim(m *model) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.runs > 0 || e.traps[keepsMemory] {
		return nil
	}
	n := m.cached
	m.cached = 0
	return e.card.Free(n)
}

// abort ends the runs on m.
func (e *Engine) abort(m *model) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m.cut(errCut)
	m.life, m.cut = context.WithCancelCause(e.life)
}

// suspend lets no further run begin on m and frees its memory, as free does.
// Deep forgets the weights too.
func (e *Engine) suspend(ctx context.Context, m *model, deep, wait bool) error {
	e.mu.Lock()
	if m.asleep == nil {
		m.asleep = make(chan struct{})
	}
	e.mu.Unlock()
	if err := e.free(ctx, m, wait); err != nil || !deep {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	m.takes = e.again(m.Load, m)
	return nil
}

// wake brings m back and lets runs begin. It stays asleep after an error. A
// sleep that still waits for runs to end is over, and nothing was unloaded.
func (e *Engine) wake(ctx context.Context, m *model) error {
	e.mu.Lock()
	if m.wanted != nil {
		close(m.wanted)
		m.wanted = nil
	}
	e.mu.Unlock()
	if err := e.bring(ctx, m); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if m.asleep != nil {
		close(m.asleep)
		m.asleep = nil
	}
	return nil
}

// sleeping says whether m is asleep.
func (e *Engine) sleeping(m *model) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.asleep != nil
}

// state is one of three words for where m's weights are.
func (e *Engine) state(m *model, loaded, loading, unloaded string) string {
	switch {
	case m.ready.Load():
		return loaded
	case len(m.loading) > 0:
		return loading
	default:
		return unloaded
	}
}

// busy says whether runs are on m.
func (e *Engine) busy(m *model) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.runs > 0
}

// holding is what m has of the card, and how much of it lies in the allocator
// for nobody.
func (e *Engine) holding(m *model) (all, idle admission.Bytes) {
	e.mu.Lock()
	defer e.mu.Unlock()
	idle = m.cached + m.left
	return m.loaded + m.atWork + idle, idle
}

// meet is what a request finds: nil where m is awake.
func (e *Engine) meet(ctx context.Context, m *model) error {
	e.mu.Lock()
	asleep := m.asleep
	e.mu.Unlock()
	switch {
	case asleep == nil:
		return nil
	case e.traps[diesAsleep]:
		e.die()
		return errClosed
	case !e.traps[hangsAsleep]:
		return errAsleep
	}
	return e.await(ctx, func(ctx context.Context) error { return e.clock.Wait(ctx, asleep) })
}

// die is the sudden end of the process. Where there is none to end, connections
// are cut, all memory goes back, and nothing is answered any more.
func (e *Engine) die() {
	e.dead.Store(true)
	if e.options.Exit != nil {
		e.options.Exit()
	}
	// Close waits for the runs, of which the caller may be one. It ends with them.
	go func() { e.note(e.Close()) }()
}
