package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/backend"
)

// Gradio tells the end of its work to the caller's stream of events alone, so
// that stream is watched as it passes through. Where the caller opens none, or
// leaves it, nothing tells, and completion.timeout ends the wait.

// eventHead is how much of an event's line is kept: the result that it carries
// comes behind its name.
const eventHead = 4 << 10

// eventWatch is a stream of Gradio's events on its way to the client.
type eventWatch struct {
	io.ReadCloser
	jobs  *jobs
	event string // the only one that the stream is about; empty: they are named
	line  []byte // the present one's beginning
}

// watches says whether a request is answered with events to watch.
func (x *exchange) watches() (event string, ok bool) {
	if !x.rules.watched[x.route.Backend] || x.in.Method != http.MethodGet {
		return "", false
	}
	return backend.GradioEvents(x.in.URL.Path)
}

// askPlain leaves out what would make an answer unreadable here.
func (x *exchange) askPlain(header http.Header) {
	if _, ok := x.watches(); ok || x.try.completion != nil {
		header.Del("Accept-Encoding")
	}
}

// watchEvents puts itself between the backend's events and their reader.
func (x *exchange) watchEvents(res *http.Response) {
	event, ok := x.watches()
	if ok && res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		res.Body = &eventWatch{ReadCloser: res.Body, jobs: &x.jobs, event: event}
	}
}

func (w *eventWatch) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		w.line = append(w.line, line[:min(len(line), eventHead-len(w.line))]...)
		if whole {
			w.judge()
			w.line = w.line[:0]
		}
		rest = after
	}
	return n, err
}

// judge looks at a line for the end of a job.
func (w *eventWatch) judge() {
	field, value, _ := bytes.Cut(w.line, []byte{':'})
	value = bytes.TrimSpace(value)
	switch string(field) {
	case "event":
		switch kind := string(value); {
		case w.event == "":
		case kind == "complete":
			w.jobs.tell(w.event, nil)
		case kind == "error":
			w.jobs.tell(w.event, errJobFailed)
		}
	case "data":
		if bytes.Contains(value, []byte("process_completed")) {
			if event, failed := completedEvent(value); event != "" && failed {
				w.jobs.tell(event, errJobFailed)
			} else if event != "" {
				w.jobs.tell(event, nil)
			}
		}
	}
}

// completedEvent reads a message, which may be cut, and names the event that
// it says is completed; empty: it does not.
func completedEvent(message []byte) (event string, failed bool) {
	d := json.NewDecoder(bytes.NewReader(message))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", false
	}
	completed := false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			break
		}
		var value json.RawMessage
		if d.Decode(&value) != nil {
			break
		}
		switch name {
		case "msg":
			completed = string(value) == `"process_completed"`
		case "event_id":
			json.Unmarshal(value, &event)
		case "success":
			failed = string(value) == "false"
		}
	}
	if !completed {
		return "", false
	}
	return event, failed
}
