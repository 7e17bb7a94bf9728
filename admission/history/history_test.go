package history

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

func near(got, want time.Duration, share float64) bool {
	return math.Abs(float64(got-want)) <= share*float64(want)
}

func TestASeedServesUntilEnoughWasSeen(t *testing.T) {
	var h History
	seed := Estimate{5 * time.Second, 6 * time.Second}
	for range enough - 1 {
		h.Learn(memory.GiB, time.Second)
	}
	if got := h.Estimate(memory.GiB, seed); got != seed {
		t.Errorf("got %v after %d runs, want the seed", got, enough-1)
	}
	h.Learn(memory.GiB, time.Second)
	if got := h.Estimate(memory.GiB, seed); !near(got.P50, time.Second, .1) {
		t.Errorf("got %v after %d runs of a second", got, enough)
	}
	if got := h.Estimate(2*memory.GiB, seed); got != seed {
		t.Errorf("another demand: got %v, want the seed", got)
	}
}

func TestQuantilesAreThoseOfTheRuns(t *testing.T) {
	var h History
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		h.Learn(0, time.Duration((17+3*random.Float64())*float64(time.Second)))
	}
	got := h.Estimate(0, Estimate{})
	if !near(got.P50, 18500*time.Millisecond, .05) || !near(got.P95, 19850*time.Millisecond, .05) {
		t.Errorf("got %v and %v of 17 to 20 s, want about 18.5 and 19.85", got.P50, got.P95)
	}
}

func TestAModelThatWasExchangedIsForgotten(t *testing.T) {
	var h History
	for range 1000 {
		h.Learn(0, 20*time.Second)
	}
	for range 150 {
		h.Learn(0, 2*time.Second)
	}
	if got := h.Estimate(0, Estimate{}); !near(got.P50, 2*time.Second, .1) || got.P95 > 3*time.Second {
		t.Errorf("got %v, want that of the last runs", got)
	}
}

func TestALongLifeDoesNotOverflow(t *testing.T) {
	var h History
	for range 50000 {
		h.Learn(0, time.Second)
	}
	if got := h.Estimate(0, Estimate{}); !near(got.P50, time.Second, .1) || !near(got.P95, time.Second, .1) {
		t.Errorf("got %v", got)
	}
	h.Learn(0, 0)
	h.Learn(0, 1000*time.Hour)
}

func TestDemandsAreBounded(t *testing.T) {
	var h History
	for i := range memory.Bytes(10 * maxKinds) {
		h.Learn(i, time.Second)
	}
	if n := len(h.Learned()); n != maxKinds {
		t.Errorf("it knows %d demands, want %d", n, maxKinds)
	}
}
