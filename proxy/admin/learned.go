package admin

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// Learned is what `GET /api/learned` answers: what was declared, and what was
// seen.
type Learned struct {
	Routes    []LearnedRoute    `json:"routes"`
	Residents []LearnedResident `json:"residents"`
}

// LearnedRoute is one demand of a route.
type LearnedRoute struct {
	Route   string `json:"route"`
	Backend string `json:"backend"`
	Class   string `json:"class"`
	// Declared is the route's own figure for these requests; where Learn says
	// that it is to be learned, the least until then.
	Declared int64 `json:"declared_bytes"`
	Learn    bool  `json:"learn"`
	// Booked is the figure of the next of them. Unknown says that it is a first
	// guess, and that the next of them runs alone and is measured.
	Booked  int64 `json:"booked_bytes"`
	Unknown bool  `json:"unknown"`

	Runs     uint64   `json:"runs"`
	Estimate float64  `json:"estimate_s"` // as configured; 0: not known here
	P50      *float64 `json:"p50_s"`      // null: too few runs
	P95      *float64 `json:"p95_s"`
	// Beside are the times by what ran beside it on its GPU.
	Beside []LearnedBeside `json:"beside,omitempty"`

	// Most is the most that a run took, of those measured runs that still count;
	// null: none does.
	Most        *int64 `json:"measured_bytes"`
	Measured    uint64 `json:"measured_runs"`
	OutOfMemory uint64 `json:"out_of_memory"`
	// Evidence is what Booked is based on: declared, process, total, trial or
	// out_of_memory. Since is the time of its last change; null: it has never changed.
	Evidence admission.Evidence `json:"evidence"`
	Since    *time.Time         `json:"since"`
	// RaisedBy is by how much out-of-memory answers have raised Booked. It comes
	// down after so many more runs that end well. Zero: none has.
	RaisedBy       int64 `json:"raised_by_bytes"`
	ComesDownAfter int   `json:"comes_down_after_runs"`

	// Hints say where a figure is off by more than a tenth.
	Hints []string `json:"hints"`
}

// LearnedBeside is how long a demand of a route takes beside the work of a class.
type LearnedBeside struct {
	Class string  `json:"class"` // empty: alone
	P50   float64 `json:"p50_s"`
	P95   float64 `json:"p95_s"`
}

// LearnedResident is what a replica holds on a GPU while it is idle.
type LearnedResident struct {
	Backend  string `json:"backend"`
	Replica  int    `json:"replica"`
	GPU      string `json:"gpu"`
	Declared *int64 `json:"declared_bytes"` // null: to be learned
	Seen     *int64 `json:"seen_bytes"`     // null: nothing else than declared was measured
	Hint     string `json:"hint,omitempty"`
}

func (a *api) learned(c echo.Context) error {
	out := Learned{Routes: []LearnedRoute{}, Residents: []LearnedResident{}}
	for route, history := range a.Proxy.Histories() {
		out.Routes = append(out.Routes, DescribeHistory(route, history)...)
	}
	for _, b := range a.Controller.Snapshot().Backends {
		for _, account := range b.Accounts {
			out.Residents = append(out.Residents, describeResident(b.Name, account))
		}
	}
	return c.JSON(http.StatusOK, out)
}

// DescribeHistory describes what is known of a route, by demand. Of the route
// it needs the names, whether its demand is learned, and the class's estimate
// where that is known.
func DescribeHistory(route *routing.Route, history *admission.History) []LearnedRoute {
	out := []LearnedRoute{}
	for _, l := range history.Learned() {
		ask := admission.Request{VRAM: l.VRAM, History: history}
		proxy.Book(&ask, route.Learn)
		l.Figure = history.Figure(l.VRAM, route.Learn)
		r := LearnedRoute{Route: route.Name, Backend: route.Backend, Class: route.ClassName,
			Declared: int64(l.VRAM), Learn: route.Learn, Booked: int64(ask.VRAM), Unknown: ask.Unknown,
			Runs: l.Runs, Estimate: route.Class.Estimate.Seconds(), Measured: l.Peak.Runs, OutOfMemory: l.Peak.OutOfMemory,
			Evidence: l.Figure.Evidence, Since: known(l.Figure.Since), ComesDownAfter: l.Figure.ComesDownAfter,
			Hints: []string{}}
		if f := l.Figure; f.RaisedBy > 0 {
			without := f.Booked - f.RaisedBy
			if without != l.VRAM {
				without = routing.RoundUp(without)
			}
			r.RaisedBy = int64(ask.VRAM - without)
		}
		if l.Estimate.P95 > 0 {
			p50, p95 := l.Estimate.P50.Seconds(), l.Estimate.P95.Seconds()
			r.P50, r.P95 = &p50, &p95
		}
		for _, class := range slices.Sorted(maps.Keys(l.Beside)) {
			r.Beside = append(r.Beside, LearnedBeside{class, l.Beside[class].P50.Seconds(), l.Beside[class].P95.Seconds()})
		}
		if l.Peak.Most > 0 {
			most := int64(l.Peak.Most)
			r.Most = &most
		}
		r.hint(l, route.Class.Estimate)
		out = append(out, r)
	}
	return out
}

const (
	offBy = 0.1 // what a figure may be wrong by without a hint
	// enoughForHints is how many runs must agree.
	enoughForHints = 8
)

// off says that a declared figure is not what was seen.
func off[N ~int64](declared, seen N) bool {
	return float64(max(declared-seen, seen-declared)) > offBy*float64(declared)
}

// hint says what to write into the configuration instead.
func (r *LearnedRoute) hint(l admission.Learned, estimate time.Duration) {
	if p := l.Peak; !r.Learn && p.Runs >= enoughForHints && off(l.VRAM, p.Most) {
		r.Hints = append(r.Hints, fmt.Sprintf("vram: declared %v, measured %v at most over %d runs: want about %v", l.VRAM, p.Most, p.Runs,
			routing.RoundUp(p.Most)))
	}
	if f := l.Figure; f.RaisedBy > 0 {
		r.Hints = append(r.Hints, fmt.Sprintf("vram: raised by %v to %v after %d answers of a full card; down again after %d more good runs",
			admission.Bytes(r.RaisedBy), admission.Bytes(r.Booked), l.Peak.OutOfMemory, f.ComesDownAfter))
	}
	if e := l.Estimate; estimate > 0 && l.Runs >= enoughForHints && e.P50 > 0 && off(estimate, e.P50) {
		r.Hints = append(r.Hints, fmt.Sprintf("estimate: configured %v, seen %v at the median: the learned one is used", estimate,
			e.P50.Round(time.Millisecond)))
	}
}

// describeResident compares what an account was measured to hold while loaded and
// idle with what was declared.
func describeResident(backend string, a admission.AccountState) LearnedResident {
	r := LearnedResident{Backend: backend, Replica: a.Replica, GPU: a.GPU}
	if !a.Learns {
		declared := int64(a.Declared)
		r.Declared = &declared
	}
	if a.Resident > 0 && (a.Learns || a.Resident != a.Declared) {
		seen := int64(a.Resident)
		r.Seen = &seen
	}
	if r.Declared != nil && r.Seen != nil && off(a.Declared, a.Resident) && max(a.Declared-a.Resident, a.Resident-a.Declared) > 256*admission.MiB {
		r.Hint = fmt.Sprintf("resident: declared %v, holds %v at rest: want about %v", a.Declared, a.Resident, routing.RoundUp(a.Resident))
	}
	return r
}
