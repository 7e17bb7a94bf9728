package proxy

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// A stream of Gradio's events has two readers: its client, and the jobs whose end it
// reports. If its client leaves while such a job runs, the proxy reads on. If no client
// opens the stream, the proxy opens it for the job, and a client that comes later gets what
// was read. A stream is never opened twice at once, because Gradio sends each message to
// one reader only.

const (
	// unheardAfter is how many polls of a job pass until its stream is opened for it, if
	// its client has not opened it.
	unheardAfter = 20
	// mostHeard is how many bytes of a stream are kept for a client that has not come yet,
	// and mostListeners how many such streams are kept.
	mostHeard, mostListeners = 256 << 10, 256
	// keptFor is how long that is kept after the stream's end.
	keptFor = 5 * time.Minute
)

// source is a stream of Gradio's events: that of a session, or of one call.
type source struct {
	key    string // with its backend's name; empty: there is none
	target string // its path and query, as the backend is asked
}

// sourceOf is the stream that tells of the event that a request has begun, or of those
// that it asks for (event is empty then).
func (x *exchange) sourceOf(event string) source {
	path := x.route.Rewrite.Path(rawPath(x.in))
	session, of := "", x.in.URL.Query().Get("session_hash")
	if event != "" {
		of = routing.GradioSession(x.in, x.seen())
	}
	root, joins := strings.CutSuffix(path, "/queue/join")
	switch {
	case joins && of == "":
		return source{}
	case joins:
		path, session = root+"/queue/data", of
	case event != "":
		path += "/" + event
	case strings.HasSuffix(path, "/queue/data"):
		session = of
	}
	target := path
	if session != "" {
		target += "?" + url.Values{"session_hash": {session}}.Encode()
	}
	return source{x.route.Backend + " " + target, target}
}

// listener is a stream of events that is read, or about to be.
type listener struct {
	source
	jobs *jobs
	// opened is closed when it has been asked for; header is nil then where it was not
	// given. Both, body and cut do not change any more.
	opened chan struct{}
	header http.Header
	body   *eventWatch
	cut    context.CancelFunc

	mu     sync.Mutex
	moved  sync.Cond // on mu: something came, was taken, or a client came or left
	heard  []byte    // guarded by mu; and not passed on
	client *passage  // guarded by mu; the client that reads; nil: none does
	came   bool      // guarded by mu; a client did, once
	lost   bool      // guarded by mu; something was dropped that no client has had
	ends   bool      // guarded by mu; it was cut
	err    error     // guarded by mu; the end
}

// passage is a listener's body for one client.
type passage struct {
	*listener
	stop func() bool
}

// reserve gives the stream of a source, or makes one that is the caller's to open. Nil: the
// proxy ends. A stream that is about to end is not given. A stream that has ended is given
// to clients only, because it has no news for a job.
func (s *jobs) reserve(from source, body *eventWatch, forJob bool) (l *listener, isNew bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.listeners[from.key]; s.closed || l != nil && !l.isOver(forJob) {
		return l, false
	}
	body.jobs = s
	l = &listener{source: from, jobs: s, body: body, opened: make(chan struct{}), cut: func() {}}
	l.moved.L = &l.mu
	if s.listeners == nil {
		s.listeners = make(map[string]*listener)
	}
	l.lost = len(s.listeners) >= mostListeners // nothing is kept of it
	s.listeners[from.key] = l
	return l, true
}

// open asks for the stream; client ends when no client wants it any more. An answer that is
// no stream of events is returned as it is, and the listener is forgotten.
func (l *listener) open(client context.Context, out *http.Request, words backend.Client) (*http.Response, error) {
	ctx, cut := context.WithCancel(context.WithoutCancel(out.Context()))
	stop := context.AfterFunc(client, cut) // until it is known what the answer is
	res, err := l.body.backend.Send(out.WithContext(ctx), words)
	if err != nil || !tellsEvents(res) || !stop() {
		l.forget()
		close(l.opened)
		return res, err
	}
	l.header, l.body.ReadCloser = res.Header, res.Body
	l.jobs.mu.Lock()
	l.cut = cut
	if l.jobs.closed {
		cut()
	}
	l.jobs.mu.Unlock()
	close(l.opened)
	return res, nil
}

func tellsEvents(res *http.Response) bool {
	return res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")
}

// sendOrListen sends a request; one for events takes part in the stream that there is.
func (x *exchange) sendOrListen(e *attempt, out *http.Request) (*http.Response, error) {
	event, ok := x.watches()
	if !ok {
		return e.to.Send(out, x)
	}
	watch := func(body io.ReadCloser) *eventWatch {
		return &eventWatch{ReadCloser: body, jobs: &x.jobs, backend: e.to, event: event}
	}
	l, isNew := (*listener)(nil), false
	if e.grant == nil {
		l, isNew = x.jobs.reserve(x.sourceOf(""), watch(nil), false)
	}
	if isNew {
		res, err := l.open(out.Context(), out, x)
		if l.header == nil {
			return res, err
		}
		go l.pump()
	}
	if l != nil {
		select {
		case <-l.opened:
		case <-out.Context().Done():
			return nil, out.Context().Err()
		}
		if body := l.give(out.Context()); body != nil {
			return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
				Header: l.header.Clone(), Body: body, ContentLength: -1, Request: out}, nil
		}
	}
	// Another client reads it, or a part of it is lost.
	res, err := e.to.Send(out, x)
	if err == nil && tellsEvents(res) {
		res.Body = watch(res.Body)
	}
	return res, err
}

