package proxy

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// answerBody is the body of a backend's answer as the client reads it.
type answerBody = io.ReadCloser

// attempt is one try of a request at a backend. It may outlive its exchange: with `cancel:
// ignored` the backend works on when the client has left, and the attempt keeps its grant.
type attempt struct {
	to      *replica         // nil: not chosen yet
	grant   *admission.Grant // nil: it goes past admission
	apart   bool             // the transport reads the body through a file handle of its own
	trace   *telemetry.Request
	release func() // beside the grant; nil: nothing
	// detached says that the work ends when the backend ends it, whatever the client does.
	detached bool
	sent     bool // a transport has the request, and its body
	status   int
	ended    atomic.Bool
	// completion says how to follow the work after the answer. job is the work that is
	// being followed. Nil: the answer is the end, or there is no answer yet.
	completion *backend.Completion
	job        atomic.Pointer[job]
	// reply is the answer's body as the backend gave it; nil: there is none yet.
	reply io.Reader
	// tail is the end of a model's answer, which has the numbers of tokens; nil: the answer
	// has none in a known form.
	tail *tail
	// full is what an out-of-memory answer says, nil while it is none.
	full *outofmemory.Report
	// clock ends the request's context when execution_timeout has passed; nil: never.
	clock *time.Timer
	// cut breaks the connection of an attempt that is detached; nil: it is not.
	cut    context.CancelFunc
	answer answerBody // nil until the backend has answered
	// slowly says that a small answer comes in pieces, and is passed on in pieces.
	slowly bool
	rpc    *http.Response // of a gRPC call, for its status; nil: it is none
	tunnel *tunnel        // nil: the connection was not switched
}

// end gives the grant back. Only the first call counts, and reports true.
func (e *attempt) end(err error) bool {
	if e.ended.Swap(true) {
		return false
	}
	if err == nil {
		e.full = backend.OutOfMemory(e.reply)
	}
	if e.grant != nil {
		e.grant.Release(e.result(err))
	}
	if e.release != nil {
		e.release()
	}
	e.trace.Executed(time.Now(), e.execution(err))
	return true
}

// result is the outcome, with the figures that an out-of-memory error names.
func (e *attempt) result(err error) admission.Result {
	res := admission.Result{Outcome: e.outcome(err)}
	said := e.full
	if failed, ok := errors.AsType[*jobMemory](err); ok {
		said = failed.said
	}
	if said != nil {
		res.Tried, res.Free, res.InUse = admission.Bytes(said.Tried), admission.Bytes(said.Free), admission.Bytes(said.InUse)
	}
	return res
}

// outcome says what is learned from the work. Only a successful answer that came to its end
// shows how long such work takes.
func (e *attempt) outcome(err error) admission.Outcome {
	switch {
	case e.full != nil, errors.Is(err, backend.ErrMemory):
		return admission.OutOfMemory
	case e.status == http.StatusSwitchingProtocols, errors.Is(err, errJobTimeout), errors.Is(err, context.Canceled), errors.Is(err, errExecutionTimeout):
		return admission.Aborted
	case errors.Is(err, backend.ErrRefused):
		return admission.Unreached
	case err != nil || e.status >= 400:
		return admission.Failed
	}
	return admission.Done
}

// leave is the handler's end. Work that never reached a backend ends with it;
// an answer that is still coming is abandoned, and ends by its own rules.
func (e *attempt) leave(x *exchange) {
	switch {
	case e.answer != nil:
		e.answer.Close()
		if x.out.bytes == 0 && x.in.Context().Err() != nil {
			e.job.Load().leave() // no client knows of the job
		}
	case !e.sent:
		e.end(cmp.Or(context.Cause(x.ctx), http.ErrAbortHandler))
	}
	if e.cut != nil && e.to.Config.AbandonAfter > 0 && !e.ended.Load() && e.job.Load() == nil {
		e.abandonLater(x)
	}
}

// errAbandoned ends work that went on for too long after its client had left or
// been told.
var errAbandoned = errors.New("proxy: abandon_after passed")

// abandonLater gives the grant of work without a client back when the backend's
// abandon_after has passed, even if the work has not ended. No other timer does that. It
// has no effect if the work has ended before, or is a job, which has a timeout of its own.
func (e *attempt) abandonLater(x *exchange) {
	time.AfterFunc(e.to.Config.AbandonAfter, func() {
		if e.job.Load() == nil && e.end(errAbandoned) {
			x.log.Error("abandon_after passed: the grant of work that has not ended is given back, and the card may be fuller than is booked",
				"route", x.route.Name, "class", x.route.ClassName, "backend", x.route.Backend, "grant", e.grant.ID(),
				"trace_id", x.trace.SpanContext().TraceID().String())
			e.cut()
		}
	})
}

