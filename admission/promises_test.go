package admission

import (
	"flag"
	"math/rand/v2"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"github.com/anteroom-gpu/anteroom/internal/race"
)

// -rapid.checks plays more or fewer.
func init() { flag.Set("rapid.checks", strconv.Itoa(race.Some(100))) }

func rapidly(r *rapid.T) draw {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(r, "") }
}

func TestPromisesHoldAfterEveryEvent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapidly(r)
		w := newWorld(boxOf(n), n)
		w.late = n(2) == 1
		for range n(200) {
			w.step()
			if err := w.check(); err != nil {
				r.Fatal(err)
			}
		}
		if err := w.finish(); err != nil {
			r.Fatal(err)
		}
	})
}

// rapid draws small numbers by preference, which makes for short failures and
// calm boxes. These are busy ones, the same each time.
func TestPromisesHoldOnABusyBox(t *testing.T) {
	for seed := range uint64(race.Some(40)) {
		n := rand.New(rand.NewPCG(seed, 0)).IntN
		w := newWorld(boxOf(n), n)
		w.late = n(2) == 1
		for range 300 {
			w.step()
			if err := w.check(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := w.finish(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
