package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// Handler serves clients. It is safe for concurrent use.
type Handler struct {
	controller *admission.Controller
	telemetry  *telemetry.Telemetry
	log        *slog.Logger

	rules atomic.Pointer[rules]
	// reloading is held while the controller and rules may not agree on the replicas.
	reloading sync.RWMutex
	// drainUntil is when a shutdown's grace ends, in Unix nanoseconds; zero
	// while there is none.
	drainUntil atomic.Int64
	spool      budget
	room       arena         // for bodies that are spooled
	waiters    atomic.Int64  // requests with a body that wait
	resting    budget        // bodies of waiting requests that are in memory
	ahead      budget        // answers that are read ahead
	looks      chan struct{} // one for each body in a file that is looked at
	open       open          // what is being answered
	resets     resets
	jobs       jobs
	observed   observed
	places     queuePlaces
	ladder     *ladder
	recalled   recalled
}

// exchange is one request and its answer, with what lasts for all of its attempts.
type exchange struct {
	*Handler
	rules    *rules
	listener string // empty: the main one
	in       *http.Request
	out      output
	body     *body // nil: none, or streamed
	// upload is the body of a full-duplex request, which is forwarded while it arrives;
	// nil: the body is read first.
	upload *upload
	route  *routing.Route
	free   bool // it goes past admission
	// switched says that the connection has become a tunnel.
	switched bool
	try      *attempt        // the present one; never nil
	tenant   string          // who asks
	own      admission.Bytes // its demand before anything learned
	first    *firstTry       // nil: this is the first
	place    *queuePlace     // that its client may ask for; nil: it may not
	trace    *telemetry.Request
	began    time.Time
	now      time.Time // the last look at the clock
	// ctx ends when the client leaves or the execution timeout has passed.
	ctx    context.Context
	cancel context.CancelFunc
	failed error // why forwarding gave no answer
	code   admission.Code
}

// ServeHTTP carries one request of the main listener through its life.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.serve("", w, r) }

// On is the handler of another listener, by its name in `listeners`.
func (h *Handler) On(listener string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(listener, w, r) })
}

func (h *Handler) serve(listener string, w http.ResponseWriter, r *http.Request) {
	if isPlaceQuery(r) {
		h.tellPlace(w, r)
		return
	}
	now := time.Now()
	x := &exchange{Handler: h, rules: h.rules.Load(), listener: listener, try: new(attempt), in: r, ctx: r.Context(), began: now, now: now}
	x.out.ResponseWriter, x.out.stall = w, x.rules.limits.WriteStall
	h.open.begin()
	defer h.open.end()
	defer x.readRest()
	defer x.end()
	if err := x.serve(); err != nil {
		x.refuse(explain(err))
	}
}

// serve is the life of a request. The order matters: a request that can be refused without
// its body is refused before a byte of it is read, and the controller is asked only when
// the whole body has been read.
func (x *exchange) serve() error {
	if !routing.IsWebSocket(x.in) {
		// httputil would forward every Upgrade offer.
		delete(x.in.Header, "Upgrade")
		delete(x.in.Header, "Http2-Settings")
	}
	if err := x.awaitReset(); err != nil {
		return err
	}
	candidates, err := x.find()
	if err != nil {
		return err
	}
	if x.free = candidates.Free(x.in); x.free && !candidates.NeedBody() {
		if x.listsModels() {
			return x.mergeModels()
		}
		return x.forward(nil)
	}
	if !x.free {
		leave, err := x.enter()
		if err != nil {
			return err
		}
		if leave != nil {
			defer leave()
		}
		if err := x.turnAway(!candidates.NeedBody()); err != nil {
			return err
		}
	}
	if !x.isStream() {
		x.body, err = x.readBody(x.out.ResponseWriter, x.in, x.rules.limits)
		if x.in.ContentLength != 0 {
			x.trace.Received(time.Now())
		}
		if err != nil {
			return err
		}
	}
	decision, err := x.decide(candidates)
	if err != nil {
		return err
	}
	x.classify(decision)
	if x.free {
		return x.forward(nil)
	}
	if x.rules.observe {
		return x.forwardObserved(decision)
	}
	if err := x.askBreaker(); err != nil {
		return err
	}
	grant, err := x.admit(x.ask(decision))
	if err != nil {
		return err
	}
	return x.forward(grant)
}

