package simulation

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Scene is a box and its traffic.
type Scene struct {
	Name string // as a key in JSON
	Says string // one line for people
	// Length is how long callers come; what they have asked for by then is
	// waited for.
	Length time.Duration
	// Jobs come at their times whatever happens.
	Jobs []Job
	// Callers each ask for light work, one after the other until Length: the next
	// when the one before has been answered.
	Callers [][]time.Duration

	// Contention says that the engines share the card's processor by time slices.
	Contention bool `json:",omitzero"`

	LightMemory admission.Bytes // what one light run takes
	LightSlots  int             // that Anteroom may use
	StaticSlots int             // for lights beside one heavy: the most that never run out of memory
}

// Job is one request of the traffic.
type Job struct {
	At      time.Duration // after the beginning
	Heavy   bool
	Execute time.Duration
}

// Scenes are the demo's, each with the same arrivals and execution times at
// every call. A draw of 600 s may lie far from the mean of all draws, so two
// seeds are chosen. Of the first 500 draws with the expected number of heavies
// (12 and 8) they are the ones that come nearest to 15.2 s of light wait in a
// single queue (steady; the reference that the demo prints) and to 3.0 s of heavy
// wait with static slots (wide lights; what queueing theory expects). How
// Anteroom does has no part in the choice.
func Scenes() []Scene {
	return []Scene{Steady(246), Backlog(1), WideLights(262), Contention(1)}
}

// Steady is work as it comes: heavies every 50 s and lights every 4 s on average.
func Steady(seed uint64) Scene {
	s := Scene{
		Name: "steady", Says: "a heavy request every 50 s, a light one every 4 s, for 600 s",
		Length: 600 * time.Second, LightMemory: 480 * admission.MiB, LightSlots: 8, StaticSlots: 8,
	}
	s.Jobs = append(poisson(seed, true, 50*time.Second, s.Length), poisson(seed, false, 4*time.Second, s.Length)...)
	slices.SortStableFunc(s.Jobs, func(a, b Job) int { return cmp.Compare(a.At, b.At) })
	return s
}

// Backlog is much at once: 4 heavies and 150 lights.
func Backlog(seed uint64) Scene {
	s := Scene{
		Name: "backlog", Says: "4 heavy requests and 150 light ones at once",
		LightMemory: 480 * admission.MiB, LightSlots: 8, StaticSlots: 8,
	}
	heavy, light := newDraws(seed, true), newDraws(seed, false)
	for range 4 {
		s.Jobs = append(s.Jobs, Job{Heavy: true, Execute: heavy.execution()})
	}
	for range 150 {
		s.Jobs = append(s.Jobs, Job{Execute: light.execution()})
	}
	return s
}

// Contention is the backlog on a card whose processor is shared.
func Contention(seed uint64) Scene {
	s := Backlog(seed)
	s.Name, s.Contention = "contention", true
	s.Says += ", and the engines share the processor by time slices (--contention): work side by side is slower"
	return s
}

// WideLights are lights that take so much memory that slots which are safe
// beside a heavy waste most of the card without one.
func WideLights(seed uint64) Scene {
	s := Scene{
		Name: "wide_lights", Says: "lights of 3 GiB from 12 callers without pause, a heavy request every 75 s, for 600 s",
		Length: 600 * time.Second, LightMemory: 3 * admission.GiB, LightSlots: 16, StaticSlots: 4,
	}
	s.Jobs = poisson(seed, true, 75*time.Second, s.Length)
	for caller := range uint64(12) {
		d := newDraws(seed+caller<<32, false)
		var times []time.Duration
		for sum := time.Duration(0); sum < s.Length; sum += times[len(times)-1] {
			times = append(times, d.execution())
		}
		s.Callers = append(s.Callers, times)
	}
	return s
}

// Bound is how much faster than one at a time a box with that many light slots
// could be at best: all the work over the longer of the heavies one after the
// other and the lights side by side.
func (s Scene) Bound() float64 {
	var heavy, light time.Duration
	for _, j := range s.Jobs {
		if j.Heavy {
			heavy += j.Execute
		} else {
			light += j.Execute
		}
	}
	return float64(heavy+light) / float64(max(heavy, light/time.Duration(s.LightSlots)))
}

// draws are the random times of one kind of work: its own arrivals and its own
// execution times, so that a change of one does not move the other.
type draws struct {
	gaps, times       *rand.Rand
	shortest, longest time.Duration
}

func newDraws(seed uint64, heavy bool) draws {
	kind, stream := VQA(), uint64(2)
	if heavy {
		kind, stream = Flux(), 0
	}
	return draws{
		gaps:     rand.New(rand.NewPCG(seed, stream)),
		times:    rand.New(rand.NewPCG(seed, stream+1)),
		shortest: kind.Shortest, longest: kind.Longest,
	}
}

func (d draws) execution() time.Duration {
	return d.shortest + time.Duration(d.times.Int64N(int64(d.longest-d.shortest)))
}

// poisson is work that arrives on average every gap, independently.
func poisson(seed uint64, heavy bool, gap, length time.Duration) (jobs []Job) {
	d := newDraws(seed, heavy)
	for at := time.Duration(0); ; {
		// Rounded, because machines differ in the last bit of such a product.
		at += time.Duration(d.gaps.ExpFloat64() * float64(gap)).Round(time.Millisecond)
		if at >= length {
			return jobs
		}
		jobs = append(jobs, Job{At: at, Heavy: heavy, Execute: d.execution()})
	}
}
