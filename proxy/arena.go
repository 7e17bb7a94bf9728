package proxy

import (
	"sync"
	"time"
)

// arena is memory for the bodies that pass through, in blocks of spoolBlock bytes beside
// Go's heap: the collector has nothing to do with them, and they go back to the system
// at once where it is known that they are not needed soon.
type arena struct {
	mu    sync.Mutex
	all   []byte   // guarded by mu; nil: none was needed yet
	free  [][]byte // guarded by mu; the last of these is taken next
	fresh int      // guarded by mu; bytes of all that were never taken
	idle  *time.Timer
}

// arenaIdle is how long unused blocks stay in memory.
const arenaIdle = time.Second / 2

// take gives an empty block; nil: all of them are in use.
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

// give takes blocks back, and says to the system that they are not needed where it is
// unlikely that they are soon.
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

// shrink gives what is not in use back to the system.
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
