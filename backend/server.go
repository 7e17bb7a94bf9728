package backend

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sony/gobreaker/v2"

	"github.com/anteroom-gpu/anteroom/backend/http1"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
)

var (
	// ErrUnreachable says that no connection to the backend was made, so the backend never
	// saw the request.
	ErrUnreachable = errors.New("backend: the backend does not accept connections")
	// ErrRefused is an ErrUnreachable where nothing listens at the address: the
	// process is gone, or not there yet.
	ErrRefused = fmt.Errorf("%w: nothing listens", ErrUnreachable)
	// ErrShort is an ErrUnreachable because the proxy itself lacks descriptors, ports or
	// memory. It is no failure of the backend.
	ErrShort = fmt.Errorf("%w: the proxy is short of descriptors, ports or memory", ErrUnreachable)
	// ErrProtocol says that a connection broke before an answer came, or that the answer
	// was not HTTP. The backend may have seen the request.
	ErrProtocol = errors.New("backend: the backend broke the connection")
	// ErrUpload says that the request's own body could not be read, which is no
	// fault of the backend. It wraps the reason.
	ErrUpload = errors.New("backend: the request's body ended early")
)

// Server is one model server: its connections, its breaker and its health. A backend with
// replicas has several Servers. Its methods may be called from many goroutines.
type Server struct {
	Name   string
	Config Config

	base      *url.URL
	transport atomic.Pointer[http1.Transport]
	began     time.Time
	turnover  atomic.Int64 // how long a connection is used; 0: without limit
	turned    atomic.Int64 // when the present ones came into use, since began
	breaker   *breaker
	unhealthy atomic.Bool

	gate *gate // nil: a connection may serve several requests at once

	hooks hooks
	presence

	telling   sync.Mutex // so that reports keep their order
	available func(slots int)
}

// New makes a backend of one of the Servers of a configuration that Check
// accepts. Its health check, where it has one, runs until ctx ends.
//
// available is called with the number of requests that may run on the backend, each time
// that the number changes. -1: as many as the limits allow, which is so until the first
// call. 0: none, because its breaker is open, its health check fails, or a probe is under
// way that finds out whether it is still there. More: that many, to find out whether it
// works again. Calls do not overlap.
func New(ctx context.Context, name string, c Config, available func(slots int)) (*Server, error) {
	base, err := parseURL(c.URL)
	if err != nil {
		return nil, fmt.Errorf("backend: backends.%s.url: %w", name, err)
	}
	b := &Server{Name: name, Config: c, available: available, began: time.Now()}
	t := newTransport(base, c)
	t.DialContext = b.noting(patient(t.DialContext))
	if !t.Protocols.HTTP2() && !t.Protocols.UnencryptedHTTP2() {
		b.gate = new(gate)
		t.DialContext = b.gate.counting(t.DialContext)
	}
	if base.Scheme == "unix" {
		b.base = &url.URL{Scheme: "http", Host: "localhost"}
	} else {
		b.base = &url.URL{Scheme: base.Scheme, Host: base.Host} // without a slash at its end
	}
	host := b.base.Host
	if c.Transport == "standard" || c.Protocol == "h2c" || alwaysStandard {
		host = "" // all requests use http.Transport
	}
	b.transport.Store(http1.New(t, host))
	if err := b.hooks.prepare(c.Reclaim, c.Health.Path); err != nil {
		return nil, fmt.Errorf("backend: backends.%s.%w", name, err)
	}
	b.breaker = newBreaker(c.Breaker, b.alive, b.announce)
	if c.Health.Path != "" {
		go b.checkHealth(ctx)
	}
	return b, nil
}

// newTransport is one for model servers: near, few, and each with its own.
func newTransport(base *url.URL, c Config) *http.Transport {
	dialer := &net.Dialer{Timeout: connectTime, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		DialContext:         dialer.DialContext,
		MaxIdleConnsPerHost: math.MaxInt32, // one for each request that ran at the same time, whose number is bounded
		// Uvicorn and Node close a connection after five seconds without a request. A
		// request that is sent at that moment is lost, because it must not be sent twice.
		IdleConnTimeout:        cmp.Or(c.Idle, 4*time.Second),
		TLSHandshakeTimeout:    10 * time.Second,
		ExpectContinueTimeout:  time.Second,
		DisableCompression:     true, // bytes pass as they are
		MaxResponseHeaderBytes: 1 << 20,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
	}
	switch {
	case c.Protocol == "h2c":
		t.Protocols.SetUnencryptedHTTP2(true)
	case base.Scheme == "https":
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(true)
	default:
		t.Protocols.SetHTTP1(true)
	}
	if base.Scheme == "unix" {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", base.Path)
		}
	}
	return t
}

