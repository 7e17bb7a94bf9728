package history

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

func TestAHistoryIsSavedAndGoesOn(t *testing.T) {
	h := new(History)
	for i := range 200 {
		h.Learn(memory.GiB, time.Duration(1+i%7)*time.Second)
		h.peak(memory.GiB, memory.Bytes(100+i)*memory.MiB, 2*memory.GiB, true)
	}
	h.Learn(4*memory.GiB, time.Minute)
	h.full(4*memory.GiB, 5*memory.GiB, 4*memory.GiB, 0, 0)
	h.LearnRoom(then, then.Add(1), 16*memory.GiB, 12*memory.GiB, 2*memory.GiB, true)
	h.LearnPeak(then, 8*memory.GiB, memory.Measurement{Seen: 7 * memory.GiB, Weights: 2 * memory.GiB, Exact: true, Grew: true})
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 4096 {
		t.Errorf("four demands take %d bytes", len(text))
	}
	again := new(History)
	if err := json.Unmarshal(text, again); err != nil {
		t.Fatal(err)
	}
	was, is := h.Learned(), again.Learned()
	for i := range was {
		if !near(is[i].Estimate.P50, was[i].Estimate.P50, .01) || !near(is[i].Estimate.P95, was[i].Estimate.P95, .01) {
			t.Errorf("%v took %v, and now %v", was[i].VRAM, was[i].Estimate, is[i].Estimate)
		}
		was[i].Estimate, is[i].Estimate = Estimate{}, Estimate{}
	}
	if !reflect.DeepEqual(was, is) {
		t.Errorf("it was %+v and is %+v", was, is)
	}
	for _, l := range was {
		want, unknown := h.Demand(l.VRAM, false)
		if got, is := again.Demand(l.VRAM, false); got != want || is != unknown {
			t.Errorf("%v was booked with %v, and now with %v", l.VRAM, want, got)
		}
	}
	// Both forget the oldest alike.
	for _, x := range []*History{h, again} {
		for range maxPeaks - 2 {
			x.peak(memory.GiB, memory.GiB, 2*memory.GiB, true)
		}
	}
	if a, b := h.Learned()[0].Peak, again.Learned()[0].Peak; a != b {
		t.Errorf("they go on with %+v and %+v", a, b)
	}
}

