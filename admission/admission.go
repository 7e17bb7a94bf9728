// Package admission is the desk in front of the GPUs: it decides which request
// runs now, which waits, which is refused, and why.
//
// The rules live in Scheduler as plain data and functions. It has no clock, no
// lock, no goroutine and does no I/O: `now` is an argument and every call
// returns what is to happen. Controller is the shell around it for a live
// process, with one mutex, one timer and a channel for each waiter.
//
// What the package promises after every event:
//
//   - No resource is over its capacity through anything granted here: class
//     slots, backend slots, and bytes on each GPU.
//   - A request ends exactly once: done, cancelled, expired or refused. It is
//     granted at most once and gives its grant back at most once.
//   - Requests of one flow are granted in their order of arrival.
//   - A blocked head holds a reservation that later starts do not move, and a
//     head that was blocked for longer than its class's StrictAfter starts when
//     the work that ran at that moment has ended, or seconds later where what
//     that work left behind has to be read off the card first.
//   - What can never fit is refused at the door.
//
// The package and those below it, except for gpu, need the standard library
// alone.
package admission

import "time"

// Config is everything the desk is told about the box. Names are unique within
// their list; the order of a list carries no meaning.
type Config struct {
	GPUs     []GPU
	Classes  []Class
	Backends []Backend
	Tenants  Tenants
}

// Tenants says how those who ask share the classes. One account counts across
// all of them.
type Tenants struct {
	// Weights are the shares of named tenants; who is not listed has 1.
	Weights map[string]float64
	// QueueLimit is how many requests of one named tenant may wait. Zero: no
	// limit of its own.
	QueueLimit int
}

// GPU is one card, or one MIG instance, with a budget of its own.
type GPU struct {
	Name string
	// Memory is the configured capacity. Zero: what the driver reports. While
	// neither is known the GPU is unavailable.
	Memory Bytes
	// Reserve is never given out.
	Reserve Bytes
	// Hold makes whatever needs more room wait while the card cannot be read.
	// False: the ledger alone decides.
	Hold bool
}

// Class is a policy with a name.
type Class struct {
	Name  string
	Slots int // running at once, 1 or more
	// QueueLimit is how many may wait; QueueBytes bounds the request bodies
	// held for them (0: unbounded); QueueTimeout is how long one may wait
	// (0: for ever).
	QueueLimit   int
	QueueBytes   Bytes
	QueueTimeout time.Duration
	// Boost is how much earlier than its arrival a request counts.
	Boost time.Duration
	// StrictAfter is how long a head may stay blocked before it is protected
	// without believing any estimate.
	StrictAfter time.Duration
}

// Backend is a model server. Each of its replicas has an account of its own in
// the ledger.
type Backend struct {
	Name  string
	Slots int // running at once on each replica; 0: the class's limit alone
	// ReturnsMemory says that what a request took is free again when it ends.
	// Else the memory stays with the replica: allocators keep it.
	ReturnsMemory bool
	Replicas      []Replica
	// LearnsResident says that what its replicas hold while idle is not known,
	// and is to be learned from readings at rest. Where it does not return
	// memory nothing tells its weights from what requests took: then all of it
	// counts as kept.
	LearnsResident bool
	// Reclaims says that the owner of the desk can make an idle replica let go of
	// its memory. Pinned ones are asked only by hand, and one that was loaded
	// stays for MinResidency.
	Reclaims     bool
	Pinned       bool
	MinResidency time.Duration
	// Reserved are slots of each replica that only a class may take, by its
	// name. They mean something only where Slots is set.
	Reserved map[string]int
}

// Replica is one process (or one group of processes) of a backend.
type Replica struct {
	// Name tells it from the backend's others, also across a Reconfigure; a
	// server's address does. Empty: its place in the list does.
	Name string
	// Places are the GPUs it takes room on: one, or several for a
	// tensor-parallel server. A request's demand counts on each of them.
	Places []Place
}

// Place is a replica's share of one GPU.
type Place struct {
	GPU string
	// Resident is held while the replica is loaded, whether or not it works.
	Resident Bytes
}

// Request is what is asked of the desk.
type Request struct {
	Class   string
	Backend string
	// VRAM is what the request takes on each GPU of its replica while it runs,
	// on top of the replica's resident memory. Already rounded up to a bucket,
	// so that distinct demands stay few.
	VRAM Bytes
	// Raised is how much of VRAM was added because of what had been learned
	// (negative: taken off). It is no reason to refuse: what no card could give
	// of it is left out. The History goes by the rest.
	Raised   Bytes
	Estimate Estimate
	// History takes the place of Estimate once it has learned enough, and
	// learns from this request when it is done. Nil: nothing is learned. Only
	// a Controller asks it.
	History *History
	// Size is how many bytes of request body are held while it waits.
	Size Bytes
	// Tenant is who asks; empty is a tenant like any other, without a limit.
	Tenant string
	// Boost is how much earlier than its arrival it counts, beside its class's;
	// negative: later.
	Boost time.Duration
	// Deadline is when the answer must be complete. Zero: none.
	Deadline time.Time
	// Alone keeps its GPUs to itself while it runs: it starts when nothing runs
	// there, and nothing starts beside it. For work whose demand is not known.
	Alone bool
}

