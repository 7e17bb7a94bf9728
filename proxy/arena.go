package proxy

import (
	"sync"
	"time"
)

// arena is memory for request bodies, in blocks of spoolBlock bytes outside Go's heap. The
// garbage collector does not scan the blocks. A block that will not be needed soon is
// returned to the system at once.
type arena struct {
	mu    sync.Mutex
	all   []byte   // guarded by mu; nil: none was needed yet
	free  [][]byte // guarded by mu; the last of these is taken next
	fresh int      // guarded by mu; bytes of all that were never taken
	idle  *time.Timer
}

// arenaIdle is how long unused blocks stay in memory.
const arenaIdle = time.Second / 2

// take returns an empty block, or nil if all blocks are in use.
func (a *arena) take() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = systemMemory(spoolMemory)
	}
	if last := len(a.free) - 1; last >= 0 {
		block := a.free[last]
		a.free = a.free[:last]
		return block
	}
	if a.fresh == len(a.all) {
		return nil
	}
	from := a.fresh
	a.fresh += spoolBlock
	return a.all[from:from:a.fresh]
}

// give takes blocks back. If isUnlikely, they are unlikely to be needed soon, and their
// memory is returned to the system.
func (a *arena) give(blocks [][]byte, isUnlikely bool) {
	if len(blocks) == 0 {
		return
	}
	if isUnlikely {
		for _, block := range blocks {
			returnMemory(block[:spoolBlock])
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, block := range blocks {
		a.free = append(a.free, block[:0])
	}
	if isUnlikely {
		return
	}
	if a.idle == nil {
		a.idle = time.AfterFunc(arenaIdle, a.shrink)
	} else {
		a.idle.Reset(arenaIdle)
	}
}

// shrink returns the memory of unused blocks to the system.
func (a *arena) shrink() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, block := range a.free {
		returnMemory(block[:spoolBlock])
	}
}

// used is how many blocks are in use.
func (a *arena) used() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fresh/spoolBlock - len(a.free)
}
