package memory

import (
	"fmt"
	"slices"
	"time"
)

// Ledger is the account of GPU memory, and the only writer of it. Its zero value
// knows no GPU.
type Ledger struct {
	// State is what is known now. It is read by others and written here.
	State
	devices  []*device
	accounts []*account
	measured []Measurement // not yet told of
}

// device is one GPU, with the evidence on it.
type device struct {
	GPU
	accounts []int

	total, largest Bytes         // the card's size as last read, and the largest ever read
	read           Bytes         // in use, as last read
	goodAt         time.Duration // when the last good reading was begun; never: there was none
	asked          bool          // a reading has come, good or bad
	addedAt        time.Duration
	last           Reading // the last one, good or bad
	source         string  // of the last good one
	processes      []Process
	named          map[owner]bool // a process of theirs has been seen
	complete       bool           // the last reading named the processes of every account
	unmanaged      Bytes          // held by processes of no backend, where complete
	fallen         [2]Bytes       // what XLow lost in the last two readings
	calm           int            // readings in a row, at rest, that agree
	calmFrom       Bytes          // the first of them
	quiet          int            // readings in a row, at rest
	returned       Bytes          // Σ what runs were to return, since the start
	movedAt        time.Duration  // when work of ours last started, ended, loaded or unloaded
	lone           *Run           // bars whatever adds memory; nil: none
	full           full           // what out-of-memory answers say while it cannot be read
}

type owner struct {
	backend string
	replica int
}

// never is before every age.
const never = time.Duration(-1 << 60)

// Place is an account as it is configured.
type Place struct {
	Backend string
	Replica int // its number, as in Process
	GPU     int
	// Weights are held while the backend is loaded. Learn says that nobody
	// declared them.
	Weights Bytes
	Learn   bool
	// Returns says that what a run took is declared to be free again when it
	// ends. What is seen counts more.
	Returns bool
}

// presence says whether a backend holds its weights.
type presence uint8

const (
	unknown presence = iota
	loaded
	absent
)

// account is one replica of a backend on one GPU, with the evidence on it.
type account struct {
	owner
	gpu               int
	declared, weights Bytes
	learn             bool // nobody declared the weights
	split             bool // weights are known apart from demands
	// what it was last seen to hold, idle and at work, if that is less than its weights
	lighter, lighterBusy Bytes
	returns              bool // declared
	// seenKeeps and seenReturns count what was seen of it in a row.
	seenKeeps, seenReturns int
	// prompt counts readings in a row at which it held no more than its work needs,
	// although runs of it had just ended.
	prompt int
	chains chain
	grown  bool // a run was seen to grow since it was loaded
	bare   bool // it was loaded, and nothing has run since

	loaded    presence
	proven    bool          // a run has ended well since the last reading
	gone      bool          // its process is not there
	startedBy time.Duration // until then one that is back may still load by itself
	moving    bool          // a load or an unload is under way
	unloaded  bool          // an unload has ended since the last reading
	figure    Bytes         // what the driver said at the last reading; -1: nothing
	last      Bytes         // what it said when it last said something; -1: never
	touchedAt time.Duration
	endedAt   time.Duration
	readBy    time.Duration // when a reading is expected to show what ended
	ended     Bytes         // Σ demand of the runs that ended since the last reading
	started   Bytes         // Σ demand of those that started since then
	idle      Bytes         // the most it held when nothing ran
	shortAt   time.Duration
	short     Bytes // the least demand that ran out of memory since one as large ended well; 0: none
	runs      []*Run
	failed    *Run // the last that ran out of memory, until a reading a second later
	late      []late
	unload    unload
	meter     meter
}

// keeps says that what a run took stays with the backend: as seen, else as
// declared.
func (a *account) keeps() bool {
	switch {
	case a.seenKeeps > 0:
		return true
	case a.seenReturns > 0:
		return false
	}
	return !a.returns
}

// floor is what an account holds at the least once nothing runs on it.
func (a *account) floor(h *Account) Bytes {
	switch {
	case a.moving || a.loaded != loaded:
		return 0
	case a.seenKeeps > 0:
		return h.Low
	}
	return min(h.Low, a.weights)
}

