package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

const (
	// backlog is how far back the list of requests reaches at the start.
	backlog = "2m"
	// comeBack is how long after its end the stream of events is opened again.
	comeBack = time.Second
	// maxEvent bounds one event: a snapshot of a large box.
	maxEvent = 16 << 20
)

// follow passes the admin listener's events on until ctx ends: requests that have
// ended, that something was decided, and whether events come at all.
func follow(ctx context.Context, c *client, send func(tea.Msg)) {
	open := *c // one connection that stays
	open.http.Timeout = 0
	f := &follower{client: &open, answers: c, send: send}
	for ctx.Err() == nil {
		err := f.stream(ctx)
		if isNotFound(err) {
			send(streamMsg{err})
			return // it keeps no history, until it starts again
		}
		if ctx.Err() == nil {
			send(streamMsg{err})
		}
		select {
		case <-time.After(comeBack):
		case <-ctx.Done():
		}
	}
}

// follower is a stream of events, opened as often as it ends.
type follower struct {
	client, answers *client
	send            func(tea.Msg)
	last            string // the last event's id; empty: there was none
}

// stream reads events until they end, which is always with an error.
func (f *follower) stream(ctx context.Context) error {
	header := http.Header{"Accept": {"text/event-stream"}}
	if f.last != "" {
		header.Set("Last-Event-ID", f.last)
	}
	body, err := f.client.doWith(ctx, http.MethodGet, "/api/events", header)
	if err != nil {
		return err
	}
	defer body.Close()
	f.send(streamMsg{})
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	name := ""
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			name = value
		case "id":
			f.last = value
		case "data":
			if err := f.take(name, value); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%s ended the stream of events", f.client.base)
}

// take passes one event on.
func (f *follower) take(name, data string) error {
	switch name {
	case "request":
		var r timeline.Request
		if err := json.Unmarshal([]byte(data), &r); err != nil {
			return fmt.Errorf("%s does not tell of requests as Anteroom does: %w", f.client.base, err)
		}
		f.send(requestsMsg{r})
	case "decision":
		f.send(changedMsg{})
	case "snapshot": // what came before it, it does not tell
		var kept timeline.History
		if err := f.answers.get("/api/history?for="+backlog, &kept); err != nil {
			return err
		}
		f.send(requestsMsg(kept.Requests))
	}
	return nil
}
