package gpu

import (
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Hint says how the processes of one replica of a backend can be told. Each
// thing it knows helps; one that knows nothing is no use and does no harm.
type Hint struct {
	Backend string
	Replica int // its index
	// Address is the host and port of its URL. It helps where the host is this
	// machine, by an address or as localhost.
	Address string
	PID     int    // 0: not given
	Name    string // of its program, without a directory; empty: not given
	// GPUs are those that it is configured on, by name.
	GPUs []string
}

// Owners tells whose the processes on a card are. A process belongs to a
// replica if
//
//  1. it, or the nearest of its ancestors that is known, has the PID of the
//     replica's hint or listens on the replica's address: engines load models
//     in processes that they start;
//  2. it started, directly or not, one that listens there, and they are of one
//     process group: some engines start their HTTP server;
//  3. it, or the nearest of its ancestors with such a name, runs a program of
//     the hint's name.
//
// The first of these that says anything decides. What would belong to two
// replicas belongs to none, and so does everything where PIDs are not the
// host's: the driver gives those.
//
// All methods may be called at once from any goroutine. They read /proc, so
// they are not for the path of a request.
type Owners struct {
	root string // like /proc

	mu      sync.Mutex
	hints   []hint               // guarded by mu
	holders map[string]heldBy    // guarded by mu; by the socket's inode
	sockets []map[string]string  // guarded by mu; of each hint, the inodes of those that listen for it, and where
	looked  time.Time            // guarded by mu; when sockets were looked for
	pids    map[int]uint64       // guarded by mu; when the PIDs of hints were started
	problem string               // guarded by mu; the last one that was told
	known   map[int]*process     // guarded by mu; read by the call at hand; nil: there is none
	roots   map[int][]*hint      // guarded by mu; the processes that have a hint's PID or listen on its address
	above   map[int]map[int]bool // guarded by mu; their ancestors; by the index of the hint
}

type hint struct {
	Hint
	at []netip.AddrPort
}

// heldBy are the processes that have a socket open.
type heldBy struct {
	processes []process
	looked    time.Time
}

const (
	// lookEvery is for how long it is taken to be known which process listens: the kernel
	// goes through all connections to tell. A process that ends cuts it short.
	lookEvery = 2 * time.Second
	// lookAgain is how often it is looked for which process listens where none
	// was seen to: all files of all processes have to be looked at.
	lookAgain = 30 * time.Second
	// maxAncestors bounds what is read of one process.
	maxAncestors = 64
)

// NewOwners makes one that goes by these hints.
func NewOwners(hints []Hint) *Owners {
	o := &Owners{root: proc}
	o.Set(hints)
	return o
}

// Set replaces the hints.
func (o *Owners) Set(hints []Hint) {
	next := make([]hint, 0, len(hints))
	for _, h := range hints {
		next = append(next, hint{h, here(h.Address)})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hints = next
	o.holders = nil
	o.looked = time.Time{}
	o.pids = make(map[int]uint64)
	o.problem = ""
}

// assign says of each process on a GPU whose it is. It adds an entry of no bytes
// for each replica that is configured there and is known to hold nothing (idle).
// What keeps it from telling, with a cure, it reports once.
func (o *Owners) assign(gpu string, list []admission.Process) (all []admission.Process, problem string) {
	if o == nil || list == nil {
		return list, ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.hints) == 0 {
		return list, ""
	}
	all = list
	if seesHost(o.root) {
		problem = o.look(time.Now())
		for i := range list {
			if h := o.ownerOf(list[i]); h != nil {
				list[i].Backend, list[i].Replica = h.Backend, h.Replica
			}
		}
		all = append(all, o.idle(gpu, list)...)
		o.known, o.roots, o.above = nil, nil, nil
	} else {
		problem = "the driver gives the host's PIDs, which mean nothing here: want the host's PID namespace, as by `docker run --pid host`"
	}
	if problem == o.problem {
		return all, ""
	}
	o.problem = problem
	return all, problem
}

// idle gives the replicas that are configured on a GPU and hold nothing there,
// as processes that use no bytes: the driver lists the processes on the card,
// and none of them is one of theirs, or could be.
func (o *Owners) idle(gpu string, list []admission.Process) (idle []admission.Process) {
	has := func(list []admission.Process, h *hint) bool {
		return slices.ContainsFunc(list, func(p admission.Process) bool { return p.Backend == h.Backend && p.Replica == h.Replica })
	}
	for _, pid := range slices.Sorted(maps.Keys(o.roots)) {
		h, root := only(o.roots[pid]), o.process(pid)
		if h == nil || root == nil || !slices.Contains(h.GPUs, gpu) || has(list, h) || has(idle, h) {
			continue
		}
		if !slices.ContainsFunc(list, func(p admission.Process) bool { return p.Backend == "" && o.mayServe(p, root) }) {
			idle = append(idle, admission.Process{PID: pid, Name: root.Comm, Backend: h.Backend, Replica: h.Replica})
		}
	}
	return idle
}

// mayServe says that a process of no known backend may hold memory for the one
// that listens: the listener may only pass connections on (docker-proxy), or the
// engine may load its model in processes that another one starts (Ray). Those
// start after the listener. One that the listener comes from may hold it too, and
// MPS holds memory for all.
func (o *Owners) mayServe(p admission.Process, listener *process) bool {
	self := o.process(p.PID)
	return p.Used != 0 && (self == nil || self.Starttime >= listener.Starttime || slices.Contains(o.ancestors(listener), self) ||
		strings.Contains(p.Name, "nvidia-cuda-mps"))
}

// look finds the processes that have the hints' PIDs and listen on their addresses.
func (o *Owners) look(now time.Time) (problem string) {
	o.known = make(map[int]*process)
	o.roots = make(map[int][]*hint)
	o.above = make(map[int]map[int]bool)
	o.findSockets(now)
	for i := range o.hints {
		h := &o.hints[i]
		if p := o.process(h.PID); p != nil {
			if _, seen := o.pids[h.PID]; !seen {
				o.pids[h.PID] = p.Starttime
			}
			if o.pids[h.PID] == p.Starttime { // else another process has its PID now
				o.roots[h.PID] = append(o.roots[h.PID], h)
			}
		}
		hidden := ""
		for inode, at := range o.sockets[i] {
			seen := false
			for _, p := range o.holders[inode].processes {
				if now := o.process(p.PID); now == nil || now.Starttime != p.Starttime {
					continue
				}
				seen = true
				if !opensForOthers(p) {
					o.roots[p.PID] = append(o.roots[p.PID], h)
					o.mark(p, i)
				}
			}
			if !seen {
				hidden = at
			}
		}
		if hidden != "" && h.PID == 0 && h.Name == "" && problem == "" {
			problem = fmt.Sprintf("it cannot be seen which process listens on %s for %s: want to run as that process's user or with CAP_SYS_PTRACE, "+
				"or its process.name or process.pid", hidden, h.Backend)
		}
	}
	return problem
}

// findSockets brings up to date which process listens for which backend.
func (o *Owners) findSockets(now time.Time) {
	gone := false
	for _, h := range o.holders {
		gone = gone || len(h.processes) > 0 && !o.alive(h.processes)
	}
	if now.Sub(o.looked) < lookEvery && !gone {
		return
	}
	o.looked = now
	all := listeners(o.root)
	held := make(map[string]heldBy)
	wanted := make(map[string]bool)
	o.sockets = make([]map[string]string, len(o.hints))
	for i, h := range o.hints {
		o.sockets[i] = make(map[string]string)
		for _, at := range h.at {
			for _, inode := range behind(at, all) {
				o.sockets[i][inode] = at.String()
				known := o.holders[inode]
				held[inode] = known
				if !o.alive(known.processes) && (len(known.processes) > 0 || now.Sub(known.looked) >= lookAgain) {
					wanted[inode] = true
				}
			}
		}
	}
	if len(wanted) > 0 {
		found := holders(o.root, wanted)
		for inode := range wanted {
			held[inode] = heldBy{found[inode], now}
		}
	}
	o.holders = held
}

// alive says whether one of them still runs.
func (o *Owners) alive(processes []process) bool {
	for _, p := range processes {
		if now := o.process(p.PID); now != nil && now.Starttime == p.Starttime {
			return true
		}
	}
	return false
}

// opensForOthers says that a process opens sockets for those it starts, which
// then belong to all of them.
func opensForOthers(p process) bool { return p.PID == 1 || p.Comm == "systemd" }

// mark notes the ancestors of p, the listener of a hint, that are of its process group.
func (o *Owners) mark(p process, hint int) {
	for _, a := range o.ancestors(&p)[1:] {
		if a.PGRP != p.PGRP {
			return
		}
		if o.above[a.PID] == nil {
			o.above[a.PID] = make(map[int]bool)
		}
		o.above[a.PID][hint] = true
	}
}

func (o *Owners) process(pid int) *process {
	if pid <= 0 {
		return nil
	}
	if p, ok := o.known[pid]; ok {
		return p
	}
	var known *process
	if p, ok := readProcess(o.root, pid); ok {
		known = &p
	}
	o.known[pid] = known
	return known
}

// ancestors gives p, its parent, the parent of that one, and so on. The
// first process of all is left out: it takes in those whose parent has ended.
func (o *Owners) ancestors(p *process) []*process {
	all := []*process{p}
	for len(all) < maxAncestors {
		above := o.process(p.PPID)
		if above == nil || above.PID == 1 || above.Starttime > p.Starttime {
			break
		}
		all = append(all, above)
		p = above
	}
	return all
}

// ownerOf tells whose a process is; nil: no backend's.
func (o *Owners) ownerOf(p admission.Process) *hint {
	self := o.process(p.PID)
	if self == nil {
		return nil
	}
	ancestors := o.ancestors(self)
	// 1. Known by its PID or its address.
	for _, a := range ancestors {
		if found := o.roots[a.PID]; found != nil {
			return only(found)
		}
	}
	// 2. It started the process that listens.
	if below := o.above[p.PID]; below != nil {
		var found []*hint
		for i := range below {
			found = append(found, &o.hints[i])
		}
		return only(found)
	}
	// 3. Known by its name.
	for i, a := range ancestors {
		var found []*hint
		for j := range o.hints {
			if h := &o.hints[j]; h.Name != "" && (a.named(o.root, h.Name) || i == 0 && filepath.Base(p.Name) == h.Name) {
				found = append(found, h)
			}
		}
		if found != nil {
			return only(found)
		}
	}
	return nil
}

// only gives the one replica that all of them mean; nil: they are several.
func only(hints []*hint) *hint {
	for _, h := range hints[1:] {
		if h.Backend != hints[0].Backend || h.Replica != hints[0].Replica {
			return nil
		}
	}
	return hints[0]
}
