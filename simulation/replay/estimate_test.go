package replay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/internal/race"
)

// A head's estimated start, as it is said when it becomes the head, is true to a
// second for half of them and to three for nine in ten. -v prints the figures.
func TestAHeadsEstimatedStartIsTrue(t *testing.T) {
	for _, name := range []string{"two-gpus", "mixed", "three-classes"}[:race.Some(3)] {
		box, trace := example(t, name, name)
		d := controllerFor(t, box, trace)
		said := map[int32]time.Duration{} // by request
		heads := map[uint64]bool{}
		d.atRest = func() error {
			if len(d.waiting) == 0 {
				return nil
			}
			request := map[uint64]int32{}
			for x, r := range d.waiting {
				request[x.ID()] = r
			}
			for _, w := range d.rules.Queue(d.now, 0) {
				if w.InFlow == 0 && w.Class == "heavy" && !heads[w.ID] && !w.EstimatedStart.IsZero() {
					heads[w.ID] = true
					said[request[w.ID]] = w.EstimatedStart.Sub(epoch)
				}
			}
			return nil
		}
		if err := d.play(); err != nil {
			t.Fatal(err)
		}
		var errors []time.Duration
		for _, e := range d.log.Events {
			if at, ok := said[e.Request]; ok && e.What == Started {
				errors = append(errors, (e.At - at).Abs())
			}
		}
		if len(errors) < 20 {
			t.Fatalf("%s: %d heads waited, want more to judge by", name, len(errors))
		}
		slices.Sort(errors)
		median, p90, worst := errors[rank(len(errors), 0.5)], errors[rank(len(errors), 0.9)], errors[len(errors)-1]
		t.Logf("%s: of %d heads the estimated start is off by %v (median), %v (p90), %v at most", name, len(errors), median, p90, worst)
		if median > time.Second || p90 > 3*time.Second {
			t.Errorf("%s: the estimated start is off by %v (median) and %v (p90), want 1s and 3s at most", name, median, p90)
		}
	}
}

// controllerFor is what plays a trace, before it has begun.
func controllerFor(t *testing.T, box *Box, trace *Trace) *controller {
	t.Helper()
	p, err := newPlan(box, trace)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newController(p)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// wrongBy plays a trace and gives by how much each expected start was wrong, of every
// request at every moment at which it waited; none counts those for which none was said.
func wrongBy(t *testing.T, box *Box, trace *Trace) (all []time.Duration, none int) {
	t.Helper()
	d := controllerFor(t, box, trace)
	said := map[int32][]time.Duration{} // by request
	d.atRest = func() error {
		if len(d.waiting) == 0 {
			return nil
		}
		request := map[uint64]int32{}
		for x, r := range d.waiting {
			request[x.ID()] = r
		}
		for _, w := range d.rules.Queue(d.now, 0) {
			if w.EstimatedStart.IsZero() {
				none++
			} else {
				said[request[w.ID]] = append(said[request[w.ID]], w.EstimatedStart.Sub(epoch))
			}
		}
		return nil
	}
	if err := d.play(); err != nil {
		t.Fatal(err)
	}
	for _, e := range d.log.Events {
		if e.What == Started {
			for _, at := range said[e.Request] {
				all = append(all, (e.At - at).Abs())
			}
		}
	}
	slices.Sort(all)
	return all, none
}

// The expected start of every waiting request is true, also where sizes of one class
// are mixed, and where backends take turns. -v prints the figures.
func TestEveryExpectedStartIsTrue(t *testing.T) {
	sizes := card()
	sizes.Routes = append(sizes.Routes, sizes.Routes[0])
	sizes.Routes[len(sizes.Routes)-1].Name, sizes.Routes[len(sizes.Routes)-1].VRAM = "sketch", 10*admission.GiB
	sizes.Learn, sizes.Routes[len(sizes.Routes)-1].Estimate = true, estimate(4.25)
	for i := range sizes.Admission.Classes {
		sizes.Admission.Classes[i].QueueLimit = 1000
	}
	var rows strings.Builder
	rows.WriteString("at,class,execute,route\n")
	draw := rand.New(rand.NewPCG(1, 2))
	for at := 0.0; at < 1800; at += 12 * draw.ExpFloat64() {
		route, execute := "sketch", 4+draw.Float64()/2
		if draw.IntN(2) == 0 {
			route, execute = sizes.Routes[0].Name, 17+draw.Float64()
		}
		fmt.Fprintf(&rows, "%f,heavy,%f,%s\n", at, execute, route)
	}
	for at := 0.0; at < 1800; at += draw.ExpFloat64() / 4 {
		fmt.Fprintf(&rows, "%f,light,%f,\n", at, 1+draw.Float64())
	}
	mixed := read(t, rows.String())
	check := func(name string, box *Box, trace *Trace, median, p90 time.Duration) {
		t.Helper()
		all, none := wrongBy(t, box, trace)
		if len(all) < 40 || none*20 > len(all) {
			t.Fatalf("%s: %d starts were said, and none %d times", name, len(all), none)
		}
		m, p := all[rank(len(all), 0.5)], all[rank(len(all), 0.9)]
		t.Logf("%s: of %d expected starts half are off by %v at most, nine in ten by %v; none was said %d times", name, len(all), m, p, none)
		if m > median || p > p90 {
			t.Errorf("%s: off by %v (median) and %v (p90), want %v and %v at most", name, m, p, median, p90)
		}
	}
	check("mixed sizes", sizes, mixed, time.Second, 3*time.Second)
	for _, period := range []float64{7.2, 8, 9, 10} {
		check(fmt.Sprint("turns, an image each ", period, " s"), twoEngines(), everySeconds(t, period, threeChats), 3*time.Second, 8*time.Second)
	}
}
