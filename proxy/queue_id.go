package proxy

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// A client that waits may ask for its place without the admin listener: it sends an id
// of its own with the request, and asks for that id on the same listener. Without
// the id a client learns nothing, and an answer has nothing of another client's.

const (
	// queueIDHeader has the id, in hexadecimal digits.
	queueIDHeader = "X-Anteroom-Queue-Id"
	// queuePath is the path of queries for the place of an id, on every public listener.
	queuePath = "/.well-known/anteroom/queue/"
	// shortestID and longestID bound an id, in bytes: 128 random bits cannot be guessed.
	shortestID, longestID = 16, 64
	// longestLine is how many of each class have a position.
	longestLine = 1000
	// placeAge is how old a position may be, and placeShare how much longer than it
	// takes to look for all: all queries together take a twentieth of a core at the most.
	placeAge, placeShare = 500 * time.Millisecond, 20
)

// queuePlace is a request whose client may ask for it.
type queuePlace struct {
	id       string
	origin   *admission.Origin // what admission knows it by
	class    string
	arrived  time.Time
	asked    time.Time // when it began to wait; zero: its body is being read
	admitted time.Time // zero: it waits
}

// queuePlaces are the requests that may be asked for.
type queuePlaces struct {
	mu    sync.Mutex
	byID  map[string]*queuePlace                 // guarded by mu
	line  map[*admission.Origin]admission.Waiter // guarded by mu; those that wait
	until time.Time                              // guarded by mu; line is good enough until then
}

// enter registers a request by the id that its client gave. If two requests have the same
// id, the later one counts. leave removes the request; leave is nil if there is no id.
func (x *exchange) enter() (leave func(), err error) {
	given := x.in.Header[queueIDHeader]
	if given == nil {
		return nil, nil
	}
	if len(given) > 1 {
		return nil, refuse(codeBadRequest, "%s: %d of them: want one", queueIDHeader, len(given))
	}
	raw, err := hex.DecodeString(given[0])
	if err != nil || len(raw) < shortestID || len(raw) > longestID {
		return nil, refuse(codeBadRequest, "%s: want %d to %d hexadecimal digits, drawn at random for each request", queueIDHeader,
			2*shortestID, 2*longestID)
	}
	p := &queuePlace{id: string(raw), origin: x.trace.Origin(), class: x.route.ClassName, arrived: x.began}
	s := &x.Handler.places
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = make(map[string]*queuePlace)
	}
	s.byID[p.id], x.place = p, p
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.byID[p.id] == p {
			delete(s.byID, p.id)
		}
	}, nil
}

// moved notes that a request waits, or that it waits no more. A nil place is ignored: its
// client gave no id.
func (s *queuePlaces) moved(p *queuePlace, asked, admitted time.Time) {
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.admitted = admitted; !asked.IsZero() {
		p.asked = asked
	}
}

// announce tells a client that gave an id that it can ask for its place, by an answer of
// status 103 (RFC 8297), which may come before the final one.
func (x *exchange) announce() {
	if x.place == nil || x.out.committed || !x.in.ProtoAtLeast(1, 1) {
		return
	}
	header := x.out.Header()
	header.Set(queueIDHeader, hex.EncodeToString([]byte(x.place.id)))
	x.out.ResponseWriter.WriteHeader(http.StatusEarlyHints)
	header.Del(queueIDHeader)
}

// waiting gives admission's description of a waiting request, by its Origin; false: the
// request is not among the first of its class, or has just come. All requests are looked up
// at once, so that the cost does not grow with the number of queries.
func (h *Handler) waiting(origin *admission.Origin) (admission.Waiter, bool) {
	s := &h.places
	s.mu.Lock()
	defer s.mu.Unlock()
	if began := time.Now(); !began.Before(s.until) {
		s.line = make(map[*admission.Origin]admission.Waiter)
		for _, w := range h.controller.Heads(longestLine) {
			if w.Origin != nil {
				s.line[w.Origin] = w
			}
		}
		s.until = began.Add(max(placeAge, placeShare*time.Since(began)))
	}
	w, ok := s.line[origin]
	return w, ok
}

