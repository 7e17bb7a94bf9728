package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// The codes of refusals that are not the controller's. Together with admission's
// they are a closed set and part of the HTTP contract.
const (
	codeNoRoute            admission.Code = "no_route"
	codeBadRequest         admission.Code = "bad_request"
	codeNoRequest          admission.Code = "no_request"
	codeAmbiguousPath      admission.Code = "ambiguous_path"
	codeAmbiguousBody      admission.Code = "ambiguous_body"
	codeControlRoute       admission.Code = "control_route"
	codeBadBody            admission.Code = "bad_body"
	codeBodyTimeout        admission.Code = "body_timeout"
	codeBodyTooLarge       admission.Code = "body_too_large"
	codeSpoolFull          admission.Code = "spool_full"
	codeSpoolUnavailable   admission.Code = "spool_unavailable"
	codeBackendUnreachable admission.Code = "backend_unreachable"
	codeBackendProtocol    admission.Code = "backend_protocol"
	codeExecutionTimeout   admission.Code = "execution_timeout"
	codeInternal           admission.Code = "internal_error"
)

// comeBack says which Retry-After a refusal has.
type comeBack uint8

const (
	never   comeBack = iota
	later            // what the refusal estimates, but a second at least
	minute           // a full minute: it is not known when the card returns
	useless          // none, and the client is told not to retry by itself
)

// answer is what a client gets for a code.
type answer struct {
	status int
	grpc   int
	retry  comeBack
	close  bool // the connection is of no further use
	title  string
}

// answers is the one table from codes to what clients see.
var answers = map[admission.Code]answer{
	admission.CodeQueueFull:           {429, grpcExhausted, later, false, "The queue is full"},
	admission.CodeTenantQuota:         {429, grpcExhausted, later, false, "The caller's share of the queue is full"},
	admission.CodeDeadlineUnmeetable:  {429, grpcDeadline, later, false, "The deadline cannot be met"},
	admission.CodeNeverFits:           {422, grpcPrecondition, useless, false, "The request needs more memory than the GPU can ever give"},
	admission.CodeQueueTimeout:        {503, grpcUnavailable, later, false, "The request waited too long"},
	admission.CodeBackendUnavailable:  {503, grpcUnavailable, later, false, "The backend is unavailable"},
	admission.CodeDraining:            {503, grpcUnavailable, later, true, "The proxy is shutting down"},
	admission.CodeCancelledByOperator: {503, grpcAborted, useless, false, "An operator cancelled the request"},
	admission.CodeClientCancelled:     {statusClientLeft, grpcCancelled, never, false, "The client left"},

	codeNoRoute:            {404, grpcUnimplemented, never, false, "No route matches"},
	codeNoRequest:          {404, grpcUnimplemented, never, false, "No request with this id waits or runs"},
	codeBadRequest:         {400, grpcInternal, never, false, "The request has no single meaning"},
	codeControlRoute:       {403, grpcDenied, useless, false, "The path controls a model server"},
	codeAmbiguousPath:      {400, grpcInternal, never, false, "The path has no single meaning"},
	codeAmbiguousBody:      {400, grpcInternal, never, false, "What the routes look at has no single meaning"},
	codeBadBody:            {400, grpcInternal, never, true, "The body cannot be used"},
	codeBodyTimeout:        {408, grpcCancelled, never, true, "The body came too slowly"},
	codeBodyTooLarge:       {413, grpcExhausted, never, true, "The body is too large"},
	codeSpoolFull:          {503, grpcExhausted, later, true, "The room for waiting bodies is full"},
	codeSpoolUnavailable:   {503, grpcUnavailable, never, true, "There is no place for waiting bodies"},
	codeBackendUnreachable: {502, grpcUnavailable, never, false, "The backend cannot be reached"},
	codeBackendProtocol:    {502, grpcUnavailable, useless, false, "The backend broke off before it answered"},
	codeExecutionTimeout:   {504, grpcDeadline, useless, false, "The backend took too long"},
	codeInternal:           {500, grpcInternal, never, true, "The proxy failed"},
}

