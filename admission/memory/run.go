package memory

import (
	"slices"
	"time"
)

// Kind is how a run was let in.
type Kind uint8

const (
	Fitting Kind = iota // it fitted
	Alone               // it fits if some of the memory in use is its own
	Trial               // it is not known whether it fits
)

// Run is a run in the ledger, from Start to End. Its owner allocates it; the
// zero value with a Demand and Accounts is ready for Start. A run on several
// GPUs takes its demand on each.
type Run struct {
	// Owner is its owner's own, for Measurement.
	Owner    any
	Accounts []int
	Demand   Bytes
	// Unknown says that the demand is not known: Demand is a first guess.
	Unknown  bool
	Kind     Kind
	state    runState
	tightest int32 // the account where it had the least room
	// Case is what is known of its route and size. Nil: nothing, and nothing is
	// learned.
	Case *Case

	// Started is when Start booked it.
	Started, ended time.Duration
	asked          Bytes // Demand, as it started
	// least and room bound what it could have had on the GPU where that is least.
	least, room Bytes
	weights     Bytes // of its backend there
	used        Bytes // in use, as it started
	taken       Bytes // in use beside what it surely held itself, as it started
}

type runState uint8

const (
	notStarted runState = iota
	running
	over
)

// Outcome is how a run ended.
type Outcome uint8

const (
	Good        Outcome = iota // its backend answered, and holds its weights
	Failed                     // it did not; the backend may have died
	OutOfMemory                // it ended for want of memory
	Unserved                   // it never came to its backend
)

// Result is how a run ended, and what an out-of-memory answer says. Figures that
// it does not say are zero.
type Result struct {
	Outcome
	Tried Bytes // what could not be allocated
	Free  Bytes // what was free
	InUse Bytes // what the backend's process held
}

// Lacked says that the answer tells, by its figures, that the process could not have
// had what it needed by ours: others held that, whatever the request wanted.
func (r Result) Lacked(need Bytes) bool {
	if r.Outcome != OutOfMemory || r.InUse <= 0 {
		return false
	}
	if r.Free > 0 {
		return r.InUse+r.Free < need
	}
	return r.InUse+r.Tried <= need
}

// Room is what a run could have of the GPU where that was least, as it started: the
// capacity less the reserve and what others held, at least and at most. It has to
// hold the weights of its backend too.
func (r *Run) Room() (least, most, weights Bytes) { return r.least, r.room, r.weights }

// Asked is the demand that a run was started with.
func (r *Run) Asked() Bytes { return r.asked }

// Bars says that a lone run keeps whatever adds memory from starting on a GPU: for
// TrialAfter at the most, and no longer than until a reading a second after its end.
func (l *Ledger) Bars(g int, now time.Duration) bool {
	r := l.devices[g].lone
	return r != nil && now-r.Started < l.devices[g].trialAfter()
}

// LoneRun is the lone run that is under way on a GPU, or has not been read to the
// end; nil: there is none.
func (l *Ledger) LoneRun(g int) *Run { return l.devices[g].lone }

// Start books a run.
func (l *Ledger) Start(now time.Duration, r *Run) {
	r.state, r.Started, r.asked = running, now, r.Demand
	if r.Case != nil && r.Kind != Fitting {
		l.again(r.Case, now)
	}
	for i, a := range r.Accounts {
		g := l.accounts[a].gpu
		var room, least, used, taken Bytes
		if l.devices[g].goodAt == never {
			room = l.roomBlind(a)
			least = room
		} else {
			room, used, taken = l.room(a, false), l.GPUs[g].Used, l.GPUs[g].Used-l.Accounts[a].Low
			least = max(0, l.Budget(g)-taken-l.Accounts[a].Running-l.growthBeside(a))
		}
		if i == 0 || room < r.room {
			r.room = room
		}
		if i == 0 || least < r.least {
			r.least, r.tightest, r.weights, r.used, r.taken = least, int32(a), l.accounts[a].weights, used, taken
		}
	}
	if r.Unknown && r.Kind != Fitting {
		// It has all the room there is.
		most := Bytes(1 << 60)
		for _, a := range r.Accounts {
			most = min(most, l.room(a, false)-l.accounts[a].weights-l.Accounts[a].Running)
		}
		r.Demand = max(r.Demand, most)
	}
	for _, a := range r.Accounts {
		acc := l.accounts[a]
		h := &l.Accounts[a]
		d := l.devices[acc.gpu]
		if h.Runs == 0 {
			acc.idle = h.High
		}
		l.follow(now, a, r)
		l.Take(&l.State, a, r.Demand, now)
		acc.runs = append(acc.runs, r)
		acc.started += r.Demand
		l.startBlind(acc.gpu, r)
		l.touch(now, a)
		if r.Kind != Fitting {
			d.lone = r
		}
	}
}

