package proxy

import (
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// retries says that the request may be sent a second time should the backend
// run out of memory. That is the one case in which it is: the first run has
// ended with a complete error, and its client has got nothing.
func (x *exchange) retries() bool {
	return x.work.grant != nil && x.backend().Config.RetryOOM && !isStream(x.in)
}

// again sends the request once more, with its GPU to itself. Where it cannot be
// sent, or finds no room, the first answer stands.
func (x *exchange) again(out *http.Request, first *http.Response) (*http.Response, error) {
	if x.ctx.Err() != nil || x.body != nil && !x.body.rewind() {
		x.telemetry.OutOfMemory(x.route.Backend, telemetry.OOMPassed)
		return first, nil
	}
	ask := x.asked
	ask.VRAM, ask.Raised = x.own, 0
	book(&ask, x.route.Learn) // what the first run taught is in it
	ask.Alone = true
	grant, err := x.desk.Admit(x.ctx, ask)
	if err == nil && x.ctx.Err() != nil {
		grant.Release(admission.Aborted)
		err = x.ctx.Err()
	}
	var to *backend
	if err == nil {
		if to = x.server(grant); to == nil {
			grant.Release(admission.Aborted)
			err = errGone
		}
	}
	if err != nil {
		x.telemetry.OutOfMemory(x.route.Backend, telemetry.OOMPassed)
		return first, nil
	}
	first.Body.Close()
	x.telemetry.OutOfMemory(x.route.Backend, telemetry.OOMRetried)
	x.answer, x.to = nil, to
	x.work.grant, x.work.status, x.work.full = grant, 0, false
	x.work.ended.Store(false)
	next := out.Clone(out.Context())
	next.URL.Scheme, next.URL.Host = to.Base().Scheme, to.Base().Host
	x.now = time.Now()
	x.trace.Execute(x.now, x.backend().Config.URL, next.Header)
	return x.send(next)
}
