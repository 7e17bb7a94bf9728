package routing

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

// ErrBreakerOpen says that the backend was not asked, because it failed a moment
// ago.
var ErrBreakerOpen = errors.New("routing: the backend's breaker is open")

// errOverload is an answer that says "later": it is no fault of the backend.
var errOverload = errors.New("routing: the backend is overloaded")

// The states of a breaker.
const (
	stateClosed   = "closed"
	stateHalfOpen = "half-open"
	stateOpen     = "open"
)

const (
	// probeEvery is how often an open breaker's backend is probed.
	probeEvery = time.Second
	// mostOutcomes bounds what is remembered of a window.
	mostOutcomes = 4096
)

// breaker is a backend's circuit breaker, which tells when it changes.
//
//   - A connection that is refused says that no server is there, and opens it. Of
//     others that are not made (too late, no name, no route) `failures` in a row do,
//     and one does if a probe fails too.
//   - An error of 5xx and an answer that does not come in time may be one client's
//     doing. They open it where they are `ratio` of `minimum` or more in a
//     `window`, come from more than one client, and a probe fails too. A broken
//     connection counts among them, and has the backend probed at once.
//   - A caller that leaves, an overload, an error for want of memory, and what the
//     proxy itself lacks say nothing of the backend.
//   - While it is open the backend is probed each second, and the first answer
//     closes it. After `open` it is half-open: one request at a time is let through,
//     for a probe may be wrong.
//
// It is not gobreaker's: that knows one count, cannot be closed from outside, and
// turns half-open when it is asked and not when it is time.
type breaker struct {
	BreakerConfig
	probe   func(ctx context.Context) error
	changed func() // called with no lock held; not after close

	mu       sync.Mutex
	state    string      // guarded by mu
	until    time.Time   // when it stops being open; guarded by mu
	turn     int         // counts changes of the state; guarded by mu
	trying   bool        // half-open: a request is under way; guarded by mu
	inARow   int         // connections that were not made; guarded by mu
	window   []outcome   // guarded by mu
	asking   bool        // a probe decides whether it opens; guarded by mu
	running  int         // requests under way; guarded by mu
	timer    *time.Timer // of the change to half-open; guarded by mu
	life     context.Context
	end      context.CancelFunc
	watching bool // guarded by mu
}

// outcome is one request that says something of the backend.
type outcome struct {
	at     time.Time
	failed bool
	client string
}

func newBreaker(c BreakerConfig, probe func(context.Context) error, changed func()) *breaker {
	c.Ratio, c.Minimum, c.Window = cmp.Or(c.Ratio, 0.5), cmp.Or(c.Minimum, 20), cmp.Or(c.Window, 30*time.Second)
	b := &breaker{BreakerConfig: c, probe: probe, changed: changed, state: stateClosed}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// allow asks for the right to one request of a client. done must be called
// exactly once.
func (b *breaker) allow(client string) (done func(error), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.state == stateOpen, b.state == stateHalfOpen && b.trying:
		return nil, ErrBreakerOpen
	case b.state == stateHalfOpen:
		b.trying = true
	}
	b.running++
	turn := b.turn
	return func(err error) { b.count(turn, client, err) }, nil
}

// count takes note of how a request ended.
func (b *breaker) count(turn int, client string, err error) {
	b.mu.Lock()
	b.running--
	// What began before the last change says nothing of what is now.
	if turn == b.turn {
		b.judge(client, err)
	}
	changed := turn != b.turn
	b.mu.Unlock()
	if changed {
		b.tell()
	}
}

// judge is called with mu held.
func (b *breaker) judge(client string, err error) {
	now := time.Now()
	if b.state == stateHalfOpen {
		b.trying = false
		switch {
		case err == nil:
			b.set(stateClosed, now)
		case !saysNothing(err):
			b.set(stateOpen, now)
		}
		return
	}
	switch {
	case saysNothing(err):
	case errors.Is(err, ErrUnreachable):
		if b.inARow++; b.inARow >= b.Failures || errors.Is(err, ErrRefused) {
			b.set(stateOpen, now)
		} else {
			b.askWhether()
		}
	default:
		b.inARow = 0
		b.remember(outcome{now, err != nil, client})
		// A connection that broke may be the end of the process.
		if errors.Is(err, ErrProtocol) || err != nil && b.manyFail(now) {
			b.askWhether()
		}
	}
}