// find looks the request's rules up and opens its trace under the pattern of
// the first that may apply.
func (x *exchange) find() (routing.Candidates, error) {
	var candidates routing.Candidates
	err := x.checkHead()
	if err == nil {
		err = checkTarget(x.in)
	}
	if err == nil {
		candidates, err = x.rules.tables[x.listener].Find(x.in)
	}
	if err != nil {
		x.trace = x.telemetry.Begin(x.in, "")
		return candidates, err
	}
	x.tenant = x.rules.tenant(x.in)
	x.route = candidates.First()
	x.trace = x.telemetry.Begin(x.in, x.route.Pattern)
	x.trace.Classify(x.route.Name, x.route.ClassName, x.route.Backend, 0)
	x.trace.Identify(x.tenant, "")
	x.provide()
	return candidates, nil
}

// checkHead refuses a head that another server could read as one of another request,
// or of two.
func (x *exchange) checkHead() error {
	odd, lost := headsOf(x.in).begin(x.in)
	if odd != "" || lost {
		x.out.Header().Set("Connection", "close")
	}
	if odd != "" {
		return refuse(codeBadRequest, "the request's head can be read in two ways: %s", odd)
	}
	return nil
}

// checkTarget refuses a request target that is no path: no client chooses a backend by
// CONNECT.
func checkTarget(r *http.Request) error {
	if r.Method == http.MethodConnect {
		return refuse(codeBadRequest, "CONNECT is not served")
	}
	// A proxy's form of the line (RFC 9112, 3.2.2) names the host that the request
	// is for anyway, and net/http has made it the Host.
	if u := r.URL; u.Scheme != "" && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil) {
		return refuse(codeBadRequest, "the request line is no path and no http address")
	}
	return nil
}

// worthAsking is the body size from which on an early refusal saves more than a second
// question to the controller costs.
const worthAsking = 64 << 10

// turnAway refuses a request before its body is read if it is certain to be refused, so
// that no client uploads a body for nothing. certain says that the route is known.
func (x *exchange) turnAway(certain bool) error {
	if x.rules.observe || x.in.ContentLength >= 0 && x.in.ContentLength < worthAsking && x.in.Header["Expect"] == nil {
		return nil
	}
	rejection := x.controller.Precheck(x.route.ClassName, x.route.Backend)
	if rejection != nil && (certain || rejection.Code == admission.CodeDraining) {
		return rejection
	}
	if certain {
		return x.askBreaker()
	}
	return nil
}

// askBreaker refuses a request that would queue for a backend all of whose replicas are
// down. It reserves nothing: the breaker is asked again when the request is sent.
func (x *exchange) askBreaker() error {
	servers := x.rules.backends[x.route.Backend]
	if servers[0].Config.Breaker.WhenOpen == "hold" {
		return nil
	}
	if remaining, down := servers.down(x.controller); down {
		f := refuse(admission.CodeBackendUnavailable, "the backend %s is unavailable", x.route.Backend)
		f.retry = remaining
		return f
	}
	return nil
}

// decide finds the route and the demand. Only a few bodies in files are looked at at once,
// because the values that the rules use may be large.
func (x *exchange) decide(candidates routing.Candidates) (routing.Decision, error) {
	if candidates.NeedBody() && x.body != nil && x.body.file != nil {
		select {
		case x.looks <- struct{}{}:
			defer func() { <-x.looks }()
		case <-x.ctx.Done():
			return routing.Decision{}, x.ctx.Err()
		}
	}
	decision, err := candidates.Decide(x.in, x.seen())
	if err == nil {
		err = x.rename(decision.Route)
	}
	return decision, err
}

// mostLooks is how many bodies in files are looked at at once.
const mostLooks = 4

func (x *exchange) seen() routing.Body {
	if x.body == nil && x.isStream() {
		return routing.Body{Truncated: true, Size: max(x.in.ContentLength, 0)}
	}
	return x.body.seen()
}

