package http1

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"
)

// exchange is a request and its answer. It is the body of the answer, too.
type exchange struct {
	transport *Transport
	req       *http.Request
	most      int64 // bytes of an answer's head

	head    *[]byte // what is sent first; nil: it was sent
	whole   bool    // head is all of the request
	length  int64   // of the body; -1: is not announced
	chunked bool
	expects bool // the server is to ask for the body

	conn   *conn
	stop   func() bool // watching the context; nil: it has no end
	upload *upload     // nil: the request was sent at once
	broken bool        // it could not be sent
	res    *http.Response
	source io.ReadCloser // the body as it is read

	mu      sync.Mutex
	reading bool  // guarded by mu; by a goroutine that has left mu
	closed  bool  // guarded by mu
	over    bool  // guarded by mu; the connection is given back or closed
	err     error // guarded by mu; how the body ended
	seen    int64 // guarded by mu; bytes of the body that were read
}

// run sends the request on a connection and gives the head of its answer. again says
// that it may be sent once more.
func (x *exchange) run() (res *http.Response, again bool, err error) {
	ctx := x.req.Context()
	isHandedOn := false
	defer func() { // for a panic of what is told of early answers, too
		if !isHandedOn && x.conn != nil {
			x.upload.settle(false)
			x.finish(false)
		}
	}()
	n, err := x.connect(ctx)
	if x.conn == nil {
		x.drop()
		closeBody(x.req)
		return nil, false, err
	}
	c := x.conn
	reused := c.used
	c.used = true
	var unsent error
	if x.whole {
		if n == 0 && err != nil && reused && ctx.Err() == nil {
			return nil, true, err // not a byte was sent, so the server has seen nothing of the request
		}
		x.drop()
		closeBody(x.req)
		if x.broken = err != nil; x.broken {
			// The server may have answered before it closed the connection.
			unsent = err
			c.net.SetReadDeadline(time.Now().Add(time.Second))
		}
	} else {
		x.upload = &upload{proceed: make(chan bool, 1), done: make(chan struct{})}
		go x.upload.send(x, c, x.head, x.transport.ExpectContinueTimeout)
		x.head = nil
	}
	c.open()
	c.left = x.most
	var first error // of the first byte
	if _, first = c.in.Peek(1); first == nil {
		res, err = x.answer(ctx)
	} else {
		err = first
	}
	if err != nil {
		again, err = x.unanswered(first != nil && reused && !errors.Is(first, errLongHead), cmp.Or(unsent, err))
		return nil, again, err
	}
	isHandedOn = true
	x.res = res
	if res.Body == http.NoBody {
		x.finish(true)
	} else {
		x.source, res.Body = res.Body, x
	}
	return res, false, nil
}

// connect returns a connection that its server has not closed. If head is the whole
// request, it is written too: n bytes of it, and err says why not all. If there is no
// connection, err says why.
func (x *exchange) connect(ctx context.Context) (n int, err error) {
	for isClosed := true; isClosed; {
		if x.conn, err = x.transport.connection(ctx); err != nil {
			x.conn = nil
			return 0, err
		}
		if ctx.Done() != nil {
			x.stop = context.AfterFunc(ctx, x.conn.cut)
		}
		if x.whole {
			n, isClosed, err = x.conn.write(*x.head)
		} else {
			isClosed = x.conn.used && !x.conn.isQuiet()
		}
		if isClosed {
			x.finish(false)
			x.conn, x.stop = nil, nil
		}
	}
	return n, err
}

// unanswered says why there is no answer, and whether the request may be sent again because
// the connection may have been closed before the server had the request.
func (x *exchange) unanswered(mayBeClosed bool, err error) (again bool, reason error) {
	if ctx := x.req.Context(); ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	again = mayBeClosed && x.isRepeated()
	if x.upload != nil {
		if reason := x.upload.broken.Load(); reason != nil {
			return false, *reason
		}
	}
	return again, err
}

