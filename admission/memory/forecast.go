package memory

import (
	"slices"
	"time"
)

// Forecast gives a copy of the ledger to play forward from now, which no reading will
// reach. What is likely counts there as certain: a backend that keeps its memory holds
// the most that it may, another one its weights, and the rest of what is in use is
// unmanaged. An unknown demand is its first guess. run gives the copy of a
// run.
func (l *Ledger) Forecast(now time.Duration, run func(*Run) *Run) *Ledger {
	n := new(Ledger)
	n.State.CopyFrom(&l.State)
	for g, d := range l.devices {
		c := *d
		c.accounts, c.processes, c.named = slices.Clone(d.accounts), nil, nil
		c.full.beyond = nil
		c.last = Reading{Lost: l.sight(g, now) == closed}
		c.goodAt, c.asked, c.Reads, c.Hold, c.complete = never, true, false, false, false
		if d.lone != nil {
			if c.lone = run(d.lone); c.lone.state != running {
				c.lone = nil
			}
		}
		n.devices = append(n.devices, &c)
	}
	for _, a := range l.accounts {
		c := *a
		c.runs, c.failed, c.late, c.meter, c.figure = nil, nil, nil, meter{}, -1
		c.split = true
		for _, r := range a.runs {
			c.runs = append(c.runs, run(r))
		}
		n.accounts = append(n.accounts, &c)
	}
	for g := range n.devices {
		n.likely(l, g, now)
	}
	return n
}

// likely makes what is likely of the accounts on a GPU certain.
func (n *Ledger) likely(l *Ledger, g int, now time.Duration) {
	rest := l.Taken(&l.State, g, -1, 0, now)
	for _, a := range n.devices[g].accounts {
		h := &n.Accounts[a]
		rest -= max(min(h.High, l.own(&l.State, a, true)), h.Low, h.Peak)
	}
	rest = max(rest, l.GPUs[g].XLow)
	for _, a := range n.devices[g].accounts {
		acc, h := l.accounts[a], &n.Accounts[a]
		if _, ok := l.Ended(a); ok {
			l.Read(&n.State, a) // a reading is due
		}
		h.Late = 0
		held := h.Low
		switch most := max(h.Low, min(h.High, l.own(&l.State, a, true))); {
		case acc.figure >= 0 || acc.loaded == absent:
		case acc.keeps() || h.Runs > 0 || acc.moving:
			held = most
		default:
			held = max(held, min(most, acc.weights))
		}
		h.Low, h.High = held, held
		h.Peak = max(h.Peak, n.need(&n.State, a))
		h.High = max(h.High, h.Peak)
	}
	n.GPUs[g] = Total{XLow: rest, XHigh: rest, Used: rest}
}
