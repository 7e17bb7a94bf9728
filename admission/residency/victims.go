package residency

import (
	"cmp"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Want is a request that lacks memory, and what may be done for it.
type Want struct {
	Demand memory.Bytes
	// Most counts what idle replicas may hold at the most in place of what they
	// surely hold.
	Most bool
	// Busy lets replicas drain that work.
	Busy bool
	// ReadyAt is when running work is predicted to have made room; zero: never.
	ReadyAt time.Duration
	// Spared says that a replica is about to be used by a request that ranks
	// before this one.
	Spared func(*Replica) bool
	// Until is when a replica gives its GPUs up to this request, where backends take
	// turns: then a replica that works may drain, and neither MinResidency nor Spared
	// counts. Nil: they take none.
	Until func(*Replica) time.Duration
}

// Victims are the replicas whose unload lets a request fit on target, the
// cheapest first: the request would not fit without each of them. Nil: there are none.
func (m *Manager) Victims(now time.Duration, target *Replica, w Want) []*Replica {
	if !slices.ContainsFunc(target.Accounts, func(a int) bool { return m.ledger.Adds(&m.ledger.State, a, w.Demand, now) > 0 }) {
		return nil
	}
	for _, a := range target.Accounts {
		if g := m.ledger.GPUOf(a); m.ledger.Closed(g, now) || m.ledger.Bars(g, now) {
			return nil
		}
	}
	may := m.candidates(now, target, w)
	slices.SortStableFunc(may, func(a, b *Replica) int {
		// Those that run nothing first: no request waits for their unload.
		if x, y := m.Runs(a), m.Runs(b); x != y {
			if y {
				return -1
			}
			return 1
		}
		return cmp.Compare(m.price(now, a), m.price(now, b))
	})
	n := 0
	for n < len(may) && !m.fitsWithout(now, target, w, may[:n]) {
		n++
	}
	chosen := may[:n]
	if !m.fitsWithout(now, target, w, chosen) {
		return nil
	}
	// A cheap one may have become unnecessary through a large one after it.
	for i := 0; i < len(chosen); {
		if rest := slices.Delete(slices.Clone(chosen), i, i+1); m.fitsWithout(now, target, w, rest) {
			chosen = rest
		} else {
			i++
		}
	}
	return chosen
}

// candidates are the replicas that may be unloaded for a request on target now, in the
// order of the file.
func (m *Manager) candidates(now time.Duration, target *Replica, w Want) (may []*Replica) {
	for _, v := range m.Replicas {
		if v == target || !m.MayUnload(v) || !m.helps(v, target, w.Most) || w.Until == nil && w.Spared != nil && w.Spared(v) {
			continue
		}
		// What runs there ends before it can be unloaded, which may be enough.
		if m.Runs(v) && (w.Until == nil && (!w.Busy || m.draining()) || w.ReadyAt > 0) {
			continue
		}
		due := m.LeaveUntil(now, v)
		if w.Until != nil {
			due = max(v.NotBefore, w.Until(v))
		}
		if now < due {
			m.Recheck = min(m.Recheck, due)
			continue
		}
		// Where running work ends sooner than the victim would be loaded again,
		// waiting costs less.
		if w.ReadyAt > 0 && w.ReadyAt-now <= m.reloadTime(v) {
			if w.ReadyAt > now {
				m.Recheck = min(m.Recheck, w.ReadyAt)
			}
			continue
		}
		may = append(may, v)
	}
	return may
}

// fitsWithout says whether a request would fit on target once these replicas and
// those that are unloading have returned what they hold.
func (m *Manager) fitsWithout(now time.Duration, target *Replica, w Want, gone []*Replica) bool {
	st := &m.scratch
	st.CopyFrom(&m.ledger.State)
	for _, o := range m.orders {
		if o.Kind == Unload {
			m.unload(st, o.replica, w.Most)
		}
	}
	for _, v := range gone {
		m.unload(st, v, w.Most)
	}
	for i, a := range target.Accounts {
		if _, _, ok := m.ledger.Fits(st, a, m.Demand(target, i, w.Demand), now); !ok {
			return false
		}
	}
	return true
}

func (m *Manager) unload(st *memory.State, v *Replica, most bool) {
	for _, a := range v.Accounts {
		m.ledger.Unload(st, a, most)
	}
}

// PredictUnload predicts that a replica which is told to unload has done so.
func (m *Manager) PredictUnload(st *memory.State, v *Replica) { m.unload(st, v, true) }

// MayUnload says whether a replica can be told to unload at all. One that sleeps
// may have kept some of its memory, and is asked again.
func (m *Manager) MayUnload(v *Replica) bool {
	return v.Reclaims && !v.Pinned && !v.gone && (v.State == Loaded || v.State.Sleeps()) && v.order == nil
}

// helps says whether a replica holds memory on a GPU of target.
func (m *Manager) helps(v, target *Replica, most bool) bool {
	return slices.ContainsFunc(v.Accounts, func(a int) bool {
		h := m.ledger.Accounts[a]
		return (h.Low > 0 || h.Peak > 0 || most && h.High > 0) &&
			slices.ContainsFunc(target.Accounts, func(b int) bool { return m.ledger.GPUOf(b) == m.ledger.GPUOf(a) })
	})
}

func (m *Manager) draining() bool {
	return slices.ContainsFunc(m.orders, func(o *order) bool { return o.Kind == Unload && !o.given })
}

// reloadTime is how long a replica takes to load: as last seen, else by size.
func (m *Manager) reloadTime(v *Replica) time.Duration {
	if v.reload > 0 {
		return v.reload
	}
	return LoadTime(m.Holds(v))
}

// unloadTime is how long a replica takes to unload: as last seen.
func (r *Replica) unloadTime() time.Duration {
	if r.unload > 0 {
		return r.unload
	}
	return UnloadTime
}

// LoadTime is how long so many weights are taken to load.
func LoadTime(n memory.Bytes) time.Duration {
	return time.Duration(float64(n) / float64(LoadRate) * float64(time.Second))
}

// Holds is what a replica may hold on all of its GPUs.
func (m *Manager) Holds(v *Replica) memory.Bytes {
	var held memory.Bytes
	for _, a := range v.Accounts {
		h := m.ledger.Accounts[a]
		held += max(h.High, h.Peak)
	}
	return held
}

// price is what an unload is expected to cost, by byte: the time to load, times
// how much the replica was asked for lately.
func (m *Manager) price(now time.Duration, v *Replica) float64 {
	return m.reloadTime(v).Seconds() * (v.wanted(now) + 1e-3) / float64(max(1, m.Holds(v)))
}
