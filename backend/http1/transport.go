// Package http1 is a client of one HTTP/1.1 server, behind http.RoundTripper. The
// goroutine that calls RoundTrip writes the request and reads the answer, with no hand-off
// to others, and an idle connection holds neither goroutines nor buffers.
//
// It promises:
//
//  1. Answers are what net/http reads: heads and bodies are parsed by http.ReadResponse.
//  2. A connection serves another request only when request and answer both came to
//     their ends, nothing stands behind the answer, and neither side wants it closed.
//     Before that, a look at its socket shows whether the server has closed it.
//  3. A request is sent again only as http.Transport does, or when not a byte of it was
//     sent: on a connection that was used before.
//  4. The end of a request's context closes its connection at once, whether or not
//     a caller writes or reads.
//  5. Requests that are not plain HTTP/1.1 use http.Transport: TLS, HTTP/2, upgrades,
//     CONNECT, and requests that http.Transport refuses.
package http1

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Transport sends requests to one server. It may be used by many goroutines at once.
//
// The http.Transport in it has the settings of both: DialContext, which must not be nil,
// IdleConnTimeout, DisableKeepAlives, MaxResponseHeaderBytes (0: 1 MiB) and
// ExpectContinueTimeout; with a ResponseHeaderTimeout all requests use http.Transport.
// Compression, proxies, limits of connections and Request.Cancel have no effect on the
// requests that Transport sends itself. Of httptrace it calls Got1xxResponse and
// Got100Continue.
type Transport struct {
	*http.Transport

	host    string // whose requests are its own, as URLs write it; empty: none are
	address string // to dial

	mu      sync.Mutex
	idle    []*conn     // guarded by mu; the one that was used last is at the end
	waiting []*waiter   // guarded by mu; for a connection, in their order
	sweeper *time.Timer // guarded by mu; nil: nothing is idle
	shut    bool        // guarded by mu; CloseIdleConnections was called after the last request
}

// New is a transport for requests without TLS to host, which includes the port. All other
// requests use standard, and all requests do if host is empty. The caller must not change
// standard afterwards.
func New(standard *http.Transport, host string) *Transport {
	t := &Transport{Transport: standard, host: host}
	if u := (url.URL{Host: host}); u.Port() == "" {
		t.address = net.JoinHostPort(u.Hostname(), "80")
	} else {
		t.address = net.JoinHostPort(u.Hostname(), u.Port())
	}
	for _, c := range []byte(host) {
		if c >= 0x80 {
			t.host = "" // the host's name has to be encoded
		}
	}
	return t
}

// Clone is a transport with the same settings and without connections.
func (t *Transport) Clone() *Transport {
	return &Transport{Transport: t.Transport.Clone(), host: t.host, address: t.address}
}

// CloseIdleConnections closes connections without a request, and those whose
// requests end before the next one begins.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	idle := t.idle
	t.idle, t.shut = nil, true
	if t.sweeper != nil {
		t.sweeper.Stop()
		t.sweeper = nil
	}
	t.mu.Unlock()
	for _, c := range idle {
		c.net.Close()
	}
	t.Transport.CloseIdleConnections()
}

// RoundTrip sends a request and gives its answer, as http.RoundTripper says. It closes the
// request's body, which may be read and closed after RoundTrip has returned if the server
// answers before it has the body, or the connection breaks. If the context has ended, the
// error is its cause. A 101 that was not asked for has no body.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.plain(req) {
		return t.Transport.RoundTrip(req)
	}
	x := &exchange{transport: t, req: req, most: t.MaxResponseHeaderBytes}
	if x.most <= 0 {
		x.most = mostHead
	}
	for {
		if ctx := req.Context(); ctx.Err() != nil {
			x.drop()
			closeBody(x.req)
			return nil, context.Cause(ctx)
		}
		if err := x.prepare(); err != nil {
			x.drop()
			closeBody(x.req)
			return nil, err
		}
		res, again, err := x.run()
		if err == nil {
			res.Request = req
			return res, nil
		}
		if !again {
			return nil, err
		}
		if err := x.rewind(); err != nil {
			return nil, err
		}
	}
}

// mostHead is the limit of an answer's head where none is set.
const mostHead = 1 << 20