// isRepeated says that a request which the server may have had and has not answered may be
// sent again, by the rules of http.Transport.
func (x *exchange) isRepeated() bool {
	req := x.req
	if req.Body != nil && req.Body != http.NoBody && req.GetBody == nil {
		return false
	}
	if u := x.upload; u != nil {
		x.conn.net.Close()
		<-u.done // its body is read no more
		if u.sent.Load() == 0 {
			return true
		}
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return req.Header["Idempotency-Key"] != nil || req.Header["X-Idempotency-Key"] != nil
}

// rewind prepares the body for being sent again, if it is not in head.
func (x *exchange) rewind() error {
	x.stop, x.upload = nil, nil
	if x.head != nil || x.req.Body == nil || x.req.Body == http.NoBody {
		return nil
	}
	body, err := x.req.GetBody()
	if err != nil {
		return err
	}
	next := *x.req
	next.Body = body
	x.req = &next
	return nil
}

// answer reads the head of the answer, and the 1xx answers before it.
func (x *exchange) answer(ctx context.Context) (*http.Response, error) {
	c, trace := x.conn, httptrace.ContextClientTrace(ctx)
	for {
		res, err := http.ReadResponse(c.in, x.req)
		switch {
		case err != nil && c.left <= 0:
			return nil, fmt.Errorf("%w: want at most %d bytes", errLongHead, x.most)
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols, res.StatusCode > 199, res.StatusCode < 100:
			// A body that waits for 100 Continue is sent if the connection is to be kept.
			x.upload.settle(!res.Close && !x.closes())
			c.left = 1<<63 - 1
			return res, nil
		}
		if res.StatusCode == http.StatusContinue {
			if trace != nil && trace.Got100Continue != nil && x.expects {
				trace.Got100Continue()
			}
			x.upload.settle(true)
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
			c.left = x.most // the hook for 1xx answers bounds their number
		}
	}
}

// soon is how long the end of an answer waits for the end of its request.
const soon = 50 * time.Millisecond

// isSent says that the request has come to its end.
func (x *exchange) isSent() bool {
	u := x.upload
	if u == nil {
		return !x.broken
	}
	select {
	case <-u.done:
		return u.failed == nil
	default:
	}
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case <-u.done:
		return u.failed == nil
	case <-timer.C:
		return false
	}
}

// finish ends the use of the connection. whole says that the answer has come to its end.
func (x *exchange) finish(whole bool) {
	c := x.conn
	goesOn := whole && x.res.StatusCode > 199 && !x.res.Close && !x.closes() && !c.ended && c.in.Buffered() == 0 && x.isSent()
	if x.stop != nil && !x.stop() {
		goesOn = false // it is being closed
	}
	c.release()
	if goesOn {
		x.transport.keep(c)
	} else {
		c.net.Close()
	}
}

// Read reads the answer's body. It returns the bytes that are there, and waits only if
// there are none.
func (x *exchange) Read(p []byte) (int, error) {
	x.mu.Lock()
	switch {
	case x.closed:
		x.mu.Unlock()
		return 0, http.ErrBodyReadAfterClose
	case x.err != nil:
		defer x.mu.Unlock()
		return 0, x.err
	}
	x.reading = true
	x.mu.Unlock()
	n, err := x.source.Read(p)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.reading = false
	x.seen += int64(n)
	if err == nil && !x.closed {
		return n, nil
	}
	x.end(err == io.EOF && !x.closed)
	switch ctx := x.req.Context(); {
	case err == io.EOF:
	case x.closed:
		err = http.ErrBodyReadAfterClose
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	}
	x.err = err
	return n, err
}

// Close ends the answer. If the rest of the answer has not arrived yet, it closes the
// connection. It may be called during Read, and ends it.
func (x *exchange) Close() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	x.closed = true
	if x.reading {
		x.conn.net.Close() // Read does the rest
		return nil
	}
	left := x.res.ContentLength - x.seen
	if isHere := !x.over && left > 0 && left <= int64(x.conn.in.Buffered()); isHere {
		_, err := io.Copy(io.Discard, x.source)
		x.end(err == nil)
	}
	x.end(false)
	return nil
}

// end calls finish once. The caller holds mu.
func (x *exchange) end(whole bool) {
	if !x.over {
		x.over = true
		x.finish(whole)
	}
}
