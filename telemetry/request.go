package telemetry

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Request is one request's story for the outside: a SERVER span with two
// siblings under it, admission.wait and the CLIENT span of the execution, then
// metrics and a log line. The calls come in the order in which they stand
// here, each at most once; those that do not apply are left out. A request that
// is tried a second time goes from Wait to Executed once more. End is always
// called; Executed alone may come after it and from another goroutine. All of
// them do nothing on a nil Request.
type Request struct {
	t      *Telemetry
	method string
	ctx    context.Context   // holds the SERVER span's context; nil while tracing is off
	id     trace.SpanContext // the SERVER span's, or made up while tracing is off

	pattern, route, class, backend string
	vram                           admission.Bytes
	began                          time.Time

	server, wait trace.Span // nil: none, or nobody keeps this trace
	waitBegan    time.Time
	waited       time.Duration
	queued       bool // Wait was called
	refused      admission.Code

	mu           sync.Mutex
	execution    trace.Span    // guarded by mu
	executeBegan time.Time     // guarded by mu
	executed     time.Duration // guarded by mu; -1: not ended
}

// knownMethods bounds the label: clients may send any word.
var knownMethods = map[string]bool{
	"GET": true, "HEAD": true, "POST": true, "PUT": true, "PATCH": true,
	"DELETE": true, "CONNECT": true, "OPTIONS": true, "TRACE": true, "QUERY": true,
}

// Begin continues the caller's trace context or starts a new trace. route is
// the rule's path pattern and becomes http.route and, with the method, the
// span's name, so it must come from a small closed set; empty: none matched.
func (t *Telemetry) Begin(r *http.Request, route string) *Request {
	q := &Request{t: t, method: r.Method, pattern: route, began: time.Now(), executed: -1}
	if !knownMethods[q.method] {
		q.method = "_OTHER"
	}
	if t.tracer == nil {
		var caller trace.SpanContext
		if r.Header["Traceparent"] != nil {
			caller = trace.SpanContextFromContext(t.propagator.Extract(context.Background(), propagation.HeaderCarrier(r.Header)))
		}
		q.id = newID(caller)
		return q
	}
	ctx := t.propagator.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
	name := q.method
	attributes := make([]attribute.KeyValue, 0, 8)
	attributes = append(attributes, semconv.HTTPRequestMethodKey.String(q.method), semconv.URLPath(r.URL.EscapedPath()),
		semconv.URLScheme(scheme(r)), semconv.NetworkProtocolVersion(strconv.Itoa(r.ProtoMajor)+"."+strconv.Itoa(r.ProtoMinor)))
	if route != "" {
		name += " " + route
		attributes = append(attributes, semconv.HTTPRoute(route))
	}
	var span trace.Span
	q.ctx, span = t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(q.began),
		trace.WithAttributes(attributes...))
	q.id = span.SpanContext()
	if span.IsRecording() {
		q.server = span
	}
	return q
}

