package admission

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var soak = flag.Int("soak", 0, "play so many requests in TestSoak, which is skipped without it")

// TestSoak plays millions of drawn requests, in runs of some thousand, each on a
// box of its own that is let come to rest. After every event it holds the
// promises 1 to 10, 12 and 13, by the books of world; 4's positions and 15 at one
// event in a hundred. 11, 14 and 17 have tests of their own.
func TestSoak(t *testing.T) {
	if *soak == 0 {
		t.Skip("takes minutes; make soak")
	}
	const each = 5000
	var requests, events, granted, refused atomic.Int64
	var next atomic.Uint64
	began := time.Now()
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for requests.Load() < int64(*soak) && !t.Failed() {
				seed := next.Add(1)
				w, n, err := soaked(seed, each, true)
				if err != nil {
					t.Errorf("run %d: %v\n%v", seed, err, soakAgain(seed, each))
				}
				requests.Add(int64(w.submitted))
				granted.Add(int64(w.granted))
				refused.Add(int64(w.refused))
				if done := events.Add(n); done/1_000_000 != (done-n)/1_000_000 {
					fmt.Printf("%v: %d requests, %d events\n", time.Since(began).Round(time.Second), requests.Load(), done)
				}
			}
		})
	}
	all.Wait()
	fmt.Printf("%d requests in %d runs, %d granted, %d refused or left, %d events, in %v\n",
		requests.Load(), next.Load(), granted.Load(), refused.Load(), events.Load(), time.Since(began).Round(time.Second))
}

// soaked plays one run; it gives how many events there were.
func soaked(seed uint64, requests int, sparing bool) (*world, int64, error) {
	n := rand.New(rand.NewPCG(seed, 10)).IntN
	w := newWorld(boxOf(n), n)
	w.sparing, w.late = sparing, n(2) == 1
	events := int64(0)
	for w.submitted < requests {
		w.step()
		events++
		if err := w.check(); err != nil {
			return w, events, err
		}
	}
	return w, events, w.finish()
}

// soakAgain plays a run that broke a promise once more and tells what came
// before.
func soakAgain(seed uint64, requests int) error {
	_, _, err := soaked(seed, requests, false)
	return err
}

// A reading may show that unmanaged memory is a backend's own. The room is
// as before, and that backend's next request needs less of it; it was not told.
// The run is the one that found this.
func TestAReadingThatMovesMemoryToABackendWakesItsQueue(t *testing.T) {
	if _, _, err := soaked(3, 800, true); err != nil {
		t.Fatal(err)
	}
}

// The runs that broke a promise in a soak of ten million, by what was wrong.
func TestSoakedRunsThatBrokeAPromise(t *testing.T) {
	for seed, why := range map[uint64]string{
		1341: "the memory of a start that overtook stayed past a reservation, which was then another",
		1734: "time alone brought a reservation closer than a barred head's run is long, and so moved others",
	} {
		if _, _, err := soaked(seed, 5000, true); err != nil {
			t.Errorf("run %d: %s: %v", seed, why, err)
		}
	}
}

// A backend keeps what its run takes. A later head had the room for which it was
// reserved until the run started in front of it, and has it at no time afterwards. The
// run is the one that found this.
func TestAStartThatLeavesMemoryBehindMovesNoReservation(t *testing.T) {
	if _, _, err := soaked(308, 4500, true); err != nil {
		t.Fatal(err)
	}
}
