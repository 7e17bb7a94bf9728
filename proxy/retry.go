package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/backend/outofmemory"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// firstTry is what remains of a run that ended for want of memory.
type firstTry struct {
	position int
	waited   time.Duration
}

// retries says that the request may be sent a second time if the backend runs out of
// memory. A request is sent again only in this case: its first run has ended with a
// complete error, and its client has got nothing.
func (x *exchange) retries() bool {
	return x.try.grant != nil && x.try.to.Config.RetryOOM && !x.isStream()
}

// RoundTrip is the transport of the exchange's ReverseProxy. It sends the request once, or
// once more if it ran out of memory, and the grant ends with the answer.
func (x *exchange) RoundTrip(out *http.Request) (*http.Response, error) {
	if err := x.ctx.Err(); err != nil {
		return nil, context.Cause(x.ctx) // the last check before a backend begins to work
	}
	retries := x.retries()
	if x.body == nil {
		return x.tried(out, retries, nil)
	}
	// The body may be sent again, and it tells whether an error repeats the client's
	// own words.
	x.body.retain()
	isJudged := false
	defer func() {
		if !isJudged {
			x.body.drop()
		}
	}()
	reader := x.body.reader()
	x.try.apart = reader != io.ReadCloser(x.body)
	res, err := x.tried(out, retries, reader)
	// An error that is passed on as it comes is read at its end, by streamed.
	isJudged = err == nil && res.StatusCode >= 400 && backend.Scans(x.try.reply) && !x.try.ended.Load()
	return res, err
}

// Sent says that the words are in the request's path, query or body. It knows nothing about
// a body that was not read in whole, or whose memory was given back.
func (x *exchange) Sent(words string) bool {
	return outofmemory.Sent(io.MultiReader(strings.NewReader(x.in.URL.RequestURI()+"\n"), x.body.look()), words)
}

func (x *exchange) tried(out *http.Request, retries bool, body io.ReadCloser) (*http.Response, error) {
	res, err := x.send(out, body)
	if err != nil || x.try.full == nil {
		return res, err
	}
	if retries && x.try.ended.Load() {
		second, err := x.admitAgain()
		if err != nil && (x.in.Context().Err() != nil || waitedTooLong(err)) {
			res.Body.Close()
			x.try.answer = nil
			return nil, err
		}
		if err == nil {
			res.Body.Close()
			x.trace.OutOfMemory(telemetry.OOMRetried)
			if res, err = x.again(out, second); err != nil || x.try.full == nil {
				return res, err
			}
		}
	}
	// If the request cannot be sent again, gets no grant or runs out of memory once more,
	// its client gets the first answer.
	x.trace.OutOfMemory(telemetry.OOMPassed)
	return res, nil
}

// waitedTooLong says that a second try waited until its queue timeout or its deadline. That
// happens if other work holds the memory. Its client may retry later.
func waitedTooLong(err error) bool {
	r, ok := errors.AsType[*admission.Rejection](err)
	return ok && r.Waited > 0 && (r.Code == admission.CodeQueueTimeout || r.Code == admission.CodeDeadlineUnmeetable)
}

// admitAgain asks the controller for a second run, with the figure that the first run has
// raised, and returns the attempt. execution_timeout does not run while it waits.
func (x *exchange) admitAgain() (*attempt, error) {
	if err := x.askBreaker(); err != nil {
		return nil, err
	}
	first := x.try
	ask := x.ask(routing.Decision{Route: x.route, VRAM: x.own}) // with what was learned from the first run
	ask = first.grant.Retry(ask)
	x.ctx = x.in.Context()
	grant, err := x.admit(ask)
	if err != nil {
		return nil, err
	}
	to := x.server(grant)
	if to == nil {
		grant.Release(admission.Result{Outcome: admission.Aborted})
		return nil, errGone
	}
	x.first = &firstTry{first.grant.Position(), first.grant.Waited()}
	return &attempt{to: to, grant: grant, trace: first.trace, detached: first.detached, completion: first.completion}, nil
}

// again sends the request a second time.
func (x *exchange) again(out *http.Request, second *attempt) (*http.Response, error) {
	x.try = second
	// The second run has the whole execution_timeout. The context of the first try stays as
	// it is, because httputil.ReverseProxy uses it.
	ctx, cancel := x.limited(context.WithoutCancel(out.Context()))
	stop, before := context.AfterFunc(x.in.Context(), cancel), x.cancel
	x.ctx, x.cancel = ctx, func() { stop(); cancel(); before() }
	next := out.Clone(ctx)
	next.URL.Scheme, next.URL.Host = second.to.Base().Scheme, second.to.Base().Host
	x.now = time.Now()
	x.trace.Execute(x.now, second.to.Config.URL, next.URL.EscapedPath(), next.Header)
	if x.body == nil {
		return x.send(next, nil)
	}
	return x.send(next, x.body.reread())
}

// maxError is the longest error that is kept until the request has been sent
// again. A traceback with its variables takes hundreds of KiB.
const maxError = 512 << 10

// holdsBack says that an error is read to its end before its client gets it,
// because the request may be sent again. An error of the client's own (4xx) is
// held back only where it is short and says how long it is.
func (x *exchange) holdsBack(e *attempt, res *http.Response) bool {
	return e.grant != nil && e.to.Config.RetryOOM && !x.isStream() && backend.Scans(e.reply) && res.StatusCode >= 400 && !isEvents(res.Header) &&
		(res.StatusCode >= 500 || res.ContentLength > 0)
}

// readError reads an error to its end, so that what ran out of memory is known
// to have ended. It reports false where it is longer than maxError.
func (x *exchange) readError(e *attempt, res *http.Response) bool {
	b := readHead(res, maxError)
	if b == nil {
		return false
	}
	res.Body = b
	e.end(b.cut())
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
	x.try.clock = clock
	return ctx, func() {
		clock.Stop()
		end(nil)
	}
}