// untilUnheard tells when a job's stream is to be opened for it.
func (j *job) untilUnheard() *time.Timer {
	if j.tells.key == "" {
		return time.NewTimer(j.how.Timeout)
	}
	return time.NewTimer(unheardAfter * j.how.Every)
}

// listen opens the stream that tells of a job, if no client has.
func (j *job) listen() {
	event := ""
	if !strings.Contains(j.tells.target, "/queue/data?") {
		event = j.Event
	}
	base := j.backend.Base()
	out, err := http.NewRequest(http.MethodGet, base.Scheme+"://"+base.Host+j.tells.target, nil)
	if err != nil || j.tells.key == "" {
		return
	}
	l, isNew := j.following.reserve(j.tells, &eventWatch{backend: j.backend, event: event}, true)
	if !isNew {
		return
	}
	maps.Copy(out.Header, j.header)
	out.Header.Set("Accept", "text/event-stream")
	out.Host = j.host
	res, err := l.open(j.ctx, out, nil)
	switch {
	case l.header != nil:
		j.log.Info("no client listens for the end of a job: the proxy reads its stream")
		l.pump()
	case err == nil:
		res.Body.Close()
	}
}

// isAwaited says that a job is followed whose end a stream tells. The caller holds mu.
func (s *jobs) isAwaited(l *listener) bool {
	for j := range s.open {
		if j.tells.key == l.key {
			return true
		}
	}
	return false
}

// give lets a client read the stream, until it leaves. Nil: another client reads or has
// read it, a part is lost, or the stream was not opened or is about to end.
func (l *listener) give(client context.Context) io.ReadCloser {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.header == nil || l.client != nil || l.lost && !l.came || l.ends || l.err != nil && l.came {
		return nil
	}
	p := &passage{listener: l}
	p.stop = context.AfterFunc(client, func() { p.Close() })
	l.client, l.came = p, true
	l.moved.Broadcast()
	return p
}

// pump reads to the stream's end.
func (l *listener) pump() {
	buffer := make([]byte, 4<<10)
	for {
		n, err := l.body.Read(buffer)
		l.mu.Lock()
		for l.client != nil && len(l.heard) >= mostHeard {
			l.moved.Wait()
		}
		if l.client == nil && (l.came || l.lost || len(l.heard)+n > mostHeard) {
			// Its client has left, or did not come in time.
			l.lost, l.heard = l.lost || n > 0 && !l.came, nil
		} else {
			l.heard = append(l.heard, buffer[:n]...)
		}
		l.err = err
		isKept := err != nil && !l.lost && (l.client != nil || !l.came)
		l.moved.Broadcast()
		l.mu.Unlock()
		if err == nil {
			continue
		}
		if isKept {
			time.AfterFunc(keptFor, l.forget)
		} else {
			l.forget()
		}
		l.body.Close()
		l.cut()
		return
	}
}

// forget takes a stream off the list.
func (l *listener) forget() {
	l.jobs.mu.Lock()
	defer l.jobs.mu.Unlock()
	l.unlist()
}

// unlist is forget for a caller that holds the mutex of the jobs.
func (l *listener) unlist() {
	if s := l.jobs; s.listeners[l.key] == l {
		delete(s.listeners, l.key)
	}
}

// isOver says that the stream has ended, that no client reads the rest, and that no other
// client may.
func (l *listener) isOver(forJob bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client == nil && (l.ends || l.err != nil && (forJob || l.came))
}

// leave ends a stream that no job waits for, unless a client reads it or may come for it.
// The caller holds the mutex of the jobs.
func (l *listener) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil && (l.came || l.lost) {
		l.ends = true
		l.unlist() // the next client is not given what ends
		l.cut()
	}
}

// Read returns bytes of the stream, and waits for them.
func (p *passage) Read(to []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.client != p:
			return 0, http.ErrBodyReadAfterClose
		case len(p.heard) > 0:
			n := copy(to, p.heard)
			p.heard = p.heard[n:]
			p.moved.Broadcast()
			return n, nil
		case p.err != nil:
			return 0, p.err
		}
		p.moved.Wait()
	}
}

// Close is the client's leaving. The stream goes on while a job waits for it.
func (p *passage) Close() error {
	l := p.listener
	l.mu.Lock()
	if l.client != p {
		l.mu.Unlock()
		return nil
	}
	l.client, l.heard = nil, nil
	over := l.err != nil
	l.moved.Broadcast()
	l.mu.Unlock()
	p.stop()
	if over {
		l.forget()
		return nil
	}
	s := l.jobs
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.isAwaited(l) {
		l.leave() // unless another client has come
	}
	return nil
}
