package proxy

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// answerBody is what stands between a backend's answer and the client.
type answerBody = io.ReadCloser

// execution is a request's work at a backend. It may outlive its exchange: a
// backend with `cancel: ignored` works on when the client has left, and its
// grant with it.
type execution struct {
	grant   *admission.Grant // nil: a pass route
	trace   *telemetry.Request
	release func() // beside the grant; nil: nothing
	// detached says that the backend ends by itself, whatever the client does.
	detached bool
	sent     bool // a transport has the request, and its body
	status   int
	ended    atomic.Bool
	// completion is how to follow the work beyond the answer, job what is being
	// followed. Nil: the answer is the end, or there is none yet.
	completion *routing.Completion
	job        atomic.Pointer[job]
	full       bool // the backend ran out of memory
}

// end gives the grant back. Only the first call counts, and reports true.
func (e *execution) end(err error) bool {
	if e.ended.Swap(true) {
		return false
	}
	if e.grant != nil {
		e.grant.Release(e.outcome(err))
	}
	if e.release != nil {
		e.release()
	}
	if e.sent {
		e.trace.Executed(time.Now(), e.status, err)
	}
	return true
}

// outcome says what the work teaches: only an answer that was wanted and came
// to its end tells how long such work takes.
func (e *execution) outcome(err error) admission.Outcome {
	switch {
	case e.full, errors.Is(err, routing.ErrMemory):
		return admission.OutOfMemory
	case e.status == http.StatusSwitchingProtocols, errors.Is(err, errJobTimeout), errors.Is(err, context.Canceled), errors.Is(err, errExecutionTimeout):
		return admission.Aborted
	case errors.Is(err, routing.ErrRefused):
		return admission.Unreached
	case err != nil || e.status >= 400:
		return admission.Failed
	}
	return admission.Done
}

// leave is the handler's end. Work that never reached a backend ends with it;
// an answer that is still coming is abandoned, and ends by its own rules.
func (e *execution) leave(x *exchange) {
	switch {
	case x.answer != nil:
		x.answer.Close()
		if x.out.bytes == 0 && x.in.Context().Err() != nil {
			e.job.Load().leave() // nobody knows of the job
		}
	case !e.sent:
		e.end(http.ErrAbortHandler)
	}
	if x.cut != nil && x.to.Config.AbandonAfter > 0 && !e.ended.Load() && e.job.Load() == nil {
		x.abandonLater()
	}
}

// errAbandoned ends work that went on for too long after its client had left or
// been told.
var errAbandoned = errors.New("proxy: abandon_after passed")

// abandonLater gives the grant of work that nobody waits for back when the
// backend's abandon_after has passed, whether or not it has ended by then. It is
// the only timer that does, and fires for nothing where the work ends first or
// turns out to be a job, which has a timeout of its own.
func (x *exchange) abandonLater() {
	time.AfterFunc(x.to.Config.AbandonAfter, func() {
		if x.work.job.Load() == nil && x.work.end(errAbandoned) {
			x.log.Error("abandon_after passed: the grant of work that has not ended is given back, and the card may be fuller than is booked",
				"route", x.route.Name, "class", x.route.ClassName, "backend", x.route.Backend)
			x.cut()
		}
	})
}

// forward sends the request to its backend and the answer to the client.
func (x *exchange) forward(grant *admission.Grant) error {
	x.work.grant, x.work.trace = grant, x.trace
	if x.to = x.server(grant); x.to == nil {
		return refuse(admission.CodeBackendUnavailable, "the replica of %s that had room was taken out of the configuration", x.route.Backend)
	}
	if x.route.Completion.Applies(x.in) && !x.free {
		x.work.completion = x.route.Completion
	}
	// Whether a job was begun is known when it is answered, and not before. A GET
	// without one ends with its connection, whatever the backend is.
	x.work.detached = grant != nil && (x.to.Config.Cancel != "aborts" && x.in.Method != http.MethodGet || x.work.completion != nil)
	x.ctx, x.cancel = x.limited(x.ctx)
	in := x.in.WithContext(x.ctx)
	if x.body != nil {
		in.Body, in.ContentLength = http.NoBody, 0 // RoundTrip puts it back
	} else if in.ContentLength != 0 && in.ProtoMajor == 1 {
		// Else the server closes the body under the transport's hands when a
		// backend answers early, and cuts the answer.
		http.NewResponseController(x.out.ResponseWriter).EnableFullDuplex()
	}
	reverse := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		ModifyResponse: x.decorate,
		ErrorHandler:   func(_ http.ResponseWriter, _ *http.Request, err error) { x.failed = err },
		BufferPool:     copyBuffers{},
		ErrorLog:       silent,
	}
	reverse.ServeHTTP(&x.out, in)
	return x.failed
}

