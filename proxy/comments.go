package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/anteroom-gpu/anteroom/routing"
)

// While a stream waits in the queue, its route may send comments of server-sent events, so
// that nothing between client and proxy closes the connection as idle. From the first
// comment on the answer is a stream with status 200. A later refusal or error is an event
// of that stream.

// comment sends comments to the client of a stream until the result is called. The
// first comes after the route's time: a request that starts sooner sees none of this.
func (x *exchange) comment() (stop func()) {
	every := x.route.WaitingComments
	if every <= 0 || x.isStream() || x.route.Errors == "ollama" || x.route.Errors == "grpc" || !routing.AsksForStream(x.in, x.seen()) {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if x.sendComment() != nil {
					return // the client is gone, and its context ends
				}
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// sendComment commits the answer to a stream, if that was not done, and sends one line.
func (x *exchange) sendComment() error {
	o := &x.out
	control := http.NewResponseController(o.ResponseWriter)
	control.SetWriteDeadline(time.Now().Add(o.stall))
	if !o.committed {
		header := o.Header()
		header.Set("Content-Type", "text/event-stream")
		header.Set("Cache-Control", "no-cache")
		if origin := x.rules.config.CORS.allows(x.in); origin != "" {
			allowOrigin(header, origin)
		}
		x.describe(&headers{to: header})
		o.WriteHeader(http.StatusOK)
		o.committed = true
	}
	line := ": waiting"
	if w, ok := x.waiting(x.trace.Origin()); ok {
		line += ", position " + strconv.Itoa(w.Position)
	}
	if _, err := io.WriteString(o.ResponseWriter, line+"\n\n"); err != nil {
		return err
	}
	return control.Flush()
}

// sendEvent is a refusal to a client that has been sent comments. OpenAI's clients know
// an error by its key, others by the event's name.
func (f *refusal) sendEvent(w io.Writer, dialect string) {
	_, body := f.body(answers[f.code], dialect)
	if dialect != "openai" {
		io.WriteString(w, "event: error\n")
	}
	io.WriteString(w, "data: "+string(body)+"\n") // a client that is gone needs no answer
}

// fitComments turns a backend's answer into a continuation of a stream that began with
// comments. An answer that is no stream of events becomes one event. The event is named
// error if the answer is no success.
func (x *exchange) fitComments(res *http.Response) {
	ok := res.StatusCode/100 == 2
	if ok && isEvents(res.Header) {
		return
	}
	body := &asEvent{ReadCloser: res.Body, starts: true}
	if !ok && x.route.Errors != "openai" {
		body.ready = []byte("event: error\n")
	}
	res.Body, res.ContentLength = body, -1
	res.Header.Del("Content-Length")
}

// asEvent reads a body as the data of one event.
type asEvent struct {
	io.ReadCloser
	ready  []byte // encoded, and not read yet
	starts bool   // the next byte begins a line
	err    error
}

func (b *asEvent) Read(p []byte) (int, error) {
	for len(b.ready) == 0 {
		if b.err != nil {
			return 0, b.err
		}
		chunk := make([]byte, 4<<10)
		n, err := b.ReadCloser.Read(chunk)
		for _, c := range bytes.ReplaceAll(chunk[:n], []byte{'\r'}, nil) {
			if b.starts {
				b.ready = append(b.ready, "data: "...)
			}
			b.ready, b.starts = append(b.ready, c), c == '\n'
		}
		if b.err = err; err == io.EOF {
			if !b.starts {
				b.ready = append(b.ready, '\n')
			}
			b.ready = append(b.ready, '\n')
		}
	}
	n := copy(p, b.ready)
	b.ready = b.ready[n:]
	return n, nil
}