func (x *exchange) classify(d routing.Decision) {
	x.route, x.own, x.free = d.Route, d.VRAM, d.Pass
	x.trace.Classify(d.Route.Name, d.Route.ClassName, d.Route.Backend, d.VRAM)
	x.identify()
}

// ask is the request as the controller sees it.
func (x *exchange) ask(d routing.Decision) admission.Request {
	ask := admission.Request{
		Class: d.Route.ClassName, Backend: d.Route.Backend, VRAM: d.VRAM, Tenant: x.tenant, Origin: x.trace.Origin(),
		Estimate: admission.Estimate{P50: d.Route.Class.Estimate, P95: d.Route.Class.Estimate},
		History:  x.rules.histories[d.Route],
	}
	Book(&ask, d.Route.Learn)
	x.rules.claims(x.in, x.began, &ask)
	if !ask.Deadline.IsZero() && ask.History != nil && routing.AsksForStream(x.in, x.seen()) {
		// The timeout of the client counts to the first byte only.
		ask.Deadline = ask.Deadline.Add(ask.History.Fastest(ask.VRAM - ask.Raised))
	}
	if x.body != nil {
		ask.Size = admission.Bytes(x.body.size)
	}
	return ask
}

// admit waits for a grant. If the client left in the moment of the grant, the grant is
// given back: a backend would work for no client.
func (x *exchange) admit(ask admission.Request) (*admission.Grant, error) {
	x.now = time.Now()
	x.trace.Asked(3-int(ask.Boost/Urgency), ask.Deadline)
	x.trace.Wait(x.now)
	x.places.moved(x.place, x.now, time.Time{})
	x.announce()
	quiet := x.comment()
	if x.body != nil {
		ask.Holds = x.body
		defer x.body.wake()
	}
	grant, err := x.controller.Admit(x.ctx, ask)
	quiet()
	if err != nil {
		x.now = time.Now()
		x.trace.Refused(x.now, rejectionOf(err))
		return nil, err
	}
	x.now = x.now.Add(grant.Waited())
	x.places.moved(x.place, time.Time{}, x.now)
	x.trace.Admitted(x.now, grant.ID(), grant.Replica(), grant.Position(), grant.Waited(), grant.Stay())
	if err := x.ctx.Err(); err != nil {
		grant.Release(admission.Result{Outcome: admission.Aborted})
		return nil, err
	}
	return grant, nil
}

// rejectionOf gives the controller's refusal, or one for a client that left.
func rejectionOf(err error) *admission.Rejection {
	if r, ok := err.(*admission.Rejection); ok {
		return r
	}
	return &admission.Rejection{Code: admission.CodeClientCancelled, Position: -1}
}

// refuse writes an answer of the proxy's own, unless the client has left.
func (x *exchange) refuse(f *refusal) {
	x.code = f.code
	dialect := ""
	if x.route != nil {
		dialect = x.route.Errors
		if f.class == "" {
			f.class = x.route.ClassName
		}
	}
	if isGRPC(x.in) {
		dialect = "grpc"
	}
	if f.code == admission.CodeClientCancelled {
		// The client left: nothing may be sent to it, not even an empty 200.
		panic(http.ErrAbortHandler)
	}
	if f.code == admission.CodeDraining {
		f.retry = time.Until(time.Unix(0, x.drainUntil.Load()))
	}
	if x.out.committed {
		f.sendEvent(&x.out, dialect)
		return
	}
	x.describe(&headers{to: x.out.Header()})
	if origin := x.rules.config.CORS.allows(x.in); origin != "" {
		if isPreflight(x.in) {
			// The page sends the request itself after the preflight, and then reads why it
			// is refused.
			x.code = ""
			allowPreflight(&x.out, x.in, origin)
			return
		}
		allowOrigin(x.out.Header(), origin)
	}
	f.write(&x.out, dialect)
}

// describe sets the headers that every answer to a client carries.
func (x *exchange) describe(to *headers) {
	if id := x.trace.ID(); id != "" {
		to.set("X-Anteroom-Request-Id", id)
	}
	if x.route != nil && x.route.ClassName != "" {
		to.set("X-Anteroom-Class", x.route.ClassName)
	}
}

