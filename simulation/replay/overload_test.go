//go:build !race

// One goroutine plays hours of an overloaded card here: there is no race to detect.

package replay

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// overloaded draws an hour of images and questions: diurnal ones, which are too many at
// noon, or bimodal ones of 5 and 60 seconds.
func overloaded(t *testing.T, diurnal bool, seed uint64) *Trace {
	r := rand.New(rand.NewPCG(seed, 5))
	var rows strings.Builder
	rows.WriteString("at,class,execute\n")
	const hour = 3600.0
	draw := func(class string, rate func(noon float64) float64, execute func() float64) {
		for at := 0.0; at < hour; at += r.ExpFloat64() / rate(math.Pow(math.Sin(math.Pi*at/hour), 2)) {
			fmt.Fprintf(&rows, "%f,%s,%f\n", at, class, execute())
		}
	}
	bimodal := func() float64 {
		if r.IntN(5) == 0 {
			return 54 + 12*r.Float64()
		}
		return 4.5 + r.Float64()
	}
	if diurnal {
		draw("heavy", func(noon float64) float64 { return (0.4 + 1.2*noon) / 30 }, func() float64 { return 17 + 3*r.Float64() })
		draw("light", func(noon float64) float64 { return 5 + 30*noon }, func() float64 { return 1 + r.Float64() })
	} else {
		draw("heavy", func(float64) float64 { return 1. / 20 }, bimodal)
		draw("light", func(float64) float64 { return 2.2 }, bimodal)
	}
	return read(t, rows.String())
}

// meanWait plays a schedule and gives the mean wait of all requests, in seconds.
func meanWait(t *testing.T, box *Box, trace *Trace, how func(*Box, *Trace) (*Log, error)) float64 {
	t.Helper()
	log, err := how(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, e := range log.Events {
		if e.What == Started {
			sum += (e.At - trace.Rows[e.Request].At).Seconds()
		}
	}
	return sum / float64(len(trace.Rows))
}

// On an overloaded card all waiting that a head is spared is another's. The mean wait
// is that of a schedule which knows the future where strict_after is two minutes;
// with 5 s the images wait for less and all together for up to 1.7 times as long,
// which is what strict_after is for. -v prints the figures.
func TestStrictAfterIsThePriceOfAnOverload(t *testing.T) {
	for _, diurnal := range []bool{true, false} {
		for seed := range uint64(1) {
			box := card()
			box.Learn = true
			for i := range box.Admission.Classes {
				box.Admission.Classes[i].QueueLimit, box.Admission.Classes[i].QueueTimeout = 100_000, 0
			}
			trace := overloaded(t, diurnal, seed)
			best := meanWait(t, box, trace, Clairvoyant)
			var ratio []float64
			for _, after := range []time.Duration{5 * time.Second, 2 * time.Minute} {
				for i := range box.Admission.Classes {
					box.Admission.Classes[i].StrictAfter = after
				}
				ratio = append(ratio, meanWait(t, box, trace, Admission)/best)
			}
			t.Logf("diurnal %v, seed %d: mean wait ÷ clairvoyant is %.3f with strict_after 5s, %.3f with 2m (%.0f s)", diurnal, seed, ratio[0], ratio[1], best)
			if ratio[1] > 1.05 {
				t.Errorf("with strict_after 2m the mean wait is %.3f times that of the clairvoyant, want 1.05 at most", ratio[1])
			}
			if ratio[0] > 2 {
				t.Errorf("with strict_after 5s the mean wait is %.3f times that of the clairvoyant, want 2 at most", ratio[0])
			}
		}
	}
}

// Where there is more work than the card can do, an image overtakes the questions that
// came before it or waits for them. On one and the same trace, that of flood.yaml with
// no limit on its queues, the first is what the flood is promised and costs 1.3 times
// the mean wait of a schedule by arrival; the second has its mean wait, and an image
// starts minutes later than alone. So a rule that had both would have to tell this
// trace from itself. strict_after chooses; -v prints the figures.
func TestTheFloodHasEitherItsPromiseOrTheMeanWait(t *testing.T) {
	box, trace := example(t, "flood", "flood")
	heavy := func(r Row) bool { return trace.kinds[r.kind].class == "heavy" }
	images := *trace
	images.Rows = slices.DeleteFunc(slices.Clone(trace.Rows), func(r Row) bool { return !heavy(r) })
	starts := func(trace *Trace) map[time.Duration]time.Duration { // of images, by arrival
		log, err := Admission(box, trace)
		if err != nil {
			t.Fatal(err)
		}
		all := map[time.Duration]time.Duration{}
		for _, e := range log.Events {
			if r := trace.Rows[e.Request]; e.What == Started && heavy(r) {
				all[r.At] = e.At
			}
		}
		return all
	}
	alone := starts(&images)
	for i := range box.Admission.Classes {
		box.Admission.Classes[i].QueueLimit, box.Admission.Classes[i].QueueTimeout = 100_000, 0
	}
	best := meanWait(t, box, trace, Clairvoyant)
	for _, after := range []time.Duration{5 * time.Second, 2 * time.Minute} {
		for i := range box.Admission.Classes {
			box.Admission.Classes[i].StrictAfter = after
		}
		ratio, later := meanWait(t, box, trace, Admission)/best, time.Duration(0)
		for at, start := range starts(trace) {
			later = max(later, start-alone[at])
		}
		t.Logf("strict_after %v: mean wait ÷ clairvoyant is %.3f, and an image starts %.1f s later than alone at most", after, ratio, later.Seconds())
		if promised := after < time.Minute; promised && later > 7*time.Second || !promised && ratio > 1.05 {
			t.Errorf("strict_after %v: the mean wait is %.3f times that of the clairvoyant, and an image starts %v later", after, ratio, later)
		}
	}
}
