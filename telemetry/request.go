package telemetry

import (
	"cmp"
	"context"
	"encoding/hex"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// Request is the telemetry of one request: a SERVER span with its phases under it
// (request.receive where the body took long, admission.wait, and the CLIENT span of the
// execution), then metrics and a log line. The calls come in the order in which they stand
// here, each at most once; those that do not apply are left out. A request that is tried a
// second time goes from Wait to Executed once more. End is always called; Executed alone
// may come after it and from another goroutine, and then writes a second log line, for the
// work. All of them do nothing on a nil Request.
type Request struct {
	t      *Telemetry
	method string
	url    *url.URL
	// original is the method if it is an unknown one. version is the protocol's.
	original, version string
	id                trace.SpanContext    // the SERVER span's, or made up while tracing is off
	caller            trace.SpanContext    // not valid: it sent none
	said              []attribute.KeyValue // by the sampler
	text              string               // of id: the trace's and the span's id with a hyphen between them

	pattern, route, class, backend string
	tenant, model, client          string // empty: none, or not told
	scheme                         string
	provider                       string // of a model's API: the backend's engine
	vram                           admission.Bytes
	began                          time.Time
	received                       time.Duration // from began until the body was in; -1: it was not waited for

	usual *usualSet // guarded by mu from Execute on; nil: not looked up
	// server and wait are opened only when they end, because thousands of requests may
	// wait. Nil: not opened yet, or this trace is not kept.
	server, wait *span
	waits        bool // and that has not ended
	waitBegan    time.Time
	waited       time.Duration
	queued       bool // Wait was called
	grant        uint64
	position     int // on arrival; -1: it never queued
	reason       admission.Reason
	priority     int       // RFC 9218\'s
	deadline     time.Time // of its client; zero: none
	replica      int

	origin admission.Origin // leads back here

	mu           sync.Mutex
	waitContext  trace.SpanContext // guarded by mu; of admission.wait
	orders       []sdktrace.Link   // guarded by mu; spans of what was done for it
	execution    *span             // guarded by mu
	executeBegan time.Time         // guarded by mu
	executed     time.Duration     // guarded by mu; -1: not ended
	sends        int               // guarded by mu; how often it was sent
	beside       beside            // guarded by mu; of the last execution
	outcome      outcome           // guarded by mu; of the last execution
	use          *ModelUse         // guarded by mu; of the last execution
	over         bool              // guarded by mu; End was called
	record       *timeline.Request // guarded by mu; for the history, when its work has ended; nil: it has, or End was not called
}

// knownMethods bounds the values of the label, because clients may send any method.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true,
	"DELETE": true, "CONNECT": true, "OPTIONS": true, "TRACE": true, "QUERY": true,
}

// Begin continues the caller's trace context or starts a new trace. route is
// the rule's path pattern and becomes http.route and, with the method, the
// span's name, so it must come from a small closed set; empty: none matched.
func (t *Telemetry) Begin(r *http.Request, route string) *Request {
	q := &Request{t: t, method: r.Method, url: r.URL, pattern: route, scheme: scheme(r), began: time.Now(), received: -1, position: -1,
		executed: -1, priority: 3}
	q.outcome.rpc, q.origin.Value = noRPC, q
	if !knownMethods[q.method] {
		q.original, q.method = strings.ToValidUTF8(q.method, "\uFFFD"), otherMethod
	}
	if t.clients {
		q.client = hostOf(r.RemoteAddr)
	}
	q.caller = t.caller(r.Header)
	if t.tracer == nil {
		q.id = newID(q.caller)
		q.text = textOf(q.id)
		return q
	}
	q.id, q.said = t.tracer.decide(q.caller, q.spanName(), trace.SpanKindServer)
	q.text = textOf(q.id)
	if q.isKept() {
		q.version = protocolVersion(r)
	}
	return q
}

// isKept says that the request's trace is kept.
func (q *Request) isKept() bool { return q.t.tracer != nil && q.id.IsSampled() }

func (q *Request) spanName() string {
	if q.pattern == "" {
		return spanName(q.method)
	}
	return spanName(q.method) + " " + q.pattern
}

