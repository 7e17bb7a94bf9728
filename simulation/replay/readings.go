package replay

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Readings says how GPUs are read that a sensor reads. The zero value: they are not.
//
// The card that is read holds what its runs and its backends hold by the definition of
// a booked memory (see books): what a run takes it takes at its start, and what it
// returns is free at its end.
type Readings struct {
	// Every is the time between readings; 0: there are none.
	Every time.Duration
	// Asked is how long a reading takes to come that is asked for, as one is when a
	// run has ended and requests wait.
	Asked time.Duration
	// Processes says that a reading tells what each replica holds, too.
	Processes bool
}

// atRest is how many readings in a row are played of an idle box: as many as the ledger
// wants before it believes what it sees. The rest of an idle time is left out, but for
// the last reading before something happens.
const atRest = 4

// longestQuiet is for how long requests may wait while nothing but readings happens.
const longestQuiet = 24 * time.Hour

// readCard is the simulated truth that the readings of a run show.
type readCard struct {
	*books
	Readings
	due     time.Duration // when it is read next, unasked
	asked   time.Duration // when a reading comes that was asked for; never: none was
	still   int           // readings since anything else happened
	stirred time.Duration // when it did
}

const never = time.Duration(1<<63 - 1)

// newReadCard makes one that is empty: weights come to it with the first run. Nil:
// nothing is read.
func newReadCard(box *Box) *readCard {
	if box.Readings.Every <= 0 || !slices.ContainsFunc(box.Admission.GPUs, func(g admission.GPU) bool { return g.Reads }) {
		return nil
	}
	return &readCard{books: newBooks(box), Readings: box.Readings, asked: never}
}

// next is when the card is read, where something else happens at until; never: it is
// not, for nothing else will happen.
func (c *readCard) next(until time.Duration, idle bool) time.Duration {
	switch {
	case c == nil, idle && until == never, !idle && c.due-c.stirred > longestQuiet:
		return never
	case idle && c.still >= atRest && until > c.due:
		c.due += (until - c.due - 1).Truncate(c.Every) // before what happens
	}
	return min(c.due, c.asked)
}

// stir says that something has happened.
func (c *readCard) stir(now time.Duration) {
	if c != nil {
		c.still, c.stirred = 0, now
	}
}

// ask asks for a reading soon.
func (c *readCard) ask(now time.Duration) {
	if c != nil {
		c.asked = min(c.asked, now+c.Asked)
	}
}

// readings are the card as a sensor sees it now, one of each GPU that is read.
func (c *readCard) readings(now time.Duration) []admission.Reading {
	if c.still++; now >= c.asked {
		c.asked = never
	}
	if now >= c.due {
		c.due = now + c.Every
	}
	var all []admission.Reading
	for g, gpu := range c.box.Admission.GPUs {
		if !gpu.Reads {
			continue
		}
		r := admission.Reading{GPU: gpu.Name, At: epoch.Add(now), Total: gpu.Memory, Used: min(c.booked[g], gpu.Memory), Source: "simulated"}
		if c.Processes {
			r.Processes = c.processes(g)
		}
		all = append(all, r)
	}
	return all
}

// processes are what each replica holds of a GPU.
func (c *readCard) processes(gpu int) []admission.Process {
	all := []admission.Process{}
	for i, replicas := range c.backends {
		for k := range replicas {
			for _, p := range replicas[k].places {
				if p.gpu == gpu {
					all = append(all, admission.Process{PID: 1 + len(all), Used: replicas[k].booked(p), Backend: c.box.Admission.Backends[i].Name, Replica: k})
				}
			}
		}
	}
	return all
}

// SensorReadings are those of serve's sensor (admission/gpu), with the processes of each
// backend.
var SensorReadings = Readings{Every: 500 * time.Millisecond, Asked: 50 * time.Millisecond, Processes: true}
