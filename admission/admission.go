package admission

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/admission/residency"
)

// Config is everything the controller is told about the machine. Names are unique
// within their list; the order of a list carries no meaning.
type Config struct {
	GPUs     []GPU
	Classes  []Class
	Backends []Backend
	Tenants  Tenants
	// Speed is how many times faster than the clock a Controller's time runs, for a
	// simulated box that does; zero: once. Its durations are in that time.
	// Reconfigure leaves it alone.
	Speed float64
	// Clock is the time that a Controller goes by; nil: WallClock. Reconfigure
	// leaves it alone.
	Clock Clock
}

// Tenants says how tenants share the classes. One account counts across
// all of them.
type Tenants struct {
	// Weights are the shares of named tenants; a tenant that is not listed has 1.
	Weights map[string]float64
	// QueueLimit is how many requests of one named tenant may wait. Zero: no
	// limit of its own.
	QueueLimit int
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
	// ReturnsMemory declares that what a request took is free again when it ends.
	// Else the memory stays with the replica: allocators retain it. What is seen
	// of the backend counts more.
	ReturnsMemory bool
	Replicas      []Replica
	// LearnsResident says that what its replicas hold while idle is not declared,
	// and is to be learned.
	LearnsResident bool
	// Reclaims says that the owner of the controller can make an idle replica
	// unload. Pinned ones are unloaded by hand alone, and one that was loaded
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

// Request is what is asked of the controller.
type Request struct {
	Class   string
	Backend string
	// VRAM is what the request takes on each GPU of its replica while it runs,
	// on top of the replica's resident memory. Already rounded up to a bucket,
	// so that distinct demands stay few.
	VRAM Bytes
	// Raised is how much of VRAM was added because of what had been learned
	// (negative: taken off). It is no reason to refuse. The History goes by the
	// rest.
	Raised   Bytes
	Estimate Estimate
	// Beside is the execution time to expect by what runs beside it on its GPU. Nil:
	// Estimate, whatever does. Like Estimate it is the History's, where there is one.
	Beside *Beside
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
	// Learn says that the demand is not declared. A Controller then takes what the
	// History says of it.
	Learn bool
	// Unknown says that the demand is not known, and VRAM is a first guess. It
	// never fits beside others: it runs alone, once its GPUs are at rest, and is
	// measured.
	Unknown bool
	// Case is what runs of its route and size alone on their GPUs have told. Nil:
	// a Controller takes the History's; without one its shape has its own.
	Case *memory.Case
	// Fastest is how long the fastest run seen took: an answer is never sooner. Only
	// that makes a Deadline unmeetable. A Controller takes the History's.
	Fastest time.Duration
	// Retry says that it has run out of memory a moment ago. It waits for a reading
	// since, and then only for what is certain to make room. It never asks for a rest
	// or a trial, and its own failure raises no figure.
	Retry bool
	// Lacked says of a Retry that the answer of the first told by its figures that others
	// held what it needed: it waits for them as a first try does.
	Lacked bool
	// Odd says of a Retry that others of its route do well in the room that it had:
	// its figure is its own, and it waits for nothing but the reading.
	Odd bool
	// Holds is what it does not need while it waits. A Controller calls its Rest, outside
	// its lock, where the request cannot start at once; it may be granted meanwhile. Nil:
	// nothing is called.
	Holds interface{ Rest() }
	// Origin is the caller's own, and comes back in the Orders and Waiters of the
	// request. Nothing else looks at it. Nil: there is none.
	Origin *Origin
}

// Origin is what a caller knows a request by.
type Origin = residency.Origin

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

// Result is how a granted request ended, with what an out-of-memory answer says.
// Figures that it does not say are zero.
type Result struct {
	Outcome
	Tried Bytes // what could not be allocated
	Free  Bytes // what was free
	InUse Bytes // what the backend's process held
}

// ledger is a result as the ledger takes it.
func (r Result) ledger() memory.Result {
	out := memory.Result{Outcome: memory.Failed, Tried: r.Tried, Free: r.Free, InUse: r.InUse}
	switch r.Outcome {
	case Done:
		out.Outcome = memory.Good
	case OutOfMemory:
		out.Outcome = memory.OutOfMemory
	case Unreached:
		out.Outcome = memory.Unserved
	}
	return out
}

// Code names a refusal. It is a small closed set and part of the HTTP contract.
type Code string

const (
	CodeQueueFull           Code = "queue_full"
	CodeTenantQuota         Code = "tenant_quota"
	CodeDeadlineUnmeetable  Code = "deadline_unmeetable"
	CodeNeverFits           Code = "never_fits"
	CodeQueueTimeout        Code = "queue_timeout"
	CodeBackendUnavailable  Code = "backend_unavailable"
	CodeDraining            Code = "draining"
	CodeClientCancelled     Code = "client_cancelled"
	CodeCancelledByOperator Code = "cancelled_by_operator"
)

// Reason says why a request waits. It is a small closed set, after Slurm's.
type Reason string

const (
	ReasonNone               Reason = ""
	ReasonResources          Reason = "resources"           // the GPU has too little memory available
	ReasonBehind             Reason = "behind"              // others of its shape are before it
	ReasonReservedForOther   Reason = "reserved_for_other"  // its start would move another request's reservation
	ReasonClassSlots         Reason = "class_slots"         // all slots of its class are taken
	ReasonBackendSlots       Reason = "backend_slots"       // all slots of its backend are taken
	ReasonBackendUnavailable Reason = "backend_unavailable" // the backend's breaker is open or its health check fails
	ReasonCapacityReduced    Reason = "capacity_reduced"    // the GPU is smaller than configured, or cannot be read
	ReasonUnmanagedMemory    Reason = "unmanaged_memory"    // processes that are not ours hold the memory
	ReasonLoneRun            Reason = "lone_run"            // a run that may take more than is known is alone on the GPU
	ReasonTurn               Reason = "turn"                // another backend has the GPU, until its turn ends
	ReasonRest               Reason = "rest"                // nothing starts until the GPU is at rest
	ReasonTrial              Reason = "trial"               // it waits for its trial, alone
	ReasonNotByItself        Reason = "not_by_itself"       // nothing that is under way will make room
	ReasonReclaiming         Reason = "reclaiming"          // memory is being freed for it
	ReasonWaking             Reason = "waking"              // its backend is being loaded
	ReasonPaused             Reason = "paused"              // an operator stopped its class
	ReasonDraining           Reason = "draining"            // its backend takes no new work
)

// Rejection is a refusal. It is an error whose fields say why, and when to
// come back.
type Rejection struct {
	// ID is the request's in the queue; 0: it was refused before it had one.
	ID     uint64
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
