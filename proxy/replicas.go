package proxy

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
)

// replica is a model server with its link to the controller.
type replica struct {
	*backend.Server
	cancel context.CancelFunc // ends its health check
	link   *link
	asking atomic.Bool // whether it sleeps
	gpus   int         // how many it takes memory on
}

// replicas are the servers behind one backend's name, in the order of the file,
// which is the controller's too. There is one or more.
type replicas []*replica

func newReplica(name string, config backend.Config) (*replica, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{backend: name, slots: -1}
	b, err := backend.New(ctx, name, config, l.available)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("proxy: backend %s: %w", name, err)
	}
	b.Presence(l.present)
	return &replica{Server: b, cancel: cancel, link: l, gpus: len(config.Places())}, nil
}

// link tells the controller how many requests a server may run, and whether its port
// refuses connections, as long as the server is configured.
type link struct {
	backend string

	mu         sync.Mutex
	controller *admission.Controller // guarded by mu; nil: not yet, or no longer
	number     int                   // guarded by mu; the replica's, there
	slots      int                   // guarded by mu; as last reported
	gone       bool                  // guarded by mu; its port refuses
	orders     int                   // guarded by mu; under way for it
	held       bool                  // guarded by mu; no slot may be used, whatever the server reports
}

func (l *link) available(slots int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots = slots
	l.tell()
}

// place is the server's number among its backend's, as last connected.
func (l *link) place() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// hold keeps the server from being used, whatever it reports, until hold(false).
func (l *link) hold(held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = held
	l.tell()
}

// tell tells the controller. The caller holds mu.
func (l *link) tell() {
	slots := l.slots
	if l.held {
		slots = 0
	}
	if l.controller != nil {
		l.controller.SetAvailable(l.backend, l.number, slots)
	}
}

// present is told whether the server's port accepts connections. While an order is under
// way, only the end of the order reports that: an engine that dies of an unload takes its
// memory again when it is restarted.
func (l *link) present(there bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone = !there
	if l.controller != nil && l.orders == 0 {
		l.controller.SetThere(l.backend, l.number, there)
	}
}

// ordered says that an order for the server begins (1) or has ended (-1).
func (l *link) ordered(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.orders += n; l.orders == 0 && l.gone && l.controller != nil {
		l.controller.SetThere(l.backend, l.number, false)
	}
}

// connect makes the link report to a controller as the replica of that number, beginning
// with the last report; with nil it reports to none.
func (l *link) connect(controller *admission.Controller, number int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.controller, l.number = controller, number
	l.tell()
	if l.gone && controller != nil {
		controller.SetThere(l.backend, number, false)
	}
}

// same is a backend's server that is configured in that way already; nil: none,
// as where there are no rules.
func (s *rules) same(name string, server backend.Config) *replica {
	if s == nil {
		return nil
	}
	for _, b := range s.backends[name] {
		if reflect.DeepEqual(b.Config, server) {
			return b
		}
	}
	return nil
}

// at is the server with a URL; nil: there is none.
func (r replicas) at(url string) *replica {
	for _, b := range r {
		if b.Config.URL == url {
			return b
		}
	}
	return nil
}

// first is the server for requests that need no grant: the first one that is healthy and
// has a closed breaker, else the first one.
func (r replicas) first() *replica {
	for _, b := range r {
		if b.Healthy() && b.State() == "closed" {
			return b
		}
	}
	return r[0]
}

// down says whether all breakers are open, and how long the first of them stays open at
// most. The breaker of a server that is asleep does not count: the server will be woken.
func (r replicas) down(controller *admission.Controller) (remaining time.Duration, down bool) {
	for i, b := range r {
		d, open := b.Open()
		if !open || b.Config.Reclaim.Enabled() && controller.Asleep(b.Name, i) {
			return 0, false
		}
		if i == 0 || d < remaining {
			remaining = d
		}
	}
	return remaining, true
}

// server chooses the server of the request: the replica that was granted, or without a
// grant the first that works. Nil: the granted replica has been removed from the
// configuration since.
func (x *exchange) server(grant *admission.Grant) *replica {
	servers := x.rules.backends[x.route.Backend]
	if grant == nil {
		return servers.first()
	}
	if b := servers.at(grant.ReplicaName()); b != nil {
		return b
	}
	// A reload while the request waited added a replica that the request's own rules do not
	// know.
	x.reloading.RLock()
	defer x.reloading.RUnlock()
	return x.Handler.rules.Load().backends[x.route.Backend].at(grant.ReplicaName())
}
