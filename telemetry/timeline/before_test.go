package timeline

import (
	"testing"
	"time"
)

func TestBeforeAMomentIsWhatAfterBeginsWith(t *testing.T) {
	s := New(Config{For: 10 * time.Second, Bytes: 1 << 20}, noon)
	s.AddSample(Sample{At: at(0)})
	s.AddDecision(Decision{At: at(1)})
	s.AddRequest(request(2))
	s.AddSample(Sample{At: at(3)})
	for _, c := range []struct {
		from time.Time
		want uint64
	}{{at(-5), 0}, {at(0), 0}, {at(1), 1}, {at(2), 2}, {at(3), 3}, {at(9), 4}} {
		if got := s.Before(c.from); got != c.want {
			t.Errorf("before %v: %d, want %d", c.from.Sub(noon), got, c.want)
		}
	}
	s.AddSample(Sample{At: at(12)}) // the first two are gone
	if got := s.Before(at(0)); got != 1 {
		t.Errorf("before what is not kept any more: %d, want 1, the last that was dropped of the samples", got)
	}
	if _, complete := s.After(s.Before(at(0)), 10); !complete {
		t.Error("what begins there is not complete")
	}
	var none *Store
	if none.Before(noon) != 0 {
		t.Error("no store has events")
	}
}