// Outcome says how a granted request ended.
type Outcome uint8

const (
	// Done is work that ended by itself; its duration is worth learning from.
	Done Outcome = iota
	// Failed ended at once or broke; Aborted was cut short by its caller. Both
	// teach nothing.
	Failed
	Aborted
	// OutOfMemory ended for want of memory: what was booked is not enough.
	OutOfMemory
	// Unreached never came to its server, which does not listen: it took nothing.
	Unreached
)

// Code names a refusal. It is a small closed set and part of the HTTP contract.
type Code string

const (
	CodeQueueFull           Code = "queue_full"
	CodeTenantQuota         Code = "tenant_quota"
	CodeDeadlineUnmeetable  Code = "deadline_unmeetable"
	CodeNeverFits           Code = "never_fits"
	CodeQueueTimeout        Code = "queue_timeout"
	CodeBackendUnavailable  Code = "backend_unavailable"
	CodeGPUUnavailable      Code = "gpu_unavailable"
	CodeDraining            Code = "draining"
	CodeClientCancelled     Code = "client_cancelled"
	CodeCancelledByOperator Code = "cancelled_by_operator"
)

// Reason says why a request waits. It is a small closed set, after Slurm's.
type Reason string

const (
	ReasonNone               Reason = ""
	ReasonResources          Reason = "resources"           // the GPU has no room
	ReasonBehind             Reason = "behind"              // others of its shape are before it
	ReasonReservedForOther   Reason = "reserved_for_other"  // starting would move somebody's reservation
	ReasonClassSlots         Reason = "class_slots"         // all slots of its class are taken
	ReasonBackendSlots       Reason = "backend_slots"       // all slots of its backend are taken
	ReasonBackendUnavailable Reason = "backend_unavailable" // the backend's breaker is open or its health check fails
	ReasonCapacityReduced    Reason = "capacity_reduced"    // it fits the configured card, not what is left of it
	ReasonReclaiming         Reason = "reclaiming"          // memory is being freed for it
	ReasonWaking             Reason = "waking"              // its backend is being loaded
	ReasonPaused             Reason = "paused"              // an operator stopped its class
	ReasonDraining           Reason = "draining"            // its backend takes no new work
)

// Rejection is a refusal. It is an error whose fields say why, and when to
// come back.
type Rejection struct {
	Code   Code
	Class  string
	Reason Reason // what it was waiting for, if it waited
	// Detail is a sentence for people: what is needed, what there is.
	Detail string
	// Position is how many of its class were before it; -1 where it never queued.
	Position int
	// Waited is how long it stood in the queue.
	Waited time.Duration
	// RetryAfter is when a new arrival could expect to run. Zero: retrying is
	// pointless or nothing is known.
	RetryAfter time.Duration
	// Stay is what it met in the queue; nil where it never queued.
	Stay *Stay
}

// Stay is what a request met in the queue.
type Stay struct {
	First, Last Blocked
	Steps       []Step // while it was the first of its kind, in order of time
	// Expected is how long it was to wait, as could be said on its arrival.
	Expected time.Duration
}

// Blocked is what keeps a request from starting.
type Blocked struct {
	Reason Reason
	// Resource names it, as in Waiter; Need and Free are in bytes for a GPU,
	// else in slots.
	Resource   string
	Need, Free int64
}

func (r *Rejection) Error() string {
	if r.Detail == "" {
		return "admission: " + string(r.Code)
	}
	return "admission: " + string(r.Code) + ": " + r.Detail
}

// Process is a process that holds memory on a card.
type Process struct {
	PID  int
	Name string
	Used Bytes // -1: the driver does not say
	// Backend and Replica say whose process it is. Empty: an outsider, or it
	// is not known.
	Backend string
	Replica int
}

// Reading is what was seen of one GPU at one moment.
type Reading struct {
	GPU string // the name in the configuration
	At  time.Time
	// Total is the card's size less what the driver keeps for itself; Used is
	// what all processes hold of it. Both are meaningless while Err is set.
	Total, Used Bytes
	Processes   []Process // nil: not known
	// Source names where the figures come from: nvml, amdgpu, declared.
	Source string
	// Lost says that the card itself is gone, not merely unreadable.
	Lost bool
	Err  error
}
