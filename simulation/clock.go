package simulation

import (
	"context"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Clock is the time that cards, engines, gates and clients go by. All methods may
// be called at once from any goroutine that the clock knows: of a VirtualClock
// those that its Run and Go have started.
type Clock interface {
	admission.Clock
	// Sleep waits for d, or until ctx ends, and then returns its error.
	Sleep(ctx context.Context, d time.Duration) error
	// SleepUnless is Sleep which also ends, without an error, when done is closed.
	SleepUnless(ctx context.Context, d time.Duration, done <-chan struct{}) error
	// Take puts one element into places as soon as there is room for it, in the
	// order of the calls, or returns the error of ctx when that ends.
	Take(ctx context.Context, places chan<- struct{}) error
	// Go runs f beside its caller.
	Go(f func())
}

// WallClock is the time of the machine.
type WallClock struct{ admission.WallClock }

func (c WallClock) Sleep(ctx context.Context, d time.Duration) error {
	return c.SleepUnless(ctx, d, nil)
}

func (WallClock) SleepUnless(ctx context.Context, d time.Duration, done <-chan struct{}) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (WallClock) Take(ctx context.Context, places chan<- struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (WallClock) Go(f func()) { go f() }