// heed keeps idle connections for no longer than the backend keeps them: a request that is
// sent while its connection is being closed is a 502. The time is the same for all
// connections of a server.
//
// If the backend keeps connections for longer than brief, idle ones are closed before the
// backend closes them. If it keeps them for less, the two timers would end too close to
// each other: then a connection that is older than half of that time is not used again, and
// the backend closes it.
func (b *Server) heed(answer *http.Response) {
	if answer.ProtoMajor != 1 {
		return
	}
	for _, value := range answer.Header["Keep-Alive"] {
		for part := range strings.SplitSeq(value, ",") {
			name, text, _ := strings.Cut(strings.TrimSpace(part), "=")
			seconds, err := strconv.Atoi(strings.Trim(text, `" `))
			if err != nil || !strings.EqualFold(name, "timeout") || seconds < 0 {
				continue
			}
			kept := time.Duration(min(seconds, 3600)) * time.Second
			old := b.transport.Load()
			switch idle := kept * 3 / 4; {
			case kept == 0 && !old.DisableKeepAlives:
				next := old.Clone()
				next.DisableKeepAlives = true
				b.transport.CompareAndSwap(old, next)
			case kept > 0 && kept <= brief && idle < old.IdleConnTimeout:
				b.turnover.CompareAndSwap(0, int64(kept/2))
			case kept > brief && idle < old.IdleConnTimeout:
				next := old.Clone()
				next.IdleConnTimeout = idle
				b.transport.CompareAndSwap(old, next)
			}
		}
	}
}

// brief is a shorter time than most backends keep connections.
const brief = 2 * time.Second

// connections are those that a request may be sent on.
func (b *Server) connections() *http1.Transport {
	t := b.transport.Load()
	span := b.turnover.Load()
	if span == 0 {
		return t
	}
	now, since := int64(time.Since(b.began)), b.turned.Load()
	if now-since < span || !b.turned.CompareAndSwap(since, now) {
		return t
	}
	next := t.Clone()
	b.transport.Store(next)
	return next
}

// Base is the scheme and host for the URLs of requests to the backend. It must not be
// changed.
func (b *Server) Base() *url.URL { return b.base }

// RoundTrip sends the request to the backend, once, and gives its answer. The request's URL
// must be below Base. The breaker counts it when the answer's body ends: a broken
// connection and an answer of 500 or more are failures. 429, 503, and a caller that leaves
// or does not finish its upload are neither failure nor success. RemoteAddr distinguishes
// clients.
//
// Errors are ErrBreakerOpen, ErrUnreachable, ErrProtocol, ErrUpload, or of the
// request's context. It closes the request's body, as a http.RoundTripper does, but not
// where the breaker is open.
func (b *Server) RoundTrip(out *http.Request) (*http.Response, error) { return b.Send(out, nil) }

// Send is RoundTrip with a Client that knows what was sent, so that the client's own words
// in an error do not count as an out-of-memory error; nil: it is not known. An
// out-of-memory error is no failure of the backend. It is known when the answer's end has
// been read (OutOfMemory).
func (b *Server) Send(out *http.Request, client Client) (*http.Response, error) {
	if err := b.gate.enter(out.Context()); err != nil {
		if out.Body != nil {
			out.Body.Close()
		}
		return nil, err
	}
	done, err := b.breaker.allow(clientOf(out.RemoteAddr), b.gate)
	if err != nil {
		b.gate.leave()
		return nil, err
	}
	sent := b.sendOnce(out)
	answer, err := b.connections().RoundTrip(out)
	if err != nil {
		err = b.blame(out.Context(), sent, err)
		done(err)
		return nil, err
	}
	b.heed(answer)
	verdict := judge(answer.StatusCode)
	if answer.Body == http.NoBody || answer.StatusCode == http.StatusSwitchingProtocols {
		done(verdict)
		return answer, nil
	}
	answer.Body = &counted{body: answer.Body, ctx: out.Context(), verdict: verdict, done: done, scan: b.scan(answer, client)}
	return answer, nil
}

// sendOnce changes a request so that no transport sends it a second time. A transport does
// that for a request without a body, if a used connection dies under an idempotent method
// or an HTTP/2 server resets the stream, and for a request with an idempotency key. It
// returns the body that is sent, nil if there is none.
func (b *Server) sendOnce(out *http.Request) *upload {
	out.GetBody = nil
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := out.Header[name]; ok {
			delete(out.Header, name)
			out.Header[lower[name]] = v // Transport looks for the canonical name
		}
	}
	if _, inFile := out.Body.(*os.File); inFile || reflect.TypeOf(out.Body) == inMemory {
		return nil // http.Transport knows these types, and reading them does not fail
	}
	if out.Body != nil && out.Body != http.NoBody {
		sent := &upload{ReadCloser: out.Body}
		out.Body = sent
		return sent
	}
	switch out.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		// Over HTTP/1 these requests announce an empty body, which needs a missing body
		// here, and transports do not repeat them.
		if b.Config.Protocol != "h2c" {
			return nil
		}
	}
	// An empty body that is present, and not announced.
	out.Body, out.ContentLength, out.TransferEncoding = http1.Empty{}, 0, identity
	return nil
}

