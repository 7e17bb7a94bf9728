package memory

import "time"

// full is what out-of-memory answers say of a GPU that cannot be read. There they are
// the only evidence of what others hold. Its zero value says nothing.
//
//  1. After one, no more is booked than what ran beside it, and less than that run
//     more: as much as was free, where the answer says so. So others wait instead of
//     failing one after the other. Where it says that the run wanted more than its
//     figure, the GPU may well have had room for that.
//  2. After TrialAfter one run at a time may go beyond that. If it ends well, as much
//     may be booked from then on; if it fails, the next is tried after twice as long,
//     up to an hour.
//  3. Where nothing of ours runs one may always start: a second try is one.
type full struct {
	most   Bytes         // that may be booked; 0: all
	until  time.Duration // the time of 2
	times  int           // failures since a run beyond it has ended well
	beyond *Run          // the last run of 2; nil: there was none
}

// tries says that the run of 2 is under way. endFull does not see its end where the GPU
// is read again by then, or is lost.
func (f *full) tries() bool { return f.beyond != nil && f.beyond.state == running }

// fullBudget is what may be booked of a GPU in the state st.
func (l *Ledger) fullBudget(st *State, g int, now time.Duration) Bytes {
	f, budget := &l.devices[g].full, l.Budget(g)
	if f.most == 0 || l.sight(g, now) != blind || !f.tries() && now+st.Ahead >= f.until || l.quiet(st, g) { // 2, 3
		return budget
	}
	return min(budget, f.most)
}

// bookedBlind is what is booked of a GPU that cannot be read.
func (l *Ledger) bookedBlind(g int) Bytes {
	sum := l.GPUs[g].XHigh
	for _, a := range l.devices[g].accounts {
		sum += max(l.Accounts[a].High, l.Accounts[a].Peak)
	}
	return sum
}

// startBlind notes a run that was booked on a GPU that cannot be read.
func (l *Ledger) startBlind(g int, r *Run) {
	if f := &l.devices[g].full; f.most > 0 && !f.tries() && l.bookedBlind(g) > f.most {
		f.beyond = r
	}
}

// endFull takes the end of a run on a GPU that cannot be read. booked is what was booked
// while it ran; it is asked for where the run went beyond what may be.
func (l *Ledger) endFull(now time.Duration, g int, r *Run, res Result, booked Bytes) {
	d := l.devices[g]
	f := &d.full
	tried := f.beyond == r
	if tried {
		f.beyond = nil
	}
	switch {
	case res.Outcome == OutOfMemory && res.Tried <= r.weights+r.asked:
		free := r.asked - 1
		if res.Free > 0 {
			free = min(free, res.Free)
		}
		most := max(1, l.bookedBlind(g)+free)
		if f.most == 0 || tried || now >= f.until {
			f.until = now + min(d.trialAfter()<<min(f.times, 10), longestPenalty)
			f.times++
		} else {
			most = min(most, f.most)
		}
		f.most = most
	case res.Outcome == Good && tried:
		if f.most, f.times = max(f.most, booked), 0; f.most >= l.Budget(g) {
			*f = full{}
		}
	}
}