// growthBeside is what the running work of the other accounts of a GPU may still
// take.
func (l *Ledger) growthBeside(a int) (sum Bytes) {
	for _, i := range l.devices[l.accounts[a].gpu].accounts {
		if i != a {
			sum += l.Accounts[i].Growth()
		}
	}
	return sum
}

// touch notes that work of ours moves memory on an account.
func (l *Ledger) touch(now time.Duration, a int) {
	l.moved(now, a)
	d := l.devices[l.accounts[a].gpu]
	d.calm, d.quiet = 0, 0
}

// moved notes that an account may have moved memory, whose process has come or gone.
// No work of ours has: readings that agree go on doing so.
func (l *Ledger) moved(now time.Duration, a int) {
	acc := l.accounts[a]
	acc.touchedAt, l.devices[acc.gpu].movedAt = now, now
}

// End takes a run off the books. What it took stays in Peak until a reading.
func (l *Ledger) End(now time.Duration, r *Run, res Result) {
	if r.state != running {
		return
	}
	r.state, r.ended = over, now
	for _, a := range r.Accounts {
		acc, h := l.accounts[a], &l.Accounts[a]
		i := slices.Index(acc.runs, r)
		last := len(acc.runs) - 1
		copy(acc.runs[i:], acc.runs[i+1:])
		acc.runs[last], acc.runs = nil, acc.runs[:last]
		h.Runs--
		h.Running -= r.Demand
		l.touch(now, a)
		acc.endedAt, acc.readBy = now, now+settleTime
		sight := l.sight(acc.gpu, now)
		if sight == blind {
			booked := Bytes(0)
			if l.devices[acc.gpu].full.beyond == r {
				booked = l.bookedBlind(acc.gpu)
			}
			l.endBlind(a, res)
			l.endFull(now, a, r, res, booked)
			if d := l.devices[acc.gpu]; d.lone == r {
				d.lone = nil // no reading will show what it left
			}
		} else if res.Outcome != Unserved {
			acc.ended += r.Demand
			l.devices[acc.gpu].returned += r.Demand
			if !acc.keeps() && acc.seenReturns < 2 {
				acc.late = append(acc.late, late{now, r.Demand})
				l.lateOf(a, now)
			}
		}
		acc.outcome(now, h, r, &res)
	}
	l.unfollow(now, r, res)
	l.judge(now, r, res)
}

// outcome takes what the end of a run tells of its backend: whether it is loaded, and for
// how large a request it has been short of memory.
func (a *account) outcome(now time.Duration, h *Account, r *Run, res *Result) {
	a.proven = res.Outcome == Good
	switch res.Outcome {
	case Good:
		if r.asked >= a.short && r.Started >= a.shortAt {
			a.short = 0
		}
		a.loaded, a.gone, a.startedBy = loaded, false, 0
	case Failed:
		a.loaded = unknown
	case OutOfMemory:
		if a.loaded, a.shortAt = unknown, now; a.short == 0 || r.asked < a.short {
			a.short = max(1, r.asked)
		}
		if r.Case != nil {
			a.failed = r
		}
		if a.figure < 0 {
			h.Low = 0
			if res.InUse > 0 {
				h.Low, h.High = res.InUse, res.InUse
			}
		}
	}
}

// late is memory that a run may return later than its end.
type late struct {
	at     time.Duration
	demand Bytes
}

// lateOf adds up what may be returned late on account a, as of a reading that was
// begun at an age: what ended a second before it has been.
func (l *Ledger) lateOf(a int, begun time.Duration) {
	acc, h := l.accounts[a], &l.Accounts[a]
	acc.late = slices.DeleteFunc(acc.late, func(x late) bool { return x.at+settleTime <= begun })
	h.Late = 0
	for _, x := range acc.late {
		h.Late, h.LateUntil = h.Late+x.demand, x.at+settleTime
	}
}

// endBlind books the end of a run where no reading will tell what stays.
func (l *Ledger) endBlind(a int, res Result) {
	acc, h := l.accounts[a], &l.Accounts[a]
	left := l.need(&l.State, a)
	switch {
	case res.Outcome == Unserved || res.Outcome == Failed && acc.keeps():
		left = max(left, min(acc.idle, h.High))
	case acc.keeps():
		left = h.High
	default:
		left = max(left, acc.weights)
	}
	h.High, h.Low, h.Peak = left, min(h.Low, left), l.need(&l.State, a)
	if res.Outcome == Good && acc.keeps() {
		h.Low = left // there is nothing better to go by
	}
}

// raisePeak brings a Peak up to what running work needs, after a figure has
// risen.
func (l *Ledger) raisePeak(a int) {
	h := &l.Accounts[a]
	h.Peak = max(h.Peak, l.need(&l.State, a))
	if h.Runs > 0 {
		h.High = max(h.High, h.Peak)
	}
}
