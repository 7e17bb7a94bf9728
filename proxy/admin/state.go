package admin

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/telemetry"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// The admin API's JSON. Amounts of memory are numbers of bytes and times are
// seconds; a name that is here once stays.

// State is what /api/state answers.
type State struct {
	At       time.Time     `json:"at"`
	Started  time.Time     `json:"started"` // this process
	Mode     string        `json:"mode"`
	Draining bool          `json:"draining"`
	GPUs     []gpuJSON     `json:"gpus"`
	Classes  []classJSON   `json:"classes"`
	Backends []Backend     `json:"backends"`
	Running  []runningJSON `json:"running"`
	Observed *observedJSON `json:"observed,omitempty"` // in mode observe
}

type gpuJSON struct {
	Name     string `json:"name"`
	Capacity int64  `json:"capacity_bytes"`
	Reserve  int64  `json:"reserve_bytes"`
	// available = capacity − reserve − booked − unmanaged − unattributed. Retained
	// is the part of booked that running work does not need.
	Booked       int64      `json:"booked_bytes"`
	Retained     int64      `json:"retained_bytes"`
	Unmanaged    int64      `json:"unmanaged_bytes"`
	Unattributed int64      `json:"unattributed_bytes"`
	Available    int64      `json:"available_bytes"`
	Observed     *int64     `json:"observed_bytes"` // null: never read
	ObservedAt   *time.Time `json:"observed_at"`
	Source       string     `json:"source"`
	Stale        bool       `json:"stale"`
	Lost         bool       `json:"lost"`
	Error        string     `json:"error,omitempty"`
	LoneRun      bool       `json:"lone_run"` // nothing that adds memory starts beside it
	Swaps        int        `json:"swaps_last_minute"`
	Processes    []Holder   `json:"processes,omitempty"`
}

