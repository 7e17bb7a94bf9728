package admission

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission/memory"
)

// Snapshot is the state at one moment, in plain values that the caller
// may keep. It costs one short critical section, whatever the queue's length.
type Snapshot struct {
	At       time.Time
	GPUs     []GPUState
	Classes  []ClassState
	Backends []BackendState
	Draining bool
}

// GPUState is the ledger of one GPU.
type GPUState struct {
	memory.GPUState
	ObservedAt time.Time // when the last good reading was begun; zero: never
	// Swaps is how often replicas on it were told to unload in the last minute.
	Swaps int
}

// ClassState is one class's queue and slots.
type ClassState struct {
	Name               string
	Slots, Running     int
	Queued, QueueLimit int
	QueuedBytes        Bytes
	OldestWait         time.Duration
	Paused             bool
	Granted, Refused   uint64 // since the start
	Counts
}

// Counts say how the requests of a class came to start, since the start.
type Counts struct {
	// Backfilled started although a head that ranks before them was blocked. Overtook
	// started while a request that had come earlier waited, of any class.
	Backfilled, Overtook uint64
	// Strict became the strict head.
	Strict uint64
}

// BackendState is one backend with its accounts.
type BackendState struct {
	Name      string
	Slots     int // 0: the class's limit alone
	Running   int
	Queued    int
	Available bool
	Draining  bool
	Pinned    bool
	Replicas  []ReplicaState
	Accounts  []AccountState
}

// ReplicaState is where a replica is between loaded and unloaded.
type ReplicaState struct {
	// Residency is loaded, draining (it unloads when what runs has ended),
	// unloading, asleep (it is woken for its next request), loading, or failed
	// (it could not be woken).
	Residency string
	// Since is when it last unloaded or was loaded; zero: never.
	Since time.Time
	Swaps uint64 // how often it was told to unload
	// Failures counts the unloads in a row that freed nothing; it is left alone
	// until NotBefore. Note is what the last order came to.
	Failures  int
	NotBefore time.Time
	Note      string
}

// AccountState is what one replica holds on one GPU.
type AccountState = memory.AccountState

// Waiter is one waiting request and why it waits.
type Waiter struct {
	ID       uint64
	Class    string
	Backend  string
	Tenant   string
	VRAM     Bytes
	Declared Bytes // VRAM before learning changed it
	Arrived  time.Time
	Waited   time.Duration
	Position int // in its class, 0 is next
	InFlow   int // in its flow, 0 is next
	Reason   Reason
	// Resource names what blocks it ("gpu0", "class heavy", "backend flux");
	// Need and Free are in bytes for a GPU, else in slots.
	Resource   string
	Need, Free int64
	// Holders are the grants that hold the resource; ReservedFor is the waiter
	// whose reservation it would move, 0 if none.
	Holders     []uint64
	ReservedFor uint64
	// Keepers are the idle backends that may hold memory of the GPU that blocks it.
	Keepers []Keeper
	// Turn is that of another backend, for ReasonTurn; else nil. LoneRun is the grant
	// of ReasonLoneRun, and where there is one of ReasonRest; 0 where it is no request's.
	Turn    *Turn
	LoneRun uint64
	// Processes are those of no backend that hold memory of the GPU, largest first, for
	// ReasonUnmanagedMemory and ReasonNotByItself.
	Processes []Process
	// Doubt says what is uncertain: "held", what its backend holds already, or "demand",
	// what it needs. It is tried alone at TrialAt at the earliest. Empty: nothing is.
	Doubt   string
	TrialAt time.Time
	// Detail is a sentence on what is in the way; empty: the reason says it all.
	Detail string
	// EstimatedStart is zero where nothing can be said.
	EstimatedStart time.Time
	Strict         bool
	Origin         *Origin // of its Request
}

// Turn is the time for which a backend keeps a GPU while others wait.
type Turn struct {
	Backend string
	Replica int
	Ends    time.Time
}

// Keeper is a replica that runs nothing and may hold memory of a GPU.
type Keeper struct {
	Backend   string
	Replica   int
	Low, High Bytes // the bounds of what it holds on the GPU in question
	// Reclaims says that it can be told to unload without an operator.
	Reclaims bool
	// Pinned says that it could be, and is unloaded by hand alone.
	Pinned bool
	// Until is when it may be told to unload: after MinResidency, or longer where
	// that freed nothing. Zero: now, or never where it cannot be told.
	Until time.Time
}

// Running is one granted request.
type Running struct {
	ID           uint64
	Class        string
	Backend      string
	Tenant       string
	VRAM         Bytes
	Replica      int // the place in its backend's list
	Waited       time.Duration
	Started      time.Time
	Elapsed      time.Duration
	EstimatedEnd time.Time
}
