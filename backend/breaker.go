package backend

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sony/gobreaker/v2"
)

// ErrBreakerOpen says that the backend was not asked, because it failed a moment
// ago.
var ErrBreakerOpen = errors.New("backend: the backend's breaker is open")

// errOverload is an answer of 429 or 503: the backend is there, but has no capacity now. It
// does not count as a failure.
var errOverload = errors.New("backend: the backend is overloaded")

const (
	// probeEvery is how often an open breaker's backend is probed.
	probeEvery = time.Second
	// buckets is how many parts a window has. Outcomes leave it a part at a time.
	buckets = 30
	// mostMinimum is the largest number of requests that a share may need.
	mostMinimum = 4096
)

// breaker is a backend's circuit breaker. It reports changes of its state.
//
//   - A refused connection opens it at once, because no server is there. Other failed
//     connections (timeout, no name, no route) open it after `failures` in a row, and a
//     single one does if a probe fails too.
//   - A 5xx and an answer that does not come in time may be caused by one client. They open
//     it if they are at least `ratio` of `minimum` or more requests in a `window`, concern
//     more than one client, and a probe fails too. A broken connection counts in the same
//     way, and the backend is probed at once. Until it has answered, waiting requests are
//     not sent to it.
//   - A caller that leaves, an overload, an out-of-memory error, and a lack of the proxy's
//     own resources count neither as failure nor as success.
//   - While it is open the backend is probed each second, and the first answer
//     closes it. After `open` it is half-open: one request at a time is let through,
//     for a probe may be wrong.
//
// The states and the counts are gobreaker's. This type adds what gobreaker does not have:
// probes, the distinction of clients, the timer that makes an open breaker half-open, and
// changes from outside. gobreaker is called with mu held, and so are the functions that it
// calls back.
type breaker struct {
	BreakerConfig
	probe   func(ctx context.Context) error
	changed func() // called with no lock held; not after close
	// moved is told of each change of the state, and why; nil: nothing is told.
	moved atomic.Pointer[func(from, to, why string)]

	mu sync.Mutex
	// circuit holds the state, and counts connections in a row that are not made.
	circuit *gobreaker.TwoStepCircuitBreaker[struct{}] // guarded by mu
	// share counts the outcomes of the present window, and stays closed.
	share    *gobreaker.CircuitBreaker[struct{}] // guarded by mu
	state    gobreaker.State                     // as last told by circuit; guarded by mu
	until    time.Time                           // when it stops being open; guarded by mu
	turn     int                                 // counts changes of the state; guarded by mu
	told     gobreaker.State                     // of which moved knows; guarded by mu
	why      string                              // of the next change; guarded by mu
	refused  bool                                // the failure that is reported opens it; guarded by mu
	failing  string                              // the client of the last failure in share; guarded by mu
	failedAt time.Time                           // when that was; guarded by mu
	othersAt time.Time                           // when another client's last failure was; guarded by mu
	asking   bool                                // a probe decides whether it opens; guarded by mu
	held     bool                                // and nothing new is sent until then; guarded by mu
	running  int                                 // requests under way; guarded by mu
	timer    *time.Timer                         // of the change to half-open; guarded by mu
	life     context.Context
	end      context.CancelFunc
	watching bool // guarded by mu
}

func newBreaker(c BreakerConfig, probe func(context.Context) error, changed func()) *breaker {
	c.Ratio, c.Minimum, c.Window = cmp.Or(c.Ratio, 0.5), cmp.Or(c.Minimum, 20), cmp.Or(c.Window, 30*time.Second)
	// gobreaker's timeout is 1 ns less, for it must have passed when the timer asks.
	// It takes 0 for a minute.
	c.Open = max(c.Open, 2)
	b := &breaker{BreakerConfig: c, probe: probe, changed: changed}
	b.life, b.end = context.WithCancel(context.Background())
	b.renew()
	return b
}

// renew closes the breaker. gobreaker cannot be closed from outside, so a fresh one
// takes its place. The caller holds mu, or is alone.
func (b *breaker) renew() {
	b.circuit = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		MaxRequests: 1,
		Timeout:     b.Open - 1,
		IsExcluded:  saysNothing,
		IsSuccessful: func(err error) bool {
			return err == nil || b.state == gobreaker.StateClosed && !errors.Is(err, ErrUnreachable)
		},
		ReadyToTrip: func(n gobreaker.Counts) bool {
			return b.refused || n.ConsecutiveFailures >= uint32(b.Failures)
		},
		OnStateChange: func(_ string, _, to gobreaker.State) { b.set(to) },
	})
	b.set(gobreaker.StateClosed)
}

// newShare is a gobreaker that asks for a probe instead of opening: the probe decides.
func (b *breaker) newShare() *gobreaker.CircuitBreaker[struct{}] {
	return gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Interval:     b.Window,
		BucketPeriod: max(1, b.Window/buckets),
		ReadyToTrip: func(n gobreaker.Counts) bool {
			total := n.TotalFailures + n.TotalSuccesses
			several := time.Since(b.othersAt) <= b.Window
			if several && total >= uint32(b.Minimum) && float64(n.TotalFailures) >= b.Ratio*float64(total) {
				b.askWhether(false)
			}
			return false
		},
	})
}

// update calls do with mu held, and reports if do changed how many requests may be sent.
func (b *breaker) update(do func()) (changed bool) {
	b.mu.Lock()
	turn, held := b.turn, b.held
	do()
	changed = turn != b.turn || held != b.held
	from, to, why := b.told, b.state, b.why
	b.told = to
	b.mu.Unlock()
	if moved := b.moved.Load(); moved != nil && from != to && b.life.Err() == nil {
		(*moved)(from.String(), to.String(), why)
	}
	if changed {
		b.tell()
	}
	return changed
}