// Holder is a process that holds memory of a GPU.
type Holder struct {
	PID     int    `json:"pid"`
	Name    string `json:"name"`
	Used    int64  `json:"used_bytes"`        // -1: the driver does not say
	Backend string `json:"backend,omitempty"` // empty: of no configured backend, or not known
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

// Backends is what /api/backends answers.
type Backends struct {
	Backends []Backend `json:"backends"`
}

// Backend is one of them; url, breaker, open_for_s and healthy are those of the
// first of its replicas that works best.
type Backend struct {
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
	Reclaims  bool          `json:"reclaims"` // it can be told to unload
	Replicas  []replicaJSON `json:"replicas"`
	Accounts  []accountJSON `json:"accounts"`
}

// replicaJSON is one server, with its residency.
type replicaJSON struct {
	Replica   int        `json:"replica"`
	URL       string     `json:"url"`
	Breaker   string     `json:"breaker"`
	OpenFor   float64    `json:"open_for_s"`
	Healthy   bool       `json:"healthy"`
	Residency string     `json:"residency"` // loaded, draining, unloading, asleep, loading or failed
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

// accountJSON is what a replica holds on a GPU.
type accountJSON struct {
	Replica int    `json:"replica"`
	GPU     string `json:"gpu"`
	// Low and High bound what it holds. Exact says that the driver tells it.
	Low   int64 `json:"low_bytes"`
	High  int64 `json:"high_bytes"`
	Exact bool  `json:"exact"`
	// Resident is what it holds while loaded and idle, as declared or measured.
	Resident int64 `json:"resident_bytes"`
	Declared int64 `json:"declared_bytes"`
	Learns   bool  `json:"resident_learned"` // nothing is declared
	Running  int64 `json:"running_bytes"`    // the demand of its running work
	Booked   int64 `json:"booked_bytes"`
	Retained int64 `json:"retained_bytes"` // booked beyond what its running work needs
	// Keeps says that what its requests take stays with it. Seen says that this
	// was seen and not only declared.
	Keeps  bool   `json:"keeps_memory"`
	Seen   bool   `json:"seen"`
	Loaded string `json:"loaded"` // loaded, unloaded or unknown
}

type runningJSON struct {
	ID           uint64     `json:"id"`
	Class        string     `json:"class"`
	Backend      string     `json:"backend"`
	Tenant       string     `json:"tenant,omitempty"`
	Replica      int        `json:"replica"`
	VRAM         int64      `json:"vram_bytes"`
	Waited       float64    `json:"waited_s"`
	Started      time.Time  `json:"started"`
	Elapsed      float64    `json:"elapsed_s"`
	EstimatedEnd *time.Time `json:"estimated_end"`
}

// Queue is what /api/queue answers.
type Queue struct {
	Waiting []Waiter `json:"waiting"`
}

// Waiter is a request that waits.
type Waiter struct {
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
	Says           string           `json:"says"` // the reason in words
	Resource       string           `json:"resource"`
	Need           int64            `json:"need"`
	Free           int64            `json:"free"`
	BlockedBy      blockedByJSON    `json:"blocked_by"`
	ReservedFor    uint64           `json:"reserved_for,omitempty"`
	Declared       int64            `json:"declared_bytes"` // vram_bytes before learning changed it
	Turn           *turnJSON        `json:"turn,omitempty"`
	LoneRun        uint64           `json:"lone_run,omitempty"` // a grant
	Doubt          string           `json:"doubt,omitempty"`    // held or demand: what is uncertain
	TrialAt        *time.Time       `json:"trial_at,omitempty"` // when that is tried, at the earliest
	Detail         string           `json:"detail,omitempty"`
	EstimatedStart *time.Time       `json:"estimated_start"`
	Strict         bool             `json:"strict"`
	Trace          timeline.TraceID `json:"trace_id"`
}

// blockedByJSON is what holds the resource that a waiter needs.
type blockedByJSON struct {
	Running []uint64   `json:"running"` // grants
	Idle    []idleJSON `json:"idle"`    // backends without work
	// Processes are those of no backend, the largest first.
	Processes []Holder `json:"processes,omitempty"`
}

// turnJSON is the turn of another backend that a waiter waits for.
type turnJSON struct {
	Backend string    `json:"backend"`
	Replica int       `json:"replica"`
	Ends    time.Time `json:"ends"`
}

// idleJSON is a backend that runs nothing and may hold memory of the GPU that
// blocks a waiter.
type idleJSON struct {
	Backend  string     `json:"backend"`
	Replica  int        `json:"replica"`
	Low      int64      `json:"low_bytes"`
	High     int64      `json:"high_bytes"`
	Reclaims bool       `json:"reclaims"`        // it can be told to unload, but for an operator's pin
	Until    *time.Time `json:"until,omitempty"` // it is not told to unload before
}

type observedJSON struct {
	Held    int                    `json:"held"`
	Refused map[admission.Code]int `json:"refused"`
}

// maxListed is how many waiting requests a list shows at most.
const maxListed = 1000

func (a *api) state(c echo.Context) error { return c.JSON(http.StatusOK, a.describe()) }

// describe is the state at this moment.
func (a *api) describe() State {
	s, config := a.Controller.Snapshot(), a.Proxy.Config()
	out := State{At: s.At, Started: a.started, Mode: config.Mode, Draining: s.Draining || a.Proxy.Draining(),
		GPUs: []gpuJSON{}, Classes: []classJSON{}, Backends: a.describeBackends(s), Running: []runningJSON{}}
	for _, g := range s.GPUs {
		out.GPUs = append(out.GPUs, describeGPU(g, s.Backends))
	}
	for _, k := range s.Classes {
		out.Classes = append(out.Classes, classJSON{Name: k.Name, Slots: k.Slots, Running: k.Running, Queued: k.Queued,
			QueueLimit: k.QueueLimit, QueuedBytes: int64(k.QueuedBytes), OldestWait: k.OldestWait.Seconds(),
			Paused: k.Paused, Granted: k.Granted, Refused: k.Refused})
	}
	for _, r := range a.Controller.Running() {
		out.Running = append(out.Running, runningJSON{ID: r.ID, Class: r.Class, Backend: r.Backend, Tenant: r.Tenant,
			Replica: r.Replica, VRAM: int64(r.VRAM), Waited: r.Waited.Seconds(), Started: r.Started, Elapsed: r.Elapsed.Seconds(),
			EstimatedEnd: known(r.EstimatedEnd)})
	}
	if config.Mode == "observe" {
		held, refused := a.Proxy.Observed()
		out.Observed = &observedJSON{Held: held, Refused: refused}
	}
	return out
}

func describeGPU(g admission.GPUState, backends []admission.BackendState) gpuJSON {
	out := gpuJSON{Name: g.Name, Capacity: int64(g.Capacity), Reserve: int64(g.Reserve), Booked: int64(g.Booked),
		Unmanaged: int64(g.Unmanaged), Unattributed: int64(g.Unattributed), Available: int64(g.Available), ObservedAt: known(g.ObservedAt),
		Source: g.Source, Stale: g.Stale, Lost: g.Lost, Error: g.Err, LoneRun: g.LoneRun, Swaps: g.Swaps}
	for _, b := range backends {
		for _, account := range b.Accounts {
			if account.GPU == g.Name {
				out.Retained += int64(account.Retained)
			}
		}
	}
	if g.Observed >= 0 {
		observed := int64(g.Observed)
		out.Observed = &observed
	}
	for _, p := range g.Processes {
		out.Processes = append(out.Processes, describeProcess(p))
	}
	return out
}

func (a *api) backends(c echo.Context) error {
	return c.JSON(http.StatusOK, Backends{a.describeBackends(a.Controller.Snapshot())})
}

// describeBackends puts the controller's view and the breaker's side by side.
func (a *api) describeBackends(s admission.Snapshot) []Backend {
	servers := a.Proxy.Servers()
	controller := make(map[string]admission.BackendState, len(s.Backends))
	for _, b := range s.Backends {
		controller[b.Name] = b
	}
	out := []Backend{}
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		d := controller[name]
		replicas := describeReplicas(servers[name], d.Replicas)
		best := replicas[0]
		for _, r := range replicas {
			if r.worksBetter(best) {
				best = r
			}
		}
		accounts := []accountJSON{}
		for _, account := range d.Accounts {
			accounts = append(accounts, accountJSON{Replica: account.Replica, GPU: account.GPU,
				Low: int64(account.Low), High: int64(account.High), Exact: account.Exact,
				Resident: int64(account.Resident), Declared: int64(account.Declared), Learns: account.Learns,
				Running: int64(account.Running), Booked: int64(account.Booked), Retained: int64(account.Retained),
				Keeps: account.Keeps, Seen: account.Seen, Loaded: account.Loaded})
		}
		out = append(out, Backend{Name: name, Pinned: d.Pinned, Reclaims: servers[name][0].Config.Reclaim.Enabled(),
			URL: best.URL, Slots: d.Slots, Running: d.Running, Available: d.Available, Draining: d.Draining,
			Breaker: best.Breaker, OpenFor: best.OpenFor, Healthy: best.Healthy, Replicas: replicas, Accounts: accounts})
	}
	return out
}

func describeReplicas(servers []*backend.Server, controller []admission.ReplicaState) []replicaJSON {
	out := make([]replicaJSON, len(servers))
	for i, b := range servers {
		remaining, _ := b.Open()
		out[i] = replicaJSON{Replica: i, URL: b.Config.URL, Breaker: b.State(), OpenFor: remaining.Seconds(), Healthy: b.Healthy()}
		if i < len(controller) { // a reload may be under way
			r := controller[i]
			out[i].Residency, out[i].Since, out[i].Swaps = r.Residency, known(r.Since), r.Swaps
			out[i].Failures, out[i].NotBefore, out[i].Note = r.Failures, known(r.NotBefore), r.Note
		}
	}
	return out
}

func (a *api) queue(c echo.Context) error {
	limit := maxListed
	if text := c.QueryParam("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return echo.NewHTTPError(http.StatusBadRequest, "limit "+strconv.Quote(text)+": want 1 or more")
		}
		limit = min(n, maxListed)
	}
	waiting := []Waiter{}
	for _, w := range a.Controller.Queue(limit) {
		waiting = append(waiting, describeWaiter(w))
	}
	return c.JSON(http.StatusOK, Queue{waiting})
}

