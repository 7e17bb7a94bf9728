package replay

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Result is the figures of one run, as JSON has them. Times are in seconds from
// the trace's beginning.
type Result struct {
	Config  string                 `json:"config"`
	Classes map[string]ClassResult `json:"classes"`
	// Makespan is when the last work ended. Bound is what no schedule of the
	// same work comes below: the work of each resource over its capacity, and
	// each arrival with its own run after it.
	Makespan   float64 `json:"makespan_s"`
	Bound      float64 `json:"bound_s"`
	Throughput float64 `json:"throughput_rps"` // completed requests over the makespan
	// Peak is the most that was booked on each GPU. OverBudget counts the
	// moments at which that was more than its capacity less its reserve.
	Peak        map[string]int64   `json:"peak_vram_bytes"`
	OverBudget  int                `json:"over_budget"`
	Utilisation map[string]float64 `json:"slot_utilisation"`
	Decisions   string             `json:"decisions"`

	// Swaps is how often a backend was made to freed its memory.
	Swaps int `json:"swaps"`
	// Turns are the bounds on the waits of queue heads where backends take turns.
	Turns []TurnResult `json:"turns,omitempty"`
	// Tenants are the figures of each tenant, where the trace names any.
	Tenants []TenantResult `json:"tenants,omitempty"`
}

// TurnResult is the longest that a backend's queue head waits for the others on a GPU
// that do not fit beside it, in seconds: see Turn.
type TurnResult struct {
	GPU     string  `json:"gpu"`
	Backend string  `json:"backend"`
	Bound   float64 `json:"bound_s"`
}

// ClassResult is what became of one class's requests.
type ClassResult struct {
	Requests  int                    `json:"requests"`
	Completed int                    `json:"completed"`
	Refused   map[admission.Code]int `json:"refused"` // and those that ran out of time
	Left      int                    `json:"left"`
	Wait      Spread                 `json:"wait_s"`  // of those that started
	Total     Spread                 `json:"total_s"` // of those completed
}

// newClassResult is the result of no request. The most common refusal is there even when
// none was made, so that a reader of the JSON finds it.
func newClassResult() ClassResult {
	return ClassResult{Refused: map[admission.Code]int{admission.CodeQueueFull: 0}}
}

// TenantResult is what became of one tenant's requests of one class.
type TenantResult struct {
	Tenant, Class string
	ClassResult
}

// Spread says how a time was distributed, in seconds. Quantiles are times that
// occurred.
type Spread struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	Max  float64 `json:"max"`
}

// tally collects what becomes of some of the requests.
type tally struct {
	ClassResult
	waits, totals []time.Duration
}

func (t *tally) result() ClassResult {
	t.Wait, t.Total = spreadOf(t.waits), spreadOf(t.totals)
	return t.ClassResult
}

func spreadOf(d []time.Duration) Spread {
	if len(d) == 0 {
		return Spread{}
	}
	slices.Sort(d)
	sum := 0.0
	for _, x := range d {
		sum += x.Seconds()
	}
	at := func(q float64) float64 { return seconds(d[rank(len(d), q)]) }
	return Spread{Mean: round(sum / float64(len(d))), P50: at(0.5), P90: at(0.9), P99: at(0.99), Max: at(1)}
}

// rank is the index of a quantile among n sorted values: the least that so
// large a share of them does not exceed.
func rank(n int, q float64) int {
	return min(n-1, max(0, int(math.Ceil(q*float64(n)-1e-9))-1))
}

func round(f float64) float64 { return math.Round(f*1e6) / 1e6 }

func seconds(d time.Duration) float64 { return round(d.Seconds()) }

// Judge works the figures out of a log. Its error says that the log cannot be
// true: something ended that did not run, a request is missing, or more ran at
// once than there are slots.
func Judge(box *Box, trace *Trace, log *Log) (*Result, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	j := newJudge(p, log)
	for _, e := range log.Events {
		if err := j.see(e); err != nil {
			return nil, err
		}
	}
	return j.result()
}

type judge struct {
	*plan
	log     *Log
	books   *books
	state   []state
	classes []*tally
	tenants map[[2]string]*tally
	named   bool // whether the trace names tenants

	now     time.Duration
	last    time.Duration // end of work
	latest  time.Duration // end of an arrival with its run at once
	busy    []time.Duration
	servers []time.Duration // by backend
	own     []float64       // byte·seconds by GPU, of backends that have no other
	all     float64         // byte·seconds on any GPU
	peak    []admission.Bytes
	over    int
	swaps   int
}

// state is how far a request has come.
type state struct {
	start   time.Duration
	running bool
	over    bool
	replica uint8
}

func newJudge(p *plan, log *Log) *judge {
	controller := &p.box.Admission
	j := &judge{
		plan: p, log: log, books: newBooks(p.box),
		state:   make([]state, len(p.trace.Rows)),
		tenants: map[[2]string]*tally{},
		named:   len(p.trace.tenants) > 1 || p.trace.tenants[0] != "",
		busy:    make([]time.Duration, len(controller.Classes)),
		servers: make([]time.Duration, len(controller.Backends)),
		own:     make([]float64, len(controller.GPUs)),
		peak:    make([]admission.Bytes, len(controller.GPUs)),
	}
	for range controller.Classes {
		j.classes = append(j.classes, &tally{ClassResult: newClassResult()})
	}
	for i := range p.trace.Rows {
		row := &p.trace.Rows[i]
		j.each(row, func(t *tally) { t.Requests++ })
	}
	return j
}

