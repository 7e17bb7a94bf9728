package history

import (
	"testing"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// learnt is a History with n runs of a demand that took so much.
func learnt(n int, vram memory.Bytes, took ...memory.Bytes) *History {
	h := new(History)
	for i := range n {
		h.LearnPeak(vram, took[i%len(took)], 0)
		h.Learn(vram, 0)
	}
	return h
}

func wantDemand(t *testing.T, h *History, vram memory.Bytes, learn bool, want memory.Bytes, alone bool) {
	t.Helper()
	booked, is := h.Demand(vram, learn)
	if max(booked-want, want-booked) > want/50 || is != alone {
		t.Errorf("%v is booked with %v, alone: %v; want %v, %v; known is %+v", vram, booked, is, want, alone, h.Learned())
	}
}

func TestADemandIsLearned(t *testing.T) {
	t.Run("alone until enough runs were measured", func(t *testing.T) {
		h := new(History)
		for range enoughPeaks {
			wantDemand(t, h, memory.GiB, true, memory.GiB, true)
			h.LearnPeak(memory.GiB, 30*memory.GiB, 0)
		}
		wantDemand(t, h, memory.GiB, true, 33*memory.GiB, false)
	})
	t.Run("by the 95th percentile of the last runs", func(t *testing.T) {
		h := learnt(maxPeaks, 0, 10*memory.GiB)
		for range 3 {
			h.LearnPeak(0, 40*memory.GiB, 0)
		}
		wantDemand(t, h, 0, true, 11*memory.GiB, false)
		if p := h.Learned()[0].Peak; p.P95 != 10*memory.GiB || p.Most != 40*memory.GiB || p.Runs != maxPeaks+3 {
			t.Errorf("it shows %+v", p)
		}
		for range maxPeaks {
			h.LearnPeak(0, 5*memory.GiB, 0) // another model
		}
		wantDemand(t, h, 0, true, 55*memory.GiB/10, false)
	})
	t.Run("beyond weights that become known later", func(t *testing.T) {
		h := learnt(enoughPeaks, 0, 34*memory.GiB)
		h.LearnPeak(0, 12*memory.GiB, 22*memory.GiB)
		wantDemand(t, h, 0, true, 132*memory.GiB/10, false)
	})
	t.Run("a declared one is booked as declared", func(t *testing.T) {
		wantDemand(t, learnt(20, 10*memory.GiB, 30*memory.GiB), 10*memory.GiB, false, 10*memory.GiB, false)
	})
	t.Run("each for itself", func(t *testing.T) {
		wantDemand(t, learnt(20, 10*memory.GiB, 30*memory.GiB), 11*memory.GiB, true, 11*memory.GiB, true)
	})
}

func TestARunThatEndsForWantOfMemory(t *testing.T) {
	t.Run("throws away what was learned, and never books as little again", func(t *testing.T) {
		h := learnt(20, 0, 10*memory.GiB)
		h.Exhausted(0, 11*memory.GiB)
		wantDemand(t, h, 0, true, 1375*memory.GiB/100, true)
		for range enoughPeaks {
			h.LearnPeak(0, 8*memory.GiB, 0)
		}
		wantDemand(t, h, 0, true, 1375*memory.GiB/100, false)
	})
	t.Run("raises a declared one to what is measured", func(t *testing.T) {
		h := learnt(20, 10*memory.GiB, 5*memory.GiB)
		h.Exhausted(10*memory.GiB, 10*memory.GiB)
		wantDemand(t, h, 10*memory.GiB, false, 125*memory.GiB/10, true)
		for range enoughPeaks {
			h.LearnPeak(10*memory.GiB, 20*memory.GiB, 0)
		}
		wantDemand(t, h, 10*memory.GiB, false, 22*memory.GiB, false)
	})
	t.Run("does not keep work alone for ever where nothing is measured", func(t *testing.T) {
		h := new(History)
		h.Exhausted(10*memory.GiB, 10*memory.GiB)
		for range trials {
			wantDemand(t, h, 10*memory.GiB, false, 125*memory.GiB/10, true)
			h.Learn(10*memory.GiB, 0)
		}
		wantDemand(t, h, 10*memory.GiB, false, 125*memory.GiB/10, false)
	})
	t.Run("raises once for all that ran with the same", func(t *testing.T) {
		h := new(History)
		for range 5 {
			h.Exhausted(10*memory.GiB, 10*memory.GiB)
		}
		wantDemand(t, h, 10*memory.GiB, false, 125*memory.GiB/10, true)
		if p := h.Learned()[0].Peak; p.OutOfMemory != 5 {
			t.Errorf("it shows %+v", p)
		}
	})
	t.Run("is held against what was measured since", func(t *testing.T) {
		h := new(History)
		h.Exhausted(10*memory.GiB, 30*memory.GiB)
		for range probation {
			h.LearnPeak(10*memory.GiB, 20*memory.GiB, 0)
			h.Learn(10*memory.GiB, 0)
		}
		wantDemand(t, h, 10*memory.GiB, false, 22*memory.GiB, false)
	})
}
