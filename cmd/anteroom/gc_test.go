package main

import (
	"runtime"
	"testing"
)

func TestGarbageIsBoundedHoweverLargeTheHeapIs(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 20: 400, 16 << 20: 400, 32 << 20: 200, 64 << 20: 100, 4 << 30: 100} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d MiB alive: got %d %%, want %d", live>>20, got, want)
		}
	}
}

func TestEveryCollectionIsNoticed(t *testing.T) {
	seen := make(chan struct{}, 1)
	afterEachGC(func() {
		select {
		case seen <- struct{}{}:
		default: // for ever after this test, and no finalizer may be kept waiting
		}
	})
	for range 3 {
		runtime.GC()
		<-seen
	}
}