// allow asks for the right to one request of a client. done must be called
// exactly once; the request leaves the gate then.
func (b *breaker) allow(client string, through *gate) (done func(error), err error) {
	b.update(func() {
		finish, refusal := b.circuit.Allow()
		if refusal != nil {
			err = ErrBreakerOpen
			return
		}
		b.running++
		turn := b.turn
		done = func(err error) {
			through.leave()
			b.update(func() {
				b.running--
				// A request that began before the last change of the state does not count.
				if turn == b.turn {
					b.count(client, finish, err)
				}
			})
		}
	})
	return done, err
}

// count takes note of how a request ended. The caller holds mu.
func (b *breaker) count(client string, finish func(error), err error) {
	turn := b.turn
	b.report(finish, err)
	if turn != b.turn || b.state != gobreaker.StateClosed || saysNothing(err) {
		return
	}
	if errors.Is(err, ErrUnreachable) {
		b.askWhether(true)
		return
	}
	if err != nil {
		if client != b.failing {
			b.failing, b.othersAt = client, b.failedAt
		}
		b.failedAt = time.Now()
	}
	// gobreaker counts a request in the part of the window in which it began, and does not
	// count a request that lasts longer than the window. Here a request counts when it
	// ends.
	b.share.Execute(func() (struct{}, error) { return struct{}{}, err })
	// A broken connection may mean that the process has ended.
	if errors.Is(err, ErrProtocol) {
		b.askWhether(true)
	}
}

// report tells gobreaker how a request ended. The caller holds mu.
func (b *breaker) report(finish func(error), err error) {
	b.refused = errors.Is(err, ErrRefused)
	b.because(err)
	finish(err)
}

// because notes why the state changes, should it change. The caller holds mu.
func (b *breaker) because(err error) {
	switch {
	case err != nil:
		b.why = strings.TrimPrefix(err.Error(), "backend: ")
	case b.state == gobreaker.StateHalfOpen:
		b.why = "a request that was let through was answered"
	}
}

// saysNothing says that the end of a request counts neither as failure nor as success.
func saysNothing(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, errOverload) || errors.Is(err, ErrMemory) || errors.Is(err, ErrUpload) ||
		errors.Is(err, ErrShort) || ownFault(err)
}

// ownFault says that the proxy lacks the resources for a connection.
func ownFault(err error) bool {
	for _, lack := range [...]syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// askWhether opens the breaker if a probe fails. With hold, because the server may be gone,
// waiting requests are held back until the probe has succeeded. The caller holds mu.
func (b *breaker) askWhether(hold bool) {
	b.held = b.held || hold
	if b.asking {
		return
	}
	b.asking = true
	turn := b.turn
	go func() {
		err := b.ask()
		b.update(func() {
			b.asking, b.held = false, false
			if turn == b.turn && err != nil && !saysNothing(err) {
				b.openNow()
				b.because(err)
			}
		})
	}()
}

func (b *breaker) ask() error {
	ctx, cancel := context.WithTimeout(b.life, 5*time.Second)
	defer cancel()
	return b.probe(ctx)
}

// openNow opens the breaker, as a refused connection does. It is a fresh gobreaker
// that opens: a half-open one has no place for one more report. The caller holds mu.
func (b *breaker) openNow() {
	b.renew()
	if finish, err := b.circuit.Allow(); err == nil {
		b.report(finish, ErrRefused)
	}
}

// set takes note of a change of the state. The caller holds mu.
func (b *breaker) set(state gobreaker.State) {
	b.turn++
	b.state, b.share = state, b.newShare()
	b.failing, b.failedAt, b.othersAt = "", time.Time{}, time.Time{}
	if b.timer != nil {
		b.timer.Stop()
	}
	if state != gobreaker.StateOpen || b.life.Err() != nil {
		return
	}
	b.until = time.Now().Add(b.Open)
	// gobreaker becomes half-open when it is asked. The requests that wait must be woken.
	b.timer = time.AfterFunc(b.Open, func() {
		b.update(func() {
			b.why = "breaker.open has passed"
			b.circuit.State()
		})
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
				b.shut("a probe was answered")
			}
		}
		b.mu.Lock()
		over := b.state == gobreaker.StateClosed || b.life.Err() != nil
		if over {
			b.watching = false
		}
		b.mu.Unlock()
		if over {
			return
		}
	}
}

// trip opens it and shut closes it, whatever it has counted. They report whether that was a
// change.
func (b *breaker) trip(why string) bool { return b.force(gobreaker.StateOpen, b.openNow, why) }
func (b *breaker) shut(why string) bool { return b.force(gobreaker.StateClosed, b.renew, why) }

func (b *breaker) force(state gobreaker.State, change func(), why string) bool {
	return b.update(func() {
		if b.state != state && b.life.Err() == nil {
			change()
			b.why = why
		}
	})
}

func (b *breaker) tell() {
	if b.life.Err() == nil {
		b.changed()
	}
}

// look gives the state and how long it stays open at the most.
func (b *breaker) look() (state gobreaker.State, remaining time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.state != gobreaker.StateOpen {
		return b.state, 0
	}
	return b.state, max(0, time.Until(b.until))
}

// holds says that no new request is sent, whatever the state.
func (b *breaker) holds() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.held
}

// counts gives what failed and what is counted in the present window.
func (b *breaker) counts() (failed, total int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share.State() // it leaves out what is too old when it is asked for this
	n := b.share.Counts()
	return int(n.TotalFailures), int(n.TotalFailures + n.TotalSuccesses)
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

// clientOf identifies the client of a request for the breaker.
func clientOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
