package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
)

// The admin API's JSON. Amounts of memory are numbers of bytes and times are
// seconds; a name that is here once stays.

type stateJSON struct {
	At       time.Time     `json:"at"`
	Mode     string        `json:"mode"`
	Draining bool          `json:"draining"`
	GPUs     []gpuJSON     `json:"gpus"`
	Classes  []classJSON   `json:"classes"`
	Backends []backendJSON `json:"backends"`
	Running  []runningJSON `json:"running"`
	Observed *observedJSON `json:"observed,omitempty"` // in mode observe
}

type gpuJSON struct {
	Name       string        `json:"name"`
	Capacity   int64         `json:"capacity_bytes"`
	Reserve    int64         `json:"reserve_bytes"`
	Booked     int64         `json:"booked_bytes"`
	Outside    int64         `json:"outside_bytes"`
	Room       int64         `json:"room_bytes"`
	Observed   *int64        `json:"observed_bytes"` // null: never read
	ObservedAt *time.Time    `json:"observed_at"`
	Source     string        `json:"source"`
	Stale      bool          `json:"stale"`
	Lost       bool          `json:"lost"`
	Error      string        `json:"error,omitempty"`
	Swaps      int           `json:"swaps_last_minute"`
	Processes  []processJSON `json:"processes,omitempty"`
}

type processJSON struct {
	PID     int    `json:"pid"`
	Name    string `json:"name"`
	Used    int64  `json:"used_bytes"`        // -1: the driver does not say
	Backend string `json:"backend,omitempty"` // empty: an outsider, or not known
	Replica int    `json:"replica,omitempty"`
}

type classJSON struct {
	Name        string  `json:"name"`
	Slots       int     `json:"slots"`
	Running     int     `json:"running"`
	Queued      int     `json:"queued"`
	QueueLimit  int     `json:"queue_limit"`
	QueuedBytes int64   `json:"queued_bytes"`
	OldestWait  float64 `json:"oldest_wait_s"`
	Paused      bool    `json:"paused"`
	Granted     uint64  `json:"granted"`
	Refused     uint64  `json:"refused"`
}

// backendJSON is a backend; url, breaker, open_for_s and healthy are those of the
// first of its replicas that works best.
type backendJSON struct {
	Name      string        `json:"name"`
	URL       string        `json:"url"`
	Slots     int           `json:"slots"` // of each replica
	Running   int           `json:"running"`
	Available bool          `json:"available"`
	Draining  bool          `json:"draining"`
	Breaker   string        `json:"breaker"`
	OpenFor   float64       `json:"open_for_s"`
	Healthy   bool          `json:"healthy"`
	Pinned    bool          `json:"pinned"`
	Reclaims  bool          `json:"reclaims"` // it can be made to let go of its memory
	Replicas  []replicaJSON `json:"replicas"`
	Accounts  []accountJSON `json:"accounts"`
}

// replicaJSON is one server, and where it is between loaded and let go.
type replicaJSON struct {
	Replica   int        `json:"replica"`
	URL       string     `json:"url"`
	Breaker   string     `json:"breaker"`
	OpenFor   float64    `json:"open_for_s"`
	Healthy   bool       `json:"healthy"`
	Stance    string     `json:"stance"` // awake, emptying, reclaiming, asleep or waking
	Since     *time.Time `json:"since"`
	Swaps     uint64     `json:"swaps"`
	Failures  int        `json:"failures"`
	NotBefore *time.Time `json:"not_before"`
	Note      string     `json:"note,omitempty"`
}

// worksBetter says that a replica is nearer to taking work than another.
func (r replicaJSON) worksBetter(than replicaJSON) bool {
	rank := func(r replicaJSON) int {
		switch {
		case r.Breaker == "open":
			return 3
		case !r.Healthy:
			return 2
		case r.Breaker != "closed":
			return 1
		}
		return 0
	}
	if a, b := rank(r), rank(than); a != b {
		return a < b
	}
	return r.OpenFor < than.OpenFor
}

type accountJSON struct {
	Replica   int    `json:"replica"`
	GPU       string `json:"gpu"`
	Resident  int64  `json:"resident_bytes"`
	Kept      int64  `json:"kept_bytes"`
	Running   int64  `json:"running_bytes"`
	Footprint int64  `json:"footprint_bytes"`
	Learns    bool   `json:"resident_learned"`
	AtRest    *int64 `json:"at_rest_bytes"` // null: not seen
}