// newID is an id for a request without a span, in its caller's trace where
// there is one, so that its log line can be found.
func newID(caller trace.SpanContext) trace.SpanContext {
	id := trace.SpanContextConfig{TraceID: caller.TraceID()}
	if !id.TraceID.IsValid() {
		binary.NativeEndian.PutUint64(id.TraceID[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id.TraceID[8:], rand.Uint64()|1) // all zero is not valid
	}
	binary.NativeEndian.PutUint64(id.SpanID[:], rand.Uint64()|1)
	return trace.NewSpanContext(id)
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

// Classify says what the request is as far as is known; it may be called again
// when more is.
func (q *Request) Classify(route, class, backend string, vram admission.Bytes) {
	if q == nil {
		return
	}
	q.route, q.class, q.backend, q.vram = route, class, backend, vram
}

// Wait opens the admission.wait span.
func (q *Request) Wait(at time.Time) {
	if q == nil {
		return
	}
	q.waitBegan, q.queued = at, true
	if q.server != nil {
		_, q.wait = q.t.tracer.Start(q.ctx, SpanWait, trace.WithTimestamp(at))
	}
}

// Admitted closes the admission.wait span with a grant.
func (q *Request) Admitted(at time.Time, id uint64, position int, waited time.Duration, stay *admission.Stay) {
	if q == nil {
		return
	}
	q.waited += waited
	q.t.metrics.wait.Record(q.context(), waited.Seconds(), q.t.metrics.labelled(labels{kind: setWait, class: q.class, result: ResultOK}).record...)
	if q.wait == nil {
		return
	}
	if waited > 0 {
		q.queuedAt(position, stay)
	}
	q.steps(stay)
	q.wait.AddEvent(EventGranted, trace.WithTimestamp(at))
	q.wait.SetAttributes(attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend),
		attribute.Int64(AttrVRAM, int64(q.vram)), attribute.Int(AttrPosition, position),
		attribute.Float64(AttrWaited, waited.Seconds()), attribute.Int64(AttrGrant, int64(id)))
	if stay != nil {
		q.wait.SetAttributes(blocked(stay.Last)...)
		q.wait.SetAttributes(attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	q.wait.End(trace.WithTimestamp(at))
	q.wait = nil
}

// queuedAt marks in the admission.wait span the moment at which it was queued,
// with what kept it from starting then.
func (q *Request) queuedAt(position int, stay *admission.Stay) {
	met := []attribute.KeyValue{attribute.Int(AttrPosition, position)}
	if stay != nil {
		met = append(met, blocked(stay.First)...)
		met = append(met, attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	q.wait.AddEvent(EventQueued, trace.WithTimestamp(q.waitBegan), trace.WithAttributes(met...))
}

// steps adds what it waited for, and since when, to the admission.wait span.
func (q *Request) steps(stay *admission.Stay) {
	if stay == nil {
		return
	}
	for _, s := range stay.Steps {
		q.wait.AddEvent(EventBlocked, trace.WithTimestamp(q.waitBegan.Add(s.At)), trace.WithAttributes(attribute.String(AttrReason, string(s.Reason))))
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
	q.waited, q.refused = q.waited+rejection.Waited, rejection.Code
	result := ResultRefused
	if rejection.Code == admission.CodeClientCancelled {
		result = ResultCancelled
	}
	q.t.metrics.wait.Record(q.context(), rejection.Waited.Seconds(), q.t.metrics.labelled(labels{kind: setWait, class: q.class, result: result}).record...)
	if q.wait == nil {
		return
	}
	if rejection.Waited > 0 {
		q.queuedAt(rejection.Position, rejection.Stay)
	}
	q.steps(rejection.Stay)
	q.wait.AddEvent(EventRefused, trace.WithTimestamp(at), trace.WithAttributes(attribute.String(AttrCode, string(rejection.Code))))
	q.wait.SetAttributes(attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend),
		attribute.Int64(AttrVRAM, int64(q.vram)), attribute.Float64(AttrWaited, rejection.Waited.Seconds()),
		attribute.String(AttrCode, string(rejection.Code)), attribute.Int(AttrPosition, rejection.Position))
	if stay := rejection.Stay; stay != nil {
		q.wait.SetAttributes(blocked(stay.Last)...)
		q.wait.SetAttributes(attribute.Float64(AttrExpected, stay.Expected.Seconds()))
	}
	if rejection.Reason != admission.ReasonNone {
		q.wait.SetAttributes(attribute.String(AttrReason, string(rejection.Reason)))
	}
	q.wait.End(trace.WithTimestamp(at))
	q.wait = nil
}

// Execute opens the CLIENT span and writes its context into the header that
// goes to the backend; with tracing off the header stays as it is. address is
// the backend's URL.
func (q *Request) Execute(at time.Time, address string, header http.Header) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.executeBegan, q.executed = at, -1
	if q.ctx == nil {
		return
	}
	ctx := q.ctx
	if q.server != nil {
		ctx, q.execution = q.t.tracer.Start(ctx, q.method, trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(at),
			trace.WithAttributes(q.t.peer(address)...),
			trace.WithAttributes(semconv.HTTPRequestMethodKey.String(q.method), attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend)))
	}
	// What is not written anew goes: a tracestate belongs to the traceparent that
	// it came with.
	for _, name := range q.t.stale {
		delete(header, name)
	}
	q.t.propagator.Inject(ctx, propagation.HeaderCarrier(header))
}

// peer describes a backend by its address. Addresses come from the
// configuration, so that there are few.
func (t *Telemetry) peer(address string) []attribute.KeyValue {
	if known, ok := t.peers.Load(address); ok {
		return known.([]attribute.KeyValue)
	}
	var about []attribute.KeyValue
	if u, err := url.Parse(address); err == nil {
		about = append(about, semconv.URLFull(u.Redacted()), semconv.ServerAddress(u.Hostname()))
		if port, err := strconv.Atoi(u.Port()); err == nil {
			about = append(about, semconv.ServerPort(port))
		}
	}
	t.peers.Store(address, about)
	return about
}

// Executed closes the CLIENT span at the backend's last byte. status is 0
// where no answer came; err is why it broke off, nil where it did not.
func (q *Request) Executed(at time.Time, status int, err error) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.executeBegan.IsZero() || q.executed >= 0 {
		return
	}
	q.executed = max(0, at.Sub(q.executeBegan))
	result := ResultOK
	switch {
	case errors.Is(err, context.Canceled):
		result = ResultCancelled
	case err != nil || status >= 500:
		result = ResultFailed
	}
	q.t.metrics.execution.Record(q.context(), q.executed.Seconds(),
		q.t.metrics.labelled(labels{kind: setExecution, class: q.class, backend: q.backend, result: result}).record...)
	if q.execution == nil {
		return
	}
	if status != 0 {
		q.execution.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	switch {
	case result == ResultCancelled: // nobody's fault
		q.execution.SetAttributes(semconv.ErrorTypeKey.String(ResultCancelled))
	case err != nil:
		q.execution.SetAttributes(semconv.ErrorTypeKey.String("broken"))
		q.execution.SetStatus(codes.Error, brief(err.Error()))
	case status >= 400:
		q.execution.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		q.execution.SetStatus(codes.Error, "")
	}
	q.execution.End(trace.WithTimestamp(at))
}

// brief makes an error's text fit for export. It may quote what a backend sent:
// megabytes, or bytes that would make OTLP refuse the whole batch.
func brief(text string) string {
	const most = 512
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// End closes the SERVER span, records the metrics and writes the log line.
// status is what the client got, 499 where it left; code is a refusal's, empty
// for a backend's answer.
func (q *Request) End(at time.Time, status int, code string, bytesIn, bytesOut int64) {
	if q == nil {
		return
	}
	total := max(0, at.Sub(q.began))
	q.mu.Lock()
	executed := q.executed
	q.mu.Unlock()

	result := ResultOK
	switch {
	case status == 499:
		result = ResultCancelled
	case code != "":
		result = ResultRefused
	case status >= 500:
		result = ResultFailed
	}
	m, ctx := &q.t.metrics, q.context()
	m.server.Record(ctx, total.Seconds(), m.labelled(labels{kind: setServer, method: q.method, route: q.pattern, status: status}).record...)
	m.requests.Add(ctx, 1, m.labelled(labels{kind: setRequests, route: q.route, class: q.class, result: result}).add...)
	if code != "" {
		m.refusals.Add(ctx, 1, m.labelled(labels{kind: setRefusals, class: q.class, extra: code}).add...)
	}
	if q.wait != nil { // it panicked in the queue
		q.wait.End(trace.WithTimestamp(at))
	}
	if q.server != nil {
		q.server.SetAttributes(semconv.HTTPResponseStatusCode(status), attribute.String(AttrRoute, q.route),
			attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend), attribute.String(AttrResult, result))
		if code != "" {
			q.server.SetAttributes(attribute.String(AttrCode, code))
		}
		if status >= 500 {
			q.server.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
			q.server.SetStatus(codes.Error, code)
		}
		q.server.End(trace.WithTimestamp(at))
	}
	q.logLine(status, code, total, executed, bytesIn, bytesOut)
}

// logLine writes the request's one line. It has no header, no query and no
// body: they hold secrets and prompts.
func (q *Request) logLine(status int, code string, total, executed time.Duration, in, out int64) {
	level := slog.LevelInfo
	if code != "" && status >= 500 {
		level = slog.LevelWarn
	}
	if !q.t.log.Enabled(context.Background(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 16)
	attributes = append(attributes, slog.String("method", q.method), slog.String("route", q.route), slog.String("class", q.class),
		slog.String("backend", q.backend), slog.Int("status", status))
	if code != "" {
		attributes = append(attributes, slog.String("code", code))
	}
	if q.queued {
		attributes = append(attributes, milliseconds("wait_ms", q.waited), slog.Int64("vram", int64(q.vram)))
	}
	if executed >= 0 {
		attributes = append(attributes, milliseconds("execute_ms", executed))
	}
	attributes = append(attributes, milliseconds("total_ms", total), slog.Int64("bytes_in", in), slog.Int64("bytes_out", out))
	if s := q.SpanContext(); s.IsValid() {
		attributes = append(attributes, slog.String("trace_id", s.TraceID().String()), slog.String("span_id", s.SpanID().String()))
	}
	q.t.log.LogAttrs(context.Background(), level, "request", attributes...)
}

func milliseconds(key string, d time.Duration) slog.Attr {
	return slog.Float64(key, float64(d.Microseconds())/1000)
}

// context carries the span, for exemplars.
func (q *Request) context() context.Context {
	if q.ctx == nil {
		return context.Background()
	}
	return q.ctx
}
