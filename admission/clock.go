package admission

import (
	"context"
	"time"
)

// Clock is the time that a Controller goes by. All methods may be called at once
// from any goroutine. A simulation in virtual time brings its own; every other program
// leaves Config.Clock nil, which is the wall clock.
type Clock interface {
	// Now is monotonic: it never goes backwards.
	Now() time.Time
	// AfterFunc calls f once, d from now. f does not block.
	AfterFunc(d time.Duration, f func()) Timer
	// Wait blocks until done is closed, and then returns nil, or until ctx ends, and
	// then returns its error. Where both have happened it may return either.
	Wait(ctx context.Context, done <-chan struct{}) error
}

// Timer is the call that AfterFunc has arranged, as *time.Timer.
type Timer interface {
	// Reset lets the call happen d from now, whether or not it has happened.
	Reset(d time.Duration) bool
	// Stop prevents the call if it has not begun.
	Stop() bool
}

// WallClock is the time of the machine.
type WallClock struct{}

func (WallClock) Now() time.Time { return time.Now() }

func (WallClock) AfterFunc(d time.Duration, f func()) Timer { return time.AfterFunc(d, f) }

func (WallClock) Wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
