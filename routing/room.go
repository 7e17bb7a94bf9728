package routing

import (
	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
)

// share is the most that a request may book on a backend's roomiest server, and
// the GPU of it that has the least left.
type share struct {
	left admission.Bytes
	at   admission.Place
}

// roomiest gives the share of a backend's roomiest server. False: some server has
// no bound that is known.
func (c Config) roomiest(b backend.Config) (share, bool) {
	best := share{left: -1}
	for _, s := range b.Servers() {
		least, bounded := share{}, false
		for _, p := range s.Places() {
			room, known := c.Room[p.GPU]
			if left := max(0, room-p.Resident); known && (!bounded || left < least.left) {
				least, bounded = share{left, p}, true
			}
		}
		if !bounded {
			return share{}, false
		}
		if least.left > best.left {
			best = least
		}
	}
	return best, true
}