// AddGPU adds a GPU and returns its index.
func (l *Ledger) AddGPU(now time.Duration, g GPU) int {
	l.devices = append(l.devices, &device{GPU: g, goodAt: never, movedAt: never, addedAt: now})
	l.GPUs = append(l.GPUs, Total{})
	return len(l.devices) - 1
}

// AddAccount adds an account and returns its index.
func (l *Ledger) AddAccount(p Place) int {
	i := len(l.accounts)
	l.accounts = append(l.accounts, &account{owner: owner{p.Backend, p.Replica}, gpu: p.GPU, declared: p.Weights, weights: p.Weights,
		learn: p.Learn, split: !p.Learn, returns: p.Returns, figure: -1, last: -1, touchedAt: never, endedAt: never})
	l.devices[p.GPU].accounts = append(l.devices[p.GPU].accounts, i)
	l.State.Accounts = append(l.State.Accounts, Account{})
	return i
}

// Capacity is what may be budgeted of a GPU now, before the reserve. Zero while
// neither the configuration nor the driver has said.
func (l *Ledger) Capacity(g int) Bytes {
	d := l.devices[g]
	switch {
	case d.Memory == 0:
		return d.total
	case d.total == 0:
		return d.Memory
	}
	return min(d.Memory, d.total)
}

// Ceiling is what a GPU could ever give, whatever a momentary shrink says. Zero:
// not known yet.
func (l *Ledger) Ceiling(g int) Bytes {
	d := l.devices[g]
	most := d.Memory
	switch {
	case most == 0:
		most = d.largest
	case d.largest > 0:
		most = min(most, d.largest)
	}
	return max(0, most-d.Reserve)
}

// Weights are what account a holds while it is loaded and idle.
func (l *Ledger) Weights(a int) Bytes { return l.accounts[a].weights }

// DeclaredWeights are those of the configuration; 0 where they are to be learned.
func (l *Ledger) DeclaredWeights(a int) Bytes { return l.accounts[a].declared }

// SetWeights takes weights that were learned earlier for an account that
// declares none. It reports whether the account takes them.
func (l *Ledger) SetWeights(a int, n Bytes) bool {
	acc := l.accounts[a]
	if !acc.learn || n < 0 {
		return false
	}
	acc.weights, acc.split = n, true
	l.raisePeak(a)
	return true
}

// GPUOf is the GPU of account a.
func (l *Ledger) GPUOf(a int) int { return l.accounts[a].gpu }

// Turn is the longest that a backend keeps a GPU while others wait; 0: no time is set.
func (l *Ledger) Turn(g int) time.Duration { return l.devices[g].Turn }

// Name is the name of a GPU in the configuration.
func (l *Ledger) Name(g int) string { return l.devices[g].Name }

// TrialAfter is for how long memory in doubt may block a request on a GPU.
func (l *Ledger) TrialAfter(g int) time.Duration { return l.devices[g].trialAfter() }

// sight is what can be seen of a GPU.
type sight uint8

const (
	seen   sight = iota // readings come
	closed              // they do not, and nothing may start that adds memory
	blind               // they do not, and the ledger alone counts
)

const (
	// firstWait is how long the first reading of a card is waited for.
	firstWait = 2 * time.Second
	// staleAfter is how old the last good reading may be. From then on nothing
	// starts that adds memory.
	staleAfter = 5 * time.Second
	// startTime is how long a backend that is back may go on loading.
	startTime = time.Minute
	// UnknownAfter is how old it may be before the card counts as unreadable.
	UnknownAfter = 30 * time.Second
)

func (l *Ledger) sight(g int, now time.Duration) sight {
	d := l.devices[g]
	switch {
	case d.last.Lost:
		return closed // whatever is sent there fails
	case d.goodAt == never && !d.Reads && !d.Hold:
		return blind
	case d.goodAt == never && !d.asked && now-d.addedAt < firstWait && d.Reads:
		return closed
	case d.goodAt != never && (now-d.goodAt <= staleAfter || !d.Reads && d.last.Err == nil):
		return seen
	case d.goodAt != never && now-d.goodAt < UnknownAfter, d.Hold:
		return closed
	}
	return blind
}