type runningJSON struct {
	ID           uint64     `json:"id"`
	Class        string     `json:"class"`
	Backend      string     `json:"backend"`
	Tenant       string     `json:"tenant,omitempty"`
	VRAM         int64      `json:"vram_bytes"`
	Started      time.Time  `json:"started"`
	Elapsed      float64    `json:"elapsed_s"`
	EstimatedEnd *time.Time `json:"estimated_end"`
}

type waiterJSON struct {
	ID             uint64           `json:"id"`
	Class          string           `json:"class"`
	Backend        string           `json:"backend"`
	Tenant         string           `json:"tenant,omitempty"`
	VRAM           int64            `json:"vram_bytes"`
	Arrived        time.Time        `json:"arrived"`
	Waited         float64          `json:"waited_s"`
	Position       int              `json:"position"`
	InFlow         int              `json:"in_flow"`
	Reason         admission.Reason `json:"reason"`
	Resource       string           `json:"resource"`
	Need           int64            `json:"need"`
	Free           int64            `json:"free"`
	Holders        []uint64         `json:"holders"`
	KeptBy         []keeperJSON     `json:"kept_by,omitempty"`
	ReservedFor    uint64           `json:"reserved_for,omitempty"`
	EstimatedStart *time.Time       `json:"estimated_start"`
	Strict         bool             `json:"strict"`
}

// keeperJSON is an idle backend that holds what a waiter needs.
type keeperJSON struct {
	Backend string     `json:"backend"`
	Replica int        `json:"replica"`
	Bytes   int64      `json:"bytes"`
	Until   *time.Time `json:"until,omitempty"` // it is not told to let go before
}

type observedJSON struct {
	Held    int                    `json:"held"`
	Refused map[admission.Code]int `json:"refused"`
}

// maxListed is how many waiting requests a list shows at most.
const maxListed = 1000

func (a *admin) state(c echo.Context) error {
	s := a.desk.Snapshot()
	out := stateJSON{At: s.At, Mode: a.rules.Load().config.Mode, Draining: s.Draining || a.Draining(),
		GPUs: []gpuJSON{}, Classes: []classJSON{}, Backends: a.describeBackends(s), Running: []runningJSON{}}
	for _, g := range s.GPUs {
		out.GPUs = append(out.GPUs, describeGPU(g))
	}
	for _, k := range s.Classes {
		out.Classes = append(out.Classes, classJSON{Name: k.Name, Slots: k.Slots, Running: k.Running, Queued: k.Queued,
			QueueLimit: k.QueueLimit, QueuedBytes: int64(k.QueuedBytes), OldestWait: k.OldestWait.Seconds(),
			Paused: k.Paused, Granted: k.Granted, Refused: k.Refused})
	}
	for _, r := range a.desk.Running() {
		out.Running = append(out.Running, runningJSON{ID: r.ID, Class: r.Class, Backend: r.Backend, Tenant: r.Tenant,
			VRAM: int64(r.VRAM), Started: r.Started, Elapsed: r.Elapsed.Seconds(), EstimatedEnd: known(r.EstimatedEnd)})
	}
	if a.rules.Load().observe {
		held, refused := a.observed.read()
		out.Observed = &observedJSON{Held: held, Refused: refused}
	}
	return c.JSON(http.StatusOK, out)
}

func describeGPU(g admission.GPUState) gpuJSON {
	out := gpuJSON{Name: g.Name, Capacity: int64(g.Capacity), Reserve: int64(g.Reserve), Booked: int64(g.Booked),
		Outside: int64(g.Outside), Room: int64(g.Room), ObservedAt: known(g.ObservedAt), Source: g.Source,
		Stale: g.Stale, Lost: g.Lost, Error: g.Err, Swaps: g.Swaps}
	if g.Observed >= 0 {
		observed := int64(g.Observed)
		out.Observed = &observed
	}
	for _, p := range g.Processes {
		out.Processes = append(out.Processes, processJSON{PID: p.PID, Name: p.Name, Used: int64(p.Used), Backend: p.Backend, Replica: p.Replica})
	}
	return out
}