// end does what is left to do when the handler returns or panics.
func (x *exchange) end() {
	panicked := recover()
	if panicked != nil && panicked != http.ErrAbortHandler {
		x.log.Error("a handler panicked", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()),
			"trace_id", x.trace.SpanContext().TraceID().String())
		panicked = http.ErrAbortHandler
		if x.out.status == 0 && x.trace != nil {
			x.code, panicked = codeInternal, nil
			refuse(codeInternal, "").write(&x.out, "")
		}
	}
	// net/http also ends the context of a client that was too slow. A refused request was
	// answered, and its client did not leave.
	left := x.in.Context().Err() != nil
	x.try.leave(x)
	if x.body != nil && !x.try.sent {
		x.body.Close()
	}
	if x.trace != nil {
		x.trace.End(time.Now(), x.ending(left, panicked != nil))
	}
	x.remindOfGET()
	x.noteReset()
	if x.cancel != nil {
		x.cancel()
	}
	if panicked != nil {
		x.upload = nil // the connection ends, so the rest of the body is not read
		panic(panicked)
	}
}

// longGET is how long a GET that went past admission may take before it is taken for work
// on the card.
const longGET = time.Second

// remindOfGET logs once for each route that a GET which went past admission may be work on
// a card, and which key sends it through admission.
func (x *exchange) remindOfGET() {
	if !x.free || x.route == nil || x.route.Pass || x.try.to == nil || x.try.to.Config.GPU == "" || x.in.Method != http.MethodGet ||
		x.try.answer == nil || x.out.status == http.StatusSwitchingProtocols || isEvents(x.out.Header()) || time.Since(x.now) < longGET {
		return
	}
	if _, told := x.rules.reminded.LoadOrStore(x.route.Name, true); !told {
		x.log.Warn("a GET that went past admission took long: if it is work on the card, give it a route with `method: GET`",
			"route", x.route.Name, "backend", x.route.Backend, "took_ms", time.Since(x.now).Milliseconds())
	}
}

func (x *exchange) bytesIn() int64 {
	if x.body != nil {
		return x.body.size
	}
	return max(x.in.ContentLength, 0)
}

// isStream says that a request's body cannot be read in whole first, because it goes on
// while the answer comes. Only a request that the backend takes for a stream too is one.
// For every other request the body is read, and the rules, the completion and the second
// attempt apply.
func (x *exchange) isStream() bool {
	return routing.IsWebSocket(x.in) || isGRPC(x.in) && x.rules.speaksHTTP2(x.route.Backend)
}

// speaksHTTP2 says whether a backend may use HTTP/2. A backend without HTTP/2 cannot take a
// gRPC stream.
func (s *rules) speaksHTTP2(backend string) bool {
	servers := s.backends[backend]
	return len(servers) > 0 && (servers[0].Config.Protocol == "h2c" || servers[0].Base().Scheme == "https")
}

// output writes to the client. It counts bytes, and gives every write a deadline.
type output struct {
	http.ResponseWriter
	stall  time.Duration
	until  time.Time
	status int // the final status; 0: none was sent
	bytes  int64
	first  time.Time // when the first byte of the body went out; zero: none did
	flush  bool      // what is written goes out at once
	// committed says that comments have begun the answer.
	committed bool
}

// Unwrap is for http.ResponseController.
func (o *output) Unwrap() http.ResponseWriter { return o.ResponseWriter }

func (o *output) WriteHeader(status int) {
	if o.committed {
		return
	}
	if status >= 200 || status == http.StatusSwitchingProtocols {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

// Write writes under a deadline of limits.write_stall, or a quarter more: the
// timer is not moved for every small event.
func (o *output) Write(p []byte) (int, error) {
	now := time.Now()
	o.firstByte(now)
	if o.until.Sub(now) < o.stall {
		o.until = now.Add(o.stall + o.stall/4)
		http.NewResponseController(o.ResponseWriter).SetWriteDeadline(o.until)
	}
	n, err := o.ResponseWriter.Write(p)
	o.bytes += int64(n)
	if o.flush && err == nil {
		err = http.NewResponseController(o.ResponseWriter).Flush()
	}
	return n, err
}
