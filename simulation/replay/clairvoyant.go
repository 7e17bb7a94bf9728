package replay

import (
	"container/heap"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Clairvoyant plays a trace by a list schedule that knows how long everything
// runs: in order of arrival each request gets the earliest start at which it
// fits for as long as it will really run, beside all that were placed before
// it. The resources are those of the controller; requests of one shape start in order
// of arrival, there as here. A request whose place comes too late for its
// timeout, deadline or client is not placed at all.
func Clairvoyant(box *Box, trace *Trace) (*Log, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	c := newClairvoyant(p)
	for i := range trace.Rows {
		c.place(int32(i))
	}
	c.log.sort()
	return &c.log, nil
}

type clairvoyant struct {
	*plan
	log      Log
	empty    *books
	future   []step // from the last arrival on, in order of time
	accounts []account
	of       [][][]int // accounts by backend and replica
	first    []int     // of a backend, in step.runs
	last     map[shapeKey]time.Duration
	starts   []startHeap // of those that wait, by class
	spare    []step
}

// account is one replica's share of one GPU.
type account struct {
	gpu      int
	resident admission.Bytes
	returns  bool
	runs     int // where its replica's runs are counted
}

// step is what is taken from a moment on, until the next step.
type step struct {
	at      time.Duration
	classes []int32
	runs    []int32           // by replica
	mine    []int32           // by replica and class
	demand  []admission.Bytes // by account, Σ of what runs
	kept    []admission.Bytes // by account
}

type shapeKey struct {
	class, backend int
	vram           admission.Bytes
}

type startHeap []time.Duration

func (h startHeap) Len() int           { return len(h) }
func (h startHeap) Less(i, j int) bool { return h[i] < h[j] }
func (h startHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *startHeap) Push(x any)        { *h = append(*h, x.(time.Duration)) }
func (h *startHeap) Pop() any {
	s := *h
	x := s[len(s)-1]
	*h = s[:len(s)-1]
	return x
}

func newClairvoyant(p *plan) *clairvoyant {
	c := &clairvoyant{plan: p, empty: newBooks(p.box), last: map[shapeKey]time.Duration{}}
	c.starts = make([]startHeap, len(p.box.Admission.Classes))
	replicas := 0
	for i, b := range p.box.Admission.Backends {
		c.first = append(c.first, replicas)
		var of [][]int
		for k := range b.Replicas {
			var mine []int
			for _, x := range c.empty.backends[i][k].places {
				mine = append(mine, len(c.accounts))
				c.accounts = append(c.accounts, account{gpu: x.gpu, resident: x.resident, returns: b.ReturnsMemory, runs: replicas})
			}
			of = append(of, mine)
			replicas++
		}
		c.of = append(c.of, of)
	}
	c.future = []step{{
		classes: make([]int32, len(p.box.Admission.Classes)),
		runs:    make([]int32, replicas),
		mine:    make([]int32, replicas*len(p.box.Admission.Classes)),
		demand:  make([]admission.Bytes, len(c.accounts)),
		kept:    make([]admission.Bytes, len(c.accounts)),
	}}
	return c
}

// place finds a request's start and writes it down.
func (c *clairvoyant) place(request int32) {
	row := &c.trace.Rows[request]
	r, vram := c.route(row), c.vram(row)
	c.forget(row.At)
	waiting := &c.starts[r.class]
	for len(*waiting) > 0 && (*waiting)[0] <= row.At {
		heap.Pop(waiting)
	}
	if c.empty.fitting(r, vram) < 0 {
		c.log.refuse(row.At, request, admission.CodeNeverFits)
		return
	}
	// Work that is cut short when its client leaves is known to be short, but
	// when depends on the start; the whole run is the safe length to look for.
	key := shapeKey{r.class, r.backend, vram}
	replica, start := -1, time.Duration(0)
	for k := range c.of[r.backend] {
		if at, ok := c.earliest(max(row.At, c.last[key]), row.Execute, r, k, vram); ok && (replica < 0 || at < start) {
			replica, start = k, at
		}
	}
	class := &c.box.Admission.Classes[r.class]
	switch {
	case row.Leave > 0 && (replica < 0 || row.At+row.Leave <= start):
		c.log.left(row.At+row.Leave, request)
	case replica < 0 && class.QueueTimeout == 0:
		c.log.refuse(row.At, request, codeNeverStarted)
	case replica < 0, class.QueueTimeout > 0 && start >= row.At+class.QueueTimeout:
		c.log.refuse(row.At, request, admission.CodeQueueTimeout)
	case row.Deadline > 0 && start+row.Execute > row.At+row.Deadline:
		c.log.refuse(row.At, request, admission.CodeDeadlineUnmeetable)
	case start > row.At && len(*waiting) >= class.QueueLimit:
		c.log.refuse(row.At, request, admission.CodeQueueFull)
	default:
		end, fate := c.run(row, start)
		c.log.start(start, request, replica)
		c.log.end(end, request, fate)
		c.book(start, end, r, replica, vram)
		c.last[key] = start
		if start > row.At {
			heap.Push(waiting, start)
		}
	}
}

// forget drops the steps that are over.
func (c *clairvoyant) forget(now time.Duration) {
	n := 0
	for n+1 < len(c.future) && c.future[n+1].at <= now {
		n++
	}
	c.spare = append(c.spare, c.future[:n]...)
	c.future = slices.Delete(c.future, 0, n)
}

// covering gives the step that a moment lies in.
func (c *clairvoyant) covering(at time.Duration) int {
	i, found := slices.BinarySearchFunc(c.future, at, func(s step, at time.Duration) int {
		return int(min(1, max(-1, s.at-at)))
	})
	if found {
		return i
	}
	return max(0, i-1)
}

// earliest finds the first moment from which a run fits on a replica until its
// end. False: never, because of memory that others keep.
func (c *clairvoyant) earliest(from, length time.Duration, r *route, replica int, vram admission.Bytes) (time.Duration, bool) {
	at := from
	i := c.covering(at)
	for {
		bad := c.conflict(i, at+length, r, replica, vram)
		if bad < 0 {
			return at, true
		}
		if bad+1 == len(c.future) {
			return 0, false
		}
		i = bad + 1
		at = c.future[i].at
	}
}

// conflict gives the last step of the first stretch that a run from step i to
// end does not fit beside; -1: it fits. Memory that stays with the replica after
// the run must fit for good.
func (c *clairvoyant) conflict(i int, end time.Duration, r *route, replica int, vram admission.Bytes) int {
	accounts := c.of[r.backend][replica]
	var room [8]admission.Bytes
	high := room[:0]
	for _, a := range accounts {
		high = append(high, c.accounts[a].resident)
	}
	for k := i; k < len(c.future); k++ {
		s := &c.future[k]
		inside := k == i || s.at < end
		if inside {
			if int(s.classes[r.class]) >= c.box.Admission.Classes[r.class].Slots || !c.slotFree(s, r, replica) {
				return k
			}
		}
		rises := false
		for j, a := range accounts {
			x := &c.accounts[a]
			if inside && !x.returns {
				high[j] = max(high[j], x.resident+s.demand[a]+vram)
			}
			rises = rises || high[j] > s.kept[a]
			mine := max(high[j], s.kept[a])
			if inside {
				mine = max(mine, x.resident+s.demand[a]+vram)
			} else if s.runs[x.runs] > 0 {
				mine = max(mine, x.resident+s.demand[a])
			}
			if c.booked(s, x.gpu, a)+mine > c.empty.budget[x.gpu] {
				return k
			}
		}
		if !inside && !rises {
			break // kept only rises, so it is as high from here on
		}
	}
	return -1
}

// slotFree says whether a replica has a slot for a route's class; what others
// have reserved of it and do not use is not free.
func (c *clairvoyant) slotFree(s *step, r *route, replica int) bool {
	b := &c.box.Admission.Backends[r.backend]
	if b.Slots == 0 {
		return true
	}
	at := c.first[r.backend] + replica
	free := b.Slots - int(s.runs[at])
	for i, class := range c.box.Admission.Classes {
		if i != r.class {
			free -= max(0, b.Reserved[class.Name]-int(s.mine[at*len(s.classes)+i]))
		}
	}
	return free > 0
}

// booked is what the accounts on a GPU take, but for one.
func (c *clairvoyant) booked(s *step, gpu, but int) admission.Bytes {
	var sum admission.Bytes
	for a := range c.accounts {
		x := &c.accounts[a]
		if a == but || x.gpu != gpu {
			continue
		}
		if s.runs[x.runs] > 0 {
			sum += max(s.kept[a], x.resident+s.demand[a])
		} else {
			sum += s.kept[a]
		}
	}
	return sum
}

// book writes a run into the future.
func (c *clairvoyant) book(start, end time.Duration, r *route, replica int, vram admission.Bytes) {
	i, j := c.split(start), c.split(end)
	for k := i; k < j; k++ {
		s := &c.future[k]
		s.classes[r.class]++
		s.runs[c.first[r.backend]+replica]++
		s.mine[(c.first[r.backend]+replica)*len(s.classes)+r.class]++
		for _, a := range c.of[r.backend][replica] {
			s.demand[a] += vram
		}
	}
	for _, a := range c.of[r.backend][replica] {
		x := &c.accounts[a]
		high := x.resident
		for k := i; k < len(c.future); k++ {
			s := &c.future[k]
			if k < j && !x.returns {
				high = max(high, x.resident+s.demand[a])
			}
			if k >= j && s.kept[a] >= high {
				break
			}
			s.kept[a] = max(s.kept[a], high)
		}
	}
}

// split makes a step begin at a moment and gives its index.
func (c *clairvoyant) split(at time.Duration) int {
	i := c.covering(at)
	if c.future[i].at == at {
		return i
	}
	if at < c.future[i].at {
		panic("replay: a start before all steps")
	}
	var n step
	if last := len(c.spare) - 1; last >= 0 {
		n, c.spare = c.spare[last], c.spare[:last]
	}
	from := &c.future[i]
	n.at = at
	n.classes = append(n.classes[:0], from.classes...)
	n.runs = append(n.runs[:0], from.runs...)
	n.mine = append(n.mine[:0], from.mine...)
	n.demand = append(n.demand[:0], from.demand...)
	n.kept = append(n.kept[:0], from.kept...)
	c.future = slices.Insert(c.future, i+1, n)
	return i + 1
}