// openServer opens the SERVER span, which has begun with the request.
func (q *Request) openServer() {
	q.server = q.t.tracer.record(q.id, q.caller, q.spanName(), trace.SpanKindServer, q.began)
	q.server.add(q.said...)
	q.server.add(semconv.HTTPRequestMethodKey.String(q.method), semconv.URLPath(q.url.EscapedPath()),
		semconv.URLScheme(q.scheme), semconv.NetworkProtocolVersion(q.version))
	if q.original != "" {
		q.server.add(semconv.HTTPRequestMethodOriginal(q.original))
	}
	if q.client != "" {
		q.server.add(semconv.ClientAddress(q.client))
	}
	if q.pattern != "" {
		q.server.add(semconv.HTTPRoute(q.pattern))
	}
}

// traceText is the length of a trace's id as text.
const traceText = 32

func textOf(id trace.SpanContext) string {
	var text [traceText + 17]byte
	trace, span := id.TraceID(), id.SpanID()
	hex.Encode(text[:], trace[:])
	text[traceText] = '-'
	hex.Encode(text[traceText+1:], span[:])
	return string(text[:])
}

// ID is the id of the request for its client: the ids of its trace and of its SERVER span
// with a hyphen between them. While tracing is off, generated ids take their place. A nil
// Request has an empty ID.
func (q *Request) ID() string {
	if q == nil {
		return ""
	}
	return q.text
}

// caller is the trace context that a request brought along.
func (t *Telemetry) caller(header http.Header) trace.SpanContext {
	if t.w3c && header["Traceparent"] == nil {
		return trace.SpanContext{}
	}
	return trace.SpanContextFromContext(t.propagator.Extract(context.Background(), propagation.HeaderCarrier(header)))
}

// newID is an id for a request without a span, in its caller's trace where
// there is one, so that its log line can be found.
func newID(caller trace.SpanContext) trace.SpanContext {
	id := trace.SpanContextConfig{TraceID: caller.TraceID(), SpanID: newSpanID()}
	if !id.TraceID.IsValid() {
		id.TraceID = newTraceID()
	}
	return trace.NewSpanContext(id)
}

// otherMethod is the label of every unknown method. In the names of spans it is "HTTP", as
// the conventions say.
const otherMethod = "_OTHER"

func spanName(method string) string {
	if method == otherMethod {
		return "HTTP"
	}
	return method
}

