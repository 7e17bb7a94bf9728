package history

import (
	"maps"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Processes share the processor of a card, so that work takes longer beside other
// work. Beside is the execution time to expect beside the work of each class, by the
// class's name; the empty name: alone. A class is in it once there were enough runs.
// It is not changed any more.
type Beside map[string]Estimate

// Alone is the name of no company in Beside.
const Alone = ""

// company is what a History knows of the times by company. Its zero value knows
// nothing.
type company map[memory.Bytes]*besides

type besides struct {
	times map[string]*times
	known *Beside // nil: too few runs
}

// times are the last runs in one company, the oldest at next once it is full.
type times struct {
	runs uint64
	last []time.Duration
	next int
}

const (
	rememberedBeside = 15 // runs in one company
	enoughBeside     = 4  // runs before they are believed
	maxCompanies     = 32 // classes that are remembered beside one demand
)

// LearnBeside takes a run that came to its end by itself, and the classes whose work
// ran beside it for most of its time. None: it was alone.
func (h *History) LearnBeside(vram memory.Bytes, took time.Duration, classes []string) {
	if len(classes) == 0 {
		classes = []string{Alone}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.company[vram]
	if b == nil {
		if len(h.company) >= maxKinds {
			return
		}
		b = &besides{times: map[string]*times{}}
		if h.company == nil {
			h.company = company{}
		}
		h.company[vram] = b
	}
	for _, c := range classes {
		t := b.times[c]
		if t == nil {
			if len(b.times) >= maxCompanies {
				continue
			}
			t = new(times)
			b.times[c] = t
		}
		t.add(took)
		b.learn(c, t)
	}
}

func (t *times) add(took time.Duration) {
	t.runs++
	if len(t.last) < rememberedBeside {
		t.last = append(t.last, took)
		return
	}
	t.last[t.next] = took
	t.next = (t.next + 1) % rememberedBeside
}

// learn takes what the last runs in one company say. Holders of what was known
// keep it.
func (b *besides) learn(name string, t *times) {
	if t.runs < enoughBeside || len(t.last) == 0 {
		return
	}
	var room [rememberedBeside]time.Duration
	sorted := append(room[:0], t.last...)
	slices.Sort(sorted)
	e := Estimate{P50: sorted[len(sorted)/2], P95: sorted[len(sorted)-1]}
	known := Beside{}
	if b.known != nil {
		if (*b.known)[name] == e {
			return
		}
		known = maps.Clone(*b.known)
	}
	known[name] = e
	b.known = &known
}

// Beside is what to expect of work with that demand by its company; nil: nothing is
// known.
func (h *History) Beside(vram memory.Bytes) *Beside {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.company[vram]; b != nil && b.known != nil {
		return b.known
	}
	return nil
}

// savedBeside are the last runs of a demand in one company.
type savedBeside struct {
	VRAM    int64     `json:"vram_bytes"`
	Class   string    `json:"class,omitempty"` // empty: alone
	Runs    uint64    `json:"runs"`
	Seconds []float64 `json:"seconds"` // the oldest first
}

func (c company) saved() (all []savedBeside) {
	for _, vram := range slices.Sorted(maps.Keys(c)) {
		for _, name := range slices.Sorted(maps.Keys(c[vram].times)) {
			t := c[vram].times[name]
			s := savedBeside{VRAM: int64(vram), Class: name, Runs: t.runs}
			for i := range t.last {
				s.Seconds = append(s.Seconds, t.last[(t.next+i)%len(t.last)].Seconds())
			}
			all = append(all, s)
		}
	}
	return all
}

// restored is what saved has written. What makes no sense is left out.
func restored(all []savedBeside) company {
	c := company{}
	for _, s := range all {
		vram := memory.Bytes(s.VRAM)
		if c[vram] == nil {
			c[vram] = &besides{times: map[string]*times{}}
		}
		t := new(times)
		for _, x := range s.Seconds {
			if x > 0 && x < 1e6 {
				t.add(time.Duration(x * float64(time.Second)))
			}
		}
		t.runs = max(t.runs, s.Runs)
		if len(t.last) > 0 {
			c[vram].times[s.Class] = t
		}
	}
	for _, b := range c {
		for name, t := range b.times {
			b.learn(name, t)
		}
	}
	return c
}
