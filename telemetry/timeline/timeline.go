// Package timeline keeps what happened in the last minutes: requests that have ended,
// decisions with their reasons, and samples of queues, slots and memory.
//
// What it holds is bounded by time and by bytes, each kind by a share of its own, and
// each answer says from when it is complete. Adding never waits for a reader and
// allocates nothing once a ring has its size.
package timeline

import (
	"encoding/hex"
	"fmt"
	"sync"
	"time"
	"unsafe"
)

// Config is how much is kept.
type Config struct {
	For   time.Duration // how long; 0: nothing is kept
	Bytes int64         // all of it together, estimated
}

// TraceID is a trace's id; zero: there is none.
type TraceID [16]byte

// MarshalText gives hex digits, and nothing for zero.
func (t TraceID) MarshalText() ([]byte, error) {
	if t == (TraceID{}) {
		return nil, nil
	}
	return hex.AppendEncode(nil, t[:]), nil
}

// UnmarshalText reads what MarshalText gives.
func (t *TraceID) UnmarshalText(text []byte) error {
	*t = TraceID{}
	if len(text) != 0 && len(text) != 2*len(t) {
		return fmt.Errorf("timeline: a trace's id of %d digits: want %d, or none", len(text), 2*len(t))
	}
	_, err := hex.Decode(t[:], text)
	return err
}

// Request is a request that has ended, with its work. Times are in seconds; -1: the
// request had no such phase.
type Request struct {
	At       time.Time `json:"at"`    // of its arrival
	Asked    time.Time `json:"-"`     // when it asked for a grant; zero: it did not
	Ended    time.Time `json:"ended"` // with its work
	Route    string    `json:"route"`
	Class    string    `json:"class"`
	Backend  string    `json:"backend"`
	Replica  int       `json:"replica"`
	Tenant   string    `json:"tenant,omitempty"`
	Model    string    `json:"model,omitempty"`
	Method   string    `json:"method"`
	Path     string    `json:"path"`
	Status   int       `json:"status"`
	Result   string    `json:"result"` // of the work, where that ended later than the answer
	Code     string    `json:"code,omitempty"`
	Reason   string    `json:"reason,omitempty"` // what it last waited for
	Grant    uint64    `json:"grant,omitempty"`  // 0: it got none
	Position int       `json:"position"`         // on arrival; -1: it never queued
	VRAM     int64     `json:"vram_bytes"`
	Priority int       `json:"priority"`             // RFC 9218's urgency, 3 where it said nothing
	Deadline float64   `json:"deadline_s,omitempty"` // after it asked; 0: none
	Receive  float64   `json:"receive_s"`
	Wait     float64   `json:"wait_s"`
	Execute  float64   `json:"execute_s"` // of its last attempt
	First    float64   `json:"first_byte_s"`
	Open     float64   `json:"open_s"`
	Total    float64   `json:"total_s"`
	In       int64     `json:"bytes_in"`
	Out      int64     `json:"bytes_out"`
	Trace    TraceID   `json:"trace_id"`
}

// Kinds of decisions.
const (
	Granted = "granted"
	Refused = "refused"
	Unload  = "unload" // has ended
	Wake    = "wake"   // has ended
	Breaker = "breaker"
	Control = "control"       // an operator's action
	OOM     = "out_of_memory" // an answer of a backend; Action is retried or passed
	Reload  = "reload"
)

// Decision is one decision or action, with its reason.
type Decision struct {
	At       time.Time `json:"at"`
	Kind     string    `json:"kind"`
	Class    string    `json:"class,omitempty"`
	Backend  string    `json:"backend,omitempty"`
	Replica  int       `json:"replica"`
	Grant    uint64    `json:"grant,omitempty"`
	Position int       `json:"position"` // of a request, on arrival; -1: it never queued
	Wait     float64   `json:"wait_s"`
	Reason   string    `json:"reason,omitempty"`   // what a request last waited for, or a refusal's code
	Resource string    `json:"resource,omitempty"` // that it waited for
	Expected float64   `json:"expected_s"`         // how long it was to wait, as of its arrival
	Took     float64   `json:"took_s"`             // an unload or a wake
	Bytes    int64     `json:"bytes,omitempty"`    // of an unload or a wake
	Failed   bool      `json:"failed,omitempty"`
	Action   string    `json:"action,omitempty"` // an operator's
	By       string    `json:"by,omitempty"`     // the operator
	Note     string    `json:"note,omitempty"`
	Trace    TraceID   `json:"trace_id"`
}

// Sample is the state at one moment.
type Sample struct {
	At      time.Time     `json:"at"`
	Classes []ClassSample `json:"classes"`
	GPUs    []GPUSample   `json:"gpus"`
}

// ClassSample is a class's queue and slots.
type ClassSample struct {
	Name    string  `json:"name"`
	Queued  int     `json:"queued"`
	Running int     `json:"running"`
	Slots   int     `json:"slots"`
	Oldest  float64 `json:"oldest_wait_s"`
	Paused  bool    `json:"paused"`
}

// GPUSample is a GPU's memory by owner, in bytes.
type GPUSample struct {
	Name         string        `json:"name"`
	Capacity     int64         `json:"capacity_bytes"`
	Reserve      int64         `json:"reserve_bytes"`
	Unmanaged    int64         `json:"unmanaged_bytes"`
	Unattributed int64         `json:"unattributed_bytes"`
	Available    int64         `json:"available_bytes"`
	Observed     int64         `json:"observed_bytes"` // -1: never read
	Owners       []OwnerSample `json:"owners"`
}