// Closed says that nothing may start on a GPU that adds memory, because it
// cannot be seen.
func (l *Ledger) Closed(g int, now time.Duration) bool {
	return l.sight(g, now) == closed || l.Capacity(g) == 0
}

// Seen says that the readings of a GPU count.
func (l *Ledger) Seen(g int, now time.Duration) bool { return l.sight(g, now) == seen }

// Next is when the passing of time alone changes what fits, after now; false:
// never.
func (l *Ledger) Next(now time.Duration) (time.Duration, bool) {
	next, ok := time.Duration(0), false
	take := func(at time.Duration) {
		if at > now && (!ok || at < next) {
			next, ok = at, true
		}
	}
	for g, d := range l.devices {
		switch {
		case d.goodAt != never && l.sight(g, now) == closed && !d.last.Lost && !d.Hold:
			take(d.goodAt + UnknownAfter)
		case d.goodAt == never && d.Reads && !d.asked:
			take(d.addedAt + firstWait)
		}
		if r := d.lone; r != nil {
			take(r.Started + d.trialAfter())
		}
		if at, ok := d.fullNext(now); ok && l.sight(g, now) == blind {
			take(at)
		}
		for _, a := range d.accounts {
			if at, ok := l.Ended(a); ok {
				take(at)
			}
			if acc := l.accounts[a]; acc.short > 0 {
				take(acc.shortAt + shortFor*d.trialAfter())
			}
			take(l.LateBy(a)) // it counts whether or not the GPU is read
		}
	}
	return next, ok
}

// check tells of a broken promise of ours: an interval that is none.
func (l *Ledger) check() {
	for i := range l.Accounts {
		if h := &l.Accounts[i]; h.Low < 0 || h.Low > h.High || h.Runs < 0 || h.Running < 0 {
			panic(fmt.Sprintf("memory: account %d: %+v", i, *h))
		}
	}
}

// Match gives, for each GPU of an older ledger, the one that has taken its place
// in this one: by its device, else by its name; -1: none has.
func (l *Ledger) Match(old *Ledger) []int {
	out := make([]int, len(old.devices))
	for i, d := range old.devices {
		out[i] = slices.IndexFunc(l.devices, func(n *device) bool {
			return n.Device != "" && (n.Device == d.Device || n.Device == d.last.Device)
		})
		if out[i] < 0 {
			out[i] = slices.IndexFunc(l.devices, func(n *device) bool { return n.Name == d.Name && (n.Device == "" || d.Device == "") })
		}
	}
	return out
}

// Inherit goes on with what an older ledger knew. Its GPUs and accounts are those
// of this one that gpus and accounts say; -1: there is none. Runs go on.
func (l *Ledger) Inherit(old *Ledger, gpus, accounts []int) {
	for i, d := range old.devices {
		if g := gpus[i]; g >= 0 {
			n := l.devices[g]
			cfg, list := n.GPU, n.accounts
			*n = *d
			n.GPU, n.accounts = cfg, list
			l.GPUs[g] = old.GPUs[i]
		}
	}
	moved := make(map[*Run]bool)
	for i, a := range old.accounts {
		b := accounts[i]
		if b < 0 {
			if g := gpus[a.gpu]; g >= 0 {
				l.GPUs[g].XHigh += old.Accounts[i].High // in use until a reading shows that it is not
			}
			continue
		}
		n := l.accounts[b]
		cfg := *n
		*n = *a
		n.owner, n.gpu, n.returns, n.declared, n.learn = cfg.owner, cfg.gpu, cfg.returns, cfg.declared, cfg.learn
		if cfg.learn != a.learn || cfg.declared != a.declared {
			n.weights, n.split = cfg.weights, cfg.split
		}
		l.Accounts[b] = old.Accounts[i]
		for _, r := range n.runs {
			moved[r] = true
		}
	}
	for r := range moved {
		var now []int
		for _, a := range r.Accounts {
			if accounts[a] >= 0 {
				now = append(now, accounts[a])
			}
		}
		r.Accounts = now
	}
	l.measured = old.measured
	for b := range l.accounts {
		l.raisePeak(b)
	}
}
