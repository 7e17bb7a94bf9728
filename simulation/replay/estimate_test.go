package replay

import (
	"slices"
	"testing"
	"time"
)

// A head's estimated start, as it is said when it becomes the head, is true to a
// second for half of them and to three for nine in ten. -v prints the figures.
func TestAHeadsEstimatedStartIsTrue(t *testing.T) {
	for _, name := range []string{"mixed", "three-classes", "two-gpus"} {
		box, trace := example(t, name, name)
		p, err := newPlan(box, trace)
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDesk(p)
		if err != nil {
			t.Fatal(err)
		}
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
