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
	timed   *Place[T]     // the first of those that expire in order of arrival; nil: none does
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
	return g.waiting.first.entry.owner
}

// Last is the waiting entry that arrived last. Nil: none waits.
func (g *Group[T]) Last() *T {
	if g.waiting.last == nil {
		return nil
	}
	return g.waiting.last.entry.owner
}

// All yields the waiting entries in order of arrival. The entry that was yielded
// last may be removed meanwhile.
func (g *Group[T]) All() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for p := g.waiting.first; p != nil; {
			next := p.links[inGroup].next
			if !yield(p.entry.owner) {
				return
			}
			p = next
		}
	}
}

// Clear takes all entries out of their lists and returns them in order of
// arrival. Their shapes must not be used any more, and Queue.Reset has to
// follow.
func (g *Group[T]) Clear() []*T {
	all := make([]*T, 0, g.waiting.length)
	for p := g.waiting.first; p != nil; {
		next := p.links[inGroup].next
		p.links, p.flow = [listKinds]link[T]{}, nil
		all = append(all, p.entry.owner)
		p = next
	}
	*g = Group[T]{}
	return all
}
