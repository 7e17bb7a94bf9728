package admission

import (
	"math/rand/v2"
	"testing"
)

// fromBytes draws from a fuzzer's input, a byte or two each; when it is used up
// everything is 0.
func fromBytes(data *[]byte) draw {
	return func(n int) int {
		v := 0
		for size := n - 1; size > 0 && len(*data) > 0; size >>= 8 {
			v = v<<8 | int((*data)[0])
			*data = (*data)[1:]
		}
		return v % n
	}
}

// FuzzEvents plays what the fuzzer draws and holds every promise after every
// event, as TestPromisesHoldAfterEveryEvent does with what rapid draws.
func FuzzEvents(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 0))
		data := make([]byte, 40<<(seed%4))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2000 {
			t.Skip("more than a second of checks")
		}
		n := fromBytes(&data)
		w := newWorld(boxOf(n), n)
		w.late = n(2) == 1
		for len(data) > 0 {
			w.step()
			if err := w.check(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
	})
}
