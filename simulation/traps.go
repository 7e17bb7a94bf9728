package simulation

import "time"

// Trap is one way in which model servers are known to surprise the people who run
// them.
type Trap struct{ Name, Does string }

const (
	keepsMemory    = "keeps-memory"
	residue        = "residue"
	freesLate      = "frees-late"
	afterCurrent   = "after-current"
	abortsInFlight = "aborts-in-flight"
	diesOnFree     = "dies-on-free"
	diesAsleep     = "dies-asleep"
	hangsAsleep    = "hangs-asleep"
	slowWake       = "slow-wake"
	ignoresCallers = "ignores-callers"
	answersEarly   = "answers-early"
	notExplicit    = "not-explicit"
	wantsBody      = "wants-body"
	perModel       = "per-model"
	oneAtATime     = "one-at-a-time"
	refusesBusy    = "refuses-busy"
)

// Traps are all there are. A kind says which of them it has.
func Traps() []Trap {
	return []Trap{
		{keepsMemory, "a free is answered well and frees nothing"},
		{residue, "a free leaves 3 GiB behind"},
		{freesLate, "the memory comes back 5 s after the answer to a free"},
		{afterCurrent, "a free acts when a prompt ends; on an idle server that is the next one"},
		{abortsInFlight, "a free aborts what runs; of vllm also in mode=wait"},
		{diesOnFree, "a free is answered well, and then the process dies"},
		{diesAsleep, "a request while it sleeps kills the process"},
		{hangsAsleep, "a request while it sleeps waits until it wakes"},
		{slowWake, "what was freed takes ten times as long to come back"},
		{ignoresCallers, "a run goes on when its caller leaves"},
		{answersEarly, "the answer comes at once and the work later"},
		{notExplicit, "models cannot be loaded or unloaded by hand"},
		{wantsBody, "a free without a body is a 400"},
		{perModel, "a free is of one model; others stay"},
		{oneAtATime, "one model makes way for another, when its runs have ended"},
		{refusesBusy, "a free is refused while the model is at work"},
	}
}

const (
	residueLeft = 3 << 30 // bytes
	lateBy      = 5 * time.Second
	slowBy      = 10
)
