package history

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Evidence is what a figure rests on. It is a small closed set.
type Evidence string

const (
	Declared    Evidence = "declared"      // the configuration, or nothing yet
	ByProcess   Evidence = "process"       // the driver's figures of the backend's processes
	ByTotal     Evidence = "total"         // the card's total, while nothing else of ours moved
	ByTrial     Evidence = "trial"         // a run that went well in less room
	ByExhausted Evidence = "out_of_memory" // answers of a full card
)

// Figure is what is booked for work of one demand, and why.
type Figure struct {
	Booked memory.Bytes
	// Unknown says that nobody knows the demand, and Booked is a first guess.
	Unknown  bool
	Evidence Evidence
	// Since is when the figure became what it is. Zero: it is as it was declared.
	Since time.Time
	// RaisedBy is by how much out-of-memory answers have raised it, and
	// ComesDownAfter after how many more good runs it falls again. Zero: none has.
	RaisedBy       memory.Bytes
	ComesDownAfter int
}

// Peak is what is known of the memory that runs of one demand took on each GPU,
// beside the weights of their backend.
type Peak struct {
	Runs uint64       // that could be measured
	Most memory.Bytes // of those that still count
	// OutOfMemory counts the runs that ended for want of memory.
	OutOfMemory uint64
}

// sighting is what a backend was seen to hold at the height of one run.
type sighting struct {
	// held has the weights in it: those may become known later, and the sum stays
	// what it is.
	held  memory.Bytes
	exact bool // the driver told it of its processes
	age   int  // runs that ended well since
	// proofs counts the runs that ran out of memory with less.
	proofs int
}

// peaks are what a History knows of one demand's memory.
type peaks struct {
	seen     []sighting // of the last runs that could be measured, the oldest first
	measured uint64
	anew     bool // nothing is declared, and what was seen counts no more: the next run is measured
	keeps    bool // its backend was last seen to keep what its runs take
	// flat is what the backend held, with its weights, in the last runs in a row
	// that added nothing to what it keeps: they took no more.
	flat []memory.Bytes
	// rooms is the memory that the last runs which ended well could have had.
	rooms []memory.Bytes
	odd   int          // runs in a row that ran out of memory where others did well
	trial memory.Bytes // what a trial made do with; zero: there was none
	floor memory.Bytes // what out-of-memory answers have raised it to; zero: none has
	// raises counts them, since counts the runs that ended well since the last, or
	// since the figure has come down.
	raises, since int
	failures      uint64
	known         memory.Case

	learn bool // nobody declares it, as of the last Demand
	last  Figure
}

const (
	maxPeaks    = 8 // runs that are remembered: a model that was exchanged is forgotten
	enoughPeaks = 4 // measured runs before a declared figure may fall
	enoughFlat  = 3 // runs in a row that added nothing before the figure falls to that
	maxFloor    = memory.Bytes(1 << 50)
	// goodRuns is how many runs must end well before a figure that an
	// out-of-memory answer has raised falls again, the first time. After each
	// further raise it takes twice as many, and mostGoodRuns at most. After as many
	// more the raises are forgotten.
	goodRuns, mostGoodRuns = 3, 48
	// fades is how many runs must end well before one that was measured by totals
	// counts no more. Each other that confirms it, to a tenth, and each run that ran
	// out of memory with less, makes it four times as many. A neighbour that came in
	// the run may have been what was seen.
	fades, fadesMore = 16, 4
)

// margins are added to what was seen: little where a reading after the end shows
// the peak, more where a peak may have come between two readings.
func surely(n memory.Bytes) memory.Bytes   { return n + n*3/100 }
func probably(n memory.Bytes) memory.Bytes { return n + n/4 }

// nearly says that a is no more than b, to a tenth.
func nearly(a, b memory.Bytes) bool { return a <= b+b/10 }

// Case is what runs of that demand alone on their GPUs have told. It is the
// admission rules' own: the History only keeps it.
func (h *History) Case(vram memory.Bytes) *memory.Case {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &h.kindOf(vram).known
}

// LearnPeak takes what a run was measured to hold.
func (h *History) LearnPeak(at time.Time, vram memory.Bytes, m memory.Measurement) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resident = m.Weights
	k := h.kindOf(vram)
	defer k.note(h, at)
	held := max(0, m.Seen) + m.Weights
	if !m.Grew {
		k.flat = remember(k.flat, held, enoughFlat)
		return
	}
	if n := len(k.seen); m.Corrects && n > 0 {
		k.seen = k.seen[:n-1]
	} else {
		k.measured++
	}
	k.keeps = m.Keeps
	if k.anew {
		k.seen, k.anew = nil, false
	}
	x := sighting{held: held, exact: m.Exact}
	if k.floor > 0 {
		x.proofs = 1
	}
	k.seen = remember(k.seen, x, maxPeaks)
	if len(k.flat) < enoughFlat || held > slices.Max(k.flat) {
		k.flat = nil
	}
}