// statusClientLeft is what logs and metrics show for a client that is gone.
// Nothing is written to it.
const statusClientLeft = 499

// gRPC's status codes, as far as they are needed.
const (
	grpcCancelled     = 1
	grpcUnknown       = 2
	grpcDeadline      = 4
	grpcDenied        = 7
	grpcExhausted     = 8
	grpcPrecondition  = 9
	grpcAborted       = 10
	grpcUnimplemented = 12
	grpcInternal      = 13
	grpcUnavailable   = 14
)

// errExecutionTimeout ends an execution that ran for longer than its class may.
var errExecutionTimeout = errors.New("proxy: the execution timeout passed")

// refusal is an answer of the proxy's own.
type refusal struct {
	code     admission.Code
	detail   string
	class    string
	reason   admission.Reason
	position int           // -1: it never queued
	retry    time.Duration // before clamping; zero: not known
	late     bool          // it was refused after waiting
}

func (f *refusal) Error() string { return string(f.code) + ": " + f.detail }

func refuse(code admission.Code, format string, arguments ...any) *refusal {
	return &refusal{code: code, detail: fmt.Sprintf(format, arguments...), position: -1}
}

// explain turns whatever ended a request into the refusal that its client gets.
func explain(err error) *refusal {
	if f, ok := errors.AsType[*refusal](err); ok {
		return f
	}
	if r, ok := errors.AsType[*admission.Rejection](err); ok {
		return &refusal{code: r.Code, detail: r.Detail, class: r.Class, reason: r.Reason, position: r.Position, retry: r.RetryAfter, late: r.Waited > 0}
	}
	switch {
	case errors.Is(err, routing.ErrNoRoute):
		return refuse(codeNoRoute, "no rule matches the method, host, path and headers")
	case errors.Is(err, routing.ErrPath):
		return refuse(codeAmbiguousPath, "servers read this path in different ways, and these lead to different routes")
	case errors.Is(err, routing.ErrTarget):
		return refuse(codeBadRequest, "the target is no path: want one that begins with a slash")
	case errors.Is(err, routing.ErrControl):
		return refuse(codeControlRoute, "the path controls a model server, and no route opens it to clients")
	case errors.Is(err, routing.ErrAmbiguous):
		return refuse(codeAmbiguousBody, "the request could be for different backends: %s", reasonOf(err, routing.ErrAmbiguous))
	case errors.Is(err, routing.ErrBody):
		return refuse(codeBadBody, "the route needs a body that it can read: want one complete, uncompressed JSON object: %s",
			reasonOf(err, routing.ErrBody))
	case errors.Is(err, backend.ErrBreakerOpen):
		return refuse(admission.CodeBackendUnavailable, "the backend's breaker is open")
	case errors.Is(err, errExecutionTimeout):
		return refuse(codeExecutionTimeout, "the backend did not finish in time")
	case errors.Is(err, context.Canceled):
		return refuse(admission.CodeClientCancelled, "the client left")
	case errors.Is(err, backend.ErrUpload):
		return refuse(codeBadBody, "the body broke off before its end")
	case errors.Is(err, backend.ErrShort):
		return refuse(codeInternal, "the proxy is short of descriptors, ports or memory")
	case errors.Is(err, backend.ErrUnreachable):
		return refuse(codeBackendUnreachable, "the backend does not accept connections")
	}
	return refuse(codeBackendProtocol, "the connection to the backend broke, or its answer was not HTTP")
}

// reasonOf is what an error says behind the one that it wraps.
func reasonOf(err, wrapped error) string {
	return strings.TrimPrefix(err.Error(), wrapped.Error()+": ")
}