// plain says that Transport can send a request itself. http.Transport sends the others, or
// returns their error.
func (t *Transport) plain(req *http.Request) bool {
	if t.host == "" || req.URL == nil || req.Header == nil || req.URL.Scheme != "http" || req.URL.Host != t.host ||
		t.ResponseHeaderTimeout > 0 {
		return false
	}
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, "PROPFIND", "SEARCH":
		if req.Body != nil && outgoing(req) < 0 && len(req.TransferEncoding) == 0 {
			return false // only a read shows whether there is a body
		}
	case http.MethodPost, http.MethodPut, http.MethodPatch:
	case http.MethodConnect:
		return false
	default:
		if !httpguts.ValidHeaderFieldName(req.Method) {
			return false
		}
	}
	if req.ContentLength != 0 && req.Body == nil {
		return false
	}
	if req.Header["Upgrade"] != nil && httpguts.HeaderValuesContainsToken(req.Header["Connection"], "Upgrade") {
		return false
	}
	return valid(req.Header) && valid(req.Trailer) && req.Trailer["Transfer-Encoding"] == nil && req.Trailer["Trailer"] == nil &&
		req.Trailer["Content-Length"] == nil
}

func valid(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return false
			}
		}
	}
	return true
}

// connection gives an idle connection, which the server may have closed, or the first that becomes idle or is made.
func (t *Transport) connection(ctx context.Context) (*conn, error) {
	var w *waiter
	for w == nil {
		t.mu.Lock()
		t.shut = false
		if n := len(t.idle); n > 0 {
			c := t.idle[n-1]
			t.idle[n-1] = nil
			t.idle = t.idle[:n-1]
			t.mu.Unlock()
			if limit := t.IdleConnTimeout; limit <= 0 || time.Since(c.since) < limit {
				return c, nil
			}
			c.net.Close()
			continue
		}
		w = &waiter{ready: make(chan connected, 1)}
		t.waiting = append(t.waiting, w)
		t.mu.Unlock()
	}
	// If this request ends, the connection that is being made is used by other requests.
	go t.connect(context.WithoutCancel(ctx), w)
	select {
	case got := <-w.ready:
		return got.conn, got.err
	case <-ctx.Done():
	}
	t.mu.Lock()
	waits := t.leave(w)
	t.mu.Unlock()
	if !waits {
		if got := <-w.ready; got.conn != nil { // a connection came in the same moment
			t.keep(got.conn)
		}
	}
	return nil, context.Cause(ctx)
}

// waiter is a request that has no connection yet.
type waiter struct{ ready chan connected } // has room for one

type connected struct {
	conn *conn
	err  error
}

// leave says whether one still waited. The caller holds mu.
func (t *Transport) leave(w *waiter) bool {
	for i, other := range t.waiting {
		if other == w {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// connect makes a connection. An error is returned only to that waiter.
func (t *Transport) connect(ctx context.Context, w *waiter) {
	made, err := t.DialContext(ctx, "tcp", t.address)
	if err == nil && made == nil {
		err = errors.New("http1: DialContext gave no connection")
	}
	t.mu.Lock()
	waits := t.leave(w)
	t.mu.Unlock()
	switch {
	case err == nil && waits:
		w.ready <- connected{conn: newConn(made)}
	case err == nil:
		t.keep(newConn(made))
	case waits:
		w.ready <- connected{err: err}
	}
}

// keep gives a connection to a request that waits for one, or adds it to the idle ones.
func (t *Transport) keep(c *conn) {
	t.mu.Lock()
	switch {
	case len(t.waiting) > 0:
		t.waiting[0].ready <- connected{conn: c}
		t.waiting[0] = nil
		t.waiting = t.waiting[1:]
	case t.shut || t.DisableKeepAlives:
		defer c.net.Close()
	default:
		c.since = time.Now()
		t.idle = append(t.idle, c)
		if t.sweeper == nil && t.IdleConnTimeout > 0 {
			t.sweeper = time.AfterFunc(t.IdleConnTimeout, t.sweep)
		}
	}
	t.mu.Unlock()
}

// sweep closes connections that were idle for too long.
func (t *Transport) sweep() {
	t.mu.Lock()
	old := 0
	for old < len(t.idle) && time.Since(t.idle[old].since) >= t.IdleConnTimeout {
		old++
	}
	gone := append([]*conn(nil), t.idle[:old]...)
	kept := copy(t.idle, t.idle[old:])
	clear(t.idle[kept:])
	t.idle = t.idle[:kept]
	if kept == 0 {
		t.sweeper = nil
	} else if t.sweeper != nil {
		t.sweeper.Reset(t.IdleConnTimeout - time.Since(t.idle[0].since))
	}
	t.mu.Unlock()
	for _, c := range gone {
		c.net.Close()
	}
}
