package timeline

import (
	"slices"
	"time"
	"unsafe"
)

// ring holds the newest entries of one kind, in order of time and of number. It grows and
// shrinks by chunks, so that no entry is moved.
type ring[T any] struct {
	keep    time.Duration
	most    int64 // bytes
	held    int64
	chunks  []*chunk[T]
	spare   *chunk[T]
	head, n int       // the first one in chunks[0], and how many there are
	since   time.Time // from when it is complete; zero: nothing was dropped
	dropped uint64    // the number of the last one that was
}

const chunkSize = 128

type chunk[T any] [chunkSize]item[T]

type item[T any] struct {
	number uint64
	at     time.Time
	size   int
	value  T
}

func (r *ring[T]) limit(keep time.Duration, most int64) { r.keep, r.most = keep, most }

func (r *ring[T]) at(i int) *item[T] {
	i += r.head
	return &r.chunks[i/chunkSize][i%chunkSize]
}

// add keeps an entry, and drops the entries that are too old or exceed the bounds.
func (r *ring[T]) add(number uint64, at time.Time, size int, value T) {
	size += int(unsafe.Sizeof(item[struct{}]{}))
	for r.n > 0 && (at.Sub(r.at(0).at) > r.keep || r.held+int64(size) > r.most) {
		r.drop()
	}
	if r.head+r.n == len(r.chunks)*chunkSize {
		next := r.spare
		if r.spare = nil; next == nil {
			next = new(chunk[T])
		}
		r.chunks = append(r.chunks, next)
	}
	*r.at(r.n) = item[T]{number, at, size, value}
	r.n++
	r.held += int64(size)
}

func (r *ring[T]) drop() {
	first := r.at(0)
	r.since, r.dropped = first.at, first.number
	r.held -= int64(first.size)
	*first = item[T]{}
	r.head++
	r.n--
	if r.head == chunkSize {
		r.spare, r.head = r.chunks[0], 0
		r.chunks = slices.Delete(r.chunks, 0, 1)
	}
}

// from appends the entries since a time to a list. An entry that was added late may be a
// little older than the entry before it, so all entries are looked at.
func (r *ring[T]) from(list []T, from time.Time) []T {
	for i := range r.n {
		if x := r.at(i); !x.at.Before(from) {
			list = append(list, x.value)
		}
	}
	return list
}

// first is the number of the first one since a moment; none: there is none.
func (r *ring[T]) first(from time.Time, none uint64) uint64 {
	for i := range r.n {
		if x := r.at(i); !x.at.Before(from) {
			return x.number
		}
	}
	return none
}

// cursor walks through a ring.
type cursor[T any] struct {
	ring *ring[T]
	i    int
}

// after is a cursor at the first one after a number.
func (r *ring[T]) after(number uint64) *cursor[T] {
	lo, hi := 0, r.n
	for lo < hi {
		if mid := (lo + hi) / 2; r.at(mid).number <= number {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return &cursor[T]{r, lo}
}

// number is that of the one it stands at, or end where there is none.
func (c *cursor[T]) number(end uint64) uint64 {
	if c.i >= c.ring.n {
		return end
	}
	return c.ring.at(c.i).number
}

// take gives the one it stands at and goes on.
func (c *cursor[T]) take() T {
	v := c.ring.at(c.i).value
	c.i++
	return v
}
