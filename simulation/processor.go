package simulation

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Speed is how fast a run goes on a card whose processes share the processor by time
// slices, as they do without NVIDIA's MPS: 1 is the speed that it has alone. Each of
// the processes that have work has an equal part of the time, whether or not it can
// use it up. Within its process a run has full speed while there are parallel runs or
// fewer, and beyond them all share. Parallel 0: any number has.
//
// On an H200 an image took 4.8 s alone and 9.1 s beside questions, 16 of which took 9
// s each; this gives 9.6 and 9.3 s.
func Speed(parallel float64, runs, processes int) float64 {
	share := 1 / float64(max(1, processes))
	if parallel > 0 && float64(runs) > parallel {
		share *= parallel / float64(runs)
	}
	return share
}

// processor is what the runs on a card share.
type processor struct {
	mu       sync.Mutex
	runs     map[any]int   // guarded by mu; by process
	changed  chan struct{} // guarded by mu; closed when runs changes
	others   int           // guarded by mu; processes of other Cards that have work
	lookedAt time.Time     // guarded by mu; for others
}

// othersEvery is how often the work of other processes on a shared card is looked at.
const othersEvery = 20 * time.Millisecond

// enter says that a process has one more run, or one less.
func (c *Card) enter(process any, by int) {
	p := &c.processor
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.runs == nil {
		p.runs, p.changed = make(map[any]int), make(chan struct{})
	}
	before := len(p.runs)
	if p.runs[process] += by; p.runs[process] == 0 {
		delete(p.runs, process)
	}
	close(p.changed)
	p.changed = make(chan struct{})
	if c.shared != nil && (before == 0) != (len(p.runs) == 0) {
		c.shared.works(len(p.runs) > 0)
	}
}

// speed is that of a run of a process now, until changed is closed.
func (c *Card) speed(process any, parallel float64) (speed float64, changed <-chan struct{}) {
	others := 0
	if c.shared != nil {
		others = c.othersWorking()
	}
	p := &c.processor
	p.mu.Lock()
	defer p.mu.Unlock()
	return Speed(parallel, p.runs[process], len(p.runs)+others), p.changed
}

// work waits until a run of a process, which has entered, has done what takes it so
// long alone, or until ctx ends, and then returns its error.
func (c *Card) work(ctx context.Context, process any, parallel float64, alone time.Duration) error {
	for left := alone; left > 0; {
		speed, changed := c.speed(process, parallel)
		began, wait := c.clock.Now(), time.Duration(math.Ceil(float64(left)/speed))
		if c.shared != nil {
			wait = min(wait, othersEvery)
		}
		if err := c.clock.SleepUnless(ctx, wait, changed); err != nil {
			return err
		}
		left -= time.Duration(math.Ceil(float64(c.clock.Now().Sub(began)) * speed))
	}
	return ctx.Err()
}

// utilization is what a driver would say: 1 while any process has work.
func (c *Card) utilization() *float64 {
	share, others := 0.0, 0
	if c.shared != nil {
		others = c.othersWorking()
	}
	p := &c.processor
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.runs)+others > 0 {
		share = 1
	}
	return &share
}

// othersWorking counts the processes of other Cards on a shared card that have work.
func (c *Card) othersWorking() int {
	p := &c.processor
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := c.clock.Now(); now.Sub(p.lookedAt) >= othersEvery {
		p.others, p.lookedAt = c.shared.working(), now
	}
	return p.others
}

// works notes whether this holder's process has work, behind what it holds.
func (d *directory) works(has bool) {
	flag := "0"
	if has {
		flag = "1"
	}
	d.holder.WriteAt([]byte(flag+"\n"), heldDigits+1)
	d.atWork.Store(has)
	// A sensor that reads the old figure reads the new one the next time.
	_ = d.locked(d.writeBusy)
}

// writeBusy shows whether any process has work as the driver does. The caller holds the
// lock.
func (d *directory) writeBusy() error {
	percent := "0\n"
	if d.atWork.Load() || d.working() > 0 {
		percent = "100\n"
	}
	return d.replace(busyPercent, []byte(percent))
}

// working counts the other holders that are alive and have work.
func (d *directory) working() (n int) {
	entries, err := os.ReadDir(d.file("holders"))
	if err != nil {
		return 0
	}
	for _, e := range entries {
		path := filepath.Join(d.path, "holders", e.Name())
		if d.holder != nil && path == d.holder.Name() {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			continue
		}
		var flag [1]byte
		_, err = f.ReadAt(flag[:], heldDigits+1)
		if err == nil && flag[0] == '1' && lockedElsewhere(f) {
			n++ // its lock is held, so that its process lives
		}
		f.Close()
	}
	return n
}
