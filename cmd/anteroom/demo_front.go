package main

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// front is Anteroom without its connections, for virtual time: the routing table
// and the admission controller of a configuration, as the proxy has them, before
// engines that it calls.
type front struct {
	table      *routing.Table
	controller *admission.Controller
	histories  map[*routing.Route]*admission.History
	engines    map[string]http.Handler // by backend
}

// newFront opens a front, which reads the card until ctx ends.
func newFront(ctx context.Context, clock simulation.Clock, card *simulation.Card, cfg *configs.Config,
	engines map[string]http.Handler) (*front, error) {
	table, err := routing.NewTable(cfg.Routing)
	if err != nil {
		return nil, err
	}
	controller := cfg.Admission()
	controller.Clock = clock
	f := &front{table: table, histories: make(map[*routing.Route]*admission.History), engines: engines}
	if f.controller, err = admission.NewController(controller); err != nil {
		return nil, err
	}
	for _, r := range table.Routes() {
		f.histories[r] = new(admission.History)
	}
	f.controller.ReadNow(func(gpu string) {
		// In a goroutine, because this is called under the controller's lock.
		clock.AfterFunc(0, func() { f.controller.Observe(card.Reading(gpu)) })
	})
	for _, g := range controller.GPUs {
		clock.Go(func() {
			for ok := true; ok; ok = clock.Sleep(ctx, readEvery) == nil {
				f.controller.Observe(card.Reading(g.Name))
			}
		})
	}
	return f, nil
}

// ServeHTTP routes a request, waits for its grant, and lets its engine answer it.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	candidates, err := f.table.Find(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	// The routes of the scenes do not look at the body, so the engine reads it first.
	d, err := candidates.Decide(r, routing.Body{Size: r.ContentLength})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	grant, err := f.controller.Admit(r.Context(), admission.Request{
		Class: d.Route.ClassName, Backend: d.Route.Backend, VRAM: d.VRAM,
		Estimate: admission.Estimate{P50: d.Route.Class.Estimate, P95: d.Route.Class.Estimate},
		History:  f.histories[d.Route],
	})
	if err != nil {
		status := http.StatusServiceUnavailable
		if rejection := (*admission.Rejection)(nil); errors.As(err, &rejection) && rejection.Code == admission.CodeQueueFull {
			status = http.StatusTooManyRequests
		}
		http.Error(w, err.Error(), status)
		return
	}
	seen := &statusWriter{ResponseWriter: w}
	f.engines[d.Route.Backend].ServeHTTP(seen, r)
	io.Copy(io.Discard, r.Body)
	outcome := admission.Failed
	switch seen.status {
	case http.StatusOK:
		outcome = admission.Done
	case http.StatusInternalServerError:
		outcome = admission.OutOfMemory
	}
	grant.Release(admission.Result{Outcome: outcome})
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
