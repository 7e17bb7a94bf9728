package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

const (
	// watch is what is watched: the requests of the last minutes, the state each second,
	// and requests as they end.
	watch = "/api/events?for=2m&state=1s"
	// silence is how long the stream may be silent. The state comes each second.
	silence = 10 * time.Second
	// comeBack is the pause before the stream of events is opened again.
	comeBack = time.Second
)

// follower passes the admin listener's events on. It opens the stream again each time that
// the stream ends.
type follower struct {
	client *client // without a limit on the time of an answer
	send   func(tea.Msg)
	last   string      // the last event's id; empty: there was none
	ended  requestsMsg // and have not been passed on yet
}

// follow passes events on until ctx ends: the state, requests that have ended, and
// whether events come at all. Where no history is kept there are none, and it returns.
func follow(ctx context.Context, c *client, send func(tea.Msg)) {
	patient := *c
	patient.http.Timeout = 0
	f := &follower{client: &patient, send: send}
	for ctx.Err() == nil {
		err := f.stream(ctx)
		if ctx.Err() == nil {
			send(streamMsg{err})
		}
		if isNotFound(err) {
			return
		}
		select {
		case <-time.After(comeBack):
		case <-ctx.Done():
		}
	}
}

// stream reads events until they end, which is always with an error.
func (f *follower) stream(ctx context.Context) error {
	header := http.Header{"Accept": {"text/event-stream"}}
	if f.last != "" {
		header.Set("Last-Event-ID", f.last)
	}
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	silent := time.AfterFunc(silence, func() { cut(fmt.Errorf("nothing came for %v", silence)) })
	defer silent.Stop()
	body, err := f.client.doWith(ctx, http.MethodGet, watch, header)
	if err != nil {
		return err
	}
	defer body.Close()
	f.send(streamMsg{})
	lines := bufio.NewReader(body) // whose length is bounded
	name := ""
	for {
		if lines.Buffered() == 0 && len(f.ended) > 0 {
			f.send(f.ended) // together: the screen is drawn once for them
			f.ended = nil
		}
		text, err := lines.ReadString('\n')
		if err != nil {
			return fmt.Errorf("the stream of events ended: %w", cmp.Or(context.Cause(ctx), err))
		}
		silent.Reset(silence)
		field, value, _ := strings.Cut(strings.TrimRight(text, "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "id":
			f.last = value
		case "data":
			if err := f.take(name, []byte(value)); err != nil {
				return fmt.Errorf("%s does not tell of what happens as Anteroom does: %w", f.client.base, err)
			}
		}
	}
}

// take passes one event on.
func (f *follower) take(name string, data []byte) error {
	switch name {
	case "request":
		var r timeline.Request
		if err := json.Unmarshal(data, &r); err != nil {
			return err
		}
		f.ended = append(f.ended, r)
	case "snapshot", "state":
		m := stateMsg{at: time.Now()}
		if err := errors.Join(json.Unmarshal(data, &m.state), json.Unmarshal(data, &m.queue)); err != nil {
			return err
		}
		f.send(m)
	}
	return nil
}
