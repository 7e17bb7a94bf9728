package history

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// savedHistory is a History as JSON. Amounts are numbers of bytes.
type savedHistory struct {
	Resident int64       `json:"resident_bytes,omitempty"`
	Demands  []savedKind `json:"demands"` // the one used last comes first
	// Beside are the execution times by company.
	Beside []savedBeside `json:"beside,omitempty"`
}

type savedKind struct {
	VRAM int64  `json:"vram_bytes"`
	Runs uint64 `json:"runs"`
	// Times are pairs of a bucket of the histogram and the weight in it, of
	// which the next run has 1.
	Times    [][2]float64 `json:"times,omitempty"`
	Held     []int64      `json:"held_bytes,omitempty"` // at the height of the last runs, the oldest first
	Measured uint64       `json:"measured,omitempty"`
	Least    int64        `json:"least_bytes,omitempty"` // since a run ended for want of memory
	Since    int          `json:"since,omitempty"`
	Failures uint64       `json:"out_of_memory,omitempty"`
	Raises   int          `json:"raises,omitempty"`
	Keeps    bool         `json:"keeps,omitempty"`
	Trial    int64        `json:"trial_bytes,omitempty"`
}

// MarshalJSON writes all that is known, for UnmarshalJSON.
func (h *History) MarshalJSON() ([]byte, error) {
	h.mu.Lock()
	saved := savedHistory{Resident: int64(h.resident), Demands: []savedKind{}}
	for _, k := range h.kinds {
		if !k.learned() {
			continue
		}
		s := savedKind{VRAM: int64(k.vram), Runs: k.runs, Measured: k.measured, Least: int64(k.floor), Since: k.since, Failures: k.failures, Raises: k.raises, Keeps: k.keeps, Trial: int64(k.trial)}
		for i, n := range k.counts {
			if weight := math.Round(n/k.weight*1e4) / 1e4; weight > 0 {
				s.Times = append(s.Times, [2]float64{float64(i), weight})
			}
		}
		for i := range k.totals {
			s.Held = append(s.Held, int64(k.totals[(k.next+i)%len(k.totals)]))
		}
		saved.Demands = append(saved.Demands, s)
	}
	saved.Beside = h.company.saved()
	h.mu.Unlock()
	return json.Marshal(saved)
}

// UnmarshalJSON takes what MarshalJSON wrote in the place of all that was
// known. After an error nothing has changed.
func (h *History) UnmarshalJSON(text []byte) error {
	var saved savedHistory
	if err := json.Unmarshal(text, &saved); err != nil {
		return err
	}
	if len(saved.Demands) > maxKinds || !plausible(saved.Resident) {
		return fmt.Errorf("history: %d demands beside %d bytes make no sense", len(saved.Demands), saved.Resident)
	}
	seen := make(map[memory.Bytes]bool)
	var kinds []*kind
	for _, s := range saved.Demands {
		k, err := s.kind()
		if err != nil {
			return err
		}
		if seen[k.vram] {
			return fmt.Errorf("history: the demand %d is listed twice", s.VRAM)
		}
		seen[k.vram] = true
		kinds = append(kinds, k)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.kinds, h.resident, h.company = kinds, memory.Bytes(saved.Resident), restored(saved.Beside)
	return nil
}

// maxSaved is how many measured runs an older state may have.
const maxSaved = 64

// plausible says that a saved number can be an amount of memory on a card. Sums
// of a few of them do not overflow.
func plausible(n int64) bool { return n >= 0 && n <= 1<<55 }

func (s savedKind) kind() (*kind, error) {
	k := &kind{vram: memory.Bytes(s.VRAM), runs: s.Runs, weight: 1}
	k.peaks = peaks{measured: s.Measured, floor: memory.Bytes(s.Least), since: s.Since, failures: s.Failures,
		raises: s.Raises, keeps: s.Keeps, trial: memory.Bytes(s.Trial)}
	// A demand may be past any card; it is never computed with.
	wrong := s.VRAM < 0 || !plausible(s.Least) || !plausible(s.Trial) || s.Since < 0 || s.Raises < 0 || len(s.Held) > maxSaved
	for _, pair := range s.Times {
		bucket, weight := pair[0], pair[1]
		if !(bucket >= 0 && bucket < bounds) || bucket != math.Trunc(bucket) || !(weight > 0 && weight < 1e6) {
			wrong = true
			break
		}
		k.counts[int(bucket)] += weight
		k.total += weight
	}
	for i, n := range s.Held {
		wrong = wrong || !plausible(n)
		if i >= len(s.Held)-maxPeaks {
			k.totals = append(k.totals, memory.Bytes(n))
		}
	}
	if k.floor > 0 {
		k.raises = max(k.raises, 1) // an older state does not count them
	}
	if wrong || s.Runs > 0 && k.total == 0 {
		return nil, fmt.Errorf("history: what is saved of the demand %d makes no sense", s.VRAM)
	}
	if k.total > 0 {
		k.learnt = Estimate{P50: k.quantile(.5), P95: k.quantile(.95)}
	}
	return k, nil
}
