// Package history learns from finished work how long a request runs and how
// much memory it takes, and saves what it has learned.
//
// What is learned is an estimate. The admission rules are safe with any
// estimate, however wrong. Work that failed or was cut short teaches nothing
// about time. Only an out-of-memory failure teaches something: what was booked
// was too little.
package history

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// History learns how long the work of one route takes and how much memory, for
// each demand apart. Its zero value is ready; it may be used by many goroutines
// at once.
//
// A demand goes by the route's own figure: what was booked beyond it because of
// what was learned does not make it another.
//
// Each demand has a histogram whose buckets grow by a tenth, in which each run
// weighs 3 % more than the one before: a model that was exchanged is
// forgotten after a hundred and fifty runs.
type History struct {
	mu    sync.Mutex
	kinds []*kind // guarded by mu; the one used last comes first
	// resident is what its backend holds while idle, as of the last peak.
	resident memory.Bytes // guarded by mu
	company  company      // guarded by mu
}

// Estimate is the execution time to expect. The zero value says that nothing is
// known.
type Estimate struct {
	P50 time.Duration // half of the runs end sooner: when running work frees its memory
	P95 time.Duration // 19 of 20 runs end sooner: how long a candidate holds its memory
}

// Learned is what a History knows of one demand.
type Learned struct {
	VRAM     memory.Bytes
	Runs     uint64
	Estimate Estimate // the zero value until enough has been seen
	Beside   Beside   // the same by company; nil: too few runs
	Peak     Peak
	Figure   Figure
}

// kind is the work of one demand.
type kind struct {
	vram   memory.Bytes
	runs   uint64
	weight float64 // of the next run
	total  float64
	counts [bounds]float64
	learnt Estimate
	peaks
}

const (
	shortest = time.Millisecond // what is faster counts as this
	growth   = 1.1              // from bucket to bucket
	bounds   = 170              // up to some three hours
	fresh    = 1.03             // how much more a run weighs than the one before
	enough   = 8                // runs before they are believed
	maxKinds = 64               // demands come from requests
)

// Estimate is what to expect of work with that demand: the seed until enough
// has been seen.
func (h *History) Estimate(vram memory.Bytes, seed Estimate) Estimate {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := h.find(vram); k != nil && k.runs >= enough {
		return k.learnt
	}
	return seed
}

// Fastest is how long the fastest of the runs took that are remembered, rounded
// down by a tenth. Zero: none is. It is the only time that may refuse a request:
// an estimate may be wrong.
func (h *History) Fastest(vram memory.Bytes) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if k := h.find(vram); k != nil {
		for i, n := range k.counts {
			if n > 0 && i > 0 {
				return time.Duration(float64(shortest) * math.Pow(growth, float64(i)))
			} else if n > 0 {
				break // or faster
			}
		}
	}
	return 0
}

// Learn takes a run that came to its end by itself.
func (h *History) Learn(vram memory.Bytes, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.kindOf(vram)
	bucket := int(math.Log(float64(max(took, shortest))/float64(shortest)) / math.Log(growth))
	k.counts[min(bucket, bounds-1)] += k.weight
	k.total += k.weight
	k.weight *= fresh
	k.runs++
	if k.weight > 1e100 {
		for i := range k.counts {
			k.counts[i] /= k.weight
		}
		k.total, k.weight = k.total/k.weight, 1
	}
	k.learnt = Estimate{P50: k.quantile(.5), P95: k.quantile(.95)}
}

// Learned lists what is known, by demand.
func (h *History) Learned() []Learned {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []Learned
	for _, k := range h.kinds {
		if !k.learned() {
			continue
		}
		l := Learned{VRAM: k.vram, Runs: k.runs, Peak: k.describe(h.resident), Figure: k.dated(h.resident)}
		if k.runs >= enough {
			l.Estimate = k.learnt
		}
		if b := h.company[k.vram]; b != nil && b.known != nil {
			l.Beside = *b.known
		}
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b Learned) int { return int(min(1, max(-1, a.VRAM-b.VRAM))) })
	return all
}

// find gives the kind of a demand and moves it to the front.
func (h *History) find(vram memory.Bytes) *kind {
	for i, k := range h.kinds {
		if k.vram == vram {
			copy(h.kinds[1:], h.kinds[:i])
			h.kinds[0] = k
			return k
		}
	}
	return nil
}

// learned says that anything is known of it: many come from requests that were
// never served.
func (k *kind) learned() bool {
	return k.runs > 0 || k.failures > 0 || k.measured > 0 || len(k.rooms) > 0 || len(k.flat) > 0 || k.trial > 0 || k.floor > 0
}

// kindOf is find that makes what is not there, in the place of one of which
// nothing is known, or else of the one that was not used for longest.
func (h *History) kindOf(vram memory.Bytes) *kind {
	k := h.find(vram)
	if k == nil {
		k = &kind{vram: vram, weight: 1}
		if len(h.kinds) == maxKinds {
			last := maxKinds - 1
			for i := last; i >= 0; i-- {
				if !h.kinds[i].learned() {
					last = i
					break
				}
			}
			h.kinds = slices.Delete(h.kinds, last, last+1)
		}
		h.kinds = slices.Insert(h.kinds, 0, k)
	}
	return k
}

// quantile reads the histogram, evenly within a bucket.
func (k *kind) quantile(q float64) time.Duration {
	left := q * k.total
	for i, n := range k.counts {
		if n > 0 && left <= n {
			from := float64(shortest) * math.Pow(growth, float64(i))
			return time.Duration(from * (1 + (growth-1)*left/n))
		}
		left -= n
	}
	return 0
}
