package residency

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Kind is what is to be done.
type Kind uint8

const (
	Unload Kind = iota
	Wake
	// Return is to watch a replica that died of an Unload. It holds its weights
	// from its start on, and whatever runs it may start it anew at any moment.
	Return
)

// Order is something slow that the owner of the controller is to do.
type Order struct {
	ID      uint64 // for Unloaded or Loaded
	Kind    Kind
	Backend string
	Replica int
	Name    string // the replica's
	// Bytes is what the replica is believed to hold, on all its GPUs, or for a
	// Wake or a Return what it will take.
	Bytes memory.Bytes
	// For is the waiting request that it is done for; 0: none.
	For uint64
	// Trial says, of a Wake, that it is not known whether it fits. Nothing else that
	// adds memory starts on its GPUs until it has ended.
	Trial bool
	// Origin is what the owner of the controller gave with the request; nil: nothing.
	Origin *Origin
}

// Origin is what the caller knows a request by. It is a pointer to this, and
// no bare interface, so that a request that waits takes less memory.
type Origin struct{ Value any }

// Head is the waiting request that an order is for.
type Head interface {
	ID() uint64
	Waiting() bool
}

// order is an Order under way.
type order struct {
	Order
	replica *Replica
	head    Head  // nil: no waiting request
	given   bool  // false: what runs there has to end first
	was     State // before it
	began   time.Duration
	run     *memory.Run // of a trial
}

// Orders are what is to be done that no earlier call told of. The slice is valid
// until the next call.
func (m *Manager) Orders() []Order {
	o := m.issued
	m.issued = m.issued[:0]
	return o
}

func (m *Manager) newOrder(now time.Duration, kind Kind, r *Replica, head Head) *order {
	m.last++
	o := &order{Order: Order{ID: m.last, Kind: kind, Backend: r.Backend, Replica: r.Replica, Name: r.Name}, replica: r, head: head,
		was: r.State, began: now}
	if head != nil {
		o.For = head.ID()
	}
	r.order = o
	m.orders = append(m.orders, o)
	return o
}

// Drain makes a replica unload: at once where nothing runs there, else when what
// runs has ended, and nothing more starts until then. head may be nil.
func (m *Manager) Drain(now time.Duration, v *Replica, head Head) {
	m.newOrder(now, Unload, v, head)
	v.State = Draining
	m.drained(now, v)
}

// drained gives the order to unload once nothing runs on a replica any more.
func (m *Manager) drained(now time.Duration, v *Replica) {
	o := v.order
	if v.State != Draining || m.Runs(v) {
		return
	}
	v.State, o.given, o.began = Unloading, true, now
	v.held = v.held[:0]
	for _, a := range v.Accounts {
		h := m.ledger.Accounts[a]
		o.Bytes += h.High
		v.held = append(v.held, h.Low)
		m.ledger.Unloading(now, a)
		m.noteSwap(now, m.ledger.GPUOf(a))
	}
	v.Swaps++
	m.issued = append(m.issued, o.Order)
}

// Settle goes through the replicas that drain: those that have become idle, and
// those whose request does not wait any more.
func (m *Manager) Settle(now time.Duration) {
	if len(m.orders) == 0 {
		return
	}
	for _, o := range slices.Clone(m.orders) {
		if o.Kind != Unload || o.given {
			continue
		}
		if o.head != nil && !o.head.Waiting() {
			m.close(o)
			o.replica.State = o.was
			continue
		}
		m.drained(now, o.replica)
	}
}

func (m *Manager) close(o *order) {
	o.replica.order = nil
	m.orders = slices.DeleteFunc(m.orders, func(x *order) bool { return x == o })
}

// UnloadsFor says that something is being unloaded for a waiting request.
func (m *Manager) UnloadsFor(head Head) bool {
	return slices.ContainsFunc(m.orders, func(o *order) bool { return o.head == head && o.Kind == Unload })
}