// saysNothing says that how a request ended is neither failure nor success.
func saysNothing(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, errOverload) || errors.Is(err, ErrMemory) || errors.Is(err, ErrUpload) || errors.Is(err, ErrShort) || ownFault(err)
}

// ownFault says that the proxy lacks what a connection takes.
func ownFault(err error) bool {
	for _, lack := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

func (b *breaker) remember(o outcome) {
	first := 0
	for first < len(b.window) && o.at.Sub(b.window[first].at) > b.Window {
		first++
	}
	if len(b.window)-first >= mostOutcomes {
		first++
	}
	b.window = append(b.window[first:], o)
}

// manyFail says that so many requests of the window failed that the backend may
// be at fault. The caller holds mu.
func (b *breaker) manyFail(now time.Time) bool {
	failed, total, several, client := 0, 0, false, ""
	for _, o := range b.window {
		if now.Sub(o.at) > b.Window {
			continue
		}
		total++
		if o.failed {
			if failed++; failed == 1 {
				client = o.client
			}
			several = several || o.client != client
		}
	}
	return several && total >= b.Minimum && float64(failed) >= b.Ratio*float64(total)
}

// askWhether opens the breaker if a probe fails. The caller holds mu.
func (b *breaker) askWhether() {
	if b.asking {
		return
	}
	b.asking = true
	turn := b.turn
	go func() {
		err := b.ask()
		b.mu.Lock()
		b.asking = false
		opens := turn == b.turn && err != nil && !saysNothing(err)
		if opens {
			b.set(stateOpen, time.Now())
		}
		b.mu.Unlock()
		if opens {
			b.tell()
		}
	}()
}

func (b *breaker) ask() error {
	ctx, cancel := context.WithTimeout(b.life, 5*time.Second)
	defer cancel()
	return b.probe(ctx)
}

// set changes the state. The caller holds mu, and calls changed without it.
func (b *breaker) set(state string, now time.Time) {
	b.turn++
	b.state, b.trying, b.inARow, b.window = state, false, 0, nil
	if b.timer != nil {
		b.timer.Stop()
	}
	if state != stateOpen || b.life.Err() != nil {
		return
	}
	b.until = now.Add(b.Open)
	turn := b.turn
	b.timer = time.AfterFunc(b.Open, func() {
		b.mu.Lock()
		due := turn == b.turn
		if due {
			b.set(stateHalfOpen, time.Now())
		}
		b.mu.Unlock()
		if due {
			b.tell()
		}
	})
	if !b.watching {
		b.watching = true
		go b.watch()
	}
}

// watch probes the backend until the breaker is closed.
func (b *breaker) watch() {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.life.Done():
		case <-tick.C:
			if b.ask() == nil {
				b.shut()
			}
		}
		b.mu.Lock()
		over := b.state == stateClosed || b.life.Err() != nil
		if over {
			b.watching = false
		}
		b.mu.Unlock()
		if over {
			return
		}
	}
}

// trip opens it, and shut closes it, by a surer word than what it counts. They
// report whether that was a change.
func (b *breaker) trip() bool { return b.force(stateOpen) }
func (b *breaker) shut() bool { return b.force(stateClosed) }

func (b *breaker) force(state string) bool {
	b.mu.Lock()
	differs := b.state != state && b.life.Err() == nil
	if differs {
		b.set(state, time.Now())
	}
	b.mu.Unlock()
	if differs {
		b.tell()
	}
	return differs
}

func (b *breaker) tell() {
	if b.life.Err() == nil {
		b.changed()
	}
}

// look gives the state and how long it stays open at the most.
func (b *breaker) look() (state string, remaining time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != stateOpen {
		return b.state, 0
	}
	return b.state, max(0, time.Until(b.until))
}

// counts gives what failed and what is counted in the present window.
func (b *breaker) counts() (failed, total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, o := range b.window {
		if time.Since(o.at) <= b.Window {
			total++
			if o.failed {
				failed++
			}
		}
	}
	return failed, total
}

// busy says that requests are under way.
func (b *breaker) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.running > 0
}

// close ends what the breaker does by itself. Nothing is told any more.
func (b *breaker) close() {
	b.end()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.timer != nil {
		b.timer.Stop()
	}
}

// clientOf is who a request comes from, as far as the breaker tells clients
// apart.
func clientOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
