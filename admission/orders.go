package admission

import (
	"context"
	"time"
)

// Attend gives whoever carries out the desk's orders. It must return at once
// and not call the Controller: it is called under its lock. Orders that were
// given before are lost.
func (c *Controller) Attend(carryOut func(Order)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attend = carryOut
}

// AwaitReady returns when the card has been read since the last work on it
// gave memory back, so that whatever an order frees will be seen, or when ctx
// ends.
func (c *Controller) AwaitReady(ctx context.Context, id uint64) {
	c.await(ctx, func() bool { return c.rules.Ready(id) })
}

// AwaitFreed returns when enough of what an order is to free has been seen to
// come back, or when ctx ends. It returns at once where no card can be read
// that would show it; known is then false.
func (c *Controller) AwaitFreed(ctx context.Context, id uint64) (freed Bytes, enough, known bool) {
	c.await(ctx, func() bool {
		freed, enough, known = c.rules.Freed(id)
		return enough || !known
	})
	return freed, enough, known
}

// Loading says that what an order is to bring back is seen to take memory.
func (c *Controller) Loading(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.Loading(id)
}

// await asks done under the lock now and after every reading, until it is true
// or ctx ends.
func (c *Controller) await(ctx context.Context, done func() bool) {
	for {
		c.mu.Lock()
		if done() {
			c.mu.Unlock()
			return
		}
		if c.seen == nil {
			c.seen = make(chan struct{})
		}
		seen := c.seen
		c.mu.Unlock()
		select {
		case <-seen:
		case <-ctx.Done():
			return
		}
	}
}

// Reclaimed ends an order to reclaim; see Scheduler.Reclaimed.
func (c *Controller) Reclaimed(id uint64, e Ended) bool {
	return c.change(func(now time.Duration) bool { return c.rules.Reclaimed(now, id, e) })
}

// Woken ends an order to wake, or to wait for a return.
func (c *Controller) Woken(id uint64, e Ended) bool {
	return c.change(func(now time.Duration) bool { return c.rules.Woken(now, id, e) })
}

// ReclaimByHand makes a backend let go when what runs there has ended, pinned
// or not. It returns at once.
func (c *Controller) ReclaimByHand(backend string) (err error) {
	c.change(func(now time.Duration) bool { err = c.rules.ReclaimByHand(now, backend); return err == nil })
	return err
}

// WakeByHand brings a backend back that sleeps, where there is room for it. It
// returns at once.
func (c *Controller) WakeByHand(backend string) (err error) {
	c.change(func(now time.Duration) bool { err = c.rules.WakeByHand(now, backend); return err == nil })
	return err
}

// SetLoaded takes a server's own word, at the start of the desk, on whether it
// holds its weights; see Scheduler.SetLoaded.
func (c *Controller) SetLoaded(backend string, replica int, loaded, mustWake bool) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetLoaded(now, backend, replica, loaded, mustWake) })
}

// Asleep says that a backend's replica has let go and will be woken for its
// next request, so that its not answering is no failure.
func (c *Controller) Asleep(backend string, replica int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.rules.backendIndex[backend]
	if b == nil || replica < 0 || replica >= len(b.replicas) {
		return false
	}
	s := b.replicas[replica].stance
	return s == asleep || s == waking || s == reclaiming
}
