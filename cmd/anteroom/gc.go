package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// garbage is how much may lie about before it is collected, where the live
	// heap is smaller than that. A proxy has little that lives long, so that a
	// collector that waits until it has doubled runs all the time.
	garbage = 64 << 20
	// mostGarbage is the same in percent of the live heap.
	mostGarbage = 400
)

// tuneGC makes the collector run less often while the heap is small. Queued
// bodies can make it large, and then it runs as it does by default. GOGC has
// the last word.
func tuneGC() {
	if os.Getenv("GOGC") != "" {
		return
	}
	percent := mostGarbage
	debug.SetGCPercent(percent)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	afterEachGC(func() {
		metrics.Read(live)
		if next := gcPercent(live[0].Value.Uint64()); next != percent {
			percent = next
			debug.SetGCPercent(percent)
		}
	})
}

func gcPercent(live uint64) int {
	return int(min(mostGarbage, max(100, garbage*100/max(1, live))))
}

// afterEachGC runs do when a collection has ended.
func afterEachGC(do func()) {
	type sentinel struct{ _ *byte } // it holds a pointer, so that it is not packed with others
	var arm func(*sentinel)
	arm = func(*sentinel) {
		do()
		runtime.SetFinalizer(new(sentinel), arm)
	}
	runtime.SetFinalizer(new(sentinel), arm)
}
