package admission

import (
	"context"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// Attend says what carries out orders. It must return at once
// and not call the Controller: it is called under its lock. Orders that were
// given before are lost.
func (c *Controller) Attend(carryOut func(Order)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attend = carryOut
}

// Warn says what is told of each request that has begun to wait for what nothing
// of ours will do (ReasonNotByItself). It must return at once and not call the
// Controller: it is called under its lock.
func (c *Controller) Warn(tell func(Waiter)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warn = tell
}

// ReadNow calls read with the name of a GPU on which a run has ended while others
// wait: the sooner it is read, the sooner they know what is free. It does so too when
// a run has ended for want of memory, and when one of unknown demand has started, which
// is to be seen while it runs. read runs
// under the Controller's lock, so it must return at once.
func (c *Controller) ReadNow(read func(gpu string)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.read = read
}

// Busy says that something of ours runs, loads or unloads on a GPU, or has since it
// was last read; false where there is no GPU of that name.
func (c *Controller) Busy(gpu string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.box.ledger.Busy(gpu)
}

// Measuring says that a run is under way on a GPU of which it is not known what it
// takes: only readings tell, and it may be short.
func (c *Controller) Measuring(gpu string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.box.ledger.Measuring(gpu)
}

// AwaitReady returns when the card has been read since the last work on it
// gave memory back, so that whatever an order frees will be seen, or when ctx
// ends.
func (c *Controller) AwaitReady(ctx context.Context, id uint64) {
	c.await(ctx, func() bool { return c.rules.box.residency.Ready(id) })
}

// AwaitFreed returns when enough of what an order is to free has been seen to
// come back, or when ctx ends. It returns at once where no card can be read
// that would show it; known is then false.
func (c *Controller) AwaitFreed(ctx context.Context, id uint64) (freed Bytes, enough, known bool) {
	c.await(ctx, func() bool {
		freed, enough, known = c.rules.box.residency.Freed(id)
		return enough || !known
	})
	return freed, enough, known
}

// TakesMemory says that what an order is to bring back is seen to take memory.
func (c *Controller) TakesMemory(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rules.box.residency.TakesMemory(id)
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
		if c.clock.Wait(ctx, seen) != nil {
			return
		}
	}
}

// Unloaded ends an order to unload; see Scheduler.Unloaded.
func (c *Controller) Unloaded(id uint64, e Ended) bool {
	return c.change(func(now time.Duration) bool { return c.rules.Unloaded(now, id, e) })
}

// Loaded ends an order to wake, or to wait for a return.
func (c *Controller) Loaded(id uint64, e Ended) bool {
	return c.change(func(now time.Duration) bool { return c.rules.Loaded(now, id, e) })
}

// UnloadByHand unloads a backend when what runs there has ended, pinned or not.
// It returns at once.
func (c *Controller) UnloadByHand(backend string) (err error) {
	c.change(func(now time.Duration) bool { err = c.rules.UnloadByHand(now, backend); return err == nil })
	return err
}

// WakeByHand wakes a backend that sleeps, where there is room for it. It returns
// at once.
func (c *Controller) WakeByHand(backend string) (err error) {
	c.change(func(now time.Duration) bool { err = c.rules.WakeByHand(now, backend); return err == nil })
	return err
}

// SetLoaded takes a backend's own word on whether it holds its weights; see
// Scheduler.SetLoaded.
func (c *Controller) SetLoaded(backend string, replica int, loaded, mustWake bool) bool {
	return c.change(func(now time.Duration) bool { return c.rules.SetLoaded(now, backend, replica, loaded, mustWake) })
}

// SetThere says whether the process of a replica is there; see Scheduler.SetThere.
func (c *Controller) SetThere(backend string, replica int, there bool) {
	c.change(func(now time.Duration) bool { return c.rules.SetThere(now, backend, replica, there) })
}

// Asleep says that a backend's replica has unloaded and is woken for its next
// request, so that its not answering is no failure.
func (c *Controller) Asleep(backend string, replica int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rules.box.find(backend, replica)
	return r != nil && (r.sleeps() || r.home.State == residency.Unloading)
}
