package admin

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
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
	*api
	out     *bufio.Writer
	control *http.ResponseController
	last    uint64 // the number of the last event that was sent
}

func (a *api) events(c echo.Context) error {
	now := time.Now()
	every, err := stateEvery(c.QueryParam("state"))
	if err != nil {
		return err
	}
	from, err := since(c, now)
	if err != nil {
		return err
	}
	w, store := c.Response(), a.Telemetry.History
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	s := &eventStream{api: a, out: bufio.NewWriterSize(w, 32<<10), control: http.NewResponseController(w)}
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
		if len(events) < eventBatch && s.wait(ctx, tick) != nil {
			return nil
		}
		if events, complete = store.After(s.last, eventBatch); !complete {
			// The client was too slow: the events that it missed are not kept any more.
			s.last, events = store.Last(), nil
			if s.write("snapshot", s.last, a.board()) != nil {
				return nil
			}
		}
	}
}

// wait waits for an event. Meanwhile it sends the state when that is due, or a comment that
// keeps the connection open. An error says that the client is gone.
func (s *eventStream) wait(ctx context.Context, tick <-chan time.Time) error {
	beat := time.NewTimer(eventBeat)
	defer beat.Stop()
	select {
	case <-s.Telemetry.History.Changed(s.last):
		pause := time.NewTimer(eventPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	case <-tick:
		if err := s.write("state", 0, s.board()); err != nil {
			return err
		}
	case <-beat.C:
		if _, err := fmt.Fprint(s.out, ": still here\n\n"); err != nil {
			return err
		}
	case <-ctx.Done():
	}
	return ctx.Err()
}

// send sends events that were kept, and what was written before them.
func (s *eventStream) send(events []timeline.Event) error {
	for _, e := range events {
		s.last = e.Number
		text, err := s.sent.of(e)
		if err != nil {
			return err
		}
		s.out.Write(text) // a bufio.Writer keeps its first error
	}
	s.control.SetWriteDeadline(time.Now().Add(s.Proxy.Config().Limits.WriteStall))
	if err := s.out.Flush(); err != nil {
		return err
	}
	return s.control.Flush()
}

// write sends an event of text without a newline; number 0: it has no id, but for a
// snapshot.
func (s *eventStream) write(name string, number uint64, text []byte) error {
	_, err := s.out.Write(eventText(name, number, text))
	return err
}

func eventText(name string, number uint64, text []byte) []byte {
	b := make([]byte, 0, len(text)+64)
	b = append(append(append(b, "event: "...), name...), '\n')
	if number > 0 || name == "snapshot" {
		b = append(strconv.AppendUint(append(b, "id: "...), number, 10), '\n')
	}
	return append(append(append(b, "data: "...), text...), "\n\n"...)
}

// recent has the last events as they are sent, so that one is encoded once for all
// streams.
type recent struct {
	mu     sync.Mutex
	number [512]uint64 // guarded by mu; of the text at the same place
	text   [512][]byte // guarded by mu
}

func (x *recent) of(e timeline.Event) ([]byte, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	i := e.Number % uint64(len(x.text))
	if x.number[i] == e.Number {
		return x.text[i], nil
	}
	name, v := "sample", any(e.Sample)
	switch {
	case e.Request != nil:
		name, v = "request", e.Request
	case e.Decision != nil:
		name, v = "decision", e.Decision
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	x.number[i], x.text[i] = e.Number, eventText(name, e.Number, text)
	return x.text[i], nil
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

// board is the state as JSON with the first requests of the queues, for all streams.
type board struct {
	mu    sync.Mutex
	text  []byte    // guarded by mu
	until time.Time // guarded by mu; it is good enough until then
}

const (
	// boardHeads is how many of each class's waiting requests a board has.
	boardHeads = 50
	// boardAge is how old a board may be, and boardShare how much longer than it takes
	// to make one: all streams together take a twentieth of a core at the most.
	boardAge, boardShare = 200 * time.Millisecond, 20
)

type boardJSON struct {
	State
	Waiting []Waiter `json:"waiting"` // the first of each class
}

// board gives the present state with the first requests of the queues. It is made once for
// all streams that ask at the same time.
func (a *api) board() []byte {
	b := &a.shown
	b.mu.Lock()
	defer b.mu.Unlock()
	began := time.Now()
	if began.Before(b.until) {
		return b.text
	}
	now := boardJSON{State: a.describe(), Waiting: []Waiter{}}
	for _, w := range a.Controller.Heads(boardHeads) {
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
