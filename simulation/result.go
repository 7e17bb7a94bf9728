package simulation

import (
	"cmp"
	"net/http"
	"slices"
	"time"
)

// Result is what clients and the card saw of a scene. Times are seconds of the
// simulated box, means over the requests that were answered.
type Result struct {
	Light Light `json:"light"`
	Heavy Heavy `json:"heavy"`
	// Throughput is answers a minute: until the last one, or in the scene's
	// length where callers would go on for ever.
	Throughput float64 `json:"throughput_rpm"`
	Peak       int64   `json:"peak_vram_bytes"` // the most that was in use
	// OutOfMemory counts the engines' out-of-memory answers, Over what Memory.Over
	// counts.
	OutOfMemory int `json:"oom"`
	Over        int `json:"over_budget"`
	// Failed counts the requests that ended in any other way than by an answer or
	// for want of memory.
	Failed int `json:"failed"`
	// Late is by how many seconds requests were sent, and runs ended, later than the
	// scene says: how far the machine fell behind the clock. In virtual time it is 0.
	Late float64 `json:"late_s"`
}

// Light is how light requests fared.
type Light struct {
	Requests int     `json:"requests"`
	Wait     float64 `json:"wait_s"`
	Execute  float64 `json:"execute_s"`
	Total    float64 `json:"total_s"`
}

// Heavy is how heavy requests fared. Gap is from the end of one run to the
// beginning of the next, where the next had been asked for by then; 0 where none
// had.
type Heavy struct {
	Requests int     `json:"requests"`
	Wait     float64 `json:"wait_s"`
	Gap      float64 `json:"gap_s"`
}

// Summarize makes a Result of what clients saw of a scene, a card and the count
// of the engines' out-of-memory answers.
func Summarize(s Scene, seen []Outcome, m Memory, outOfMemory int) Result {
	r := Result{Peak: int64(m.Peak), OutOfMemory: outOfMemory, Over: m.Over}
	var light, heavy []Outcome
	var last time.Duration
	answered := 0
	r.Late = mean(seen, func(o Outcome) time.Duration {
		if s.Contention {
			return o.Late // a run that shares the processor takes longer than it asks for
		}
		return o.Late + max(0, o.Execute-o.Asked)
	})
	for _, o := range seen {
		if o.Status != http.StatusOK && o.Status != http.StatusInternalServerError {
			r.Failed++
		}
		// What callers without pause get done in time is the point of them.
		late := len(s.Callers) > 0 && o.Ended > s.Length
		switch {
		case o.Status != http.StatusOK:
			continue
		case o.Heavy:
			heavy = append(heavy, o)
		case !late:
			light = append(light, o)
		}
		if !late {
			answered++
			last = max(last, o.Ended)
		}
	}
	if len(s.Callers) > 0 {
		last = s.Length
	}
	r.Light = Light{len(light), mean(light, Outcome.Wait), mean(light, func(o Outcome) time.Duration { return o.Execute }),
		mean(light, func(o Outcome) time.Duration { return o.Ended - o.Sent })}
	r.Heavy = Heavy{len(heavy), mean(heavy, Outcome.Wait), gap(heavy)}
	if last > 0 {
		r.Throughput = float64(answered) / last.Minutes()
	}
	return r
}

func mean(seen []Outcome, of func(Outcome) time.Duration) float64 {
	if len(seen) == 0 {
		return 0
	}
	var sum time.Duration
	for _, o := range seen {
		sum += of(o)
	}
	return sum.Seconds() / float64(len(seen))
}

// gap is the mean pause between consecutive runs of which the second was wanted
// when the first ended.
func gap(runs []Outcome) float64 {
	runs = slices.Clone(runs)
	slices.SortFunc(runs, func(a, b Outcome) int { return cmp.Compare(a.Ended, b.Ended) })
	var sum time.Duration
	n := 0
	for i := 1; i < len(runs); i++ {
		if before := runs[i-1].Ended; runs[i].Sent <= before {
			sum += runs[i].Ended - runs[i].Execute - before
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return sum.Seconds() / float64(n)
}

// Median is, for each figure by itself, the middle one of several results, but
// of memory and failures the worst.
func Median(results []Result) Result {
	var m Result
	middle(results, &m, func(r *Result) *int { return &r.Light.Requests })
	middle(results, &m, func(r *Result) *float64 { return &r.Light.Wait })
	middle(results, &m, func(r *Result) *float64 { return &r.Light.Execute })
	middle(results, &m, func(r *Result) *float64 { return &r.Light.Total })
	middle(results, &m, func(r *Result) *int { return &r.Heavy.Requests })
	middle(results, &m, func(r *Result) *float64 { return &r.Heavy.Wait })
	middle(results, &m, func(r *Result) *float64 { return &r.Heavy.Gap })
	middle(results, &m, func(r *Result) *float64 { return &r.Throughput })
	middle(results, &m, func(r *Result) *float64 { return &r.Late })
	for _, r := range results {
		m.Failed = max(m.Failed, r.Failed)
		m.Peak, m.OutOfMemory, m.Over = max(m.Peak, r.Peak), max(m.OutOfMemory, r.OutOfMemory), max(m.Over, r.Over)
	}
	return m
}

// middle sets one figure of m.
func middle[T int | float64](results []Result, m *Result, figure func(*Result) *T) {
	if len(results) == 0 {
		return
	}
	var all []T
	for i := range results {
		all = append(all, *figure(&results[i]))
	}
	slices.Sort(all)
	*figure(m) = all[len(all)/2]
}