// remember adds a value to the last n.
func remember[T any](list []T, x T, n int) []T {
	if len(list) >= n {
		list = slices.Delete(list, 0, len(list)-n+1)
	}
	return append(list, x)
}

// Measured says that what Demand says rests on process figures of a backend that
// is seen to keep what its runs take.
func (h *History) Measured(vram memory.Bytes) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(vram)
	return k != nil && k.keeps && len(k.seen) >= enoughPeaks && k.seen[len(k.seen)-1].exact && k.floor == 0
}

// LearnRoom takes the memory that a run which ended well could have had, weights
// included. onTrial says that nobody knew whether it would be enough. A run that began
// before the last raise tells nothing of it.
func (h *History) LearnRoom(at, began time.Time, vram, room, weights memory.Bytes, onTrial bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.kindOf(vram)
	defer k.note(h, at)
	k.rooms, k.odd = remember(k.rooms, room, maxPeaks), 0
	if k.floor == 0 || k.last.Evidence != ByExhausted || began.After(k.last.Since) {
		k.since++
	}
	for i := range k.seen {
		k.seen[i].age++
	}
	if slices.ContainsFunc(k.seen, k.faded) {
		was := peaks{seen: slices.Clone(k.seen), flat: k.flat, keeps: k.keeps}
		if k.seen = slices.DeleteFunc(k.seen, was.faded); len(k.seen) == 0 && k.learn {
			k.seen, k.anew = was.seen[len(was.seen)-1:], true
		}
	}
	if onTrial && k.anew && len(k.seen) > 0 {
		k.anew, k.seen[0].age = false, 0 // that run could not be measured
	}
	switch {
	case k.floor > 0 && (onTrial || k.since >= k.needed()):
		k.floor, k.since = 0, 0
	case k.floor == 0 && k.since >= mostGoodRuns:
		k.raises = 0
	}
	if n := room - weights; onTrial && n > 0 && (k.trial == 0 || n < k.trial) {
		k.trial = n
	}
}

// needed is how many runs must end well for the figure to fall again.
func (p *peaks) needed() int { return min(goodRuns<<min(max(0, p.raises-1), 10), mostGoodRuns) }

// faded says that a sighting counts no more. Process figures are not mistaken,
// and a backend that keeps what its runs take shows by what it holds whether
// they took it.
func (p *peaks) faded(x sighting) bool {
	switch {
	case x.exact:
		return false
	case p.keeps:
		return x.age >= fades && len(p.flat) == enoughFlat && !nearly(x.held, slices.Max(p.flat))
	}
	confirmed := x.proofs - 1 // one of those that agree is itself
	for _, y := range p.seen {
		if nearly(x.held, y.held) && nearly(y.held, x.held) {
			confirmed++
		}
	}
	lasts := fades
	for range min(confirmed, maxPeaks) {
		lasts *= fadesMore
	}
	return x.age >= lasts
}

// peak is the most that the runs took which were measured and still count.
func (p *peaks) peak(weights memory.Bytes) (most memory.Bytes, by Evidence) {
	by = ByTotal
	for _, x := range p.seen {
		if n := x.held - weights; n > most {
			if most, by = n, ByTotal; x.exact {
				by = ByProcess
			}
		}
	}
	return most, by
}

func (p *peaks) describe(weights memory.Bytes) Peak {
	most, _ := p.peak(weights)
	return Peak{Runs: p.measured, OutOfMemory: p.failures, Most: most}
}

// Demand is what to book for work whose own figure is vram, and whether nobody
// knows it. learn says that nobody declared it. The figure is that of the first
// rule that applies:
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
// Then it falls to what the backend held in three runs in a row that added
// nothing to what it keeps, or what was seen if that is more, and it is no less
// than what out-of-memory answers have raised it to.
//
// What comes out may be more than the card could ever give: admission.Request.Raised
// says how much of it may be taken off.
func (h *History) Demand(vram memory.Bytes, learn bool) (booked memory.Bytes, isUnknown bool) {
	f := h.Figure(vram, learn)
	return f.Booked, f.Unknown
}

// Figure is Demand with what it rests on.
func (h *History) Figure(vram memory.Bytes, learn bool) Figure {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(vram)
	if k == nil {
		return Figure{Booked: vram, Unknown: learn, Evidence: Declared}
	}
	k.learn = learn
	return k.dated(h.resident)
}

