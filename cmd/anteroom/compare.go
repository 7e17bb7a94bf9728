package main

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/simulation/replay/configured"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// compared is what GET /api/compare answers: how long the requests of the history
// waited, and how long they would have in one queue that runs one at a time.
type compared struct {
	Since    time.Time                `json:"complete_since"`
	Until    time.Time                `json:"until"`
	Requests int                      `json:"requests"` // that were played
	Recorded map[string]comparedClass `json:"recorded"`
	FIFO     map[string]comparedClass `json:"fifo"`
	// FIFOLasts is how much longer than the record the queue takes to the end of its work,
	// in seconds; 0: no longer.
	FIFOLasts float64 `json:"fifo_lasts_s"`
}

// comparedClass is how long requests of a class waited that started.
type comparedClass struct {
	Started int     `json:"started"`
	Mean    float64 `json:"mean_s"`
	// Waits are the waits in seconds that 0 %, 2 %, ... and 100 % of them do not exceed.
	Waits []float64 `json:"waits_s"`
}

// quantileSteps is the number of steps of a distribution.
const quantileSteps = 50

func distribution(waits []time.Duration) comparedClass {
	slices.Sort(waits)
	out := comparedClass{Started: len(waits), Waits: make([]float64, quantileSteps+1)}
	for _, w := range waits {
		out.Mean += w.Seconds() / float64(len(waits))
	}
	for i := range out.Waits {
		out.Waits[i] = waits[int(math.Ceil(float64(i*(len(waits)-1))/quantileSteps))].Seconds()
	}
	return out
}

func distributions(waits map[string][]time.Duration) map[string]comparedClass {
	out := make(map[string]comparedClass, len(waits))
	for class, all := range waits {
		out[class] = distribution(all)
	}
	return out
}

// compare plays the requests of the history through one queue.
func (s *server) compare(h timeline.History) (any, error) {
	s.mu.Lock()
	cfg := s.cfg
	s.mu.Unlock()
	out := compared{Since: h.Since, Until: h.Until, Recorded: map[string]comparedClass{}, FIFO: map[string]comparedClass{}}
	box, mistakes := configured.Box("the configuration in force", cfg)
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	var csv bytes.Buffer
	if err := timeline.WriteCSV(&csv, h); err != nil {
		return nil, err
	}
	recorded := map[string][]time.Duration{}
	for _, r := range h.Requests {
		if !r.Asked.IsZero() && r.Execute >= 0 {
			recorded[r.Class] = append(recorded[r.Class], time.Duration(max(0, r.Wait)*float64(time.Second)))
		}
	}
	if len(recorded) == 0 {
		return out, nil
	}
	trace, err := replay.Read("the history", &csv)
	if err != nil {
		return nil, err
	}
	log, err := replay.FIFO(box, trace)
	if err != nil {
		return nil, errors.New("the history has requests that the configuration in force does not have: " + err.Error())
	}
	queued, last := map[string][]time.Duration{}, time.Duration(0)
	for _, e := range log.Events {
		switch e.What {
		case replay.Started:
			row := &trace.Rows[e.Request]
			queued[trace.Class(row)] = append(queued[trace.Class(row)], e.At-row.At)
		case replay.Ended:
			last = max(last, e.At)
		}
	}
	out.Requests = len(trace.Rows)
	out.Recorded, out.FIFO = distributions(recorded), distributions(queued)
	out.FIFOLasts = max(0, (last - lasted(h)).Seconds())
	return out, nil
}

// lasted is how long the record's work took, from the first request to the last end.
func lasted(h timeline.History) time.Duration {
	var first, last time.Time
	for _, r := range h.Requests {
		if r.Asked.IsZero() {
			continue
		}
		if first.IsZero() || r.Asked.Before(first) {
			first = r.Asked
		}
		if r.Ended.After(last) {
			last = r.Ended
		}
	}
	return last.Sub(first)
}