// OwnerSample is what a replica is booked with on a GPU.
type OwnerSample struct {
	Backend  string `json:"backend"`
	Replica  int    `json:"replica"`
	Booked   int64  `json:"booked_bytes"`
	Retained int64  `json:"retained_bytes"`
}

// Store holds all three kinds. Its methods may be called at once from any goroutine; a
// nil one keeps nothing.
type Store struct {
	mu        sync.Mutex
	requests  ring[Request]  // guarded by mu
	decisions ring[Decision] // guarded by mu
	samples   ring[Sample]   // guarded by mu
	last      uint64         // guarded by mu; the number of the last event
	began     time.Time
	changed   chan struct{} // guarded by mu; closed at the next event; nil: no reader waits
}

// New makes a store; nil where nothing is to be kept.
func New(c Config, now time.Time) *Store {
	if c.For <= 0 || c.Bytes <= 0 {
		return nil
	}
	s := &Store{began: now}
	s.requests.limit(c.For, c.Bytes/2)
	s.decisions.limit(c.For, c.Bytes/4)
	s.samples.limit(c.For, c.Bytes/4)
	return s
}

// AddRequest keeps a request that has ended.
func (s *Store) AddRequest(r Request) {
	if s == nil {
		return
	}
	// Names of routes, classes and backends are the configuration's.
	size := int(unsafe.Sizeof(r)) + len(r.Path) + len(r.Tenant) + len(r.Model)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests.add(s.next(), r.Ended, size, r)
}

// AddDecision keeps a decision.
func (s *Store) AddDecision(d Decision) {
	if s == nil {
		return
	}
	size := int(unsafe.Sizeof(d)) + len(d.Note) + len(d.By) + len(d.Resource)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decisions.add(s.next(), d.At, size, d)
}

// AddSample keeps a sample; its slices are the store's from then on.
func (s *Store) AddSample(x Sample) {
	if s == nil {
		return
	}
	size := int(unsafe.Sizeof(x)) + len(x.Classes)*int(unsafe.Sizeof(ClassSample{})) + len(x.GPUs)*int(unsafe.Sizeof(GPUSample{}))
	for _, g := range x.GPUs {
		size += len(g.Owners) * int(unsafe.Sizeof(OwnerSample{}))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples.add(s.next(), x.At, size, x)
}

// next numbers an event and wakes the readers that wait for one. The caller holds mu.
func (s *Store) next() uint64 {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	s.last++
	return s.last
}

// History is what was kept since a moment.
type History struct {
	// Since is from when it is complete, and Until to when.
	Since     time.Time  `json:"complete_since"`
	Until     time.Time  `json:"until"`
	Requests  []Request  `json:"requests"`
	Decisions []Decision `json:"decisions"`
	Samples   []Sample   `json:"samples"`
}

// Since returns the history since a time, in the order in which requests ended.
func (s *Store) Since(from, now time.Time) History {
	h := History{Since: now, Until: now, Requests: []Request{}, Decisions: []Decision{}, Samples: []Sample{}}
	if s == nil {
		return h
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h.Since = latest(from, s.began, s.requests.since, s.decisions.since, s.samples.since)
	h.Requests = s.requests.from(h.Requests, from)
	h.Decisions = s.decisions.from(h.Decisions, from)
	h.Samples = s.samples.from(h.Samples, from)
	return h
}

// Decisions is Since for them alone.
func (s *Store) Decisions(from, now time.Time) (all []Decision, since time.Time) {
	if s == nil {
		return []Decision{}, now
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.decisions.from([]Decision{}, from), latest(from, s.began, s.decisions.since)
}

func latest(times ...time.Time) (t time.Time) {
	for _, x := range times {
		if x.After(t) {
			t = x
		}
	}
	return t
}

// Event is one entry with its number. Exactly one of the three pointers is set.
type Event struct {
	Number   uint64
	Request  *Request
	Decision *Decision
	Sample   *Sample
}

// After gives at most so many of the events after a number, in order. complete is false
// where some of them are not kept any more, or never were.
func (s *Store) After(number uint64, most int) (events []Event, complete bool) {
	if s == nil {
		return nil, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	complete = number <= s.last && number >= max(s.requests.dropped, s.decisions.dropped, s.samples.dropped)
	r, d, x := s.requests.after(number), s.decisions.after(number), s.samples.after(number)
	const none = ^uint64(0)
	for len(events) < most {
		nr, nd, nx := r.number(none), d.number(none), x.number(none)
		switch min(nr, nd, nx) {
		case none:
			return events, complete
		case nr:
			v := r.take()
			events = append(events, Event{Number: nr, Request: &v})
		case nd:
			v := d.take()
			events = append(events, Event{Number: nd, Decision: &v})
		default:
			v := x.take()
			events = append(events, Event{Number: nx, Sample: &v})
		}
	}
	return events, complete
}

// Before is the number of the last event before those since a moment: After gives those
// and, because each kind has an order of its own, maybe some that are older.
func (s *Store) Before(from time.Time) uint64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	end := s.last + 1
	first := min(s.requests.first(from, end), s.decisions.first(from, end), s.samples.first(from, end))
	return max(first-1, s.requests.dropped, s.decisions.dropped, s.samples.dropped)
}

// Last is the number of the last event.
func (s *Store) Last() uint64 {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// Changed is closed when there is an event after that number; nil, which never is,
// where nothing is kept.
func (s *Store) Changed(number uint64) <-chan struct{} {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last > number {
		done := make(chan struct{})
		close(done)
		return done
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}