// write sends the refusal in the dialect of the route.
func (f *refusal) write(w http.ResponseWriter, dialect string) {
	a := answers[f.code]
	if f.late && f.code == admission.CodeDeadlineUnmeetable {
		a.status = http.StatusGatewayTimeout
	}
	header := w.Header()
	switch a.retry {
	case later:
		setRetryAfter(header, jitter(f.retry))
	case minute:
		setRetryAfter(header, maxRetryAfter)
	case useless:
		header.Set("X-Should-Retry", "false")
	}
	if a.close {
		header.Set("Connection", "close")
	}
	if dialect == "grpc" {
		// Trailers-only: a client finds the status in the one header block.
		header.Set("Content-Type", "application/grpc")
		header.Set("Grpc-Status", strconv.Itoa(a.grpc))
		header.Set("Grpc-Message", url.PathEscape(string(f.code)+": "+f.detail))
		w.WriteHeader(http.StatusOK)
		return
	}
	contentType, body := f.body(a, dialect)
	header.Set("Content-Type", contentType)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(a.status)
	w.Write(body) // a client that is gone needs no answer
}

// problem is an RFC 9457 body with fields of this project's own.
type problem struct {
	Type            string           `json:"type"`
	Title           string           `json:"title"`
	Status          int              `json:"status"`
	Detail          string           `json:"detail,omitempty"`
	Code            admission.Code   `json:"code"`
	Class           string           `json:"class,omitempty"`
	Position        *int             `json:"position,omitempty"`
	EstimatedWaitMS int64            `json:"estimated_wait_ms,omitempty"`
	Reason          admission.Reason `json:"reason,omitempty"`
}

// openAIError is what OpenAI's clients expect of an error.
type openAIError struct {
	Message string         `json:"message"`
	Type    string         `json:"type"`
	Param   *string        `json:"param"`
	Code    admission.Code `json:"code"`
}

func (f *refusal) body(a answer, dialect string) (contentType string, body []byte) {
	message := a.title
	if f.detail != "" {
		message += ": " + f.detail
	}
	var v any
	switch dialect {
	case "openai":
		kind := "server_error"
		switch {
		case a.status == http.StatusTooManyRequests:
			kind = "rate_limit_error"
		case a.status < 500:
			kind = "invalid_request_error"
		}
		contentType, v = "application/json", map[string]openAIError{"error": {Message: message, Type: kind, Code: f.code}}
	case "ollama":
		contentType, v = "application/json", map[string]string{"error": message}
	default:
		p := problem{Type: "urn:anteroom:" + string(f.code), Title: a.title, Status: a.status, Detail: f.detail,
			Code: f.code, Class: f.class, Reason: f.reason, EstimatedWaitMS: f.retry.Milliseconds()}
		if f.position >= 0 {
			p.Position = &f.position
		}
		contentType, v = "application/problem+json", p
	}
	body, err := json.Marshal(v)
	if err != nil {
		panic("proxy: an error body does not encode: " + err.Error())
	}
	return contentType, append(body, '\n')
}

// maxRetryAfter is as long as SDKs are willing to wait: they ignore anything
// longer and come back at once.
const maxRetryAfter = time.Minute

// jitter spreads the return of clients that were refused together by 10 %.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

func setRetryAfter(header http.Header, d time.Duration) {
	d = min(max(d, time.Second), maxRetryAfter)
	header.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.Seconds()))))
	header.Set("Retry-After-Ms", strconv.FormatInt(d.Milliseconds(), 10))
}

// isGRPC says that the request is a gRPC call, whatever its route says. There is no gRPC
// over HTTP/1.1: a request over HTTP/1.1 that claims to be gRPC is an ordinary request.
func isGRPC(r *http.Request) bool {
	if r.ProtoMajor < 2 {
		return false
	}
	kind, ok := strings.CutPrefix(strings.ToLower(r.Header.Get("Content-Type")), "application/grpc")
	return ok && (kind == "" || kind[0] == '+' || kind[0] == ';' || kind[0] == ' ')
}
