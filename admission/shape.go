package admission

import (
	"slices"
	"time"
)

// level is the queue of those in a shape that count as much earlier than
// their arrival: the eldest of each is its first. There are as many as
// priorities in use.
type level struct {
	boost   time.Duration
	waiting list
}

func (sh *shape) push(t *Ticket) {
	sh.waiting++
	for i := range sh.levels {
		if sh.levels[i].boost == t.boost {
			sh.levels[i].waiting.push(t, inLevel)
			return
		}
	}
	l := level{boost: t.boost}
	l.waiting.push(t, inLevel)
	sh.levels = append(sh.levels, l)
}

func (sh *shape) remove(t *Ticket) {
	sh.waiting--
	i := slices.IndexFunc(sh.levels, func(l level) bool { return l.boost == t.boost })
	sh.levels[i].waiting.remove(t, inLevel)
	if sh.levels[i].waiting.length == 0 && len(sh.levels) > 1 {
		sh.levels = slices.Delete(sh.levels, i, i+1)
	}
}

// eldest is the waiting ticket that ranks first: by arrival less boost, a key
// that never changes, so that after a boost's time nobody new can pass. Nil:
// nobody waits.
func (sh *shape) eldest() *Ticket {
	var eldest *Ticket
	for i := range sh.levels {
		if t := sh.levels[i].waiting.first; t != nil && (eldest == nil || t.before(eldest)) {
			eldest = t
		}
	}
	return eldest
}

// before says that a ticket ranks before another.
func (t *Ticket) before(u *Ticket) bool {
	if a, b := t.arrived-t.boost, u.arrived-u.boost; a != b {
		return a < b
	}
	return t.id < u.id
}

// ahead counts who of the shape ranks before a waiting ticket; far from the
// front it stops counting.
func (sh *shape) ahead(t *Ticket) int {
	n := 0
	for i := range sh.levels {
		for x := sh.levels[i].waiting.first; x != nil && x != t && x.before(t) && n < maxScan; x = x.links[inLevel].next {
			n++
		}
	}
	return n
}

// recent are the shapes that came last, so that most requests are told by
// comparing names and not by three lookups.
type recent struct {
	shapes [4]*shape
	next   int
}

func (c *recent) find(r *Request) *shape {
	for _, sh := range c.shapes {
		if sh != nil && sh.vram == r.VRAM && sh.alone == r.Alone && sh.class.cfg.Name == r.Class && sh.backend.cfg.Name == r.Backend {
			return sh
		}
	}
	return nil
}

func (c *recent) add(sh *shape) {
	c.shapes[c.next] = sh
	c.next = (c.next + 1) % len(c.shapes)
}