// UnloadedFor is the first backend that is being unloaded for a waiting request;
// empty: none is.
func (m *Manager) UnloadedFor(head Head) string {
	for _, o := range m.orders {
		if o.head == head && o.Kind == Unload {
			return o.Backend
		}
	}
	return ""
}

// Moves says that an order for a replica is under way.
func (m *Manager) Moves(r *Replica) bool { return r.order != nil }

// OrdersFor says that an order for a waiting request is under way.
func (m *Manager) OrdersFor(head Head) bool {
	return slices.ContainsFunc(m.orders, func(o *order) bool { return o.head == head })
}

// UnloadingBy are the replicas that are being unloaded, each with when it is
// expected to be done. ends gives when what runs on one is predicted to end.
func (m *Manager) UnloadingBy(now time.Duration, ends func(*Replica) time.Duration, do func(*Replica, time.Duration)) {
	for _, o := range m.orders {
		switch {
		case o.Kind != Unload:
		case o.given:
			do(o.replica, max(o.began+o.replica.unloadTime(), now+max(time.Second, (now-o.began)/10)))
		default:
			do(o.replica, max(now, ends(o.replica))+o.replica.unloadTime())
		}
	}
}

// Ready says that what an order frees would be seen: the card was read after the
// last work there returned memory. It is true where no card can be read.
func (m *Manager) Ready(id uint64) bool {
	o := m.order(id, Unload)
	return o == nil || !slices.ContainsFunc(o.replica.Accounts, func(a int) bool { return !m.ledger.UnloadReady(a) })
}

// Freed says how much of what an order is to free has been seen to come back,
// and whether that is enough. known is false where no card can be read that
// would show it.
func (m *Manager) Freed(id uint64) (freed memory.Bytes, enough, known bool) {
	o := m.order(id, Unload)
	if o == nil {
		return 0, false, false
	}
	enough = true
	for _, a := range o.replica.Accounts {
		n, all, read := m.ledger.Freed(a)
		freed, enough, known = freed+n, enough && all, known || read
	}
	return freed, enough && known, known
}

// Ended is how an order ended.
type Ended struct {
	// Failed says that the backend could not be made to do it.
	Failed bool
	// MustWake says, of an Unload, that the replica works again only after a
	// Wake.
	MustWake bool
	// Dead says that the backend is gone: nothing wakes it, and whatever runs it
	// starts it anew. With MustWake its memory stays booked for that: a Return
	// follows.
	Dead bool
	// Note is a sentence for people.
	Note string
}

// least is how little an unload may free without counting as one that freed
// nothing.
const least = 64 * memory.MiB

// Unloaded ends an Unload. It reports whether there was such an order.
func (m *Manager) Unloaded(now time.Duration, id uint64, e Ended) bool {
	o := m.order(id, Unload)
	if o == nil || !o.given {
		return false
	}
	freed, enough, known := m.Freed(id)
	r := o.replica
	for _, a := range r.Accounts {
		m.ledger.Unloaded(now, a, e.Failed && !e.Dead)
		if e.Dead {
			m.ledger.Gone(now, a)
		}
	}
	m.close(o)
	r.State, r.empty, r.turn = Loaded, true, 0
	if !e.Failed {
		r.unload, r.mustWake = max(1, now-o.began), e.MustWake
	}
	if e.MustWake || o.was.Sleeps() && !e.Dead {
		r.State = Asleep
	}
	r.Since, r.Note = now, e.Note
	switch {
	case e.Dead && !e.MustWake:
	case e.Dead, known && !enough && freed < least, !known && e.Failed:
		r.Failures++
		r.NotBefore = now + penalty(r.Failures)
	default:
		r.Failures, r.NotBefore = 0, 0
	}
	if e.Dead && e.MustWake {
		// Nothing is won: it takes its memory as soon as it is there again.
		m.load(now, Return, r, nil, nil)
	}
	return true
}

// penalty is for how long a replica is left alone after so many failures.
func penalty(failures int) time.Duration {
	return min(firstPenalty<<min(failures-1, 10), longestPenalty)
}

