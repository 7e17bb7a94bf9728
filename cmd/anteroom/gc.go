package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

const (
	// garbage is how many bytes the heap may grow before a collection, if the live heap is
	// smaller than that. A proxy has few live bytes, so with Go's default, a collection
	// each time the heap doubles, the collector would run all the time.
	garbage = 64 << 20
	// mostGarbage is the largest growth before a collection, in percent of the live heap.
	mostGarbage = 400
)

// tuneGC makes the collector run less often while the heap is small. Queued bodies can make
// the heap large, and then the collector runs as by default. If the variable GOGC is set,
// tuneGC does nothing.
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