func describeProcess(p admission.Process) Holder {
	return Holder{PID: p.PID, Name: p.Name, Used: int64(p.Used), Backend: p.Backend, Replica: p.Replica}
}

func (a *api) waiter(c echo.Context) error {
	id, err := strconv.ParseUint(c.Param("id"), 10, 64)
	if err == nil {
		if w, ok := a.Controller.Explain(id); ok {
			return c.JSON(http.StatusOK, describeWaiter(w))
		}
	}
	return echo.NewHTTPError(http.StatusNotFound, "there is no waiting request "+strconv.Quote(c.Param("id")))
}

func describeWaiter(w admission.Waiter) Waiter {
	by := blockedByJSON{Running: w.Holders, Idle: []idleJSON{}}
	if by.Running == nil {
		by.Running = []uint64{}
	}
	for _, k := range w.Keepers {
		by.Idle = append(by.Idle, idleJSON{k.Backend, k.Replica, int64(k.Low), int64(k.High), k.Reclaims, known(k.Until)})
	}
	for _, p := range w.Processes {
		by.Processes = append(by.Processes, describeProcess(p))
	}
	var turn *turnJSON
	if w.Turn != nil {
		turn = &turnJSON{w.Turn.Backend, w.Turn.Replica, w.Turn.Ends}
	}
	return Waiter{Declared: int64(w.Declared), Turn: turn, LoneRun: w.LoneRun, Doubt: w.Doubt, TrialAt: known(w.TrialAt),
		Detail: w.Detail, BlockedBy: by, ID: w.ID, Class: w.Class, Backend: w.Backend, Tenant: w.Tenant, VRAM: int64(w.VRAM), Arrived: w.Arrived,
		Waited: w.Waited.Seconds(), Position: w.Position, InFlow: w.InFlow, Reason: w.Reason, Resource: w.Resource,
		Says: Says(w), Trace: traceOf(w.Origin), Need: w.Need, Free: w.Free, ReservedFor: w.ReservedFor,
		EstimatedStart: known(w.EstimatedStart), Strict: w.Strict}
}

func traceOf(o *admission.Origin) timeline.TraceID {
	return timeline.TraceID(telemetry.RequestOf(o).SpanContext().TraceID())
}

// known gives null for a time that is not known.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
