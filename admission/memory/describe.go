package memory

import (
	"slices"
	"time"
)

// GPUState is the ledger of one GPU, with every term of
//
//	available = capacity − reserve − booked − unmanaged − unattributed
type GPUState struct {
	Name string
	// Device is the identity of the card, such as its UUID, as last read; empty: not
	// known.
	Device string
	// Capacity is what may be budgeted; zero while nothing is known of the card.
	Capacity, Reserve Bytes
	// Booked is what the accounts surely hold, and what their running work may
	// still take. Unmanaged surely belongs to no configured backend. Unattributed
	// is in use, or may come to be, and not known whose.
	Booked, Unmanaged, Unattributed, Available Bytes
	// Observed is what the driver last said is in use; -1: never read. Total is the
	// card's size as it said.
	Observed  Bytes
	Total     Bytes
	ReadAt    time.Duration // when that reading was begun
	Source    string        // of the last good reading; empty: the ledger alone
	Stale     bool          // the last good reading is old
	Lost      bool
	Err       string // why the card cannot be read; empty: it can
	Processes []Process
	LoneRun   bool // a run is alone there, and keeps others from adding memory
	// Utilization is that of the last reading; nil: not known.
	Utilization *float64
}

// Describe describes a GPU.
func (l *Ledger) Describe(g int, now time.Duration) GPUState {
	d, t := l.devices[g], &l.GPUs[g]
	s := GPUState{Name: d.Name, Capacity: l.Capacity(g), Reserve: d.Reserve, Unmanaged: t.XLow, Available: l.Available(&l.State, g, now),
		Observed: -1, Source: d.source, Lost: d.last.Lost, Processes: slices.Clone(d.processes), LoneRun: l.Bars(g, now)}
	sighted := l.sight(g, now) == seen
	if !sighted {
		s.Unmanaged = t.XHigh
	}
	for _, a := range d.accounts {
		s.Booked += l.booked(a, sighted)
	}
	s.Unattributed = max(0, s.Capacity-s.Reserve-s.Booked-s.Unmanaged-s.Available)
	if d.goodAt != never {
		s.Observed, s.Total, s.ReadAt = d.read, d.total, d.goodAt
	}
	s.Device, s.Utilization = d.last.Device, d.last.Utilization
	if d.last.Err != nil {
		s.Err = d.last.Err.Error()
	}
	s.Stale = d.goodAt != never && !sighted
	return s
}

func (l *Ledger) booked(a int, sighted bool) Bytes {
	h := &l.Accounts[a]
	if sighted {
		return max(h.Low, h.Peak)
	}
	return max(h.High, h.Peak)
}

// AccountState is what one replica holds on one GPU.
type AccountState struct {
	Replica int
	GPU     string
	// Resident is what it holds while loaded and idle, as declared or measured.
	Resident, Declared Bytes
	Learns             bool // it is not declared
	// Low and High bound what it holds. Exact says that the driver told it.
	Low, High Bytes
	Exact     bool
	// Running is the demand of its running work, Booked what the ledger holds for
	// it now, Retained what it holds beyond what its running work needs.
	Running, Booked, Retained Bytes
	// Keeps says that what its requests take stays with it. Seen says that this
	// was seen and not only declared.
	Keeps, Seen bool
	// Loaded is loaded, unloaded or unknown.
	Loaded string
}

// DescribeAccount describes account a.
func (l *Ledger) DescribeAccount(a int) AccountState {
	acc, h := l.accounts[a], &l.Accounts[a]
	s := AccountState{Replica: acc.replica, GPU: l.devices[acc.gpu].Name, Resident: acc.weights, Declared: acc.declared, Learns: acc.learn,
		Low: h.Low, High: h.High, Exact: acc.figure >= 0, Running: h.Running, Booked: l.booked(a, l.devices[acc.gpu].goodAt != never),
		Keeps: acc.keeps(), Seen: acc.seenKeeps+acc.seenReturns > 0,
		Loaded: [...]string{unknown: "unknown", loaded: "loaded", absent: "unloaded"}[acc.loaded]}
	s.Retained = max(0, s.Booked-l.need(&l.State, a))
	return s
}