// silent is for httputil.ReverseProxy: what it would say is on the request's
// own log line.
var silent = log.New(io.Discard, "", 0)

// rewrite makes the backend's request of the client's. httputil has stripped
// what is hop-by-hop already, so that no `Connection: X-Foo` can strip what is
// set here.
func (x *exchange) rewrite(p *httputil.ProxyRequest) {
	backend, out := x.to, p.Out
	base := backend.Base()
	out.URL.Scheme, out.URL.Host = base.Scheme, base.Host
	// As it came: httputil drops parameters that it cannot parse, and a backend
	// may see more in them than it does.
	out.URL.RawQuery = p.In.URL.RawQuery
	if path := rawPath(x.in); path != out.URL.EscapedPath() && !strings.HasPrefix(path, "//") {
		out.URL.Opaque = path // not in another encoding
	}
	if !backend.Config.PreserveHost {
		out.Host = ""
	}
	x.rules.cleanHeader(p)
	if x.body != nil {
		out.Header.Del("Expect") // the body is here
	}
	if x.work.completion != nil || x.rules.watched != nil {
		x.askPlain(out.Header)
	}
	x.now = time.Now()
	x.trace.Execute(x.now, backend.Config.URL, out.Header)
}

// rawPath is the path as the client wrote it.
func rawPath(r *http.Request) string {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if _, rest, ok := strings.Cut(path, "://"); ok && path[0] != '/' {
		slash := strings.IndexByte(rest, '/')
		if slash < 0 {
			return "/"
		}
		path = rest[slash:]
	}
	return path
}

// cleanHeader drops what no client may say to a backend, and says who the
// client is.
func (s *rules) cleanHeader(p *httputil.ProxyRequest) {
	header, trusted := p.Out.Header, s.trusts(p.In.RemoteAddr)
	_, realIP := header["X-Real-Ip"]
	for name := range header {
		switch {
		case strings.IndexByte(name, '_') >= 0:
			// Python's servers read X_Y as X-Y, and so as another header.
			delete(header, name)
		case strings.HasPrefix(name, "X-Anteroom-"):
			delete(header, name)
		case !trusted && (strings.HasPrefix(name, "X-Forwarded-") || name == s.tenantHeader):
			delete(header, name)
		}
	}
	if !trusted {
		p.SetXForwarded()
		if realIP {
			header.Del("X-Real-Ip")
			if host, _, err := net.SplitHostPort(p.In.RemoteAddr); err == nil {
				header.Set("X-Real-Ip", host)
			}
		}
		return
	}
	for _, name := range []string{"X-Forwarded-For", "Forwarded"} {
		if v := p.In.Header[name]; v != nil {
			header[name] = v
		}
	}
	p.SetXForwarded()
	for _, name := range []string{"X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v := p.In.Header[name]; v != nil {
			header[name] = v
		}
	}
}

// trusts says whether a peer's word on who the client is counts.
func (s *rules) trusts(peer string) bool {
	if len(s.trusted) == 0 {
		return false
	}
	address, err := netip.ParseAddrPort(peer)
	if err != nil {
		return false
	}
	ip := address.Addr().Unmap()
	for _, prefix := range s.trusted {
		if prefix.Contains(ip) {
			return true
		}
	}
	return false
}

// send sends the request with a reading of its body, nil where there is none
// or it is streamed, and gives the answer, or what ended the wait for it.
func (x *exchange) send(out *http.Request, body io.ReadCloser) (*http.Response, error) {
	if body != nil {
		out.Body, out.ContentLength = body, x.body.size
		if len(x.body.trailer) > 0 {
			out.ContentLength, out.Trailer = -1, x.body.trailer
		}
	}
	x.work.sent = true
	if !x.work.detached {
		answer := x.execute(out)
		x.answer = answer.body()
		return answer.response, answer.err
	}
	// What the context carries stays, its end does not.
	ctx, cut := context.WithCancel(context.WithoutCancel(out.Context()))
	x.cut = cut
	out = out.WithContext(ctx)
	var state atomic.Int32 // 0: both wait, 1: the backend was first, 2: the client left first
	done := make(chan result, 1)
	go func() {
		answer := x.execute(out)
		if state.CompareAndSwap(0, 1) {
			done <- answer
		} else if answer.err == nil {
			answer.body().Close() // it is read to its end all the same
			x.work.job.Load().leave()
		}
	}()
	select {
	case answer := <-done:
		x.answer = answer.body()
		return answer.response, answer.err
	case <-x.ctx.Done():
	}
	if !state.CompareAndSwap(0, 2) {
		answer := <-done
		x.answer = answer.body()
		return answer.response, answer.err
	}
	return nil, context.Cause(x.ctx)
}

