package admission

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// played is what came of a run of drawn events.
func played(seed uint64, steps int) (string, error) {
	n := rand.New(rand.NewPCG(seed, 14)).IntN
	w := newWorld(boxOf(n), n)
	for range steps {
		w.step()
		if w.broken != nil {
			return "", w.broken
		}
	}
	w.remember() // the last check of a promise about changes was never
	end := w.s.fingerprint()
	return fmt.Sprint(w.hash, w.granted, w.refused, "\n", end), w.finish()
}

// 14: the same events give the same grants, on one processor or on many, and
// whatever the order of maps, which is another at every run.
func TestTheSameEventsGiveTheSameGrants(t *testing.T) {
	once := make([]string, race.Some(20))
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	for seed := range once {
		got, err := played(uint64(seed), 400)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		once[seed] = got
	}
	runtime.GOMAXPROCS(4)
	var all sync.WaitGroup
	for seed := range once {
		for range 2 {
			all.Go(func() {
				if got, err := played(uint64(seed), 400); err != nil || got != once[seed] {
					t.Errorf("14: seed %d: %v, got\n%s\nand the time before\n%s", seed, err, got, once[seed])
				}
			})
		}
	}
	all.Wait()
}
