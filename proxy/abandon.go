package proxy

import (
	"errors"
	"time"
)

// errAbandoned ends work that went on for too long after its client was told,
// or had left.
var errAbandoned = errors.New("proxy: abandon_after passed")

// abandonLater gives the grant of work that nobody waits for any more back when
// the backend's abandon_after has passed, whether or not it has ended by then.
// A job has its own timeout.
func (x *exchange) abandonLater() {
	e := &x.work
	if x.cut == nil || e.ended.Load() || e.job.Load() != nil {
		return
	}
	limit := x.backend().Config.AbandonAfter
	// Where the work ends first it fires for nothing.
	time.AfterFunc(limit, func() {
		if e.job.Load() == nil && e.end(errAbandoned) {
			x.log.Error("abandon_after passed: the grant of work that has not ended is given back, and the card may be fuller than is booked",
				"route", x.route.Name, "class", x.route.ClassName, "backend", x.route.Backend, "vram", int64(x.vram), "after", limit.String(),
				"trace_id", x.trace.SpanContext().TraceID().String())
			x.cut()
		}
	})
}