func protocolVersion(r *http.Request) string {
	switch {
	case r.ProtoMajor == 1 && r.ProtoMinor == 1:
		return "1.1"
	case r.ProtoMajor == 1:
		return "1.0"
	}
	return strconv.Itoa(r.ProtoMajor)
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// SpanContext is the SERVER span's. While tracing is off it is the request's
// own id in the caller's trace, or in a new one.
func (q *Request) SpanContext() trace.SpanContext {
	if q == nil {
		return trace.SpanContext{}
	}
	return q.id
}

// Origin identifies the request for package admission; see RequestOf.
func (q *Request) Origin() *admission.Origin {
	if q == nil {
		return nil
	}
	return &q.origin
}

// RequestOf is the Request of an Origin; nil: the Origin is not of a Request.
func RequestOf(o *admission.Origin) *Request {
	if o == nil {
		return nil
	}
	q, _ := o.Value.(*Request)
	return q
}

// Classify sets the route, class and backend of the request as far as they are known. It
// may be called again when more is known.
func (q *Request) Classify(route, class, backend string, vram admission.Bytes) {
	if q == nil {
		return
	}
	q.route, q.class, q.backend, q.vram, q.usual = route, class, backend, vram, nil
}

// Identify sets the tenant and the model of the request, as far as they are known; either
// may be empty.
func (q *Request) Identify(tenant, model string) {
	if q == nil {
		return
	}
	q.tenant, q.model = tenant, model
}

// Provide sets the engine that answers the request for a model; empty: an engine with
// OpenAI's API.
func (q *Request) Provide(engine string) {
	if q == nil {
		return
	}
	q.provider = engine
}

// longReceive is the time from which on the arrival of a body has a span of its own.
const longReceive = time.Millisecond

// Received is called when the body has arrived, or has broken off.
func (q *Request) Received(at time.Time) {
	if q == nil {
		return
	}
	q.received = max(0, at.Sub(q.began))
	if q.isKept() && q.received >= longReceive {
		q.t.tracer.child(q.id, SpanReceive, trace.SpanKindInternal, q.began).end(at)
	}
}

// Asked sets the urgency that the client gave (RFC 9218: 0 to 7, default 3), and its
// deadline; zero: none.
func (q *Request) Asked(priority int, deadline time.Time) {
	if q == nil {
		return
	}
	q.priority, q.deadline = priority, deadline
}

// Wait begins the admission.wait span.
func (q *Request) Wait(at time.Time) {
	if q == nil {
		return
	}
	q.waitBegan, q.queued = at, true
	if q.waits = q.isKept(); q.waits {
		q.mu.Lock()
		q.waitContext = q.id.WithSpanID(newSpanID())
		q.mu.Unlock()
	}
}

// openWait opens the admission.wait span where there is one that has not ended.
func (q *Request) openWait() bool {
	if q.waits {
		q.wait = q.t.tracer.record(q.waiting(), q.id, SpanWait, trace.SpanKindInternal, q.waitBegan)
	}
	return q.waits
}

// endWait closes the admission.wait span, with links to what was done for it.
func (q *Request) endWait(at time.Time) {
	q.mu.Lock()
	orders := q.orders
	q.orders = nil
	q.mu.Unlock()
	for _, link := range orders {
		q.wait.link(link)
	}
	q.wait.end(at)
	q.wait, q.waits = nil, false
}

// Admitted closes the admission.wait span with a grant.
func (q *Request) Admitted(at time.Time, id uint64, replica, position int, waited time.Duration, stay *admission.Stay) {
	if q == nil {
		return
	}
	q.waited += waited
	q.grant, q.replica, q.position = id, replica, position
	if stay != nil {
		q.reason = stay.Last.Reason
	}
	q.decided(timeline.Granted, at, waited, string(q.reason), stay)
	m := &q.t.metrics
	q.seconds(m.wait, m.of(q).wait.of(m, labels{kind: setWait, class: q.class, result: ResultOK}), waited, at)
	if stay != nil && stay.Expected > 0 && waited > 0 {
		m.estimates.Record(context.Background(), waited.Seconds()/stay.Expected.Seconds(),
			m.labelled(labels{kind: setEstimate, class: q.class, extra: "wait"}).record...)
	}
	if !q.openWait() {
		return
	}
	if waited > 0 {
		q.queuedAt(position, stay)
	}
	q.steps(stay)
	q.wait.event(EventGranted, at)
	q.wait.add(attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend),
		attribute.Int64(AttrVRAM, int64(q.vram)), attribute.Int(AttrPosition, position),
		attribute.Float64(AttrWaited, waited.Seconds()), attribute.Int64(AttrGrant, int64(id)))
	if stay != nil {
		q.wait.add(blocked(stay.Last)...)
		q.wait.add(attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	q.endWait(at)
}

// queuedAt adds to the admission.wait span an event for the moment at which the request was
// queued, with what blocked it then.
func (q *Request) queuedAt(position int, stay *admission.Stay) {
	met := []attribute.KeyValue{attribute.Int(AttrPosition, position)}
	if stay != nil {
		met = append(met, blocked(stay.First)...)
		met = append(met, attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	q.wait.event(EventQueued, q.waitBegan, met...)
}

// steps adds what it waited for, and since when, to the admission.wait span.
func (q *Request) steps(stay *admission.Stay) {
	if stay == nil {
		return
	}
	for _, s := range stay.Steps {
		q.wait.event(EventBlocked, q.waitBegan.Add(s.At), attribute.String(AttrReason, string(s.Reason)),
			attribute.String(AttrResource, s.Resource), attribute.String(AttrBackend, cmp.Or(s.Backend, q.backend)))
	}
}

func blocked(b admission.Blocked) []attribute.KeyValue {
	if b.Reason == admission.ReasonNone {
		return nil
	}
	met := []attribute.KeyValue{attribute.String(AttrReason, string(b.Reason)), attribute.String(AttrResource, b.Resource)}
	if b.Need > 0 {
		met = append(met, attribute.Int64(AttrNeed, b.Need), attribute.Int64(AttrFree, b.Free))
	}
	return met
}

// Refused closes the admission.wait span with a refusal.
func (q *Request) Refused(at time.Time, rejection *admission.Rejection) {
	if q == nil || rejection == nil {
		return
	}
	q.waited += rejection.Waited
	q.grant, q.position, q.reason = rejection.ID, rejection.Position, rejection.Reason
	q.decided(timeline.Refused, at, rejection.Waited, string(rejection.Code), rejection.Stay)
	result := ResultRefused
	if rejection.Code == admission.CodeClientCancelled {
		result = ResultCancelled
	}
	m := &q.t.metrics
	q.seconds(m.wait, m.labelled(labels{kind: setWait, class: q.class, result: result}), rejection.Waited, at)
	if !q.openWait() {
		return
	}
	if rejection.Waited > 0 {
		q.queuedAt(rejection.Position, rejection.Stay)
	}
	q.steps(rejection.Stay)
	q.wait.event(EventRefused, at, attribute.String(AttrCode, string(rejection.Code)))
	q.wait.add(attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend),
		attribute.Int64(AttrVRAM, int64(q.vram)), attribute.Float64(AttrWaited, rejection.Waited.Seconds()),
		attribute.String(AttrCode, string(rejection.Code)), attribute.Int(AttrPosition, rejection.Position))
	reason := rejection.Reason
	if stay := rejection.Stay; stay != nil {
		last := stay.Last
		if last.Reason != admission.ReasonNone {
			last.Reason, reason = cmp.Or(reason, last.Reason), admission.ReasonNone
		}
		q.wait.add(blocked(last)...)
		q.wait.add(attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	if reason != admission.ReasonNone {
		q.wait.add(attribute.String(AttrReason, string(reason)))
	}
	q.endWait(at)
}

// Execute opens the CLIENT span and writes its context into the header that
// goes to the backend; with tracing off the header stays as it is. address is
// the backend's URL, path what is asked for there, without a query.
func (q *Request) Execute(at time.Time, address, path string, header http.Header) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.executeBegan, q.executed, q.outcome = at, -1, outcome{rpc: noRPC}
	q.sends++
	q.beside.class = -1
	if q.grant != 0 {
		q.beside = q.t.contention.begin(q.class)
	}
	if q.t.tracer == nil {
		return
	}
	id := q.id
	if q.isKept() {
		about := q.t.peer(address)
		q.execution = q.t.tracer.child(q.id, spanName(q.method), trace.SpanKindClient, at)
		q.execution.add(about.attributes...)
		q.execution.add(semconv.HTTPRequestMethodKey.String(q.method), semconv.URLFull(about.origin+path),
			attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend))
		if q.sends > 1 {
			q.execution.add(semconv.HTTPRequestResendCount(q.sends - 1))
		}
		id = q.execution.id
	}
	q.t.inject(id, header)
}

// inject writes a span's context into a header. It removes a tracestate that it does not
// write anew, because a tracestate belongs to the traceparent that it came with.
func (t *Telemetry) inject(id trace.SpanContext, header http.Header) {
	for _, name := range t.stale {
		delete(header, name)
	}
	if !t.w3c {
		t.propagator.Inject(withSpan(id), propagation.HeaderCarrier(header))
		return
	}
	trace, span := id.TraceID(), id.SpanID()
	value := make([]byte, 0, 55)
	value = hex.AppendEncode(append(value, "00-"...), trace[:])
	value = hex.AppendEncode(append(value, '-'), span[:])
	value = hex.AppendEncode(append(value, '-'), []byte{byte(id.TraceFlags() & w3cFlags)})
	header["Traceparent"] = []string{string(value)}
	if id.TraceState().Len() > 0 {
		header["Tracestate"] = []string{id.TraceState().String()}
	}
}

// w3cFlags are the trace flags that the header has.
const w3cFlags = trace.FlagsSampled | trace.FlagsRandom

// peer has the attributes of a backend's address.
type peer struct {
	origin     string // the address without password and path
	attributes []attribute.KeyValue
}

// peer describes a backend by its address. Addresses come from the
// configuration, so that there are few.
func (t *Telemetry) peer(address string) *peer {
	if known, ok := t.peers.Load(address); ok {
		return known.(*peer)
	}
	about := new(peer)
	if u, err := url.Parse(address); err == nil {
		about.origin = u.Scheme + "://" + u.Host
		about.attributes = append(about.attributes, semconv.ServerAddress(u.Hostname()))
		if port, err := strconv.Atoi(u.Port()); err == nil {
			about.attributes = append(about.attributes, semconv.ServerPort(port))
		}
	}
	t.peers.Store(address, about)
	return about
}

// context carries the span, for the exemplars of what can be looked at in a trace: how
// long something took, and what went wrong. Sums have none.
func (q *Request) context() context.Context {
	if !q.isKept() {
		return context.Background()
	}
	return withSpan(q.id)
}
