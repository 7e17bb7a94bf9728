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
	var eldest *Entry[T]
	for i := range sh.levels {
		if e := sh.levels[i].waiting.first; e != nil && (eldest == nil || e.Before(eldest)) {
			eldest = e
		}
	}
	if eldest == nil {
		return nil
	}
	return eldest.owner
}

// Next is the entry that fair queueing starts next: the oldest of the flow whose
// tenant is furthest behind its share. Nil: none waits.
func (sh *Shape[T]) Next() *T {
	if len(sh.flows) == 0 {
		return nil
	}
	return sh.flows[0].flow.waiting.first.owner
}

// Ahead counts the entries of the shape that rank before a waiting entry, up to
// limit.
func (sh *Shape[T]) Ahead(e *Entry[T], limit int) int {
	n := 0
	for i := range sh.levels {
		for x := sh.levels[i].waiting.first; x != nil && x != e && x.Before(e) && n < limit; x = x.links[inLevel].next {
			n++
		}
	}
	return n
}

func (sh *Shape[T]) push(e *Entry[T]) {
	sh.waiting++
	for i := range sh.levels {
		if sh.levels[i].boost == e.Boost {
			sh.levels[i].waiting.push(e, inLevel)
			return
		}
	}
	l := level[T]{boost: e.Boost}
	l.waiting.push(e, inLevel)
	sh.levels = append(sh.levels, l)
}

func (sh *Shape[T]) remove(e *Entry[T]) {
	sh.waiting--
	i := slices.IndexFunc(sh.levels, func(l level[T]) bool { return l.boost == e.Boost })
	sh.levels[i].waiting.remove(e, inLevel)
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
		fmt.Fprint(&b, " ", f.tenant.name, f.tenant.tag, f.waiting.first.id)
	}
	return b.String()
}