var (
	lower    = map[string]string{"Idempotency-Key": "idempotency-key", "X-Idempotency-Key": "x-idempotency-key"}
	identity = []string{"identity"}
)

// inMemory is the type of bodies that are sent together with their heads.
var inMemory = reflect.TypeOf(io.NopCloser(new(bytes.Reader)))

// upload is a request's body that notes why it could not be read.
type upload struct {
	io.ReadCloser
	closed atomic.Bool // by the transport: a failure after that is no failure of the body
	failed atomic.Pointer[error]
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !u.closed.Load() {
		reason := err // err itself would escape, and every Read would allocate
		u.failed.CompareAndSwap(nil, &reason)
	}
	return n, err
}

func (u *upload) Close() error {
	u.closed.Store(true)
	return u.ReadCloser.Close()
}

// blame turns the error of a request without an answer into one of the package's errors.
func (b *Server) blame(ctx context.Context, sent *upload, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if sent != nil {
		if reason := sent.failed.Load(); reason != nil {
			return fmt.Errorf("%w: %w", ErrUpload, *reason)
		}
	}
	kind := ErrProtocol
	if failure, ok := errors.AsType[*net.OpError](err); ok && failure.Op == "dial" {
		if kind = ErrUnreachable; refused(err) {
			kind = ErrRefused
		}
	}
	if ownFault(err) {
		kind = ErrShort
	}
	return fmt.Errorf("%w: %s: %v", kind, b.Name, err)
}

// refused says that nothing listens at a backend's address: its process is gone. Other
// errors of making a connection do not show that.
func refused(err error) bool {
	dial, ok := errors.AsType[*net.OpError](err)
	return ok && dial.Op == "dial" && (errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT))
}

// errStatus is an answer that is a failure of the backend.
var errStatus = errors.New("backend: the backend answered with an error")

func judge(status int) error {
	switch {
	case status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return errOverload
	case status >= 500:
		return errStatus
	}
	return nil
}

// counted is an answer's body that reports its end to the breaker.
type counted struct {
	body    io.ReadCloser
	ctx     context.Context // the request's
	verdict error           // by the status
	done    func(error)
	told    atomic.Bool
	scan    *scan // nil: there is nothing to look for
	memory  atomic.Pointer[outofmemory.Report]
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	if c.scan != nil {
		c.scan.Write(p[:n])
	}
	switch {
	case err == nil:
	case err == io.EOF && c.told.Load():
	case err == io.EOF && c.scan != nil:
		if found := c.scan.end(); found != nil {
			c.memory.Store(found)
			c.verdict = ErrMemory
		}
		c.tell(c.verdict)
	case err == io.EOF:
		c.tell(c.verdict)
	case c.ctx.Err() != nil:
		c.tell(context.Cause(c.ctx))
	default:
		c.tell(ErrProtocol)
	}
	return n, err
}

func (c *counted) Close() error {
	err := c.body.Close()
	if c.verdict != nil {
		c.tell(c.verdict)
	} else {
		c.tell(context.Canceled) // the rest was not read
	}
	return err
}

func (c *counted) tell(err error) {
	if !c.told.Swap(true) {
		c.done(err)
	}
}

// Open says whether the breaker is open, and how long it stays open at most.
func (b *Server) Open() (remaining time.Duration, open bool) {
	state, remaining := b.breaker.look()
	return remaining, state == gobreaker.StateOpen
}

// State is the breaker's: closed, half-open or open.
func (b *Server) State() string {
	state, _ := b.breaker.look()
	return state.String()
}

// CloseBreaker closes the breaker, whatever it has counted.
func (b *Server) CloseBreaker() { b.breaker.shut("it was closed by hand") }

// Transitions says what to call when the breaker's state changes, with why it did.
// It must return at once. Calls may overlap.
func (b *Server) Transitions(tell func(from, to, why string)) { b.breaker.moved.Store(&tell) }

// Failures gives how many requests failed of those that the breaker has counted
// in its window.
func (b *Server) Failures() (failed, total int) { return b.breaker.counts() }

// Healthy says that the last health checks did not fail. A backend without a health check
// is healthy.
func (b *Server) Healthy() bool { return !b.unhealthy.Load() }

// Close ends idle connections and the breaker's timer. What is in flight goes
// on.
func (b *Server) Close() {
	b.breaker.close()
	b.transport.Load().CloseIdleConnections()
}

// announce reports how many requests may run on the backend.
func (b *Server) announce() {
	b.telling.Lock()
	defer b.telling.Unlock()
	slots := -1
	switch state, _ := b.breaker.look(); {
	case state == gobreaker.StateOpen || b.unhealthy.Load() || b.breaker.holds():
		slots = 0
	case state == gobreaker.StateHalfOpen:
		slots = 1
	}
	b.available(slots)
}
