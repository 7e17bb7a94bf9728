package replay

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Log is what a run did, in order. It is all that figures and pictures are made
// from.
type Log struct {
	Events []Event
	codes  []admission.Code
}

// Event is one thing that happened to one request, or to a replica.
type Event struct {
	At      time.Duration
	Request int32 // index in the trace's rows; of Freed and Loaded: the backend's
	What    What
	Fate    Fate  // of Ended and Gone
	Replica uint8 // of Started, Freed and Loaded: which of its backend's
	code    uint8 // of a refusal: index in the log's codes
}

// What is a kind of event.
type What uint8

// A request that runs has a Started and an Ended; another has a Gone.
const (
	Started What = iota
	Ended        // its work is over
	Gone         // refused, or its client left before it could start
	Freed        // a replica that ran nothing freed its memory
	Loaded       // a replica that slept takes its memory again
)

// Fate is how a request ended for its client.
type Fate uint8

const (
	Completed Fate = iota
	Left           // its client gave up
	TimedOut       // it ran for longer than its class may
	Refused
)

// The codes of refusals that are not the controller's.
const (
	codeExecutionTimeout admission.Code = "execution_timeout"
	// codeNeverStarted is a request without a timeout that nothing let start.
	codeNeverStarted admission.Code = "never_started"
)

func (l *Log) start(at time.Duration, request int32, replica int) {
	l.Events = append(l.Events, Event{At: at, Request: request, What: Started, Replica: uint8(replica)})
}

func (l *Log) end(at time.Duration, request int32, fate Fate) {
	l.Events = append(l.Events, Event{At: at, Request: request, What: Ended, Fate: fate})
}

func (l *Log) moved(at time.Duration, what What, backend, replica int) {
	l.Events = append(l.Events, Event{At: at, Request: int32(backend), What: what, Replica: uint8(replica)})
}

func (l *Log) left(at time.Duration, request int32) {
	l.Events = append(l.Events, Event{At: at, Request: request, What: Gone, Fate: Left})
}

func (l *Log) refuse(at time.Duration, request int32, code admission.Code) {
	i := slices.Index(l.codes, code)
	if i < 0 {
		i = len(l.codes)
		l.codes = append(l.codes, code)
	}
	l.Events = append(l.Events, Event{At: at, Request: request, What: Gone, Fate: Refused, code: uint8(i)})
}

// Code is why a request was refused; empty where it was not.
func (l *Log) Code(e Event) admission.Code {
	switch {
	case e.Fate == Refused:
		return l.codes[e.code]
	case e.Fate == TimedOut:
		return codeExecutionTimeout
	}
	return ""
}

// sort puts events that were written request by request into the order in
// which they happened: at one moment, work ends before other work starts.
func (l *Log) sort() {
	rank := [...]int{Ended: 0, Freed: 1, Gone: 2, Loaded: 3, Started: 4}
	slices.SortStableFunc(l.Events, func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(rank[a.What], rank[b.What]), cmp.Compare(a.Request, b.Request))
	})
}

// Decisions is a hash over the sequence of decisions: which request was started where,
// which was refused why, and what was unloaded or woken, when and in which order.
func (l *Log) Decisions() string {
	h := sha256.New()
	var buf []byte
	for _, e := range l.Events {
		if e.What == Ended || e.Fate == Left {
			continue // not decided here
		}
		buf = binary.LittleEndian.AppendUint64(buf[:0], uint64(e.At))
		buf = binary.LittleEndian.AppendUint32(buf, uint32(e.Request))
		buf = append(buf, byte(e.What), e.Replica)
		buf = append(buf, l.Code(e)...)
		buf = append(buf, 0)
		h.Write(buf)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil))
}