// load orders that a sleeping replica is woken, for which the caller has found
// room, or that the return of one that died is waited for. It books what the
// replica will hold. known is not nil where it is put to a trial.
func (m *Manager) load(now time.Duration, kind Kind, r *Replica, head Head, known *memory.Case) {
	o := m.newOrder(now, kind, r, head)
	o.given = true
	r.State = Loading
	if o.Trial = known != nil; o.Trial {
		o.run = &memory.Run{Accounts: r.Accounts, Kind: memory.Trial, Case: known}
		m.ledger.Start(now, o.run)
	}
	for i, a := range r.Accounts {
		will := m.willHold(r, i)
		m.ledger.Loading(now, a, will)
		o.Bytes += will
	}
	m.issued = append(m.issued, o.Order)
}

// willHold is what a replica holds on its i-th GPU once it is loaded.
func (m *Manager) willHold(r *Replica, i int) memory.Bytes {
	will := m.ledger.Weights(r.Accounts[i])
	if will == 0 && i < len(r.held) {
		return r.held[i] // that is all that is known
	}
	return will
}

// Loaded ends a Wake or a Return. It reports whether there was such an order.
func (m *Manager) Loaded(now time.Duration, id uint64, e Ended) bool {
	o := m.order(id, Wake, Return)
	if o == nil {
		return false
	}
	r := o.replica
	m.close(o)
	r.Note = e.Note
	if o.Trial {
		res := memory.Result{Outcome: memory.Good}
		if e.Failed {
			res.Outcome = memory.Failed
		}
		m.ledger.End(now, o.run, res)
	}
	for _, a := range r.Accounts {
		m.ledger.Loaded(now, a, !e.Failed)
		switch {
		case e.Dead:
			m.ledger.Gone(now, a)
		case !e.Failed:
			m.ledger.Back(now, a)
		}
	}
	switch {
	case !e.Failed || e.Dead:
		r.State, r.loaded, r.empty, r.Since, r.wakes = Loaded, now, e.Dead, now, 0
		if !e.Dead {
			r.reload = now - o.began
		}
	default:
		r.State = Failed
		r.wakes++
		r.wakeIn = m.inUse(r)
		r.wakeAfter = now + min(5*time.Second<<min(r.wakes-1, 10), longestPenalty)
	}
	return true
}

// Ordered is the replica of an order; nil: there is no such order.
func (m *Manager) Ordered(id uint64) *Replica {
	if o := m.order(id, Unload, Wake, Return); o != nil {
		return o.replica
	}
	return nil
}

func (m *Manager) order(id uint64, kinds ...Kind) *order {
	for _, o := range m.orders {
		if o.ID == id && slices.Contains(kinds, o.Kind) {
			return o
		}
	}
	return nil
}

// TakesMemory says that a replica that is being loaded, or waited for, is seen
// to take memory.
func (m *Manager) TakesMemory(id uint64) bool {
	o := m.order(id, Wake, Return)
	return o != nil && slices.ContainsFunc(o.replica.Accounts, func(a int) bool { return m.ledger.Grows(a) })
}

// Wake brings a sleeping replica back for a request, if it may be tried now. The
// caller has found room for it, or puts it to a trial: then known is what is known
// of the request's route and size.
func (m *Manager) Wake(now time.Duration, r *Replica, head Head, known *memory.Case) {
	if !r.State.Sleeps() || r.order != nil {
		return
	}
	if now < r.wakeAfter && m.inUse(r) > r.wakeIn-least {
		m.Recheck = min(m.Recheck, r.wakeAfter)
		return
	}
	m.load(now, Wake, r, head, known)
}

// Retry lets a replica be woken at once, although it could not be: its process is
// another.
func (r *Replica) Retry() { r.wakes, r.wakeAfter = 0, 0 }

