package history

import (
	"math"
	"slices"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Peak is what is known of the memory that runs of one demand took on each GPU,
// on top of what their backend held while idle.
type Peak struct {
	Runs      uint64       // that could be measured
	P95, Most memory.Bytes // of the last of them
	// OutOfMemory counts the runs that ended for want of memory. Least is what
	// is booked since then at the least; zero: there was none.
	OutOfMemory uint64
	Least       memory.Bytes
}

// peaks are what a History knows of one demand's memory.
type peaks struct {
	// totals are what the backend held at the height of the last runs that
	// could be measured, its idle share included: that share may become known
	// later than they do. The oldest is overwritten.
	totals   []memory.Bytes
	next     int
	measured uint64
	p95      memory.Bytes // of totals
	floor    memory.Bytes // above what ran out of memory; zero: nothing did
	since    int          // runs that came to their end since then
	failures uint64
}

const (
	enoughPeaks = 4    // measured runs before a demand is believed
	maxPeaks    = 64   // of them that are remembered: a model that was exchanged is forgotten
	margin      = 1.1  // what is booked above the measured peaks
	raise       = 1.25 // above what ran out of memory
	trials      = 8    // runs that go alone after that where nothing can be measured
	maxFloor    = 1 << 50
	probation   = 150 // runs after which it is held against what was measured since
)

// LearnPeak takes what a run held at its height, beyond the resident memory of
// its backend.
func (h *History) LearnPeak(vram, peak, resident memory.Bytes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resident = resident
	h.kindOf(vram).learn(max(0, peak) + resident)
}

func (p *peaks) learn(total memory.Bytes) {
	p.measured++
	if len(p.totals) < maxPeaks {
		p.totals = append(p.totals, total)
	} else {
		p.totals[p.next] = total
		p.next = (p.next + 1) % maxPeaks
	}
	p.p95 = p.quantile(.95)
}

// quantile is the smallest total that at least the share q of them does not
// pass; there is one.
func (p *peaks) quantile(q float64) memory.Bytes {
	sorted := slices.Sorted(slices.Values(p.totals))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// known says that enough runs were measured.
func (p *peaks) known() bool { return len(p.totals) >= enoughPeaks }

// figure is what the measured runs say should be booked.
func (p *peaks) figure(resident memory.Bytes) memory.Bytes {
	return memory.Bytes(float64(max(0, p.p95-resident)) * margin)
}

// ran counts a run that came to its end.
func (p *peaks) ran(resident memory.Bytes) {
	if p.floor == 0 {
		return
	}
	if p.since++; p.since >= probation && p.known() {
		// It has been enough for long: what was measured tells how much of it
		// is needed.
		p.floor, p.since = min(p.floor, p.figure(resident)), 0
	}
}

func (p *peaks) describe(resident memory.Bytes) Peak {
	d := Peak{Runs: p.measured, OutOfMemory: p.failures, Least: p.floor}
	if len(p.totals) > 0 {
		d.P95, d.Most = max(0, p.p95-resident), max(0, slices.Max(p.totals)-resident)
	}
	return d
}

// Demand is what to book for work whose own figure is vram, and whether it is
// to run alone. The rule:
//
//  1. A figure that is to be learned is booked as it is, alone, until four runs
//     were measured; from then on their p95 and a tenth, and not alone.
//  2. A figure that was declared is booked as it is, until a run of it ends for
//     want of memory.
//  3. After that no less than a quarter above what was not enough is booked,
//     alone, until four runs were measured anew, or where nothing can be
//     measured eight have come to their end; from then on, what was measured,
//     if that is more.
//
// What comes out may be more than the card could ever give: admission.Request.Raised
// says how much of it may be taken off.
func (h *History) Demand(vram memory.Bytes, learn bool) (booked memory.Bytes, alone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.find(vram)
	switch {
	case k == nil:
		return vram, learn
	case learn && k.known():
		return max(k.floor, k.figure(h.resident)), false
	case learn:
		return max(vram, k.floor), true
	case k.floor == 0:
		return vram, false
	case k.known():
		return max(vram, k.floor, k.figure(h.resident)), false
	}
	return max(vram, k.floor), k.since < trials
}

// Exhausted takes a run that ended for want of memory. It drops what was learned
// of the demand's memory: booked was not enough.
func (h *History) Exhausted(vram, booked memory.Bytes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.kindOf(vram)
	k.failures++
	k.floor = max(k.floor, memory.Bytes(min(float64(booked)*raise, maxFloor)), 1)
	k.since, k.measured = 0, 0
	k.totals, k.next, k.p95 = k.totals[:0], 0, 0
}
