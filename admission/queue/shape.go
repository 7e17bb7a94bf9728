package queue

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Shape is the queue of one distinct demand. There are few of them, so that what
// is done for each shape at each event stays cheap however long the queue is.
// The zero value is empty; Group must be set before the first Push.
type Shape[T any] struct {
	Group *Group[T]

	waiting int
	levels  []level[T] // one for each boost in use
	flows   flows[T]
}

// level is the queue of the entries of a shape that have the same boost. The
// first of them ranks before the others. There are as many levels as priorities
// in use.
type level[T any] struct {
	boost   time.Duration
	waiting list[T]
}

// Len is the number of waiting entries.
func (sh *Shape[T]) Len() int { return sh.waiting }

// Eldest is the waiting entry that ranks first. Nil: none waits.
func (sh *Shape[T]) Eldest() *T {
	var eldest *Place[T]
	for i := range sh.levels {
		if p := sh.levels[i].waiting.first; p != nil && (eldest == nil || p.before(eldest)) {
			eldest = p
		}
	}
	if eldest == nil {
		return nil
	}
	return eldest.entry.owner
}

// Next is the entry that fair queueing starts next: the oldest of the flow whose
// tenant is furthest behind its share. Nil: none waits.
func (sh *Shape[T]) Next() *T {
	if len(sh.flows) == 0 {
		return nil
	}
	return sh.flows[0].flow.waiting.first.entry.owner
}

// Ahead counts the entries of the shape that rank before a waiting entry, up to
// limit.
func (sh *Shape[T]) Ahead(p *Place[T], limit int) int {
	n := 0
	for i := range sh.levels {
		for x := sh.levels[i].waiting.first; x != nil && x != p && x.before(p) && n < limit; x = x.links[inLevel].next {
			n++
		}
	}
	return n
}

func (sh *Shape[T]) push(p *Place[T]) {
	sh.waiting++
	for i := range sh.levels {
		if sh.levels[i].boost == p.entry.Boost {
			sh.levels[i].waiting.push(p, inLevel)
			return
		}
	}
	l := level[T]{boost: p.entry.Boost}
	l.waiting.push(p, inLevel)
	sh.levels = append(sh.levels, l)
}

func (sh *Shape[T]) remove(p *Place[T]) {
	sh.waiting--
	i := slices.IndexFunc(sh.levels, func(l level[T]) bool { return l.boost == p.entry.Boost })
	sh.levels[i].waiting.remove(p, inLevel)
	if sh.levels[i].waiting.length == 0 && len(sh.levels) > 1 {
		sh.levels = slices.Delete(sh.levels, i, i+1)
	}
}

// Dump writes all that decides what the shape does next, as Queue.Dump does.
func (sh *Shape[T]) Dump() string {
	var b strings.Builder
	fmt.Fprint(&b, sh.waiting)
	for _, p := range sh.flows {
		f := p.flow
		fmt.Fprint(&b, " ", f.tenant.name, f.tenant.tag, f.waiting.first.entry.id)
	}
	return b.String()
}
