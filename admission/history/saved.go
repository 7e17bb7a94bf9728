package history

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

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
	VRAM  int64  `json:"vram_bytes"`
	Learn bool   `json:"learn,omitempty"`
	Runs  uint64 `json:"runs"`
	// Times are pairs of a bucket of the histogram and the weight in it, of
	// which the next run has 1.
	Times [][2]float64 `json:"times,omitempty"`
	// Seen is what the figure rests on. Held is that of an older state, which did
	// not say how it was seen.
	Seen     []savedSighting `json:"seen,omitempty"`
	Held     []int64         `json:"held_bytes,omitempty"`
	Flat     []int64         `json:"flat_bytes,omitempty"`
	Rooms    []int64         `json:"rooms_bytes,omitempty"`
	Measured uint64          `json:"measured,omitempty"`
	Least    int64           `json:"least_bytes,omitempty"` // since a run ended for want of memory
	Since    int             `json:"since,omitempty"`
	Failures uint64          `json:"out_of_memory,omitempty"`
	Raises   int             `json:"raises,omitempty"`
	Odd      int             `json:"odd,omitempty"`
	Keeps    bool            `json:"keeps,omitempty"`
	Trial    int64           `json:"trial_bytes,omitempty"`
	Changed  *time.Time      `json:"changed,omitempty"` // the figure
}

// savedSighting is one measured run, the oldest first.
type savedSighting struct {
	Held  int64    `json:"held_bytes"`
	By    Evidence `json:"by"`
	Since int      `json:"since,omitempty"`
	// Proofs are out-of-memory answers of runs that had less.
	Proofs int `json:"proofs,omitempty"`
}

// MarshalJSON writes all that is known, for UnmarshalJSON.
func (h *History) MarshalJSON() ([]byte, error) {
	h.mu.Lock()
	saved := savedHistory{Resident: int64(h.resident), Demands: []savedKind{}}
	for _, k := range h.kinds {
		if k.learned() {
			saved.Demands = append(saved.Demands, k.save())
		}
	}
	saved.Beside = h.company.saved()
	h.mu.Unlock()
	return json.Marshal(saved)
}

func (k *kind) save() savedKind {
	s := savedKind{VRAM: int64(k.vram), Learn: k.learn, Runs: k.runs, Measured: k.measured, Least: int64(k.floor), Since: k.since,
		Failures: k.failures, Raises: k.raises, Odd: k.odd, Keeps: k.keeps, Trial: int64(k.trial), Flat: numbers(k.flat), Rooms: numbers(k.rooms)}
	for i, n := range k.counts {
		if weight := math.Round(n/k.weight*1e4) / 1e4; weight > 0 {
			s.Times = append(s.Times, [2]float64{float64(i), weight})
		}
	}
	for _, x := range k.seen {
		by := ByTotal
		if x.exact {
			by = ByProcess
		}
		s.Seen = append(s.Seen, savedSighting{int64(x.held), by, x.age, x.proofs})
	}
	if !k.last.Since.IsZero() {
		s.Changed = &k.last.Since
	}
	return s
}

func numbers(list []memory.Bytes) (out []int64) {
	for _, n := range list {
		out = append(out, int64(n))
	}
	return out
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
		k.last = k.dated(memory.Bytes(saved.Resident))
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

// amounts are the last most of a list of saved amounts.
func amounts(list []int64, most int) (out []memory.Bytes, ok bool) {
	if len(list) > maxSaved {
		return nil, false
	}
	for i, n := range list {
		if !plausible(n) {
			return nil, false
		}
		if i >= len(list)-most {
			out = append(out, memory.Bytes(n))
		}
	}
	return out, true
}

func (s savedKind) kind() (*kind, error) {
	k := &kind{vram: memory.Bytes(s.VRAM), runs: s.Runs, weight: 1}
	k.peaks = peaks{measured: s.Measured, floor: memory.Bytes(s.Least), since: s.Since, failures: s.Failures,
		raises: s.Raises, odd: s.Odd, keeps: s.Keeps, trial: memory.Bytes(s.Trial), learn: s.Learn}
	// A demand may be past any card; it is never computed with.
	right := s.VRAM >= 0 && plausible(s.Least) && plausible(s.Trial) && s.Since >= 0 && s.Raises >= 0 && s.Odd >= 0 && s.times(k)
	held, ok := amounts(s.Held, maxPeaks)
	right = right && ok
	for _, n := range held {
		k.seen = append(k.seen, sighting{held: n})
	}
	for _, x := range s.Seen {
		right = right && plausible(x.Held) && x.Since >= 0 && x.Proofs >= 0 && (x.By == ByProcess || x.By == ByTotal)
		k.seen = remember(k.seen, sighting{memory.Bytes(x.Held), x.By == ByProcess, x.Since, x.Proofs}, maxPeaks)
	}
	k.flat, ok = amounts(s.Flat, enoughFlat)
	right = right && ok
	k.rooms, ok = amounts(s.Rooms, maxPeaks)
	if !right || !ok {
		return nil, fmt.Errorf("history: what is saved of the demand %d makes no sense", s.VRAM)
	}
	if k.floor > 0 {
		k.raises = max(k.raises, 1) // an older state does not count them
	}
	if s.Changed != nil {
		k.last.Since = *s.Changed
	}
	return k, nil
}

// times takes the histogram. It reports whether it makes sense.
func (s savedKind) times(k *kind) bool {
	for _, pair := range s.Times {
		bucket, weight := pair[0], pair[1]
		if !(bucket >= 0 && bucket < bounds) || bucket != math.Trunc(bucket) || !(weight > 0 && weight < 1e6) {
			return false
		}
		k.counts[int(bucket)] += weight
		k.total += weight
	}
	if k.total > 0 {
		k.learnt = Estimate{P50: k.quantile(.5), P95: k.quantile(.95)}
	}
	return k.total > 0 || s.Runs == 0
}
