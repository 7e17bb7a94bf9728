package proxy

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// firstTry is what remains of a run that ended for want of memory.
type firstTry struct {
	position int
	waited   time.Duration
}

// retries says that the request may be sent a second time should the backend
// run out of memory. That is the one case in which it is: the first run has
// ended with a complete error, and its client has got nothing.
func (x *exchange) retries() bool {
	return x.work.grant != nil && x.to.Config.RetryOOM && !x.isStream()
}

// RoundTrip is the transport of the exchange's ReverseProxy. It sends the
// request once, or once more where it ran out of memory, and ties the grant to
// the end of the answer.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	if err := x.ctx.Err(); err != nil {
		return nil, context.Cause(x.ctx) // the last look before a backend works
	}
	retries := x.retries()
	if x.body == nil {
		return x.tried(out, retries, nil)
	}
	if retries {
		x.body.retain()
		defer x.body.drop()
	}
	return x.tried(out, retries, x.body)
}

func (x *exchange) tried(out *http.Request, retries bool, body io.ReadCloser) (*http.Response, error) {
	res, err := x.send(out, body)
	if err != nil || !x.work.full {
		return res, err
	}
	if retries && x.work.ended.Load() {
		grant, err := x.admitAlone()
		if err != nil && x.in.Context().Err() != nil {
			res.Body.Close()
			x.answer = nil
			return nil, err
		}
		if err == nil {
			res.Body.Close()
			x.telemetry.OutOfMemory(x.route.Backend, telemetry.OOMRetried)
			if res, err = x.again(out, grant); err != nil || !x.work.full {
				return res, err
			}
		}
	}
	// Where it cannot be sent again, finds no room or runs out of memory once
	// more, the answer that there is goes to the client.
	x.telemetry.OutOfMemory(x.route.Backend, telemetry.OOMPassed)
	return res, nil
}

// admitAlone asks the desk for the GPU, with nothing beside. The time that the
// execution may take does not run while it waits.
func (x *exchange) admitAlone() (*admission.Grant, error) {
	if err := x.askBreaker(); err != nil {
		return nil, err
	}
	first, served := x.work.grant, x.to
	ask := x.ask(routing.Decision{Route: x.route, VRAM: x.own}) // what the first run taught is in it
	ask.Alone = true
	x.ctx = x.in.Context()
	grant, err := x.admit(ask)
	if err != nil {
		return nil, err
	}
	if x.to = x.server(grant); x.to == nil {
		x.to = served
		grant.Release(admission.Aborted)
		return nil, errGone
	}
	x.first = &firstTry{first.Position(), first.Waited()}
	return grant, nil
}

// again sends the request a second time.
func (x *exchange) again(out *http.Request, grant *admission.Grant) (*http.Response, error) {
	e := &x.work
	x.answer, e.grant, e.status, e.full, e.sent = nil, grant, 0, false, false
	e.ended.Store(false)
	// It has all of its time. The context of the first try stays as it is, for
	// httputil.ReverseProxy looks at that.
	ctx, cancel := x.limited(context.WithoutCancel(out.Context()))
	stop, before := context.AfterFunc(x.in.Context(), cancel), x.cancel
	x.ctx, x.cancel = ctx, func() { stop(); cancel(); before() }
	next := out.Clone(ctx)
	next.URL.Scheme, next.URL.Host = x.to.Base().Scheme, x.to.Base().Host
	x.now = time.Now()
	x.trace.Execute(x.now, x.to.Config.URL, next.Header)
	if x.body == nil {
		return x.send(next, nil)
	}
	return x.send(next, x.body.reread())
}

// maxError is the longest error that is kept until the request has been sent
// again.
const maxError = 64 << 10

// readError reads an error to its end, so that what ran out of memory is known
// to have ended. It reports false where it is longer than maxError.
func (x *exchange) readError(res *http.Response) bool {
	b := readHead(res, maxError)
	if b == nil {
		return false
	}
	res.Body = b
	x.work.full = b.cut() == nil // else nobody knows
	x.work.end(b.cut())
	return true
}

// limited is a context that ends when the execution may take no longer.
func (x *exchange) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	limit := x.route.Class.ExecutionTimeout
	if limit <= 0 || x.free || x.rules.observe {
		return ctx, func() { end(nil) }
	}
	clock := time.AfterFunc(limit, func() { end(errExecutionTimeout) })
	x.clock = clock
	return ctx, func() {
		clock.Stop()
		end(nil)
	}
}
