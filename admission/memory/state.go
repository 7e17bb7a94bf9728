package memory

import "time"

// State is what is known of every account and GPU at one moment: now, or at a
// moment that a profile predicts. The same rules read both.
type State struct {
	Accounts []Account
	GPUs     []Total
	// Ahead is how far the moment is from the present: a prediction does not make a
	// reading older.
	Ahead time.Duration
}

// Account is what one replica of a backend holds on one GPU, and what its
// running work may still take.
type Account struct {
	// Low and High bound what it held at the last reading.
	Low, High Bytes
	// Peak is the most that its running work has needed since the last reading
	// was begun: weights and demands. The end of a run does not lower it, since
	// the run may have taken its memory after that reading.
	Peak Bytes
	// Running is Σ demand of the Runs that run.
	Running Bytes
	Runs    int
	// Loading is what a load that is under way will take.
	Loading Bytes
	// Late is the demand of runs that have just ended, and may be returned later
	// than their ends. It counts until a reading after LateUntil.
	Late      Bytes
	LateUntil time.Duration
}

// Total is what is known of one GPU as a whole.
type Total struct {
	// Used is the memory in use, steadied: a fall that no run, unload or dead
	// backend explains counts after three readings.
	Used Bytes
	// XLow and XHigh bound what belongs to no configured backend.
	XLow, XHigh Bytes
}

// CopyFrom makes st a copy of other, in the memory that st has already.
func (st *State) CopyFrom(other *State) {
	st.Accounts = append(st.Accounts[:0], other.Accounts...)
	st.GPUs = append(st.GPUs[:0], other.GPUs...)
	st.Ahead = other.Ahead
}

// need is what the running work of an account needs: weights and demands, what a
// load takes, or what an unload may find that it has not returned. Zero: nothing
// runs.
func (l *Ledger) need(st *State, a int) Bytes {
	acc, h := l.accounts[a], &st.Accounts[a]
	switch {
	case h.Runs > 0:
		return max(h.Loading, acc.weights+h.Running)
	case acc.moving && h.Loading == 0:
		return acc.unload.held
	}
	return h.Loading
}

// Growth is what running work may still take on an account.
func (h *Account) Growth() Bytes { return max(0, h.Peak-h.Low) }

// shortFor is for how many times TrialAfter a run that ran out of memory keeps
// others as large from what its account holds.
const shortFor = 3

// Need is an account's Peak once one more run of that demand has started on it.
// Where one no larger has just run out of memory, it may use nothing of what the
// account holds: what is in use is used, whatever the figures say.
func (l *Ledger) Need(st *State, a int, demand Bytes, now time.Duration) Bytes {
	acc, h := l.accounts[a], &st.Accounts[a]
	n := l.needByFigures(st, a, demand, now)
	if acc.short > 0 && demand >= acc.short && now+st.Ahead < acc.shortAt+shortFor*l.devices[acc.gpu].trialAfter() {
		n = max(n, max(h.High, h.Peak)+demand)
	}
	return n
}

// needByFigures is Need where nothing has run out of memory.
func (l *Ledger) needByFigures(st *State, a int, demand Bytes, now time.Duration) Bytes {
	h, w := &st.Accounts[a], l.accounts[a].weights
	n := w + h.Running + demand
	if now+st.Ahead < h.lateBy() {
		n += min(h.Late, max(0, h.High-w))
	}
	return max(h.Peak, n)
}

// Taken is the memory of a GPU that is not available: in use, and still to be
// taken by running work. Where account a is not -1 its peak counts as n. The
// smaller of two bounds counts, each of which holds by itself: the first is good
// where beliefs are old, the second while several backends grow at once.
func (l *Ledger) Taken(st *State, g, a int, n Bytes, now time.Duration) Bytes {
	t := &st.GPUs[g]
	first, second := t.Used, t.XHigh
	for _, i := range l.devices[g].accounts {
		h := &st.Accounts[i]
		peak := h.Peak
		if i == a {
			peak = n
		}
		first += max(0, peak-h.Low)
		second += max(h.High, peak)
	}
	if l.sight(g, now) != seen {
		return second
	}
	return min(first, second)
}

// Budget is what may be taken of a GPU: its capacity less its reserve.
func (l *Ledger) Budget(g int) Bytes { return l.Capacity(g) - l.devices[g].Reserve }

// Available is what is left of a GPU. After a shrink, or beside a neighbour, it
// may be negative.
func (l *Ledger) Available(st *State, g int, now time.Duration) Bytes {
	return l.Budget(g) - l.Taken(st, g, -1, 0, now)
}

// Fits says whether one more run of that demand fits on account a, and if not
// how many bytes it would add and how many are available.
func (l *Ledger) Fits(st *State, a int, demand Bytes, now time.Duration) (need, free Bytes, ok bool) {
	n := l.Need(st, a, demand, now)
	if n <= st.Accounts[a].Low {
		return 0, 0, true // it adds nothing
	}
	g := l.accounts[a].gpu
	if l.unread(a, demand, now) {
		return n, 0, false
	}
	budget := l.fullBudget(st, g, now)
	taken := l.Taken(st, g, a, n, now)
	if taken <= budget {
		return 0, 0, true
	}
	free = budget - l.Taken(st, g, -1, 0, now)
	return taken - budget + free, free, false
}

// unread says that a run of no larger demand has run out of memory on account a,
// and its GPU was not read since: it is not known how full it is.
func (l *Ledger) unread(a int, demand Bytes, now time.Duration) bool {
	acc := l.accounts[a]
	return acc.short > 0 && demand >= acc.short && !l.ReadSince(acc.gpu, acc.shortAt, now)
}

