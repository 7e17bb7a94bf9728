package timeline

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

func at(s int) time.Time { return noon.Add(time.Duration(s) * time.Second) }

func request(s int) Request { return Request{Ended: at(s), Path: "/v1/images/generations"} }

// ends are when the requests of a history ended, in seconds.
func ends(h History) (all []int) {
	for _, r := range h.Requests {
		all = append(all, int(r.Ended.Sub(noon).Seconds()))
	}
	return all
}

func TestWhatIsOldGoes(t *testing.T) {
	s := New(Config{For: time.Minute, Bytes: 1 << 20}, noon)
	for i := range 300 {
		s.AddRequest(request(i))
	}
	h := s.Since(noon, at(300))
	if got := ends(h); len(got) != 61 || got[0] != 239 || got[60] != 299 {
		t.Errorf("%d are kept, from %d to %d, want the 61 of the last minute", len(got), got[0], got[len(got)-1])
	}
	if want := at(238); !h.Since.Equal(want) {
		t.Errorf("it is complete since %v, want %v: what ended then was the last to go", h.Since, want)
	}
	if h := s.Since(at(290), at(300)); !h.Since.Equal(at(290)) || len(h.Requests) != 10 {
		t.Errorf("of the last 10 s there are %d since %v, want 10 since then", len(h.Requests), h.Since)
	}
}

func TestWhatIsTooMuchGoes(t *testing.T) {
	const most = 1 << 20
	s := New(Config{For: time.Hour, Bytes: most}, noon)
	for i := range 10_000 {
		s.AddRequest(request(i / 10))
		s.AddDecision(Decision{At: at(i / 10), Note: "a note of some length"})
		s.AddSample(Sample{At: at(i / 10), Classes: make([]ClassSample, 2), GPUs: []GPUSample{{Owners: make([]OwnerSample, 3)}}})
	}
	if held := s.requests.held + s.decisions.held + s.samples.held; held > most || held < most*9/10 {
		t.Errorf("%d bytes are held, want up to %d and close to it", held, most)
	}
	h := s.Since(noon, at(1000))
	if len(h.Requests) < 100 || !h.Since.After(noon) || h.Requests[0].Ended.Before(at(870)) {
		t.Errorf("%d requests since %v, want the last", len(h.Requests), h.Since)
	}
}

func TestAHistoryBeginsWithItsStore(t *testing.T) {
	s := New(Config{For: time.Hour, Bytes: 1 << 20}, noon)
	if h := s.Since(noon.Add(-time.Hour), at(5)); !h.Since.Equal(noon) || h.Requests == nil || h.Decisions == nil || h.Samples == nil {
		t.Errorf("got %+v, want it complete since the start, and lists", h)
	}
	var none *Store
	none.AddRequest(request(1))
	none.AddDecision(Decision{})
	none.AddSample(Sample{})
	if h := none.Since(noon, at(5)); !h.Since.Equal(at(5)) || h.Requests == nil {
		t.Errorf("of no store: %+v, want it complete since now", h)
	}
	if events, complete := none.After(0, 10); events != nil || !complete || none.Changed(0) != nil {
		t.Error("no store has events")
	}
	if New(Config{}, noon) != nil {
		t.Error("a store that keeps nothing is made")
	}
}

// kinds are the events' letters and numbers.
func kinds(events []Event) string {
	var all []string
	for _, e := range events {
		letter := "s"
		switch {
		case e.Request != nil:
			letter = "r"
		case e.Decision != nil:
			letter = "d"
		}
		all = append(all, fmt.Sprint(letter, e.Number))
	}
	return strings.Join(all, " ")
}

func TestEventsComeInOrder(t *testing.T) {
	s := New(Config{For: 10 * time.Second, Bytes: 1 << 20}, noon)
	s.AddSample(Sample{At: at(0)})
	s.AddDecision(Decision{At: at(1)})
	s.AddDecision(Decision{At: at(1)})
	s.AddRequest(request(2))
	s.AddSample(Sample{At: at(2)})
	if events, complete := s.After(0, 100); kinds(events) != "s1 d2 d3 r4 s5" || !complete {
		t.Errorf("got %s, %t, want all five, complete", kinds(events), complete)
	}
	if events, complete := s.After(2, 2); kinds(events) != "d3 r4" || !complete {
		t.Errorf("after the second: %s, %t, want the next two", kinds(events), complete)
	}
	if events, complete := s.After(5, 100); len(events) != 0 || !complete {
		t.Errorf("after the last: %s, %t, want none", kinds(events), complete)
	}
	if _, complete := s.After(9, 100); complete {
		t.Error("what has not been yet is complete")
	}
	s.AddSample(Sample{At: at(13)})
	if _, complete := s.After(0, 100); complete {
		t.Error("the first sample is gone, and it is complete")
	}
	if _, complete := s.After(5, 100); !complete {
		t.Error("nothing after the fifth is gone, and it is not complete")
	}
}

func TestThoseWhoWaitAreWoken(t *testing.T) {
	s := New(Config{For: time.Hour, Bytes: 1 << 20}, noon)
	const n = 1000
	var readers, writers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			var got []uint64
			for last := uint64(0); last < n; {
				<-s.Changed(last)
				events, complete := s.After(last, 7)
				if !complete {
					t.Error("events are missing")
					return
				}
				for _, e := range events {
					got = append(got, e.Number)
					last = e.Number
				}
			}
			if len(got) != n || !slices.IsSorted(got) {
				t.Errorf("%d events, want %d in order", len(got), n)
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for i := range n / 4 {
				if w%2 == 0 {
					s.AddRequest(request(i))
				} else {
					s.AddDecision(Decision{At: at(i)})
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
}

func TestATraceIsHexAndNoneIsEmpty(t *testing.T) {
	text, err := json.Marshal(map[string]any{"some": TraceID{0: 0xab, 15: 0x01}, "none": TraceID{}})
	if err != nil || string(text) != `{"none":"","some":"ab000000000000000000000000000001"}` {
		t.Errorf("got %s, %v", text, err)
	}
}

// BenchmarkAddRequest is what keeping one costs its request.
func BenchmarkAddRequest(b *testing.B) {
	s := New(Config{For: 15 * time.Minute, Bytes: 32 << 20}, noon)
	r := request(1)
	b.ReportAllocs()
	for b.Loop() {
		s.AddRequest(r)
	}
}
