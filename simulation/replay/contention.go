package replay

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Slower says how many times longer the work of a route takes beside the work of a
// class, by the route's and the class's names. What is not there runs as fast as alone.
type Slower map[string]map[string]float64

// SlowerThan reads it off what was learned of a route's work, all demands together:
// the time beside a class over that alone. A route without both has none.
func SlowerThan(learned []admission.Learned) map[string]float64 {
	sum, n := map[string]float64{}, map[string]float64{}
	for _, l := range learned {
		alone := l.Beside[""].P50
		for class, e := range l.Beside {
			if class != "" && alone > 0 {
				sum[class] += max(1, e.P50.Seconds()/alone.Seconds())
				n[class]++
			}
		}
	}
	if len(sum) == 0 {
		return nil
	}
	out := map[string]float64{}
	for class := range sum {
		out[class] = sum[class] / n[class]
	}
	return out
}

// shared are the runs of a box whose work slows down other work. A run goes at the
// speed of its slowest company on its GPUs; its execution time in the trace is that
// which it has alone.
type shared struct {
	plan *plan
	runs []*sharedRun
	now  time.Duration
}

// sharedRun is one of them.
type sharedRun struct {
	appointment
	row   *Row
	route *route
	gpus  []string
	left  float64 // of the work, in seconds alone
	speed float64
	limit time.Duration // it ends then, however much is left
	fate  Fate          // if it does
}

// pass lets time go on.
func (s *shared) pass(now time.Duration) {
	for _, r := range s.runs {
		r.left -= (now - s.now).Seconds() * r.speed
	}
	s.now = now
}

// add adds a run that starts on a replica.
func (s *shared) add(now time.Duration, a appointment, row *Row, replica int) {
	s.pass(now)
	r := &sharedRun{appointment: a, row: row, route: s.plan.route(row), left: row.Execute.Seconds()}
	for _, p := range s.plan.box.Admission.Backends[r.route.backend].Replicas[replica].Places {
		r.gpus = append(r.gpus, p.GPU)
	}
	// What ends it early goes by the clock.
	longest := *row
	longest.Execute = 1 << 60
	r.limit, r.fate = s.plan.run(&longest, now)
	s.runs = append(s.runs, r)
	s.pace()
}

// pace gives each run the speed of its company.
func (s *shared) pace() {
	for _, r := range s.runs {
		slowest := 1.0
		for _, o := range s.runs {
			if o != r && slices.ContainsFunc(o.gpus, func(g string) bool { return slices.Contains(r.gpus, g) }) {
				slowest = max(slowest, s.plan.box.Slower[r.route.Name][o.route.Class])
			}
		}
		r.speed = 1 / slowest
	}
}

// next gives the run that ends first, and when; nil: none runs.
func (s *shared) next() (first *sharedRun, at time.Duration) {
	for _, r := range s.runs {
		end := s.now + time.Duration(max(0, r.left)/r.speed*float64(time.Second))
		if end = min(end, r.limit); first == nil || end < at || end == at && r.request < first.request {
			first, at = r, end
		}
	}
	return first, at
}

// end takes out a run that ends now.
func (s *shared) end(now time.Duration, r *sharedRun) appointment {
	s.pass(now)
	if now >= r.limit {
		r.appointment.fate = r.fate
	}
	s.runs = slices.DeleteFunc(s.runs, func(x *sharedRun) bool { return x == r })
	s.pace()
	return r.appointment
}

// Longest gives the longest run of each backend in a trace.
func Longest(box *Box, trace *Trace) map[string]time.Duration {
	longest := map[string]time.Duration{}
	if p, err := newPlan(box, trace); err == nil {
		for i := range trace.Rows {
			row := &trace.Rows[i]
			longest[p.route(row).Backend] = max(longest[p.route(row).Backend], row.Execute)
		}
	}
	return longest
}
