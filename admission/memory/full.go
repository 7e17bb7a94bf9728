package memory

import "time"

// full is what out-of-memory answers say of a GPU that cannot be read. There they are
// the only evidence of what others hold. Its zero value says nothing.
//
//  1. After one, no more is booked than what ran beside it, and less than that run
//     more: as much as was free, where the answer says so. So others wait instead of
//     failing one after the other. Where the run wanted more than its figure, that says
//     nothing of the GPU.
//  2. After a rest one run at a time may go beyond that: for a second no larger one than
//     has failed, then any. If it ends well, or lasts for TrialAfter, as much may be booked
//     from then on; if it fails, the next rest is twice as long.
//  3. The rest is TrialAfter at first, and an hour at the most. Where nothing of ours runs
//     one may start at once that has failed beside others: the second try is one.
//  4. After a run that had nothing of ours beside it all wait for the rest, and nothing is
//     served meanwhile: it lasts for ten times TrialAfter at the most. An answer that does
//     not say what was free may be that of a request which wants far too much: then the
//     next is tried at once, and rests begin with a tenth of TrialAfter.
type full struct {
	most    Bytes         // that may be booked; 0: all
	failed  Bytes         // the least booked with which one ran out of memory, itself included
	until   time.Duration // the end of the rest
	rest    time.Duration // its length
	times   int           // failures since a run beyond most has ended well
	beyond  *Run          // the last run of 2; nil: there was none
	alone   bool          // one of the failures was that of a run with nothing of ours beside it
	certain bool          // the last answer has said that less was free than the run's figure
}

// tries says that the run of 2 is under way. endFull does not see its end where the GPU
// is read again by then, or is lost.
func (f *full) tries() bool { return f.beyond != nil && f.beyond.state == running }

// fullBudget is what may be booked of a GPU in the state st.
func (l *Ledger) fullBudget(st *State, g int, now time.Duration) Bytes {
	d, budget, at := l.devices[g], l.Budget(g), now+st.Ahead
	f := &d.full
	switch {
	case f.most == 0 || l.sight(g, now) != blind || !f.alone && l.quiet(st, g): // 3
		return budget
	case f.tries() && at < f.beyond.Started+d.trialAfter() || !f.tries() && at < f.until: // 1
		return min(budget, f.most)
	case f.times > 0 && f.rest > 0 && at < f.until+settleTime: // 2
		return min(budget, max(f.most, f.failed))
	}
	return budget
}

// fullNext is when the passing of time alone changes what fullBudget says, after now.
func (d *device) fullNext(now time.Duration) (at time.Duration, ok bool) {
	f := &d.full
	switch {
	case f.most == 0:
		return 0, false
	case f.tries():
		at = f.beyond.Started + d.trialAfter()
	case now < f.until:
		at = f.until
	default:
		at = f.until + settleTime
	}
	return at, at > now
}

// Full says that a GPU which cannot be read was full when a run was last tried there,
// and when the next may be. certain says that the answer told so by its figures.
func (l *Ledger) Full(g int, now time.Duration) (again time.Duration, certain, is bool) {
	if l.fullBudget(&l.State, g, now) == l.Budget(g) {
		return 0, false, false
	}
	d := l.devices[g]
	again, _ = d.fullNext(now)
	return max(now, again), d.full.certain, true
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
	f, booked := &l.devices[g].full, l.bookedBlind(g)
	if f.most == 0 || booked <= f.most {
		return
	}
	if f.tries() {
		f.most, f.times = max(f.most, booked-r.Demand), 0 // that one has lasted
	}
	f.beyond = r
}

// endFull takes the end of a run on account a of a GPU that cannot be read. booked is
// what was booked while it ran; it is asked for where the run went beyond what may be.
func (l *Ledger) endFull(now time.Duration, a int, r *Run, res Result, booked Bytes) {
	g := l.accounts[a].gpu
	d := l.devices[g]
	f := &d.full
	tried := f.beyond == r
	if tried {
		f.beyond = nil
	}
	if res.Outcome == Good && tried {
		if f.most, f.times, f.alone = max(f.most, booked), 0, false; f.most >= l.Budget(g) {
			*f = full{}
		}
	}
	free, certain, ok := l.lacked(a, r, res)
	if !ok {
		return
	}
	booked = l.bookedBlind(g)
	if f.most > 0 && !tried && now < f.until { // it had started before the last failure
		f.most, f.failed, f.certain = min(f.most, booked+free), min(f.failed, booked+r.asked), f.certain || certain
		f.alone = f.alone || l.Quiet(g)
		return
	}
	x := full{most: booked + free, failed: booked + r.asked, times: f.times + 1, certain: certain, alone: l.Quiet(g)}
	if f.times > 0 {
		x.most, x.failed = min(x.most, f.most), min(x.failed, f.failed)
	}
	most := longestPenalty
	if x.rest = d.trialAfter(); x.alone { // 4
		if most = 10 * d.trialAfter(); !certain {
			x.rest /= 10
		}
	}
	switch {
	case f.times > 0 && f.rest > 0:
		x.rest = min(2*f.rest, most)
	case f.times == 0 && !certain && x.alone:
		x.rest = 0
	}
	x.until = now + x.rest
	*f = x
}

// lacked says that a run on account a has ended because a GPU that cannot be read was
// too full for its figure, and how much of that was free. certain says that the answer
// tells so: else it may be that the run wanted more.
func (l *Ledger) lacked(a int, r *Run, res Result) (free Bytes, certain, ok bool) {
	if res.Outcome != OutOfMemory || r.asked <= 0 {
		return 0, false, false
	}
	need, free := l.accounts[a].weights+r.asked, r.asked-1
	h := &l.Accounts[a]
	switch certain = res.Lacked(need + h.Running); {
	case certain && res.Free > 0:
		free = min(free, res.InUse+res.Free-max(h.High, h.Peak))
	case res.Free > 0:
		free = min(free, res.Free)
	}
	return max(0, free), certain, certain || res.InUse == 0 && res.Tried <= need
}
