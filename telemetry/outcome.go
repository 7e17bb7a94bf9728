package telemetry

import (
	"cmp"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// Execution says how an execution ended.
type Execution struct {
	// Status is what the backend answered with; 0: no answer came.
	Status int
	// RPC is gRPC's status; -1: the answer is none of gRPC's, or broke off before it.
	RPC int
	// Code is the code of the failure, one of the HTTP contract; empty: the answer came to
	// its end, with any status. Cause describes the failure in a sentence.
	Code, Cause string
	// Left says that it ended because its client left, or because an operator gave its
	// grant back (Code says so): no failure.
	Left bool
	// Model is what the answer of a model says; nil: nothing.
	Model *ModelUse
	// GPUs is how many GPUs it held while it ran.
	GPUs int
	// Estimate is how long it was expected to take; 0: that was not said.
	Estimate time.Duration
}

// ModelUse is what an answer says about the tokens that a model used.
type ModelUse struct {
	// Input and Output are tokens; -1: it does not say.
	Input, Output int
	// Streamed says that the answer came as a stream.
	Streamed bool
}

// Ending says how a request ended for its client.
type Ending struct {
	// Status is what the client got, 499 where it left.
	Status int
	// RPC is the gRPC status of an answer of the proxy's own; -1: none.
	RPC int
	// Code is why the proxy answered itself, or that the client left; empty: the
	// answer is the backend's. With Cut it is why an answer of the backend's that had
	// begun was cut short; empty there: as the execution says.
	Code string
	Cut  bool
	// FirstByte is when the first byte of the answer's body went out; zero: none did.
	FirstByte time.Time
	// Opened is when the connection was switched to another protocol; zero: it was not.
	Opened time.Time
	// In and Out are bytes of bodies, and of what went over a switched connection.
	In, Out int64
}

// noRPC stands where there is no gRPC status.
const noRPC = -1

// outcome is the result of an execution.
type outcome struct {
	code string // of the failure; empty: none
	left bool
	rpc  int
}

// rpcNames are gRPC's status codes by their names, as the conventions name them.
var rpcNames = [...]string{"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL",
	"UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"}

func rpcName(status int) string {
	if status < 0 || status >= len(rpcNames) {
		return "UNKNOWN"
	}
	return rpcNames[status]
}

// rpcFails says that a gRPC status is the server's failure, as 5xx is: those that
// the conventions count among a server's errors, and RESOURCE_EXHAUSTED, with which
// engines say that memory ran out.
func rpcFails(status int) bool {
	switch status {
	case 2, 4, 8, 12, 13, 14, 15:
		return true
	}
	return status > 16
}

// Codes of failures.
const (
	codeBackendError    = "backend_error" // 5xx, or a gRPC status that is a failure
	codeBackendProtocol = "backend_protocol"
	codeCancelled       = "client_cancelled"
)

// outcomeOf derives the outcome of an execution.
func outcomeOf(e Execution) outcome {
	o := outcome{code: e.Code, left: e.Left, rpc: e.RPC}
	if o.code == "" && !o.left && (e.Status >= 500 || rpcFails(e.RPC)) {
		o.code = codeBackendError
	}
	return o
}

func (o outcome) result() string {
	switch {
	case o.left, o.rpc == 1:
		return ResultCancelled
	case o.code != "":
		return ResultFailed
	}
	return ResultOK
}

// Executed closes the CLIENT span at the backend's last byte, or at the end of the
// work behind the answer.
func (q *Request) Executed(at time.Time, e Execution) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.executeBegan.IsZero() || q.executed >= 0 {
		return
	}
	q.executed, q.outcome, q.use = max(0, at.Sub(q.executeBegan)), outcomeOf(e), e.Model
	result := q.outcome.result()
	m := &q.t.metrics
	usual := m.of(q)
	if by := (labels{kind: setExecution, class: q.class, backend: q.backend, result: result}); result == ResultOK {
		q.seconds(m.execution, usual.execution.of(m, by), q.executed, at)
	} else {
		q.seconds(m.execution, m.labelled(by), q.executed, at)
	}
	if result == ResultFailed {
		m.failures.Add(q.context(), 1, m.labelled(labels{kind: setFailures, class: q.class, backend: q.backend, extra: q.outcome.code}).add...)
	}
	if e.GPUs > 0 && q.grant != 0 {
		held := q.executed.Seconds() * float64(e.GPUs)
		if by := (labels{kind: setBill, class: q.class, route: q.route, tenant: q.t.knownTenant(q.tenant)}); q.tenant == "" {
			usual.bill.of(m, by).sum(held, held*float64(q.vram))
		} else {
			m.labelled(by).sum(held, held*float64(q.vram))
		}
	}
	if result == ResultOK && e.Estimate > 0 {
		m.estimates.Record(context.Background(), q.executed.Seconds()/e.Estimate.Seconds(),
			usual.runRatio.of(m, labels{kind: setEstimate, class: q.class, extra: "execution"}).record...)
	}
	q.contended(q.executed.Seconds(), result == ResultOK)
	if q.execution != nil {
		q.endExecution(at, e)
	}
	if q.over {
		q.workLine()
	}
	if q.record != nil {
		q.finish(*q.record, at)
	}
}

