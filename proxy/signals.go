package proxy

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/telemetry"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// The facts of a request and of each attempt for spans, metrics and log lines.

// The codes of executions that failed, beside those of errors.go. They are in no
// answer to a client.
const (
	codeOutOfMemory = "out_of_memory"
	codeJobFailed   = "job_failed"
	codeJobLost     = "job_lost"    // its backend is gone, or does not know it any more
	codeJobTimeout  = "job_timeout" // completion.timeout passed
	codeReleased    = "released"    // an operator gave its grant back
	codeAbandoned   = "abandoned"   // abandon_after passed
)

// failure is the code of what ended an execution early.
func failure(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, backend.ErrMemory):
		return codeOutOfMemory
	case errors.Is(err, errJobFailed):
		return codeJobFailed
	case errors.Is(err, errJobLost), errors.Is(err, errJobUnknown):
		return codeJobLost
	case errors.Is(err, errJobTimeout):
		return codeJobTimeout
	case errors.Is(err, errJobReleased):
		return codeReleased
	case errors.Is(err, errAbandoned):
		return codeAbandoned
	}
	return string(explain(err).code)
}

// execution has the facts of an attempt that has ended, for telemetry.
func (e *attempt) execution(err error) telemetry.Execution {
	t := telemetry.Execution{Status: e.status, RPC: -1, Code: failure(err)}
	if err != nil {
		t.Cause = err.Error()
	} else if e.full != nil {
		t.Code, t.Cause = codeOutOfMemory, e.full.String()
	} else if e.rpc != nil {
		t.RPC = rpcStatus(e.rpc)
	}
	if t.Left = errors.Is(err, context.Canceled); t.Code == string(admission.CodeClientCancelled) {
		t.Code = ""
	}
	if err == nil {
		t.Model = e.tail.use()
	}
	if e.grant != nil && e.to != nil {
		t.GPUs, t.Estimate = e.to.gpus, e.grant.Estimate()
	}
	return t
}

// rpcStatus is the gRPC status of an answer that has come to its end; -1: it is none
// of gRPC's. It stands in the trailers, or in the header of an answer that has nothing
// else.
func rpcStatus(res *http.Response) int {
	if !strings.HasPrefix(res.Header.Get("Content-Type"), "application/grpc") {
		return -1
	}
	text := res.Trailer.Get("Grpc-Status")
	if text == "" {
		text = res.Header.Get("Grpc-Status")
	}
	status, err := strconv.Atoi(text)
	if err != nil || status < 0 {
		return grpcUnknown
	}
	return status
}

// ending has the facts of a request that is over for its client, for telemetry. cut says
// that its answer was broken off.
func (x *exchange) ending(left, cut bool) telemetry.Ending {
	status, code := x.out.status, x.code
	if status == 0 && x.switched {
		status = http.StatusSwitchingProtocols // which httputil writes past output
	}
	e := telemetry.Ending{RPC: -1, FirstByte: x.out.first, In: x.bytesIn(), Out: x.out.bytes}
	if t := x.try.tunnel; t != nil {
		e.Opened, e.In, e.Out = t.opened, t.in.Load(), t.out.Load()
	}
	switch {
	case status == http.StatusSwitchingProtocols:
		// The end of a switched connection does not mean that the client left early.
	case status == 0 || left && code == "":
		status, code = statusClientLeft, admission.CodeClientCancelled
	case code != "" && isGRPC(x.in):
		e.RPC = answers[code].grpc
	case context.Cause(x.ctx) == errExecutionTimeout: // in the middle of an answer
		e.Cut, code = true, codeExecutionTimeout
	case cut:
		e.Cut = true
	}
	e.Status, e.Code = status, string(code)
	return e
}

// provide tells telemetry which engine answers requests for a model.
func (x *exchange) provide() {
	if servers := x.rules.backends[x.route.Backend]; len(servers) > 0 && x.trace.Operation() != "" {
		x.trace.Provide(servers[0].Config.Engine())
	}
}

// identify tells telemetry the tenant and the model, as far as they are known.
func (x *exchange) identify() {
	model := ""
	if x.route.NamesModels() {
		model = x.route.Model(x.in, x.seen())
	}
	x.trace.Identify(x.tenant, model)
	x.provide()
}

// boundsOf are the tenants and models that metrics tell apart: those that the
// configuration names.
func boundsOf(setup Setup) telemetry.Bounds {
	b := telemetry.Bounds{Tenants: make(map[string]bool), Models: make(map[string]bool)}
	for _, name := range setup.Proxy.Tenants.Keys {
		b.Tenants[name] = true
	}
	for name := range setup.Proxy.Tenants.Weights {
		b.Tenants[name] = true
	}
	for _, route := range setup.Routing.Routes {
		for _, name := range route.Match.Model {
			if !strings.Contains(name, "*") {
				b.Models[name] = true
			}
		}
	}
	for _, config := range setup.Routing.Backends {
		for _, name := range config.Reclaim.Models {
			b.Models[name] = true
		}
	}
	return b
}

// firstByte notes when the first byte of an answer's body goes out.
func (o *output) firstByte(now time.Time) {
	if o.first.IsZero() {
		o.first = now
	}
}

// breakerMoved tells of a breaker's change.
func (h *Handler) breakerMoved(b *replica, from, to, why string) {
	log := h.log.Info
	if to == "open" {
		log = h.log.Warn
	}
	number := max(0, b.link.place())
	log("a breaker moved", "backend", b.Name, "replica", number, "from", from, "to", to, "reason", why)
	h.telemetry.History.AddDecision(timeline.Decision{At: time.Now(), Kind: timeline.Breaker, Action: to, Backend: b.Name, Replica: number,
		Position: -1, Reason: "was " + from, Note: why})
}

// orderEnded tells of an unload or a wake that has ended.
func (h *Handler) orderEnded(name string, o admission.Order, e admission.Ended, freed admission.Bytes, took time.Duration,
	origin *telemetry.Request) {
	log := h.log.Info
	if e.Failed {
		log = h.log.Warn
	}
	about := []any{"backend", o.Backend, "replica", o.Replica, "bytes", int64(o.Bytes), "freed", int64(freed),
		"took_ms", took.Milliseconds(), "note", e.Note}
	if o.For != 0 {
		about = append(about, "grant", o.For)
	}
	id := origin.SpanContext()
	if id.IsValid() {
		about = append(about, "trace_id", id.TraceID().String())
	}
	log(name, about...)
	kind, bytes := timeline.Wake, o.Bytes
	if o.Kind == admission.Unload {
		kind, bytes = timeline.Unload, freed
	}
	h.telemetry.History.AddDecision(timeline.Decision{At: time.Now(), Kind: kind, Backend: o.Backend, Replica: o.Replica, Grant: o.For, Position: -1,
		Took: took.Seconds(), Bytes: int64(bytes), Failed: e.Failed, Note: e.Note, Trace: timeline.TraceID(id.TraceID())})
}
