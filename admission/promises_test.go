package admission

import (
	"testing"

	"pgregory.net/rapid"
)

func rapidly(r *rapid.T) draw {
	return func(n int) int { return rapid.IntRange(0, n-1).Draw(r, "") }
}

func TestPromisesHoldAfterEveryEvent(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapidly(r)
		w := newWorld(boxOf(n), n)
		w.late = n(2) == 1
		for range n(200) {
			w.step()
			if err := w.check(); err != nil {
				r.Fatal(err)
			}
		}
		if err := w.finish(); err != nil {
			r.Fatal(err)
		}
	})
}
