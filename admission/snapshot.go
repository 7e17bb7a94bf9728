package admission

import "time"

// Snapshot is the desk's state at one moment, in plain values that the caller
// may keep. It costs one short critical section, whatever the queue's length.
type Snapshot struct {
	At       time.Time
	GPUs     []GPUState
	Classes  []ClassState
	Backends []BackendState
	Draining bool
}

// GPUState is the ledger of one GPU, with every term of
//
//	room = capacity − reserve − booked − outside
type GPUState struct {
	Name string
	// Capacity is what may be budgeted; zero while nothing is known of the card.
	Capacity, Reserve, Booked, Outside, Room Bytes
	// Observed is what the driver last said is in use; -1: never read.
	Observed   Bytes
	ObservedAt time.Time
	Source     string // of the last good reading; empty: the ledger alone
	Stale      bool   // the last good reading is old
	Lost       bool
	Err        string // why the card cannot be read; empty: it can
	Processes  []Process
	// Swaps is how often replicas on it were made to let go in the last minute.
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
}

// BackendState is one backend with its accounts.
type BackendState struct {
	Name      string
	Slots     int // 0: the class's limit alone
	Running   int
	Available bool
	Draining  bool
	Pinned    bool
	Replicas  []ReplicaState
	Accounts  []AccountState
}

// ReplicaState is where a replica is between loaded and let go.
type ReplicaState struct {
	// Stance is awake, emptying (it lets go when what runs has ended),
	// reclaiming, asleep (it is woken for its next request) or waking.
	Stance string
	// Since is when it last let go or came back; zero: never.
	Since time.Time
	Swaps uint64 // how often it was made to let go
	// Failures counts orders in a row that came to nothing; it is left alone
	// until NotBefore. Note is what the last one came to.
	Failures  int
	NotBefore time.Time
	Note      string
}

// AccountState is what one replica holds on one GPU.
type AccountState struct {
	Replica                            int
	GPU                                string
	Resident, Kept, Running, Footprint Bytes
	// Learns says that Resident is learned. AtRest is what the replica was last
	// seen to hold with its weights there and nothing running; -1: not seen.
	Learns bool
	AtRest Bytes
}

// Waiter is one waiting request and why it waits.
type Waiter struct {
	ID       uint64
	Class    string
	Backend  string
	Tenant   string
	VRAM     Bytes
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
	// Keepers are the idle backends that hold the memory of a GPU that blocks it.
	Keepers []Keeper
	// EstimatedStart is zero where nothing can be said.
	EstimatedStart time.Time
	Strict         bool
}

// Keeper is a replica that runs nothing and holds memory.
type Keeper struct {
	Backend string
	Replica int
	Bytes   Bytes // on the GPU in question
	// Until is when it may be told to let go: after MinResidency, or longer where
	// it failed to. Zero: now, or never where nothing can tell it.
	Until time.Time
}

// Running is one granted request.
type Running struct {
	ID           uint64
	Class        string
	Backend      string
	Tenant       string
	VRAM         Bytes
	Started      time.Time
	Elapsed      time.Duration
	EstimatedEnd time.Time
}