// send sends the request with a reader of its body, nil if there is none or it is streamed.
// It returns the answer, or the error that ended the wait for it.
func (x *exchange) send(out *http.Request, body io.ReadCloser) (*http.Response, error) {
	e := x.try
	if body != nil {
		out.Body, out.ContentLength = body, x.body.length()
		if len(x.body.trailer) > 0 {
			out.ContentLength, out.Trailer = -1, x.body.trailer
		}
	}
	e.sent = true
	if !e.detached {
		answer := x.execute(e, out)
		e.answer = answer.body()
		return answer.response, answer.err
	}
	// What the context carries stays, its end does not.
	ctx, cut := context.WithCancel(context.WithoutCancel(out.Context()))
	e.cut = cut
	out = out.WithContext(ctx)
	var state atomic.Int32 // 0: both wait, 1: the backend was first, 2: the client left first
	done := make(chan result, 1)
	go func() {
		answer := x.execute(e, out)
		if state.CompareAndSwap(0, 1) {
			done <- answer
		} else if answer.err == nil {
			answer.body().Close() // it is still read to its end
			e.job.Load().leave()
		}
	}()
	select {
	case answer := <-done:
		e.answer = answer.body()
		return answer.response, answer.err
	case <-x.ctx.Done():
	}
	if !state.CompareAndSwap(0, 2) {
		answer := <-done
		e.answer = answer.body()
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
func (x *exchange) execute(e *attempt, out *http.Request) result {
	res, err := x.sendOrListen(e, out)
	if e.apart {
		x.body.Close()
	}
	if err != nil {
		if !e.detached && x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		if x.body != nil {
			out.Body.Close() // the transport may not have closed it yet
		}
		e.end(err)
		return result{err: err}
	}
	e.status, e.reply = res.StatusCode, res.Body
	if isGRPC(x.in) {
		e.rpc = res
	} else if x.trace.Operation() != "" && out.Method == http.MethodPost {
		e.tail = keepTail(res)
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		if err := x.tunnel(e, res); err != nil {
			return result{err: err}
		}
	case res.Body == http.NoBody || out.Method == http.MethodHead:
		e.end(nil)
	case e.completion != nil && x.begin(e, res):
	case x.holdsBack(e, res) && x.readError(e, res):
	case isSmall(res) && x.readSmall(e, res):
	default:
		ended := func(err error) { x.streamed(e, err) }
		if isEvents(res.Header) {
			if e.detached && e.completion == nil {
				// The answer has no more content than a client would see.
				e.detached = false
				context.AfterFunc(x.ctx, e.cut)
			}
			idle := x.Handler.open.stream(x.cancel, func() bool { return e.grant == nil || e.ended.Load() })
			ended = func(err error) { idle(); x.streamed(e, err) }
		}
		res.Body = newReadAhead(res.Body, int(x.rules.limits.ResponseBuffer), &x.ahead, x.ctx, e.detached, ended)
	}
	if res.StatusCode >= 500 && e.full == nil {
		x.ladder.suspect(e.to)
	}
	return result{response: res}
}

// tunnel makes the connection behind an answer a tunnel.
func (x *exchange) tunnel(e *attempt, res *http.Response) error {
	c, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		res.Body.Close()
		e.end(nil)
		return errors.New("proxy: the backend switched protocols on a connection that cannot")
	}
	if !x.route.HoldSlot {
		// Only its handshake was work.
		if e.clock != nil {
			e.clock.Stop()
		}
		e.end(nil)
	}
	t := &tunnel{ReadWriteCloser: c, opened: time.Now()}
	e.tunnel = t
	idle := x.Handler.open.stream(func() { t.Close() }, e.ended.Load)
	t.ended = func() { idle(); e.end(nil) }
	res.Body = t
	return nil
}

// streamed ends an attempt whose answer was passed on as it came. If it ran out of memory,
// it cannot be sent again.
func (x *exchange) streamed(e *attempt, err error) {
	if e.end(err) && e.full != nil && e.grant != nil {
		x.trace.OutOfMemory(telemetry.OOMPassed)
	}
	x.body.drop()
}

// readSmall reads a small answer that has arrived in whole, which is the end of its work.
// It reports false if more is to come.
func (x *exchange) readSmall(e *attempt, res *http.Response) bool {
	b := readSmall(res)
	if b == nil {
		e.slowly = true
		return false
	}
	e.end(b.cut())
	res.Body = b
	return true
}
