package admission

import "slices"

// news is what a call has brought to requests other than its own, until it is told.
type news struct {
	decided []*Ticket
	stuck   []Waiter
}

func (n *news) decide(t *Ticket) { n.decided = append(n.decided, t) }

// stick takes a request that has begun to wait for what nothing of ours will do.
func (n *news) stick(w Waiter) { n.stuck = append(n.stuck, w) }

// leaveOut takes back what was decided of a ticket: it is its caller's result.
func (n *news) leaveOut(t *Ticket) {
	n.decided = slices.DeleteFunc(n.decided, func(d *Ticket) bool { return d == t })
}

// takeDecided tells the decisions, once. The slice is valid until the next one.
func (n *news) takeDecided() []*Ticket {
	d := n.decided
	n.decided = n.decided[:0]
	return d
}

func (n *news) takeStuck() []Waiter {
	w := n.stuck
	n.stuck = n.stuck[:0]
	return w
}
