package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"

	"github.com/anteroom-gpu/anteroom/backend"
)

// Gradio reports the end of its work only in the caller's stream of events, and sends each
// message once. So that stream is watched while it is forwarded: see listener.

// eventHead is how many bytes of an event's line are kept. The event's name is in them; its
// result comes after the name.
const eventHead = 4 << 10

// eventWatch is a stream of Gradio's events that is forwarded to the client.
type eventWatch struct {
	io.ReadCloser
	jobs    *jobs
	backend *replica
	event   string // the only one that the stream is about; empty: they are named
	failed  bool   // the event reports a failure: its data says why
	line    []byte // the present one's beginning
}

// watches says whether a request is answered with events to watch.
func (x *exchange) watches() (event string, ok bool) {
	if !x.rules.watched[x.route.Backend] || x.in.Method != http.MethodGet {
		return "", false
	}
	return backend.GradioEvents(x.in.URL.Path)
}

// askPlain removes Accept-Encoding if the proxy has to read the answer.
func (x *exchange) askPlain(header http.Header) {
	if _, ok := x.watches(); ok || x.try.completion != nil || x.out.committed {
		header.Del("Accept-Encoding")
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
		w.failed = w.event != "" && string(value) == "error"
		if w.event != "" && string(value) == "complete" {
			w.jobs.tell(w.event, nil)
		}
	case "data":
		if w.failed {
			w.failed = false
			w.jobs.tell(w.event, w.failure(value))
		} else if bytes.Contains(value, []byte("process_completed")) {
			if event, output, failed := completedEvent(value); event != "" && failed {
				w.jobs.tell(event, w.failure(output))
			} else if event != "" {
				w.jobs.tell(event, nil)
			}
		}
	}
}

// failure is the error of a failed job, with what its event says.
func (w *eventWatch) failure(said []byte) error {
	if full := w.backend.ResultOutOfMemory(said); full != nil {
		return &jobMemory{full}
	}
	return errJobFailed
}

// completedEvent reads a message, which may be cut, and names the event that
// it says is completed, with its output; empty: it does not.
func completedEvent(message []byte) (event string, output []byte, failed bool) {
	d := json.NewDecoder(bytes.NewReader(message))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return "", nil, false
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
		case "output":
			output = value
		case "success":
			failed = string(value) == "false"
		}
	}
	if !completed {
		return "", nil, false
	}
	return event, output, failed
}