// ReadSince says that a GPU was read after an age, or is not read at all.
func (l *Ledger) ReadSince(g int, since, now time.Duration) bool {
	return l.devices[g].goodAt > since || l.sight(g, now) != seen
}

// Adds is what a run of that demand on account a would add to what is taken.
func (l *Ledger) Adds(st *State, a int, demand Bytes, now time.Duration) Bytes {
	n := l.Need(st, a, demand, now)
	if n <= st.Accounts[a].Low {
		return 0
	}
	g := l.accounts[a].gpu
	return max(1, l.Taken(st, g, a, n, now)-l.Taken(st, g, -1, 0, now))
}

// own is the most that account a may hold of what is in use: what the others do
// not surely hold. bounded says that what the account is believed to hold at
// most counts too.
func (l *Ledger) own(st *State, a int, bounded bool) Bytes {
	g := l.accounts[a].gpu
	own := st.GPUs[g].Used - st.GPUs[g].XLow
	for _, i := range l.devices[g].accounts {
		if i != a {
			own -= st.Accounts[i].Low
		}
	}
	if bounded {
		own = min(own, st.Accounts[a].High)
	}
	return max(0, own)
}

// FitsAlone says whether a run of that demand fits on account a if what the
// account may already hold of the memory in use does belong to it. The run must
// then be the only one that adds memory to the GPU: see Start.
func (l *Ledger) FitsAlone(st *State, a int, demand Bytes, now time.Duration) bool {
	return l.fitsWith(st, a, demand, l.own(st, a, true), now)
}

func (l *Ledger) fitsWith(st *State, a int, demand, own Bytes, now time.Duration) bool {
	g := l.accounts[a].gpu
	if l.sight(g, now) != seen || l.unread(a, demand, now) {
		return false
	}
	taken := st.GPUs[g].Used + max(0, l.Need(st, a, demand, now)-own)
	for _, i := range l.devices[g].accounts {
		if i != a {
			taken += st.Accounts[i].Growth()
		}
	}
	return taken <= l.Budget(g)
}

// Take books a run on account a.
func (l *Ledger) Take(st *State, a int, demand Bytes, now time.Duration) {
	h := &st.Accounts[a]
	n := l.Need(st, a, demand, now)
	h.Runs++
	h.Running += demand
	h.Peak = n
	h.High = max(h.High, l.need(st, a))
}

// Give predicts the end of a run on account a: it has grown to what it needed,
// and has returned it where its backend does. The end of a real run is End.
func (l *Ledger) Give(st *State, a int, demand Bytes) {
	h := &st.Accounts[a]
	h.Runs--
	h.Running -= demand
	l.Read(st, a)
}

// Ended says that runs of account a have ended since its GPU was last read, and
// when a reading is expected to show it: that Peak falls, or what is held. A start
// may take the first of them up again, and not the second.
func (l *Ledger) Ended(a int) (at time.Duration, ok bool) {
	acc, h := l.accounts[a], &l.Accounts[a]
	return acc.readBy, acc.endedAt >= l.devices[acc.gpu].goodAt && (h.Peak > l.need(&l.State, a) || h.Low > l.left(&l.State, a))
}

// LateBy is until when what runs of account a took, and may return late, counts;
// zero: none has.
func (l *Ledger) LateBy(a int) time.Duration { return l.Accounts[a].lateBy() }

func (h *Account) lateBy() time.Duration {
	if h.Late == 0 {
		return 0
	}
	return h.LateUntil + settleTime
}

// left is what an account holds at the least once a reading has shown what its
// runs that have ended returned.
func (l *Ledger) left(st *State, a int) Bytes {
	acc, h := l.accounts[a], &st.Accounts[a]
	if acc.keeps() {
		return h.Low
	}
	return max(h.Loading, acc.weights) + h.Running
}

// Predict moves readings that are overdue into the future: what they would show is
// never counted on.
func (l *Ledger) Predict(now time.Duration) {
	for a, acc := range l.accounts {
		if at, ok := l.Ended(a); ok && at <= now {
			acc.readBy = now + max((now-acc.endedAt)/10, time.Millisecond)
		}
	}
}

// Read predicts the reading after the end of a run on account a.
func (l *Ledger) Read(st *State, a int) {
	acc, h := l.accounts[a], &st.Accounts[a]
	t := &st.GPUs[acc.gpu]
	t.Used += h.Growth()
	h.Low = max(h.Low, h.Peak)
	h.High = max(h.High, h.Low)
	if left := l.left(st, a); left < h.Low {
		t.Used -= h.Low - left
		h.Low = left
		h.High = left
	}
	h.Peak = l.need(st, a)
}

// Unload predicts that account a has returned what it surely holds, or with most
// the most that it may.
func (l *Ledger) Unload(st *State, a int, most bool) {
	h := &st.Accounts[a]
	returned := h.Low
	if most {
		returned = max(returned, min(h.High, l.own(st, a, true)))
	}
	st.GPUs[l.accounts[a].gpu].Used -= returned
	h.Low, h.High, h.Peak = 0, 0, 0
}

// Settle predicts that nothing runs any more: each account holds its weights at
// the least where they are surely there, and what may be its own is in doubt. What
// running work may still take it need not take.
func (l *Ledger) Settle(st *State, g int) {
	for _, a := range l.devices[g].accounts {
		h, acc := &st.Accounts[a], l.accounts[a]
		if h.Runs == 0 && h.Peak == 0 {
			continue
		}
		if low := acc.floor(h); !acc.keeps() && low < max(h.Low, h.Peak) {
			st.GPUs[g].Used += max(low, acc.weights) - h.Low
			h.Low = low
		}
		h.Runs, h.Running, h.Peak, h.Late = 0, 0, h.Loading, 0
	}
}
