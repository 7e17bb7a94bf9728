package simulation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Card is a GPU's memory. It belongs to this process (NewCard) or is shared
// with others through a directory (OpenCard). All methods may be called at once
// from any goroutine.
type Card struct {
	clock     Clock
	shared    *directory // nil: this process's own
	processor processor

	mu      sync.Mutex
	held    admission.Bytes // guarded by mu; taken through this Card
	seen    Memory          // guarded by mu; of a shared card: as last read
	samples []Sample        // guarded by mu
}

// Memory is what has been seen of a card since it was made, by all who share
// it.
type Memory struct {
	Capacity, Used, Peak admission.Bytes
	// Over counts the moments at which what was wanted of the card passed its
	// capacity. Every allocation is looked at; those were refused.
	Over int
}

// Sample is what was in use from a moment on.
type Sample struct {
	At   time.Time
	Used admission.Bytes
}

// maxSamples bounds what a card that runs for days remembers.
const maxSamples = 1 << 16

// OutOfMemory is the error of an allocation that the card has no room for. It
// reads as PyTorch's does.
type OutOfMemory struct {
	Asked, Free, Capacity admission.Bytes
	Held                  admission.Bytes // by whoever asked
}

func (e *OutOfMemory) Error() string {
	return fmt.Sprintf("CUDA out of memory. Tried to allocate %s. GPU 0 has a total capacity of %s of which %s is free. "+
		"Including non-PyTorch memory, this process has %s memory in use. Of the allocated memory %s is allocated by PyTorch, "+
		"and %s is reserved by PyTorch but unallocated. If reserved but unallocated memory is large try setting "+
		"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation.  "+
		"See documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html#environment-variables)",
		torchSize(e.Asked), torchSize(e.Capacity), torchSize(e.Free), torchSize(e.Held), torchSize(e.Held), torchSize(0))
}

// torchSize is how PyTorch writes an amount.
func torchSize(b admission.Bytes) string {
	switch {
	case b <= admission.KiB:
		return fmt.Sprintf("%d bytes", int64(b))
	case b <= admission.MiB:
		return fmt.Sprintf("%.2f KiB", float64(b)/float64(admission.KiB))
	case b <= admission.GiB:
		return fmt.Sprintf("%.2f MiB", float64(b)/float64(admission.MiB))
	}
	return fmt.Sprintf("%.2f GiB", float64(b)/float64(admission.GiB))
}

// NewCard makes an empty card that lives in this process.
func NewCard(capacity admission.Bytes) *Card { return NewCardAt(WallClock{}, capacity) }

// NewCardAt makes an empty card whose samples and readings go by that clock.
func NewCardAt(clock Clock, capacity admission.Bytes) *Card {
	return &Card{clock: clock, seen: Memory{Capacity: capacity}}
}

// Alloc takes n bytes, or nothing and returns an *OutOfMemory. Other errors are
// those of a shared card's files.
func (c *Card) Alloc(n admission.Bytes) error {
	if n < 0 {
		panic(fmt.Sprintf("simulation: an allocation of %d bytes", n))
	}
	return c.change(func(m *Memory) (admission.Bytes, error) {
		if free := m.Capacity - m.Used; n > free {
			m.Over++
			return 0, &OutOfMemory{Asked: n, Free: free, Capacity: m.Capacity, Held: c.held}
		}
		return n, nil
	})
}

// Free gives n bytes back. It panics where this Card does not hold them.
func (c *Card) Free(n admission.Bytes) error {
	return c.change(func(*Memory) (admission.Bytes, error) {
		if n < 0 || n > c.held {
			panic(fmt.Sprintf("simulation: %d bytes given back where %d are held", n, c.held))
		}
		return -n, nil
	})
}

// change applies what decide returns: by how much the bytes held change, and
// the caller's error. What decide counts stays either way.
func (c *Card) change(decide func(*Memory) (admission.Bytes, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shared == nil {
		return c.apply(decide)
	}
	return c.shared.locked(func() error {
		written, err := c.shared.read(&c.seen)
		if err != nil {
			return err
		}
		before := c.held
		refusal := c.apply(decide)
		if c.seen == written && c.held == before {
			return refusal
		}
		if err := c.shared.hold(c.held); err != nil {
			c.seen.Used -= c.held - before
			c.held = before
			return err
		}
		return errors.Join(refusal, c.shared.write(c.seen))
	})
}

// apply is change on figures that are up to date. The caller holds mu.
func (c *Card) apply(decide func(*Memory) (admission.Bytes, error)) error {
	by, err := decide(&c.seen)
	c.held += by
	c.seen.Used += by
	c.seen.Peak = max(c.seen.Peak, c.seen.Used)
	c.sample()
	return err
}

// sample notes a change. The caller holds mu.
func (c *Card) sample() {
	if n := len(c.samples); n > 0 && c.samples[n-1].Used == c.seen.Used {
		return
	}
	if len(c.samples) == maxSamples {
		c.samples = append(c.samples[:0], c.samples[maxSamples/2:]...)
	}
	c.samples = append(c.samples, Sample{c.clock.Now(), c.seen.Used})
}

// refresh reads a shared card again and gives back what the dead held.
func (c *Card) refresh() error {
	if c.shared == nil {
		return nil
	}
	return c.change(func(*Memory) (admission.Bytes, error) { return 0, nil })
}

// Memory is what the card shows now.
func (c *Card) Memory() (Memory, error) {
	if err := c.refresh(); err != nil {
		return Memory{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen, nil
}

// Samples are the changes of what was in use, as far as this Card saw them; the
// oldest of very many are dropped.
func (c *Card) Samples() []Sample {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Sample(nil), c.samples...)
}

// Reading is the card as a sensor would report it of the GPU of that name.
func (c *Card) Reading(gpu string) admission.Reading {
	m, err := c.Memory()
	return admission.Reading{GPU: gpu, At: c.clock.Now(), Total: m.Capacity, Used: m.Used, Utilization: c.utilization(), Source: "simulated", Err: err}
}

// Watch reports a Reading at once, then at every interval and whenever now asks for
// one (nil: nobody does), until ctx ends.
func (c *Card) Watch(ctx context.Context, gpu string, every time.Duration, now <-chan string, observe func(admission.Reading)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		observe(c.Reading(gpu))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-now:
		}
	}
}

// Close gives back all that was taken through this Card. It must not be used
// any more.
func (c *Card) Close() error {
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	err := c.Free(held)
	if c.shared != nil {
		if e := c.shared.close(); err == nil {
			err = e
		}
	}
	return err
}