// inUse is the memory in use on all GPUs of a replica.
func (m *Manager) inUse(r *Replica) (sum memory.Bytes) {
	for _, a := range r.Accounts {
		sum += m.ledger.GPUs[m.ledger.GPUOf(a)].Used
	}
	return sum
}

// Restore wakes a sleeping replica while nothing waits, the one that was asked
// for most, if it fits into what is available.
func (m *Manager) Restore(now time.Duration) {
	var best *Replica
	for _, r := range m.Replicas {
		if !r.State.Sleeps() || r.order != nil || r.gone || r.byHand || r.wanted(now) < restWanted {
			continue
		}
		if at := max(r.Since+m.stay(now, r), r.wakeAfter); now < at {
			m.Recheck = min(m.Recheck, at)
			continue
		}
		if m.bars(now, r) == nil && (best == nil || r.wanted(now) > best.wanted(now)) {
			best = r
		}
	}
	if best != nil {
		m.load(now, Wake, best, nil, nil)
	}
}

// bars says what bars the wake of a replica for no request; nil: nothing.
func (m *Manager) bars(now time.Duration, r *Replica) error {
	for i, a := range r.Accounts {
		g := m.ledger.GPUOf(a)
		if m.ledger.Closed(g, now) || m.ledger.Bars(g, now) {
			return fmt.Errorf("%s takes no work at the moment", m.ledger.Name(g))
		}
		demand := m.willHold(r, i) - m.ledger.Weights(a)
		if need, free, ok := m.ledger.Fits(&m.ledger.State, a, demand, now); !ok {
			return fmt.Errorf("it needs %v of %s, and %v are available", need, m.ledger.Name(g), max(0, free))
		}
	}
	return nil
}

// ErrNoBackend says that a backend is not configured.
var ErrNoBackend = errors.New("admission: there is no backend")

// UnloadByHand unloads replicas of a backend, pinned or not, when what runs there
// has ended. It fails where none of them can be, and says why.
func (m *Manager) UnloadByHand(now time.Duration, name string, replicas []*Replica) error {
	if len(replicas) > 0 && !replicas[0].Reclaims {
		return fmt.Errorf("admission: backend %q cannot be told to unload: set backends.%s.reclaim", name, name)
	}
	done := false
	var why error
	for _, r := range replicas {
		switch {
		case r.order != nil && r.order.Kind == Unload:
			done = true // is under way
		case r.order != nil:
			why = fmt.Errorf("admission: backend %q is being loaded: try again when that has ended", name)
		case r.State.Sleeps() && m.Holds(r) == 0:
			why = fmt.Errorf("admission: backend %q is asleep already, and holds no memory", name)
		default:
			done, r.byHand = true, true
			m.Drain(now, r, nil)
		}
	}
	if done {
		return nil
	}
	return why
}

// WakeByHand wakes the replicas of a backend that sleep. It fails where there is
// no room, or where one is being unloaded.
func (m *Manager) WakeByHand(now time.Duration, name string, replicas []*Replica) error {
	for _, r := range replicas {
		if r.order != nil && r.order.Kind == Unload {
			return fmt.Errorf("admission: backend %q is being unloaded: try again when that has ended", name)
		}
		if !r.State.Sleeps() || r.order != nil {
			continue
		}
		if err := m.bars(now, r); err != nil {
			return fmt.Errorf("admission: backend %q cannot be woken now: %w", name, err)
		}
		r.byHand = false
		m.load(now, Wake, r, nil, nil)
	}
	return nil
}

// SetLoaded takes a backend's own word, given at the start, on whether it holds
// its weights. mustWake says of one that does not that it sleeps. It is taken
// where nothing better is known, and reports whether it was.
func (m *Manager) SetLoaded(now time.Duration, r *Replica, is, mustWake bool) bool {
	if r.State != Loaded || r.order != nil || m.Runs(r) {
		return false
	}
	if !is && mustWake {
		r.State, r.Since = Asleep, now
	}
	for _, a := range r.Accounts {
		m.ledger.SetLoaded(now, a, is)
	}
	return true
}
