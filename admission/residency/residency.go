// Package residency knows which backends are loaded, and decides which idle one
// is unloaded for a request that lacks memory, and when one is woken.
//
// An unload or a load takes seconds and is done by others: an Order is data, and
// its executor reports its end. What a backend says of its memory
// proves nothing; what came back is what the card was seen to free.
//
// What the package promises:
//
//  1. A replica that works is not told to unload. It drains first: it starts
//     nothing new, and is told when its last run has ended.
//  2. Nothing is unloaded in vain: the replicas that are chosen make the request
//     fit, and without any one of them it would not.
//  3. A pinned replica is unloaded by hand alone, and one that was loaded stays
//     for its MinResidency.
//  4. A replica that freed nothing is left alone for a minute, and for twice as
//     long each time, half an hour at most. Only an unload that frees memory
//     ends that.
//  5. One order for a replica at a time; each ends once.
//
// It stands on the ledger, and has no clock: every time is an age. Nothing in it
// is safe for concurrent use.
package residency

import (
	"math"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// State is where a replica is between loaded and unloaded.
type State uint8

const (
	Loaded    State = iota // it works, or its next request loads it
	Draining               // it starts nothing new, and unloads when what runs has ended
	Unloading              // it has been told to unload
	Asleep                 // it has unloaded, and must be woken before it works
	Loading                // it is being woken, or has died and is waited for
	Failed                 // it could not be woken; it is tried again later
)

var states = [...]string{Loaded: "loaded", Draining: "draining", Unloading: "unloading", Asleep: "asleep", Loading: "loading", Failed: "failed"}

func (s State) String() string { return states[s] }

// Sleeps says that a replica must be woken before it works, and is not being
// woken yet.
func (s State) Sleeps() bool { return s == Asleep || s == Failed }

const (
	// LoadRate is how fast weights are taken to load where it has not been
	// seen: a fast disk, or half of what a PCIe 4 slot moves.
	LoadRate = 2 * memory.GiB // a second
	// UnloadTime is how long an unload is taken to last.
	UnloadTime = 3 * time.Second
	// halfLife is that of the count of a replica's recent starts.
	halfLife = time.Minute
	// restWanted is the recent demand from which on a sleeping replica is woken
	// while nothing waits: one request in the last four half-lives.
	restWanted = 1.0 / 16
	// quietSwaps is how many unloads a minute a GPU may see before they come
	// apart: beyond it a replica that was loaded stays for longer.
	quietSwaps = 4
	// maxSwaps is how many are remembered.
	maxSwaps = 64
	// firstPenalty and longestPenalty bound for how long a replica is left alone
	// that could not be unloaded or woken.
	firstPenalty, longestPenalty = time.Minute, 30 * time.Minute
)

// Config is what a replica's configuration says of its residency.
type Config struct {
	Backend string
	Replica int    // its number
	Name    string // of the replica
	// Accounts are the ledger's, one for each GPU.
	Accounts []int
	// Reclaims says that it can be told to unload. Pinned: by hand alone.
	Reclaims, Pinned bool
	// MinResidency is how long one that was loaded stays. Zero: no time at all.
	MinResidency time.Duration
}

// Replica is one server of a backend. Its fields are for reading.
type Replica struct {
	Config
	State State
	Since time.Duration // when it last unloaded or was loaded; 0: never
	// Swaps counts its unloads, Failures those in a row that freed nothing. Until
	// NotBefore it is not told to unload. Note says what the last order came to.
	Swaps     uint64
	Failures  int
	NotBefore time.Duration
	Note      string

	order     *order
	loaded    time.Duration // when it last came to hold its weights
	empty     bool          // it has unloaded and not worked since
	byHand    bool          // an operator unloaded it
	held      []memory.Bytes
	starts    float64 // recent ones; see wanted
	startsAt  time.Duration
	turn      time.Duration // when memory was last freed for it, since it last unloaded; 0: none was
	unload    time.Duration // as last seen; 0: never
	mustWake  bool          // it works only after a wake, once it has unloaded
	endedAt   time.Duration // when a run of it last ended
	reload    time.Duration // as last seen; 0: never
	wakes     int           // that failed, in a row
	wakeAfter time.Duration
	wakeIn    memory.Bytes // in use on its GPUs when it could not be woken: with less in use it may be there was no room
	gone      bool         // taken out of the configuration
}

// Manager is the residency of all replicas. Its zero value knows none.
type Manager struct {
	ledger   *memory.Ledger
	Replicas []*Replica
	orders   []*order
	issued   []Order // not yet told of
	last     uint64
	swapped  [][]time.Duration // by GPU: when replicas were last told to unload
	scratch  memory.State
	// Recheck is when a decision that the passing of time alone changes is due;
	// the caller sets it before a pass, and it only comes down.
	Recheck time.Duration
}

// New makes a manager over a ledger.
func New(ledger *memory.Ledger) *Manager { return &Manager{ledger: ledger} }

// Add adds a replica.
func (m *Manager) Add(c Config) *Replica {
	r := &Replica{Config: c}
	m.Replicas = append(m.Replicas, r)
	return r
}

// Swappable says that some replica may be told to unload, or sleeps.
func (m *Manager) Swappable() bool {
	return slices.ContainsFunc(m.Replicas, func(r *Replica) bool { return r.Reclaims && !r.gone || r.State != Loaded })
}

// Runs says whether anything runs on a replica.
func (m *Manager) Runs(r *Replica) bool {
	return slices.ContainsFunc(r.Accounts, func(a int) bool { return m.ledger.Accounts[a].Runs > 0 })
}

// Started takes note that a request is about to start on a replica.
func (m *Manager) Started(now time.Duration, r *Replica) {
	if !r.Reclaims && r.State == Loaded {
		return // it never unloads
	}
	r.starts, r.startsAt = r.wanted(now)+1, now
	empty := true
	for _, a := range r.Accounts {
		empty = empty && m.ledger.Accounts[a].High == 0
	}
	if empty || r.empty {
		r.empty, r.loaded = false, now
	}
}

// Ended takes note that a run has ended on a replica.
func (m *Manager) Ended(now time.Duration, r *Replica) { r.endedAt = now }

// BeginTurn says that memory is being freed for a request of a replica.
func (r *Replica) BeginTurn(now time.Duration) { r.turn = now }

// TurnBegan is when memory was last freed for a replica, or where none was since it
// last unloaded, when it came to hold its weights; 0: it was found so.
func (r *Replica) TurnBegan() time.Duration {
	if r.turn > 0 {
		return r.turn
	}
	return r.loaded
}

// Served says that something has started on a replica since it was loaded.
func (r *Replica) Served() bool { return r.starts > 0 && r.startsAt >= r.loaded }

// IdleUntil is until when a replica that runs nothing keeps its memory, while
// requests for others wait and none for it: for as long as it takes to unload and to
// load it again, or twice the mean time between its recent starts if that is less;
// no time at all where its next start is not expected within that. This is the
// break-even rule of ski rental, which costs at most twice as much as to know the
// future.
func (m *Manager) IdleUntil(r *Replica) time.Duration {
	cost := r.unloadTime() + m.reloadTime(r)
	if r.starts == 0 {
		return r.endedAt
	}
	if between := time.Duration(float64(halfLife) / math.Ln2 / r.starts); between <= cost {
		return r.endedAt + min(cost, 2*between)
	}
	return r.endedAt
}

// wanted is the count of a replica's starts, in which each counts half a minute
// later.
func (r *Replica) wanted(now time.Duration) float64 {
	return r.starts * math.Exp2(-float64(now-r.startsAt)/float64(halfLife))
}

// Demand is what a run of that demand adds to the weights on the i-th account of
// a replica: one that sleeps, and whose weights are not known, takes back what it
// held.
func (m *Manager) Demand(r *Replica, i int, demand memory.Bytes) memory.Bytes {
	if !r.State.Sleeps() {
		return demand
	}
	return max(demand, m.willHold(r, i)-m.ledger.Weights(r.Accounts[i]))
}

// LeaveUntil is until when a replica is not told to unload.
func (m *Manager) LeaveUntil(now time.Duration, r *Replica) time.Duration {
	return max(r.NotBefore, r.loaded+m.stay(now, r))
}

// stay is how long a replica that was loaded stays at the least. Where a GPU
// sees many swaps it stays for longer, so that more of the time is work.
func (m *Manager) stay(now time.Duration, r *Replica) time.Duration {
	worst := 0
	for _, a := range r.Accounts {
		worst = max(worst, m.SwapsIn(now, m.ledger.GPUOf(a), time.Minute))
	}
	factor := time.Duration(1)
	for n := worst; n > quietSwaps && factor < 8; n -= quietSwaps {
		factor *= 2
	}
	return r.MinResidency * factor
}

// SwapsIn counts the unloads on a GPU in the last while.
func (m *Manager) SwapsIn(now time.Duration, g int, last time.Duration) int {
	if g >= len(m.swapped) {
		return 0
	}
	all, n := m.swapped[g], 0
	for i := len(all) - 1; i >= 0 && now-all[i] < last; i-- {
		n++
	}
	return n
}

func (m *Manager) noteSwap(now time.Duration, g int) {
	for g >= len(m.swapped) {
		m.swapped = append(m.swapped, nil)
	}
	if len(m.swapped[g]) == maxSwaps {
		m.swapped[g] = slices.Delete(m.swapped[g], 0, 1)
	}
	m.swapped[g] = append(m.swapped[g], now)
}

// Inherit goes on with what was known of the replicas of an older configuration.
// gpus gives the new GPU for an old one, of the new replica; -1 and nil: there is
// none.
func (m *Manager) Inherit(old *Manager, gpus []int, of func(*Replica) *Replica) {
	m.issued, m.last = old.issued, old.last
	m.swapped = make([][]time.Duration, len(m.ledger.GPUs))
	for g, all := range old.swapped {
		if i := gpus[g]; i >= 0 {
			m.swapped[i] = all
		}
	}
	for _, r := range old.Replicas {
		q := of(r)
		if q == nil {
			continue
		}
		c, gone := q.Config, q.gone
		*q = *r
		q.Config, q.gone = c, gone
		if q.order != nil {
			q.order.replica = q
			q.order.Replica, q.order.Name = q.Replica, q.Name
			m.orders = append(m.orders, q.order)
		}
	}
}

// Retire says that a replica is not configured any more: it is neither unloaded
// nor woken.
func (r *Replica) Retire() { r.gone = true }