// dated is figure with its Since.
func (k *kind) dated(weights memory.Bytes) Figure {
	f := k.figure(weights)
	f.Since = k.last.Since
	return f
}

// figure is what Demand says.
func (k *kind) figure(weights memory.Bytes) Figure {
	seen, by := k.peak(weights)
	f := Figure{Booked: k.vram, Evidence: Declared}
	switch {
	case k.learn && len(k.seen) == 0 && k.trial == 0: // 1
		f.Unknown = true
	case k.learn && len(k.seen) == 0:
		f.Booked, f.Evidence = k.trial, ByTrial
	case k.learn && k.keeps: // 2
		f.Booked, f.Evidence, f.Unknown = surely(seen), by, k.anew
	case k.learn:
		f.Booked, f.Evidence, f.Unknown = probably(seen), by, k.anew
	case seen > k.vram, k.keeps && len(k.seen) >= enoughPeaks: // 3, 4
		f.Booked, f.Evidence = surely(seen), by
	case k.trial > 0 && k.trial < k.vram: // 5
		f.Booked, f.Evidence = max(k.trial, surely(seen)), ByTrial
	}
	if len(k.flat) == enoughFlat && !f.Unknown {
		if most := surely(max(seen, slices.Max(k.flat)-weights)); most < f.Booked {
			f.Booked, f.Evidence = most, by
		}
	}
	if k.floor > f.Booked || k.floor > 0 && f.Unknown {
		raised := k.floor
		if f.Unknown {
			raised = max(raised, k.vram)
		}
		f.RaisedBy, f.ComesDownAfter = raised-f.Booked, k.needed()-k.since
		f.Booked, f.Unknown, f.Evidence = raised, false, ByExhausted
	}
	return f
}

// note notes when the figure of a kind has changed.
func (k *kind) note(h *History, at time.Time) {
	f := k.figure(h.resident)
	if was := k.last; f.Booked != was.Booked || f.Unknown != was.Unknown || f.Evidence != was.Evidence {
		f.Since = at
		if f.Evidence == Declared && was.Since.IsZero() {
			f.Since = time.Time{} // it was never anything else
		}
		k.last = f
	}
}

// Failure is a run that ended for want of memory.
type Failure struct {
	// Booked is the demand that it was started with.
	Booked memory.Bytes
	// Room is the memory that it could have had at the least, and Weights what its
	// backend holds of that.
	Room, Weights memory.Bytes
	// Said is what its answer says that it needs, weights included. Zero: nothing.
	Said memory.Bytes
}

// needs is what a run that failed is taken to need. Zero: nothing tells, since it had
// no room for more than the weights of its backend.
func (f Failure) needs(seen memory.Bytes) memory.Bytes {
	if f.Said > f.Weights {
		return min(f.Said-f.Weights+f.Said/50, maxFloor)
	}
	return min(max(probably(seen), f.Room-f.Weights+f.Room/50, 0), maxFloor)
}

// Exhausted takes a run that ended for want of memory, and gives the figure for
// another try. A request that ran out of memory where others of its kind did well
// is odd, and raises nothing but its own figure: more of the last eight runs which
// ended well had no more room, to a tenth, than have failed since. One that says that
// it needed no more than is booked raises nothing.
func (h *History) Exhausted(at time.Time, vram memory.Bytes, f Failure) (again memory.Bytes, isOdd bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.kindOf(vram)
	defer k.note(h, at)
	k.failures++
	if f.Said > 0 && f.Said <= f.Weights+f.Booked {
		return f.Booked, false // others held what it needed, and it needed no more
	}
	well := 0
	for _, n := range k.rooms {
		if nearly(n, f.Room) {
			well++
		}
	}
	seen, _ := k.peak(f.Weights)
	again = f.needs(seen)
	if well > k.odd {
		k.odd++
		return max(again, probably(f.Booked)), true
	}
	k.odd, k.trial, k.flat = 0, 0, nil
	for i, x := range k.seen {
		if f.Booked < x.held-f.Weights {
			k.seen[i].age, k.seen[i].proofs = 0, x.proofs+1
		}
	}
	if k.floor == 0 || f.Booked >= k.floor {
		k.raises++ // one that had started before the last raise tells nothing of it
	}
	k.floor, k.since = max(k.floor, again), 0
	return max(again, k.figure(h.resident).Booked), false
}

// Forget forgets all that was learned. The Cases stay where they are, and know
// nothing.
func (h *History) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.kinds {
		*k = kind{vram: k.vram, weight: 1, peaks: peaks{learn: k.learn}}
	}
	h.resident = 0
}
