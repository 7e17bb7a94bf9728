package proxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

const (
	// eventPause is how long events are collected before they are sent together.
	eventPause = 100 * time.Millisecond
	// eventBatch bounds how many are sent together.
	eventBatch = 1000
	// eventBeat is how long a stream stays silent at the most.
	eventBeat = 15 * time.Second
	// shortestState and longestState bound how often a stream has the state.
	shortestState, longestState = 250 * time.Millisecond, time.Minute
)

// eventStream is an answer by the rules of server-sent events: `snapshot` with the state,
// then `request`, `decision` and `sample` as they come, each with a number as its id.
// A client that comes back with Last-Event-ID gets what it has missed, or a new
// snapshot where that is not kept any more. With ?for=10m the events of the last ten
// minutes follow the first snapshot, with ?state=1s the state comes again each second,
// as `state` without an id.
type eventStream struct {
	*admin
	out     *bufio.Writer
	control *http.ResponseController
	last    uint64 // the number of the last event that was sent
}

func (a *admin) events(c echo.Context) error {
	now := time.Now()
	every, err := stateEvery(c.QueryParam("state"))
	if err != nil {
		return err
	}
	from, err := since(c, now)
	if err != nil {
		return err
	}
	w, store := c.Response(), a.telemetry.History
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	s := &eventStream{admin: a, out: bufio.NewWriter(w), control: http.NewResponseController(w)}
	last, fresh := strconv.ParseUint(c.Request().Header.Get("Last-Event-ID"), 10, 64)
	s.last = last
	events, complete := store.After(s.last, eventBatch)
	if fresh != nil || !complete {
		s.last, events = store.Last(), nil
		if c.QueryParam("for") != "" {
			s.last = store.Before(from)
		}
		if s.write("snapshot", s.last, a.board()) != nil {
			return nil // the client is gone
		}
	}
	ctx := c.Request().Context()
	var tick <-chan time.Time // nil: no states
	if every > 0 {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		if s.send(events) != nil {
			return nil
		}
		beat := time.NewTimer(eventBeat)
		select {
		case <-store.Changed(s.last):
			pause := time.NewTimer(eventPause)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
			pause.Stop()
		case <-tick:
			err = s.write("state", 0, a.board())
		case <-beat.C:
			_, err = fmt.Fprint(s.out, ": still here\n\n")
		case <-ctx.Done():
		}
		beat.Stop()
		if ctx.Err() != nil || err != nil {
			return nil
		}
		if events, complete = store.After(s.last, eventBatch); !complete {
			// It was too slow: what it has missed is gone.
			s.last, events = store.Last(), nil
			if s.write("snapshot", s.last, a.board()) != nil {
				return nil
			}
		}
	}
}

// send sends events that were kept, and what was written before them.
func (s *eventStream) send(events []timeline.Event) error {
	for _, e := range events {
		s.last = e.Number
		if err := s.writeKept(e); err != nil {
			return err
		}
	}
	s.control.SetWriteDeadline(time.Now().Add(s.rules.Load().limits.WriteStall))
	if err := s.out.Flush(); err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *eventStream) writeKept(e timeline.Event) error {
	name, v := "sample", any(e.Sample)
	switch {
	case e.Request != nil:
		name, v = "request", e.Request
	case e.Decision != nil:
		name, v = "decision", e.Decision
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.write(name, e.Number, text)
}

// write writes an event of text without a newline; number 0: it has no id.
func (s *eventStream) write(name string, number uint64, text []byte) error {
	io.WriteString(s.out, "event: "+name+"\n")
	if number > 0 || name == "snapshot" {
		io.WriteString(s.out, "id: "+strconv.FormatUint(number, 10)+"\n")
	}
	io.WriteString(s.out, "data: ")
	s.out.Write(text)
	_, err := io.WriteString(s.out, "\n\n") // a bufio.Writer keeps its first error
	return err
}

// stateEvery reads ?state=1s; nothing said: no states, 0.
func stateEvery(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < shortestState || d > longestState {
		return 0, echo.NewHTTPError(http.StatusBadRequest, "state "+strconv.Quote(text)+": want a duration from 250ms to 1m, such as 1s")
	}
	return d, nil
}

// board is the state as JSON with the heads of the queues, for all who watch.
type board struct {
	mu    sync.Mutex
	text  []byte    // guarded by mu
	until time.Time // guarded by mu; it is good enough until then
}

const (
	// boardHeads is how many of each class's waiting requests a board has.
	boardHeads = 50
	// boardAge is how old a board may be, and boardShare how much longer than it takes
	// to make one: those who watch take a twentieth of a core at the most.
	boardAge, boardShare = 200 * time.Millisecond, 20
)

type boardJSON struct {
	stateJSON
	Waiting []waiterJSON `json:"waiting"` // the first of each class
}

// board gives the present state with the heads of the queues. It is made once for all
// that ask at the same time.
func (a *admin) board() []byte {
	b := &a.shown
	b.mu.Lock()
	defer b.mu.Unlock()
	began := time.Now()
	if began.Before(b.until) {
		return b.text
	}
	now := boardJSON{stateJSON: a.describe(), Waiting: []waiterJSON{}}
	for _, w := range a.controller.Heads(boardHeads) {
		now.Waiting = append(now.Waiting, describeWaiter(w))
	}
	text, err := json.Marshal(now)
	if err != nil {
		panic("a state that is no JSON: " + err.Error())
	}
	took := time.Since(began)
	b.text, b.until = text, began.Add(max(boardAge, boardShare*took))
	return text
}
