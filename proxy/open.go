package proxy

import (
	"context"
	"net/http"
	"strings"
	"sync"
)

// open counts the requests that are being answered. Streams are counted apart: a shutdown
// need not wait for a web page that keeps a stream of events or a WebSocket open.
type open struct {
	mu       sync.Mutex
	requests int                  // guarded by mu; handlers that have not returned, and tunnels
	streams  map[*stream]struct{} // guarded by mu
	changed  chan struct{}        // guarded by mu; closed at the next change; nil: no caller waits
}

// stream is one that may go on for ever.
type stream struct {
	end  func()      // cuts it
	idle func() bool // it holds no grant
}

// begin counts a request until end is called for it.
func (o *open) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests++
}

func (o *open) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.requests--
	o.tell()
}

// stream notes that a request goes on as a stream, until over is called.
func (o *open) stream(end func(), idle func() bool) (over func()) {
	s := &stream{end, idle}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.streams == nil {
		o.streams = make(map[*stream]struct{})
	}
	o.streams[s] = struct{}{}
	o.tell()
	return func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.streams, s)
		o.tell()
	}
}

// tell wakes the callers of wait. The caller holds mu.
func (o *open) tell() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// wait returns when nothing is being answered. When only streams are left that
// hold nothing, it ends them; when ctx ends, all.
func (o *open) wait(ctx context.Context) {
	for {
		o.mu.Lock()
		var ends []func()
		for s := range o.streams {
			if s.idle() || ctx.Err() != nil {
				ends = append(ends, s.end)
			}
		}
		if ctx.Err() == nil && len(ends) < o.requests {
			ends = nil // something else is being answered
		}
		done := o.requests == 0 || ctx.Err() != nil
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		for _, end := range ends {
			end()
		}
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// isEvents says that an answer is a stream that goes on for as long as a client
// listens.
func isEvents(header http.Header) bool {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "text/event-stream", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/json-seq":
		return true
	}
	return false
}