// placeJSON is the answer to a client about its own request. It has nothing of other
// tenants, processes or servers.
type placeJSON struct {
	State          string           `json:"state"` // receiving, waiting or running
	Class          string           `json:"class"`
	Waited         int64            `json:"waited_ms"`
	Position       *int             `json:"position"` // 0: it is next; null: not known yet, or not among the first thousand
	Reason         admission.Reason `json:"reason,omitempty"`
	Detail         string           `json:"detail,omitempty"` // the reason in words
	EstimatedStart *time.Time       `json:"estimated_start"`  // null: not known
	EstimatedWait  *int64           `json:"estimated_wait_ms"`
}

// isPlaceQuery says that a request asks for a place.
func isPlaceQuery(r *http.Request) bool {
	return strings.HasPrefix(r.URL.Path, queuePath) && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// tellPlace answers a query for the place of an id.
func (h *Handler) tellPlace(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	if origin := h.rules.Load().config.CORS.allows(r); origin != "" {
		allowOrigin(header, origin)
	}
	raw, _ := hex.DecodeString(strings.TrimPrefix(r.URL.Path, queuePath))
	h.places.mu.Lock()
	var p queuePlace
	at := h.places.byID[string(raw)]
	if at != nil {
		p = *at
	}
	h.places.mu.Unlock()
	if at == nil {
		refuse(codeNoRequest, "it has been answered, has not come yet, or was sent without %s", queueIDHeader).write(w, "")
		return
	}
	now := time.Now()
	out := placeJSON{State: "receiving", Class: p.class}
	switch {
	case !p.admitted.IsZero():
		out.State, out.Waited = "running", p.admitted.Sub(p.asked).Milliseconds()
	case !p.asked.IsZero():
		out.State, out.Waited = "waiting", now.Sub(p.asked).Milliseconds()
		if w, ok := h.waiting(p.origin); ok {
			out.Position, out.Reason, out.Detail = &w.Position, w.Reason, publicWords[w.Reason]
			if start := w.EstimatedStart; !start.IsZero() {
				wait := max(0, start.Sub(now).Milliseconds())
				out.EstimatedStart, out.EstimatedWait = &start, &wait
			}
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		panic("proxy: a place does not encode: " + err.Error())
	}
	header.Set("Content-Type", "application/json")
	w.Write(append(text, '\n')) // a client that is gone needs no answer
}

// publicWords are the reasons in words for clients. says has those for operators.
var publicWords = map[admission.Reason]string{
	admission.ReasonResources:          "the GPU has too little memory available",
	admission.ReasonBehind:             "similar requests are before it",
	admission.ReasonReservedForOther:   "its start would delay a request that is before it",
	admission.ReasonClassSlots:         "all slots of its class are taken",
	admission.ReasonBackendSlots:       "all slots of its model server are taken",
	admission.ReasonBackendUnavailable: "its model server is unavailable",
	admission.ReasonCapacityReduced:    "the GPU is smaller than configured, or cannot be read",
	admission.ReasonUnmanagedMemory:    "other programs hold memory of the GPU",
	admission.ReasonLoneRun:            "a request of which it is not known what it takes runs alone on the GPU",
	admission.ReasonTurn:               "another model server has its turn on the GPU",
	admission.ReasonRest:               "nothing starts on the GPU until it is at rest",
	admission.ReasonTrial:              "it will be tried alone, because what it takes is uncertain",
	admission.ReasonNotByItself:        "nothing that is under way will make room for it",
	admission.ReasonReclaiming:         "memory is being freed for it",
	admission.ReasonWaking:             "its model server is being loaded",
	admission.ReasonPaused:             "its class is paused",
	admission.ReasonDraining:           "its model server takes no new work",
}
