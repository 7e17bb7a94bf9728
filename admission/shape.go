package admission

import (
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/queue"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// shapeKey tells the work of one route and size, or where requests do not say
// their route, of one class, backend and demand.
type shapeKey struct {
	class, backend int
	own            Bytes        // the demand before learning changed it
	known          *memory.Case // nil: requests do not say
	unknown        bool         // only where known is nil
	retry          bool
	lacked         bool
	odd            Bytes // the figure of an odd one, which is its own; 0: it is not odd
}

// odd is a request's figure if that is its own; else 0.
func (r *Request) odd() Bytes {
	if r.Retry && r.Odd {
		return r.VRAM
	}
	return 0
}

// shape is the work of one route and size with its queue: it has one demand, that
// of the request which came last. Tens of them exist, so what is done for each
// shape at each event stays cheap however long the queue is.
type shape struct {
	queue.Shape[Ticket]
	key      shapeKey
	class    *class
	backend  *backend
	vram     Bytes
	unknown  bool         // the demand is not known; vram is a first guess
	measured bool         // vram rests on process figures, which miss no peak
	known    *memory.Case // what runs alone have told

	// The head is sticky: once found blocked it stays until it starts or
	// leaves, so that a change in the order of tenants cannot orphan its
	// reservation.
	head         *Ticket
	blockedSince time.Duration
	block        block
	reserved     time.Duration // predicted start; forever: none
	reservedFor  uint64        // whose reservation its head would move, if that blocks it
	first        *Ticket       // its eldest, as of this pass
	rests        pastRests     // of its head, if they are of it
	unfit        uint64        // the pass that found it not to fit even with everything ended
	asked        uint64        // the pass that looked for what could be unloaded for it, before its turn
	claims       bool          // memory was freed for its head
	turn         waitsTurn     // of another backend, that its head waits for
	busy         time.Duration // until then no slot for it is free, surely; set by late
}

// shapes are the distinct demands: those with waiting tickets, by rank, and
// some that had.
type shapes struct {
	all    map[shapeKey]*shape
	active []*shape // those with waiting tickets, by rank
	recent [4]*shape
	next   int // the place in recent that is overwritten next
}

// maxIdleShapes bounds how many shapes without waiting work are remembered:
// demands come from requests, and a client may send ever new ones.
const maxIdleShapes = 1024

// find gives one of the shapes that came last, so that most requests are told by
// comparing names and not by three lookups; nil: it is none of them.
func (s *shapes) find(r *Request) *shape {
	for _, sh := range s.recent {
		if sh != nil && sh.key.own == r.VRAM-r.Raised && sh.key.known == r.Case && sh.key.retry == r.Retry &&
			sh.key.lacked == r.Lacked && sh.key.odd == r.odd() && (r.Case != nil || sh.key.unknown == r.Unknown) &&
			sh.class.cfg.Name == r.Class && sh.backend.cfg.Name == r.Backend && !sh.class.gone && !sh.backend.gone {
			return sh
		}
	}
	return nil
}

// of gives the shape of a request.
func (s *shapes) of(c *class, b *backend, r *Request) *shape {
	key := shapeKey{class: c.index, backend: b.index, own: r.VRAM - r.Raised, known: r.Case, retry: r.Retry, lacked: r.Lacked, odd: r.odd()}
	if r.Case == nil {
		key.unknown = r.Unknown
	}
	return s.get(key, c, b)
}

// moved gives the shape that takes the place of one of an older configuration.
func (s *shapes) moved(old *shape, c *class, b *backend) *shape {
	key := old.key
	key.class, key.backend = c.index, b.index
	sh := s.get(key, c, b)
	sh.vram, sh.unknown, sh.measured, sh.known = old.vram, old.unknown, old.measured, old.known
	return sh
}

func (s *shapes) get(key shapeKey, c *class, b *backend) *shape {
	sh := s.all[key]
	if sh == nil {
		sh = &shape{Shape: queue.Shape[Ticket]{Group: &c.waiting}, key: key, class: c, backend: b, known: key.known, reserved: forever}
		if sh.known == nil {
			sh.known = new(memory.Case)
		}
		s.all[key] = sh
		if len(s.all) > maxIdleShapes+len(s.active) {
			for k, sh := range s.all {
				if sh.Len() == 0 {
					delete(s.all, k)
				}
			}
		}
	}
	s.recent[s.next] = sh
	s.next = (s.next + 1) % len(s.recent)
	return sh
}

// joined takes note that a ticket has been pushed.
func (s *shapes) joined(sh *shape) {
	// A shape that was trimmed while its ticket was being looked at lives on.
	s.all[sh.key] = sh
	if sh.Len() == 1 {
		s.active = append(s.active, sh)
	}
}

// left takes note that a ticket has been removed.
func (s *shapes) left(sh *shape, t *Ticket) {
	if sh.head == t {
		sh.noHead()
	}
	if sh.Len() == 0 {
		s.active = slices.DeleteFunc(s.active, func(x *shape) bool { return x == sh })
	}
}

// rank orders the shapes that wait: those for whose heads memory was freed, the strict
// head's, then by the arrival
// of the shape's eldest less its class's boost, then by order of arrival. It goes
// by the eldest and not by the fair head, or a younger head of another class would
// reserve first.
func (s *shapes) rank(strict *Ticket) {
	for _, sh := range s.active {
		sh.first = sh.Eldest()
	}
	slices.SortFunc(s.active, func(a, b *shape) int {
		if a.before(b, strict) {
			return -1
		}
		return 1
	})
}

func (sh *shape) before(other *shape, strict *Ticket) bool {
	if sh.claims != other.claims {
		return sh.claims
	}
	if strict != nil && sh != other {
		if sh == strict.shape || other == strict.shape {
			return sh == strict.shape
		}
	}
	return sh.first.Before(&other.first.Entry)
}

// settle moves the shape at position i behind those that now rank before it,
// after its head has started.
func (s *shapes) settle(i int, sh *shape, strict *Ticket) {
	if i >= len(s.active) || s.active[i] != sh {
		return // it has nothing left to wait
	}
	sh.first = sh.Eldest()
	for i+1 < len(s.active) && s.active[i+1].before(sh, strict) {
		s.active[i], s.active[i+1] = s.active[i+1], s.active[i]
		i++
	}
}

// setHead makes a ticket the head, which has been blocked since an age.
func (sh *shape) setHead(t *Ticket, since time.Duration) { sh.head, sh.blockedSince = t, since }

// noHead takes a shape's head and its reservation away.
func (sh *shape) noHead() { sh.head, sh.reserved = nil, forever }

// setDemand gives a shape the demand that is known now. An overestimate must not
// turn work away for good: what no replica could give of it is left out.
func (sh *shape) setDemand(b *box, vram Bytes, unknown bool) {
	if vram > sh.key.own {
		vram = max(sh.key.own, min(vram, b.largest(sh.backend)))
	}
	sh.vram, sh.unknown = vram, unknown
}

// relearned is setDemand where that has changed. It reports whether requests wait that have
// another demand by that.
func (sh *shape) relearned(b *box, vram Bytes, unknown, measured bool) bool {
	if sh.key.odd > 0 {
		return false // its figure is its own
	}
	sh.measured = measured
	if sh.vram == vram && sh.unknown == unknown {
		return false
	}
	sh.setDemand(b, vram, unknown)
	return sh.Len() > 0
}

// wanted says that a request which may run waits for a replica and ranks before
// the head of sh: what the replica holds is about to be used.
func (s *shapes) wanted(v *residency.Replica, sh *shape) bool {
	for _, x := range s.active {
		if x == sh {
			return false
		}
		if _, barred := x.barred(); x.backend.cfg.Name == v.Backend && !barred {
			return true
		}
	}
	return false
}

// waitsFor gives the first request that may run and waits for a replica's backend, of
// the shapes but sh; nil: there is none.
func (s *shapes) waitsFor(v *residency.Replica, sh *shape) *Ticket {
	for _, x := range s.active {
		if _, barred := x.barred(); x == sh || barred || x.backend.cfg.Name != v.Backend {
			continue
		}
		if x.head != nil {
			return x.head
		}
		return x.Next()
	}
	return nil
}