// result is what came of a request to a backend.
type result struct {
	response *http.Response
	err      error
}

func (r result) body() answerBody {
	if r.response == nil {
		return nil
	}
	return r.response.Body
}

// execute asks the backend and wraps the answer's body so that its end ends
// the execution.
func (x *exchange) execute(out *http.Request) result {
	e := &x.work
	res, err := x.to.RoundTrip(out)
	if err != nil {
		if !e.detached && x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		if x.body != nil {
			out.Body.Close() // a transport may not have come to that
		}
		e.end(err)
		return result{err: err}
	}
	e.status = res.StatusCode
	e.full = routing.OutOfMemory(res)
	if res.StatusCode >= 500 && !e.full {
		x.ladder.suspect(x.to)
	}
	if x.rules.watched != nil {
		x.watchEvents(res)
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if c, ok := res.Body.(io.ReadWriteCloser); ok {
			if !x.route.HoldSlot {
				// Only its handshake was work.
				if x.clock != nil {
					x.clock.Stop()
				}
				e.end(nil)
			}
			t := &tunnel{ReadWriteCloser: c}
			idle := x.Handler.open.stream(func() { t.Close() }, e.ended.Load)
			t.ended = func() { idle(); e.end(nil) }
			res.Body = t
			break
		}
		res.Body.Close()
		e.end(nil)
		return result{err: errors.New("proxy: the backend switched protocols on a connection that cannot")}
	case res.Body == http.NoBody || out.Method == http.MethodHead:
		e.end(nil)
	case e.completion != nil && x.begin(res):
	case e.full && x.readError(res):
	case isSmall(res) && x.readSmall(res):
	default:
		ended := func(err error) { e.end(err) }
		if isEvents(res.Header) {
			if e.detached && e.completion == nil {
				// What a client would see of it is all that there is to it.
				e.detached = false
				context.AfterFunc(x.ctx, x.cut)
			}
			idle := x.Handler.open.stream(x.cancel, func() bool { return e.grant == nil || e.ended.Load() })
			ended = func(err error) { idle(); e.end(err) }
		}
		res.Body = newReadAhead(res.Body, int(x.rules.limits.ResponseBuffer), &x.ahead, x.ctx, e.detached, ended)
	}
	return result{response: res}
}

// readSmall takes a small answer that is there already for what it is: the end of
// its work. It reports false where more is to come.
func (x *exchange) readSmall(res *http.Response) bool {
	b := readSmall(res)
	if b == nil {
		x.slowly = true
		return false
	}
	x.work.end(b.cut())
	res.Body = b
	return true
}

// decorate adds our headers to the backend's answer.
func (x *exchange) decorate(res *http.Response) error {
	x.describe(res.Header)
	x.out.flush = x.slowly
	x.switched = res.StatusCode == http.StatusSwitchingProtocols
	if _, ok := res.Header["Content-Type"]; !ok {
		x.out.Header()["Content-Type"] = nil // else net/http makes one up
	}
	var timing []byte
	if grant := x.work.grant; grant != nil {
		position, waited := grant.Position(), grant.Waited()
		if x.first != nil {
			position, waited = x.first.position, waited+x.first.waited
		}
		res.Header.Set("X-Anteroom-Position", strconv.Itoa(position))
		timing = appendTiming(timing, "wait", waited)
	}
	if x.work.ended.Load() {
		timing = appendTiming(timing, "execute", time.Since(x.now))
	}
	if len(timing) > 0 {
		res.Header.Add("Server-Timing", string(timing))
	}
	return nil
}

// appendTiming adds a metric in milliseconds to a Server-Timing value.
func appendTiming(b []byte, name string, d time.Duration) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = append(b, name...)
	b = append(b, ";dur="...)
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', -1, 64)
}
