package memory

import "time"

// Process is a process that holds memory on a GPU.
type Process struct {
	PID  int
	Name string
	Used Bytes // -1: the driver does not say
	// Backend and Replica say whose process it is. Empty: of no configured
	// backend, or it is not known.
	Backend string
	Replica int
}

// Reading is what was seen of one GPU at one moment.
type Reading struct {
	GPU string // the name in the configuration
	// Device is the identity of the card that was read, such as its UUID. Empty:
	// the source has none.
	Device string
	// At is when the reading was begun. Zero: at the moment at which it is told.
	At time.Time
	// Total is the card's size less what the driver keeps for itself; Used is
	// what all processes hold of it. Both are meaningless while Err is set.
	Total, Used Bytes
	Processes   []Process // nil: not known
	// Utilization is the share of the time in which the card has computed, 0 to 1, as
	// its driver measures it; nil: not known.
	Utilization *float64
	// Source names where the figures come from: nvml, amdgpu, declared.
	Source string
	// Lost says that the card itself is gone, not merely unreadable.
	Lost bool
	Err  error
}

// GPU is one card, or one MIG instance, with a budget of its own.
type GPU struct {
	Name string
	// Device says which card it is. A reload that renames a GPU keeps what is
	// known of the card with the same Device. Empty: the name says it.
	Device string
	// Memory is the configured capacity. Zero: what the driver reports. While
	// neither is known the GPU takes no work.
	Memory Bytes
	// Reserve is never given out.
	Reserve Bytes
	// Reads says that a sensor reads the card: nothing starts before the first
	// reading, and readings that stop are noticed. False: the ledger alone
	// counts, until a reading comes.
	Reads bool
	// Hold stops whatever adds memory while the card cannot be read. False: the
	// ledger alone decides.
	Hold bool
	// TrialAfter is for how long memory in doubt may block a request before it
	// is put to a trial. Zero: DefaultTrialAfter.
	TrialAfter time.Duration
	// Turn is the longest that a backend keeps the GPU while a request for another
	// waits that does not fit beside it. Zero: as long as it has work.
	Turn time.Duration
}

// DefaultTrialAfter is the TrialAfter of a GPU that has none.
const DefaultTrialAfter = 10 * time.Second

func (g *GPU) trialAfter() time.Duration {
	if g.TrialAfter > 0 {
		return g.TrialAfter
	}
	return DefaultTrialAfter
}