func FuzzASavedHistory(f *testing.F) {
	for _, text := range []string{
		`{"demands":[{"vram_bytes":1,"runs":9,"times":[[3,1]],"held_bytes":[1,2,3,4]}]}`,
		`{"demands":[{"vram_bytes":-1,"runs":9}]}`,
		`{"demands":[{"vram_bytes":1,"times":[[1e9,1]]}]}`,
		`{"demands":[{"vram_bytes":1,"times":[[1,-1]]}]}`,
		`{"demands":[{"vram_bytes":1,"held_bytes":[9223372036854775807]}]}`,
		`{"demands":[{"vram_bytes":1},{"vram_bytes":1}]}`,
		`{"resident_bytes":-5,"demands":[]}`, `{}`, `null`, `[]`, `{"demands":[null]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h := new(History)
		h.Learn(memory.GiB, time.Second)
		if err := json.Unmarshal(text, h); err != nil {
			if l := h.Learned(); len(l) != 1 || l[0].VRAM != memory.GiB {
				t.Fatalf("what was refused changed it to %+v", l)
			}
			return
		}
		for _, l := range h.Learned() {
			booked, _ := h.Demand(l.VRAM, true)
			if booked < 0 || l.Peak.Most < 0 || l.Estimate.P50 < 0 || l.Estimate.P95 < l.Estimate.P50 {
				t.Fatalf("%s is taken for %+v, booked %v", text, l, booked)
			}
			h.Learn(l.VRAM, time.Second)
			h.peak(l.VRAM, memory.GiB, 0, true)
			h.LearnRoom(then, then.Add(1), l.VRAM, memory.GiB, 0, true)
			h.full(l.VRAM, booked, booked, 0, 0)
		}
		if _, err := json.Marshal(h); err != nil {
			t.Fatal(err)
		}
	})
}

// An older state says how much runs held, and not how that was seen.
func TestAnOlderStateIsRead(t *testing.T) {
	h := new(History)
	text := `{"resident_bytes":2147483648,"demands":[{"vram_bytes":1073741824,"runs":3,"times":[[70,2]],"held_bytes":[5368709120,4294967296],
		"measured":9,"least_bytes":10737418240,"since":2,"out_of_memory":7,"raises":9}]}`
	if err := json.Unmarshal([]byte(text), h); err != nil {
		t.Fatal(err)
	}
	f := h.Figure(memory.GiB, false)
	if f.Booked != 10*memory.GiB || f.Evidence != ByExhausted || !f.Since.IsZero() || f.ComesDownAfter != mostGoodRuns-2 {
		t.Errorf("it is booked as %+v, want 10 GiB by out of memory, down after %d runs", f, mostGoodRuns-2)
	}
	h.good(mostGoodRuns-2, memory.GiB, 40*memory.GiB)
	// By then what was seen once counts no more.
	wantDemand(t, h, memory.GiB, false, memory.GiB, false)
	if l := h.Learned()[0]; l.Peak.Runs != 9 || l.Peak.OutOfMemory != 7 {
		t.Errorf("it shows %+v", l)
	}
}

// The evidence of a figure is saved with it.
func TestTheEvidenceOfAFigureIsSaved(t *testing.T) {
	const vram = 10 * memory.GiB
	for name, x := range map[string]struct {
		teach func(h *History)
		by    Evidence
	}{
		"process figures": {func(h *History) {
			h.LearnPeak(then, vram, memory.Measurement{Seen: 20 * memory.GiB, Exact: true, Grew: true})
		}, ByProcess},
		"totals":  {func(h *History) { h.peak(vram, 20*memory.GiB, 0, false) }, ByTotal},
		"a trial": {func(h *History) { h.LearnRoom(then, then.Add(1), vram, 5*memory.GiB, 0, true) }, ByTrial},
		"out of memory": {func(h *History) {
			h.full(vram, vram, 20*memory.GiB, 0, 0)
			h.good(1, vram, 30*memory.GiB)
		}, ByExhausted},
		"runs that add nothing": {func(h *History) {
			h.LearnPeak(then, vram, memory.Measurement{Seen: 2 * memory.GiB, Exact: true, Keeps: true, Grew: true})
			for range enoughFlat {
				h.LearnPeak(then, vram, memory.Measurement{Seen: 5 * memory.GiB, Exact: true, Keeps: true})
			}
		}, ByProcess},
		"what will fade in ten runs": {func(h *History) {
			h.peak(vram, 20*memory.GiB, 0, false)
			h.full(vram, vram, 12*memory.GiB, 0, 0)
			h.good(fades*fadesMore-10, vram, 30*memory.GiB)
		}, ByTotal},
	} {
		h, again := new(History), new(History)
		h.Demand(vram, false)
		x.teach(h)
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, again); err != nil {
			t.Fatal(err)
		}
		f, g := h.Figure(vram, false), again.Figure(vram, false)
		if f.Evidence != x.by || !f.Since.Equal(then) || f.Booked == vram {
			t.Errorf("%s: it is booked as %+v, want another figure by %s since %v", name, f, x.by, then)
		}
		if !f.Since.Equal(g.Since) {
			t.Errorf("%s: it was so since %v, and after a restart since %v", name, f.Since, g.Since)
		}
		f.Since, g.Since = time.Time{}, time.Time{}
		if f != g {
			t.Errorf("%s: it was booked as %+v, and after a restart as %+v", name, f, g)
		}
		// Both go on alike.
		for range 60 {
			h.good(1, vram, 30*memory.GiB)
			again.good(1, vram, 30*memory.GiB)
			if a, b := h.Figure(vram, false), again.Figure(vram, false); a.Booked != b.Booked || a.Evidence != b.Evidence {
				t.Fatalf("%s: they go on with %+v and %+v", name, a, b)
			}
		}
		if text, err = json.Marshal(h); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, again); err != nil {
			t.Fatal(err)
		}
		if _, odd := again.full(vram, vram, 30*memory.GiB, 0, 0); !odd {
			t.Errorf("%s: a failure where others did well is not odd after a restart", name)
		}
	}
}
