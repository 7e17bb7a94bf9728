package queue

// expiries is a binary heap of the waiting entries that may expire, soonest
// first. Each knows its index, so that leaving early is logarithmic too.
type expiries[T any] []*Entry[T]

func (h *expiries[T]) push(e *Entry[T]) {
	e.heap = int32(len(*h))
	*h = append(*h, e)
	h.up(int(e.heap))
}

func (h *expiries[T]) remove(e *Entry[T]) {
	old := *h
	last := len(old) - 1
	i := int(e.heap)
	old.swap(i, last)
	old[last] = nil
	*h = old[:last]
	if i < last {
		h.down(i)
		h.up(i)
	}
}

func (h expiries[T]) swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heap, h[j].heap = int32(i), int32(j)
}

// sooner breaks ties by arrival, so that the order of expiry is the same
// whatever the heap went through.
func (h expiries[T]) sooner(i, j int) bool {
	if h[i].Expires != h[j].Expires {
		return h[i].Expires < h[j].Expires
	}
	return h[i].id < h[j].id
}

func (h expiries[T]) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !h.sooner(i, parent) {
			return
		}
		h.swap(i, parent)
		i = parent
	}
}

func (h expiries[T]) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h.sooner(child+1, child) {
			child++
		}
		if !h.sooner(child, i) {
			return
		}
		h.swap(i, child)
		i = child
	}
}
