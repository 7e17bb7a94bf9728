package history

import (
	"slices"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Peak is what is known of the memory that runs of one demand took on each GPU,
// beside the weights of their backend.
type Peak struct {
	Runs      uint64       // that could be measured
	P95, Most memory.Bytes // of the last of them
	// OutOfMemory counts the runs that ended for want of memory. Least is what
	// is booked since then at the least; zero: there was none, or its time is up.
	OutOfMemory uint64
	Least       memory.Bytes
	// Trial is what a run made do with that was put to a trial; zero: none was.
	Trial memory.Bytes
}

// peaks are what a History knows of one demand's memory.
type peaks struct {
	// totals are what the backend held at the height of the last runs that could
	// be measured, its weights included: those may become known later, and the
	// sum stays what it is. The oldest is overwritten.
	totals   []memory.Bytes
	next     int
	measured uint64
	keeps    bool // the backend was seen to keep what its runs take
	exact    bool // process figures told the last of them
	// rooms is the memory that the last runs which ended well could have had.
	rooms    []memory.Bytes
	nextRoom int
	trial    memory.Bytes // what a trial made do with; zero: there was none
	floor    memory.Bytes // what an out-of-memory answer has raised it to; zero: none has
	raises   int          // of the floor
	since    int          // runs that ended well since the last
	failures uint64
	known    memory.Case
}

const (
	maxPeaks    = 8 // measured runs that are remembered: a model that was exchanged is forgotten
	enoughPeaks = 4 // measured runs before a declared figure may fall
	maxFloor    = memory.Bytes(1 << 50)
	// goodRuns is how many runs must end well before a figure that an
	// out-of-memory answer has raised falls again, the first time.
	goodRuns = 3
	// oddRooms is how many of the last runs must have ended well in no more
	// memory for one that ran out of it to count as odd.
	oddRooms = 3
)

// margins are added to what was seen: little where a reading after the end shows
// the peak, more where a peak may have come between two readings.
func surely(n memory.Bytes) memory.Bytes   { return n + n*3/100 }
func probably(n memory.Bytes) memory.Bytes { return n + n/4 }

// Case is what runs of that demand alone on their GPUs have told. It is the
// admission rules' own: the History only keeps it.
func (h *History) Case(vram memory.Bytes) *memory.Case {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &h.kindOf(vram).known
}

// LearnPeak takes what a run held at its height, beyond the weights of its
// backend. keeps says that the backend is seen to keep what its runs take, so
// that no peak goes unseen; exact, that process figures tell it.
func (h *History) LearnPeak(vram, peak, weights memory.Bytes, keeps, exact bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resident = weights
	p := &h.kindOf(vram).peaks
	p.measured++
	p.keeps, p.exact = keeps, exact
	p.totals, p.next = remember(p.totals, p.next, max(0, peak)+weights)
}

// Measured says that what Demand says rests on process figures of a backend that
// is seen to keep what its runs take.
func (h *History) Measured(vram memory.Bytes) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(vram)
	return k != nil && k.keeps && k.exact && len(k.totals) >= enoughPeaks && k.floor == 0
}

// remember puts a value in the place of the oldest of the last eight.
func remember(list []memory.Bytes, next int, n memory.Bytes) ([]memory.Bytes, int) {
	if len(list) < maxPeaks {
		return append(list, n), 0
	}
	list[next] = n
	return list, (next + 1) % maxPeaks
}

// LearnRoom takes the memory that a run which ended well could have had, weights
// included. onTrial says that nobody knew whether it would be enough.
func (h *History) LearnRoom(vram, room, weights memory.Bytes, onTrial bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.kindOf(vram).peaks
	p.rooms, p.nextRoom = remember(p.rooms, p.nextRoom, room)
	if p.floor > 0 {
		if p.since++; onTrial || p.since >= goodRuns<<min(p.raises-1, 10) {
			p.floor, p.since = 0, 0
		}
	}
	if n := room - weights; onTrial && n > 0 && (p.trial == 0 || n < p.trial) {
		p.trial = n
	}
}

// seen is the most that the last measured runs took.
func (p *peaks) seen(weights memory.Bytes) memory.Bytes {
	if len(p.totals) == 0 {
		return 0
	}
	return max(0, slices.Max(p.totals)-weights)
}

func (p *peaks) describe(weights memory.Bytes) Peak {
	d := Peak{Runs: p.measured, OutOfMemory: p.failures, Least: p.floor, Trial: p.trial, Most: p.seen(weights)}
	d.P95 = d.Most
	return d
}

// Demand is what to book for work whose own figure is vram, and whether nobody
// knows it. The first rule that applies counts; what an out-of-memory answer has
// raised comes on top.
//
//  1. Nothing is declared and nothing was seen: unknown.
//  2. Nothing is declared: a quarter above the most that was seen; three
//     hundredths where the backend is seen to keep what runs take.
//  3. More than declared was seen: three hundredths above that.
//  4. Four runs were measured on a backend that is seen to keep: three
//     hundredths above the most, also below the declared figure.
//  5. A trial made do with less: that, or what was seen if that is more.
//  6. The declared figure.
//
// What comes out may be more than the card could ever give: admission.Request.Raised
// says how much of it may be taken off.
func (h *History) Demand(vram memory.Bytes, learn bool) (booked memory.Bytes, isUnknown bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(vram)
	if k == nil {
		return vram, learn
	}
	seen := k.seen(h.resident)
	switch {
	case learn && len(k.totals) == 0 && k.trial == 0: // 1
		return max(vram, k.floor), k.floor == 0
	case learn && len(k.totals) == 0:
		booked = k.trial
	case learn && k.keeps: // 2
		booked = surely(seen)
	case learn:
		booked = probably(seen)
	case seen > vram: // 3
		booked = surely(seen)
	case k.keeps && len(k.totals) >= enoughPeaks: // 4
		booked = surely(seen)
	case k.trial > 0 && k.trial < vram: // 5
		booked = max(k.trial, surely(seen))
	default: // 6
		booked = vram
	}
	return max(booked, k.floor), false
}

// Exhausted takes a run that ended for want of memory, although so much was
// booked and so much room was there, weights included. said is what its answer
// says that it needs; zero: nothing. A request that ran out of memory where
// others of its kind do well is odd, and raises nothing.
func (h *History) Exhausted(vram, booked, room, weights, said memory.Bytes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &h.kindOf(vram).peaks
	p.failures++
	enough := 0
	for _, n := range p.rooms {
		if n <= room+room/10 {
			enough++
		}
	}
	if enough >= oddRooms {
		return
	}
	raised := max(probably(max(booked, p.seen(weights))), room-weights+room/50)
	if said > weights {
		raised = said - weights + said/50
	}
	p.floor = min(max(p.floor, raised, 1), maxFloor)
	p.raises++
	p.since, p.trial = 0, 0
}