// each calls do with every tally that a row counts in.
func (j *judge) each(row *Row, do func(*tally)) {
	r := j.route(row)
	do(j.classes[r.class])
	if !j.named {
		return
	}
	key := [2]string{j.trace.tenants[row.tenant], r.Class}
	t := j.tenants[key]
	if t == nil {
		t = &tally{ClassResult: newClassResult()}
		j.tenants[key] = t
	}
	do(t)
}

func (j *judge) see(e Event) error {
	if e.At < j.now {
		return fmt.Errorf("replay: the log goes back from %v to %v", j.now, e.At)
	}
	j.now = e.At
	if e.What == Freed || e.What == Loaded {
		if r := &j.books.backends[e.Request][e.Replica]; r.runs > 0 {
			return fmt.Errorf("replay: at %v backend %s moves its memory while it runs %d requests", e.At, j.box.Admission.Backends[e.Request].Name, r.runs)
		}
		j.books.move(e.What, int(e.Request), int(e.Replica))
		if e.What == Freed {
			j.swaps++
		}
		j.level()
		return nil
	}
	row, s := &j.trace.Rows[e.Request], &j.state[e.Request]
	r, vram := j.route(row), j.vram(row)
	if s.over || s.running != (e.What == Ended) || e.At < row.At {
		return fmt.Errorf("replay: the log has event %d of request %d at %v, which runs: %v, is over: %v", e.What, e.Request, e.At, s.running, s.over)
	}
	switch e.What {
	case Started:
		s.start, s.running, s.replica = e.At, true, e.Replica
		if j.books.start(r.class, r.backend, int(e.Replica), vram) {
			return fmt.Errorf("replay: at %v class %s or backend %s runs more than its slots", e.At, r.Class, r.Backend)
		}
		j.each(row, func(t *tally) { t.waits = append(t.waits, e.At-row.At) })
	case Ended:
		s.running, s.over = false, true
		j.books.end(r.class, r.backend, int(s.replica), vram)
		j.work(e.Request, vram, e.At-s.start)
		j.last = e.At
	case Gone:
		s.over = true
	}
	if s.over {
		j.each(row, func(t *tally) {
			switch e.Fate {
			case Completed:
				t.Completed++
				t.totals = append(t.totals, e.At-row.At)
			case Left:
				t.Left++
			default:
				t.Refused[j.log.Code(e)]++
			}
		})
	}
	j.level()
	return nil
}

// level takes note of how full the GPUs are.
func (j *judge) level() {
	for i, n := range j.books.booked {
		j.peak[i] = max(j.peak[i], n)
	}
	if j.books.over() {
		j.over++
	}
}

// work adds one run to what the bound is made of.
func (j *judge) work(request int32, vram admission.Bytes, took time.Duration) {
	row := &j.trace.Rows[request]
	r := j.route(row)
	j.busy[r.class] += took
	j.servers[r.backend] += took
	j.latest = max(j.latest, row.At+took)
	replicas := j.books.backends[r.backend]
	taken := float64(vram) * took.Seconds()
	for _, p := range replicas[j.state[request].replica].places {
		j.all += taken
		if len(replicas) == 1 {
			j.own[p.gpu] += taken
		}
	}
}

// bound is what no schedule of the work that was done comes below.
func (j *judge) bound() float64 {
	controller := &j.box.Admission
	bound := j.latest.Seconds()
	for i, c := range controller.Classes {
		bound = max(bound, j.busy[i].Seconds()/float64(c.Slots))
	}
	for i, b := range controller.Backends {
		if b.Slots > 0 {
			bound = max(bound, j.servers[i].Seconds()/float64(b.Slots*len(b.Replicas)))
		}
	}
	total := 0.0
	for i, room := range j.books.budget {
		if room > 0 {
			bound = max(bound, j.own[i]/float64(room))
			total += float64(room)
		}
	}
	if total > 0 {
		bound = max(bound, j.all/total)
	}
	return bound
}

func (j *judge) result() (*Result, error) {
	for i, s := range j.state {
		if !s.over {
			return nil, fmt.Errorf("replay: the log does not say what became of request %d", i)
		}
	}
	r := &Result{
		Config: j.box.Name, Makespan: seconds(j.last), Bound: round(j.bound()), OverBudget: j.over, Swaps: j.swaps,
		Classes: map[string]ClassResult{}, Peak: map[string]int64{}, Utilisation: map[string]float64{},
		Decisions: j.log.Decisions(),
	}
	for i, c := range j.box.Admission.Classes {
		r.Classes[c.Name] = j.classes[i].result()
		if j.last > 0 {
			r.Utilisation[c.Name] = round(j.busy[i].Seconds() / float64(c.Slots) / j.last.Seconds())
			r.Throughput += float64(j.classes[i].Completed) / j.last.Seconds()
		} else {
			r.Utilisation[c.Name] = 0
		}
	}
	r.Throughput = round(r.Throughput)
	longest := Longest(j.box, j.trace)
	for _, t := range j.box.Turns {
		r.Turns = append(r.Turns, TurnResult{t.GPU, t.Backend, seconds(t.Bound(func(b string) time.Duration { return longest[b] }))})
	}
	for i, g := range j.box.Admission.GPUs {
		r.Peak[g.Name] = int64(j.peak[i])
	}
	keys := slices.SortedFunc(maps.Keys(j.tenants), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	for _, k := range keys {
		r.Tenants = append(r.Tenants, TenantResult{Tenant: k[0], Class: k[1], ClassResult: j.tenants[k].result()})
	}
	return r, nil
}
