package queue

import (
	"iter"
	"time"
)

// Group counts entries of any number of shapes together, in order of arrival.
// The zero value is empty.
type Group[T any] struct {
	waiting list[T]
	size    int64
	timed   *Entry[T]     // the first of those that expire in order of arrival; nil: none does
	latest  time.Duration // when the last of those expires
}

// Len is the number of waiting entries.
func (g *Group[T]) Len() int { return g.waiting.length }

// Size is the sum of the sizes of the waiting entries, in bytes.
func (g *Group[T]) Size() int64 { return g.size }

// First is the waiting entry that arrived first. Nil: none waits.
func (g *Group[T]) First() *T {
	if g.waiting.first == nil {
		return nil
	}
	return g.waiting.first.owner
}

// Last is the waiting entry that arrived last. Nil: none waits.
func (g *Group[T]) Last() *T {
	if g.waiting.last == nil {
		return nil
	}
	return g.waiting.last.owner
}

// All yields the waiting entries in order of arrival. The entry that was yielded
// last may be removed meanwhile.
func (g *Group[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for e := g.waiting.first; e != nil; {
			next := e.links[inGroup].next
			if !yield(e.owner) {
				return
			}
			e = next
		}
	}
}

// Clear takes all entries out of their lists and returns them in order of
// arrival. Their shapes must not be used any more, and Queue.Reset has to
// follow.
func (g *Group[T]) Clear() []*T {
	all := make([]*T, 0, g.waiting.length)
	for e := g.waiting.first; e != nil; {
		next := e.links[inGroup].next
		e.links, e.flow = [listKinds]link[T]{}, nil
		all = append(all, e.owner)
		e = next
	}
	*g = Group[T]{}
	return all
}
