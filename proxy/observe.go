package proxy

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

// observed counts the requests that `mode: observe` forwarded and `enforce` would not have
// forwarded at once.
type observed struct {
	mu      sync.Mutex
	held    int                    // guarded by mu
	refused map[admission.Code]int // guarded by mu
}

func (o *observed) count(held bool, refused admission.Code) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if refused != "" {
		if o.refused == nil {
			o.refused = make(map[admission.Code]int)
		}
		o.refused[refused]++
	} else if held {
		o.held++
	}
}

// Observed is how many requests `mode: observe` let through that `enforce` would have
// held, and how many it would have refused, by code.
func (h *Handler) Observed() (held int, refused map[admission.Code]int) {
	o := &h.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held, maps.Clone(o.refused)
}

// forwardObserved forwards at once and asks the controller beside it, so that the
// controller's state shows what `enforce` would have done. A request that still waits in
// the controller's queue when the work is over leaves the queue then.
func (x *exchange) forwardObserved(d routing.Decision) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(x.ctx))
	x.try.release = cancel
	go x.shadow(ctx, x.ask(d), x.trace.SpanContext().TraceID().String())
	return x.forward(nil)
}

// shadow asks the controller for a request that was already forwarded, so that the request
// has a place in the queue. It logs what `enforce` would have done.
func (h *Handler) shadow(ctx context.Context, ask admission.Request, trace string) {
	arrived := time.Now()
	grant, err := h.controller.Admit(ctx, ask)
	if err == nil {
		defer grant.Release(admission.Result{Outcome: admission.Aborted})
		if grant.Waited() == 0 {
			<-ctx.Done()
			return
		}
	}
	r, refused := err.(*admission.Rejection)
	refused = refused && r.Code != admission.CodeClientCancelled
	if refused {
		h.observed.count(false, r.Code)
		h.log.Info("observe: would have been refused", "trace_id", trace, "class", ask.Class, "code", string(r.Code), "detail", r.Detail)
	} else {
		h.observed.count(true, "")
		h.log.Info("observe: would have been held", "trace_id", trace, "class", ask.Class, "for", time.Since(arrived).String(), "granted", err == nil)
	}
	<-ctx.Done()
}