// endExecution closes the CLIENT span. The caller holds mu.
func (q *Request) endExecution(at time.Time, e Execution) {
	if e.Status != 0 {
		q.execution.add(semconv.HTTPResponseStatusCode(e.Status))
	}
	if e.RPC >= 0 {
		q.execution.add(semconv.RPCResponseStatusCode(rpcName(e.RPC)))
	}
	switch {
	case e.Left:
		q.execution.add(semconv.ErrorTypeKey.String(cmp.Or(e.Code, codeCancelled)))
	case e.Code != "":
		q.execution.add(semconv.ErrorTypeKey.String(e.Code))
		q.execution.fail(brief(e.Cause))
	case e.RPC > 0:
		q.execution.add(semconv.ErrorTypeKey.String(rpcName(e.RPC)))
		q.execution.fail("")
	case e.Status >= 400:
		q.execution.add(semconv.ErrorTypeKey.String(strconv.Itoa(e.Status)))
		q.execution.fail("")
	}
	q.execution.end(at)
	q.execution = nil
}

// brief shortens an error's text for export and removes invalid bytes. The text may quote a
// backend: megabytes, or bytes for which a collector would refuse the whole batch.
func brief(text string) string {
	const most = 512
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// verdict is the result of a request.
type verdict struct {
	result string
	code   string // of a refusal, a failure, or a client that left
	own    bool   // the answer is the proxy's own
	rpc    int
	error  string // error.type; empty: no error
}

// verdictOf derives the result of a request from its ending and its last execution.
//
//  1. If the client left, the request is cancelled, whatever else failed.
//  2. If the proxy answered, the request is refused if nothing was sent to a backend, and
//     failed if something was sent or the proxy itself has a fault.
//  3. If the answer was cut short, the request has failed.
//  4. Otherwise the result is that of the execution.
func verdictOf(e Ending, sent bool, o outcome) verdict {
	v := verdict{result: ResultOK, code: e.Code, own: e.Code != "" && !e.Cut, rpc: e.RPC}
	switch {
	case e.Status == statusClientLeft: // 1
		return verdict{result: ResultCancelled, code: e.Code, rpc: noRPC}
	case v.own: // 2
		v.result = ResultRefused
		if sent || e.Status == 500 {
			v.result = ResultFailed
		}
	case e.Cut: // 3
		v.result, v.code = ResultFailed, cmp.Or(e.Code, o.code, codeBackendProtocol)
	default: // 4
		v.result, v.code, v.rpc = o.result(), o.code, o.rpc
		if o.left {
			// The request was answered before its client left: only the execution was cut.
			v.result, v.code = ResultCancelled, cmp.Or(o.code, codeCancelled)
		}
		if v.code == "" && e.Status >= 500 {
			v.result, v.code = ResultFailed, codeBackendError
		}
	}
	switch {
	case v.code == codeBackendError && v.rpc > 0:
		v.error = rpcName(v.rpc)
	case v.code == codeBackendError:
		v.error = strconv.Itoa(clampStatus(e.Status)) // a label, too
	case v.result == ResultFailed, e.Status >= 500, rpcFails(v.rpc):
		v.error = v.code
	}
	return v
}

// statusClientLeft is the status in the log and in metrics if the client left before the
// end of its answer.
const statusClientLeft = 499

// End closes the SERVER span, records the metrics and writes the log line.
func (q *Request) End(at time.Time, e Ending) {
	if q == nil {
		return
	}
	total := max(0, at.Sub(q.began))
	q.mu.Lock()
	executed, sent, began, use := q.executed, q.sends > 0, q.executeBegan, q.use
	v := verdictOf(e, sent, q.outcome)
	m := &q.t.metrics
	usual := m.of(q)
	q.over = true
	if q.t.History != nil {
		q.keep(q.recordOf(at, e, v, total), at, sent && executed < 0)
	}
	q.mu.Unlock()

	answered := total
	if !e.Opened.IsZero() {
		// The HTTP exchange ends when the connection is switched.
		answered = max(0, e.Opened.Sub(q.began))
		q.seconds(m.open, m.labelled(labels{kind: setOpen, class: q.class, backend: q.backend}), max(0, at.Sub(e.Opened)), at)
	}
	q.seconds(m.server, m.labelled(labels{kind: setServer, method: q.method, scheme: q.scheme, route: q.pattern,
		status: clampStatus(e.Status), extra: v.error}), answered, at)
	if by := (labels{kind: setRequests, route: q.route, class: q.class, result: v.result,
		tenant: q.t.knownTenant(q.tenant), model: q.t.knownModel(q.model)}); v.result == ResultOK && q.tenant == "" && q.model == "" {
		usual.requests.of(m, by).sum(1, 0)
	} else {
		m.labelled(by).sum(1, 0)
	}
	switch {
	case v.result == ResultCancelled:
		m.cancellations.Add(q.context(), 1, m.labelled(labels{kind: setCancellations, class: q.class, extra: q.phase(sent)}).add...)
	case v.own:
		m.refusals.Add(q.context(), 1, m.labelled(labels{kind: setRefusals, class: q.class, extra: v.code}).add...)
	}
	firstByte := time.Duration(-1)
	if sent && !e.FirstByte.IsZero() && !v.own {
		firstByte = max(0, e.FirstByte.Sub(began))
		q.seconds(m.firstByte, usual.firstByte.of(m, labels{kind: setFirstByte, class: q.class, backend: q.backend}), firstByte, at)
	}
	if q.isKept() {
		q.openServer()
	}
	if operation := q.Operation(); operation != "" {
		q.generated(at, operation, e, v, use)
	}
	if q.openWait() { // it panicked in the queue
		q.endWait(at)
	}
	if q.server != nil {
		q.endServer(at, e, v)
	}
	q.logLine(e, v, total, executed, firstByte, at)
}

// phase says in which phase the client left.
func (q *Request) phase(sent bool) string {
	switch {
	case sent:
		return PhaseExecute
	case q.queued:
		return PhaseWait
	}
	return PhaseReceive
}

// endServer closes the SERVER span.
func (q *Request) endServer(at time.Time, e Ending, v verdict) {
	if !e.FirstByte.IsZero() {
		q.server.event(EventFirstByte, e.FirstByte)
	}
	if !e.Opened.IsZero() {
		q.server.event(EventOpened, e.Opened)
	}
	s := q.server
	s.add(semconv.HTTPResponseStatusCode(e.Status), attribute.String(AttrRoute, q.route),
		attribute.String(AttrClass, q.class), attribute.String(AttrBackend, q.backend), attribute.String(AttrResult, v.result),
		semconv.HTTPRequestBodySize(int(e.In)), semconv.HTTPResponseBodySize(int(e.Out)))
	for _, a := range [...]struct{ key, value string }{{AttrTenant, q.tenant}, {AttrReason, string(q.reason)}, {AttrCode, v.code}} {
		if a.value != "" {
			s.add(attribute.String(a.key, a.value))
		}
	}
	if q.model != "" {
		s.add(attribute.String(AttrModel, q.model))
	}
	if operation := q.Operation(); operation != "" {
		s.add(attribute.String(AttrOperation, operation), attribute.String(AttrProvider, cmp.Or(q.provider, anyProvider)))
	}
	if q.queued {
		s.add(attribute.Int(AttrPosition, q.position))
	}
	if v.rpc >= 0 {
		s.add(semconv.RPCSystemNameGRPC, semconv.RPCResponseStatusCode(rpcName(v.rpc)))
	}
	if v.error != "" {
		s.add(semconv.ErrorTypeKey.String(v.error))
		s.fail(v.code)
	}
	s.end(at)
	q.server = nil
}

// logLine writes the request's line. It has the path and no header, no query and no
// body: they hold secrets and prompts.
func (q *Request) logLine(e Ending, v verdict, total, executed, firstByte time.Duration, at time.Time) {
	level := slog.LevelInfo
	if v.error != "" {
		level = slog.LevelWarn
	}
	if !q.t.log.Enabled(context.Background(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 32)
	attributes = append(attributes, slog.String("method", q.method), slog.String("path", brief(q.url.EscapedPath())), slog.String("route", q.route),
		slog.String("class", q.class), slog.String("backend", q.backend), slog.Int("status", e.Status), slog.String("result", v.result))
	attributes = appendTold(attributes, "code", v.code)
	attributes = appendTold(attributes, "tenant", q.tenant)
	attributes = appendTold(attributes, "model", q.model)
	attributes = appendTold(attributes, "client", q.client)
	if v.rpc >= 0 {
		attributes = append(attributes, slog.String("rpc_status", rpcName(v.rpc)))
	}
	if q.received >= 0 {
		attributes = append(attributes, milliseconds("receive_ms", q.received))
	}
	if q.queued {
		if q.grant != 0 {
			attributes = append(attributes, slog.Uint64("grant", q.grant))
		}
		attributes = append(attributes, slog.Int("position", q.position), milliseconds("wait_ms", q.waited), slog.Int64("vram", int64(q.vram)))
		attributes = appendTold(attributes, "reason", string(q.reason))
	}
	if firstByte >= 0 {
		attributes = append(attributes, milliseconds("first_byte_ms", firstByte))
	}
	if executed >= 0 {
		attributes = append(attributes, milliseconds("execute_ms", executed))
	}
	if !e.Opened.IsZero() {
		attributes = append(attributes, milliseconds("open_ms", max(0, at.Sub(e.Opened))))
	}
	attributes = append(attributes, milliseconds("total_ms", total), slog.Int64("bytes_in", e.In), slog.Int64("bytes_out", e.Out))
	q.line(level, "request", q.appendTrace(attributes))
}

// workLine writes the line of work that went on behind its request: a job's, or one
// whose client had left. The caller holds mu.
func (q *Request) workLine() {
	result, level := q.outcome.result(), slog.LevelInfo
	if result == ResultFailed {
		level = slog.LevelWarn
	}
	if !q.t.log.Enabled(context.Background(), level) {
		return
	}
	attributes := make([]slog.Attr, 0, 16)
	attributes = append(attributes, slog.String("route", q.route), slog.String("class", q.class), slog.String("backend", q.backend),
		slog.String("result", result))
	attributes = appendTold(attributes, "code", q.outcome.code)
	attributes = appendTold(attributes, "tenant", q.tenant)
	if q.queued {
		attributes = append(attributes, slog.Uint64("grant", q.grant), slog.Int64("vram", int64(q.vram)))
	}
	attributes = append(attributes, milliseconds("execute_ms", q.executed))
	q.line(level, "work ended", q.appendTrace(attributes))
}

func appendTold(attributes []slog.Attr, key, value string) []slog.Attr {
	if value == "" {
		return attributes
	}
	return append(attributes, slog.String(key, brief(value)))
}

func (q *Request) appendTrace(attributes []slog.Attr) []slog.Attr {
	return append(attributes, slog.String("trace_id", q.text[:traceText]), slog.String("span_id", q.text[traceText+1:]))
}

func milliseconds(key string, d time.Duration) slog.Attr {
	return slog.Float64(key, float64(d.Microseconds())/1000)
}
