package residency

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Forecast gives a copy of the manager over a copy of its ledger. Its replicas are in
// the same order. head gives the copy of a waiting request.
func (m *Manager) Forecast(ledger *memory.Ledger, run func(*memory.Run) *memory.Run, head func(Head) Head) *Manager {
	copies, orders := map[*order]*order{}, []*order(nil)
	for _, o := range m.orders {
		c := *o
		if c.head != nil {
			c.head = head(o.head)
		}
		if c.Trial {
			c.run = run(o.run)
		}
		copies[o] = &c
		orders = append(orders, &c)
	}
	n := &Manager{ledger: ledger, last: m.last, orders: orders, swapped: make([][]time.Duration, len(m.swapped))}
	for g, all := range m.swapped {
		n.swapped[g] = slices.Clone(all)
	}
	for _, r := range m.Replicas {
		c := *r
		c.held = slices.Clone(r.held)
		if r.order != nil {
			c.order = copies[r.order]
			c.order.replica = &c
		}
		n.Replicas = append(n.Replicas, &c)
	}
	return n
}

// Underway calls do with each order that was given, and how long it still takes as far
// as can be told.
func (m *Manager) Underway(now time.Duration, do func(o Order, left time.Duration)) {
	for _, o := range m.orders {
		if o.given {
			do(o.Order, max(o.began+m.Takes(o.Order)-now, (now-o.began)/10, time.Millisecond))
		}
	}
}

// Takes is how long an order takes: as last seen of its replica.
func (m *Manager) Takes(o Order) time.Duration {
	for _, x := range m.orders {
		switch {
		case x.ID != o.ID:
		case o.Kind == Unload:
			return x.replica.unloadTime()
		case x.replica.reload > 0:
			return x.replica.reload
		}
	}
	return LoadTime(o.Bytes)
}

// MustWake says that the replica of an order was seen to work only after a wake once
// it had unloaded.
func (m *Manager) MustWake(o Order) bool {
	return slices.ContainsFunc(m.orders, func(x *order) bool { return x.ID == o.ID && x.replica.mustWake })
}
