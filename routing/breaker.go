package routing

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// ErrBreakerOpen says that the backend was not asked, because it failed too
// often a moment ago.
var ErrBreakerOpen = errors.New("routing: the backend's breaker is open")

// errOverload is an answer that says "later": it is no fault of the backend.
var errOverload = errors.New("routing: the backend is overloaded")

// breaker is a circuit breaker that tells when it changes. It wraps gobreaker,
// which becomes half-open lazily, at the first question after its timeout: a
// timer asks, so that waiting requests are woken.
type breaker struct {
	two  *gobreaker.TwoStepCircuitBreaker[struct{}]
	open time.Duration

	mu      sync.Mutex
	state   gobreaker.State // as last told by gobreaker; guarded by mu
	until   time.Time       // when it stops being open; guarded by mu
	timer   *time.Timer     // guarded by mu
	closed  bool            // nobody wants to know more; guarded by mu
	changed func()          // called with no lock held
	pending bool            // guarded by mu
}

func newBreaker(name string, c BreakerConfig, changed func()) *breaker {
	b := &breaker{open: c.Open, changed: changed}
	b.two = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        name,
		MaxRequests: 1,
		Timeout:     c.Open,
		ReadyToTrip: func(n gobreaker.Counts) bool { return n.ConsecutiveFailures >= uint32(c.Failures) },
		IsExcluded: func(err error) bool {
			return errors.Is(err, context.Canceled) || errors.Is(err, errOverload) || errors.Is(err, ErrMemory) || errors.Is(err, ErrUpload)
		},
		OnStateChange: b.onChange,
	})
	return b
}

// onChange runs under gobreaker's own lock, so it may neither ask gobreaker
// nor tell anybody: it takes note, and tell does the rest.
func (b *breaker) onChange(_ string, _, to gobreaker.State) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state, b.pending = to, true
	if to != gobreaker.StateOpen {
		return
	}
	b.until = time.Now().Add(b.open)
	if b.closed {
		return
	}
	// gobreaker opens up strictly after its timeout.
	wait := b.open + time.Millisecond
	if b.timer == nil {
		b.timer = time.AfterFunc(wait, func() {
			b.two.State()
			b.tell()
		})
	} else {
		b.timer.Reset(wait)
	}
}

// tell passes a change on. It is called after everything that may have made
// one, with no lock held.
func (b *breaker) tell() {
	b.mu.Lock()
	pending := b.pending && !b.closed
	b.pending = false
	b.mu.Unlock()
	if pending {
		b.changed()
	}
}

// allow asks for the right to one request. done must be called exactly once.
func (b *breaker) allow() (done func(error), err error) {
	finish, err := b.two.Allow()
	b.tell()
	if err != nil {
		return nil, ErrBreakerOpen
	}
	return func(err error) {
		finish(err)
		b.tell()
	}, nil
}

// look gives the state and how long it stays open, without asking for
// anything.
func (b *breaker) look() (gobreaker.State, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != gobreaker.StateOpen {
		return b.state, 0
	}
	return b.state, max(0, time.Until(b.until))
}

func (b *breaker) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.timer != nil {
		b.timer.Stop()
	}
}