func (a *admin) backends(c echo.Context) error {
	return c.JSON(http.StatusOK, map[string]any{"backends": a.describeBackends(a.desk.Snapshot())})
}

// describeBackends puts the desk's view and the breaker's side by side.
func (a *admin) describeBackends(s admission.Snapshot) []backendJSON {
	rules := a.rules.Load()
	desk := make(map[string]admission.BackendState, len(s.Backends))
	for _, b := range s.Backends {
		desk[b.Name] = b
	}
	out := []backendJSON{}
	for _, name := range rules.backendNames() {
		d := desk[name]
		replicas := describeReplicas(rules.backends[name], d.Replicas)
		best := replicas[0]
		for _, r := range replicas {
			if r.worksBetter(best) {
				best = r
			}
		}
		accounts := []accountJSON{}
		for _, account := range d.Accounts {
			var atRest *int64
			if seen := int64(account.AtRest); seen >= 0 {
				atRest = &seen
			}
			accounts = append(accounts, accountJSON{Replica: account.Replica, GPU: account.GPU, Resident: int64(account.Resident),
				Kept: int64(account.Kept), Running: int64(account.Running), Footprint: int64(account.Footprint),
				Learns: account.Learns, AtRest: atRest})
		}
		out = append(out, backendJSON{Name: name, Pinned: d.Pinned, Reclaims: rules.backends[name][0].Config.Reclaim.Enabled(),
			URL: best.URL, Slots: d.Slots, Running: d.Running, Available: d.Available, Draining: d.Draining,
			Breaker: best.Breaker, OpenFor: best.OpenFor, Healthy: best.Healthy, Replicas: replicas, Accounts: accounts})
	}
	return out
}

func describeReplicas(servers replicas, desk []admission.ReplicaState) []replicaJSON {
	out := make([]replicaJSON, len(servers))
	for i, b := range servers {
		remaining, _ := b.Open()
		out[i] = replicaJSON{Replica: i, URL: b.Config.URL, Breaker: b.State(), OpenFor: remaining.Seconds(), Healthy: b.Healthy()}
		if i < len(desk) { // a reload may be under way
			r := desk[i]
			out[i].Stance, out[i].Since, out[i].Swaps = r.Stance, known(r.Since), r.Swaps
			out[i].Failures, out[i].NotBefore, out[i].Note = r.Failures, known(r.NotBefore), r.Note
		}
	}
	return out
}

func (a *admin) queue(c echo.Context) error {
	limit := maxListed
	if text := c.QueryParam("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return echo.NewHTTPError(http.StatusBadRequest, "limit "+strconv.Quote(text)+": want 1 or more")
		}
		limit = min(n, maxListed)
	}
	waiting := []waiterJSON{}
	for _, w := range a.desk.Queue(limit) {
		waiting = append(waiting, describeWaiter(w))
	}
	return c.JSON(http.StatusOK, map[string]any{"waiting": waiting})
}

func (a *admin) waiter(c echo.Context) error {
	id, err := strconv.ParseUint(c.Param("id"), 10, 64)
	if err == nil {
		if w, ok := a.desk.Explain(id); ok {
			return c.JSON(http.StatusOK, describeWaiter(w))
		}
	}
	return echo.NewHTTPError(http.StatusNotFound, "there is no waiting request "+strconv.Quote(c.Param("id")))
}

func describeWaiter(w admission.Waiter) waiterJSON {
	holders := w.Holders
	if holders == nil {
		holders = []uint64{}
	}
	var keptBy []keeperJSON
	for _, k := range w.Keepers {
		keptBy = append(keptBy, keeperJSON{k.Backend, k.Replica, int64(k.Bytes), known(k.Until)})
	}
	return waiterJSON{KeptBy: keptBy, ID: w.ID, Class: w.Class, Backend: w.Backend, Tenant: w.Tenant, VRAM: int64(w.VRAM), Arrived: w.Arrived,
		Waited: w.Waited.Seconds(), Position: w.Position, InFlow: w.InFlow, Reason: w.Reason, Resource: w.Resource,
		Need: w.Need, Free: w.Free, Holders: holders, ReservedFor: w.ReservedFor, EstimatedStart: known(w.EstimatedStart), Strict: w.Strict}
}

// known gives null for a time that nobody knows.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
