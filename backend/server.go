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
	// ErrUnreachable says that no connection to the backend came about, so
	// that it never saw the request.
	ErrUnreachable = errors.New("backend: the backend does not accept connections")
	// ErrRefused is an ErrUnreachable where nothing listens at the address: the
	// process is gone, or not there yet.
	ErrRefused = fmt.Errorf("%w: nothing listens", ErrUnreachable)
	// ErrShort is an ErrUnreachable for want of what the proxy itself lacks:
	// descriptors, ports, memory. It says nothing of the backend.
	ErrShort = fmt.Errorf("%w: the proxy is short of descriptors, ports or memory", ErrUnreachable)
	// ErrProtocol says that a connection broke before an answer came, or that
	// what came was not HTTP. The backend may have seen the request.
	ErrProtocol = errors.New("backend: the backend broke the connection")
	// ErrUpload says that the request's own body could not be read, which is no
	// fault of the backend. It wraps the reason.
	ErrUpload = errors.New("backend: the request's body ended early")
)

// Server is one model server: its connections, its breaker and its health. What
// has replicas is several of them under one name. Its methods may be called from
// many goroutines.
type Server struct {
	Name   string
	Config Config

	base      *url.URL
	transport atomic.Pointer[http1.Transport]
	began     time.Time
	turnover  atomic.Int64 // how long connections are used for; 0: as long as they last
	turned    atomic.Int64 // when the present ones came into use, since began
	breaker   *breaker
	unhealthy atomic.Bool

	gate *gate // nil: a connection may serve several requests at once

	hooks hooks
	presence

	telling   sync.Mutex // keeps an older word from being the last
	available func(slots int)
}

// New makes a backend of one of the Servers of a configuration that Check
// accepts. Its health check, where it has one, runs until ctx ends.
//
// available is told how many requests may run on the backend whenever that
// changes: -1 as many as the limits allow, which holds until the first call; 0
// none, for its breaker is open, its health check fails, or a probe is to say
// whether it is still there; more, that many, to see whether it works again. Calls do not overlap.
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
		host = "" // all goes by http.Transport
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
		MaxIdleConnsPerHost: math.MaxInt32, // whatever ran at once a moment ago, and that is bounded
		// Uvicorn and Node close after five seconds without a request. One that
		// is sent at that moment is lost, for it must not be sent twice.
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

// heed keeps connections for no longer than the backend says that it does: a request
// that is sent while one is being closed is a 502. All connections of a server are
// kept alike.
//
// Where the backend keeps them for longer than brief, idle ones are closed before it
// closes them. Where that is brief, a timer of ours and its own would run too close:
// no connection is used again that is older than half of the time, and closing them
// is left to the backend.
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

// brief is a time for which hardly a backend keeps connections.
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

// Base is the scheme and host that requests to the backend are written for. It
// must not be changed.
func (b *Server) Base() *url.URL { return b.base }

// RoundTrip sends the request to the backend, once, and gives its answer. The
// request's URL must be below Base. The breaker counts it when the answer's
// body ends: a connection that breaks or an answer of 500 or more is a failure,
// 429 and 503 and a caller that leaves or does not finish its upload are neither
// failure nor success. RemoteAddr tells clients apart.
//
// Errors are ErrBreakerOpen, ErrUnreachable, ErrProtocol, ErrUpload, or of the
// request's context. It closes the request's body, as a http.RoundTripper does, but not
// where the breaker is open.
func (b *Server) RoundTrip(out *http.Request) (*http.Response, error) { return b.Send(out, nil) }

// Send is RoundTrip for a client that can tell what it sent, so that its own words
// in an error do not count as an out-of-memory error; nil: nobody can tell. Such an
// error is no failure of the backend. It is known when the answer's end has been
// read (OutOfMemory).
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

// sendOnce takes away what a transport sees as leave to send a request a
// second time: a missing body, when a connection that was used before dies
// under an idempotent method or an HTTP/2 server resets the stream, and an
// idempotency key. It gives the body as it is sent, nil where there is none.
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
		// Over HTTP/1 they say that they are empty, which takes a missing body,
		// and are not repeated.
		if b.Config.Protocol != "h2c" {
			return nil
		}
	}
	// A body that is there, though empty, and is not announced either.
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
	closed atomic.Bool // by the transport: what fails afterwards is its doing
	failed atomic.Pointer[error]
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err != nil && err != io.EOF && !u.closed.Load() {
		reason := err // err itself would be allocated by every Read
		u.failed.CompareAndSwap(nil, &reason)
	}
	return n, err
}

func (u *upload) Close() error {
	u.closed.Store(true)
	return u.ReadCloser.Close()
}

// blame says whose fault it is that no answer came.
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

// refused says that nothing listens at a backend's address: its process is gone.
// Whatever else keeps a connection from being made says nothing of it.
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

// counted is an answer's body that tells the breaker how it ended.
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

// Open says whether the breaker is open, and for how long still at the most.
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

// Healthy says that the last health checks were not failures. A backend
// without a health check is healthy.
func (b *Server) Healthy() bool { return !b.unhealthy.Load() }

// Close ends idle connections and the breaker's timer. What is in flight goes
// on.
func (b *Server) Close() {
	b.breaker.close()
	b.transport.Load().CloseIdleConnections()
}

// announce says what may be used of the backend.
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
