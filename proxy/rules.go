package proxy

import (
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// Setup is the part of a configuration that a handler needs. It has been checked. The
// controller knows the replicas of a backend by their urls.
type Setup struct {
	Proxy     Config
	Routing   routing.Config
	Admission admission.Config
}

// rules are what a handler derives from one configuration. They are immutable. A request
// keeps the rules that were in force when it began.
type rules struct {
	config   Config
	limits   *LimitsConfig
	tables   map[string]*routing.Table // by listener; "": the main one
	backends map[string]replicas
	// routes are those of all tables, each once.
	routes []*routing.Route
	// histories are what was learned of each route.
	histories map[*routing.Route]*admission.History
	// watched are the backends whose jobs report their end in streams of events. Nil: none.
	watched      map[string]bool
	trusted      []netip.Prefix
	observe      bool
	bounds       telemetry.Bounds
	tenantHeader string   // canonical
	reminded     sync.Map // by route: the log has said that its GETs may be work
}

// New makes a handler in front of a controller that was opened for the same configuration.
func New(setup Setup, controller *admission.Controller, t *telemetry.Telemetry) (*Handler, error) {
	h := &Handler{controller: controller, telemetry: t, log: t.Log(), looks: make(chan struct{}, mostLooks)}
	h.ahead.limit.Store(readAheadMemory)
	h.resting.limit.Store(restingMemory)
	next, err := h.prepare(setup, nil)
	if err != nil {
		return nil, err
	}
	h.install(next, nil)
	h.ladder = newLadder(h)
	history := h.telemetry.History
	h.ladder.steps.Go(func() { h.sample(h.ladder.life, history) })
	return h, nil
}

// Reload puts new rules and limits in force. Running and waiting requests stay. A server
// that is configured as before stays too, with its breaker. A setup that is refused changes
// nothing. Calls must not overlap.
func (h *Handler) Reload(setup Setup) error {
	old := h.rules.Load()
	next, err := h.prepare(setup, old)
	if err != nil {
		return err
	}
	// From here on the controller may grant replicas that only the new rules have. A
	// request that is granted one waits until the new rules are in force.
	h.reloading.Lock()
	defer h.reloading.Unlock()
	if err := h.controller.Reconfigure(setup.Admission); err != nil {
		next.retire(old)
		return err
	}
	h.install(next, old)
	h.ladder.steps.Go(func() { h.ladder.inspect(next, old) })
	return nil
}

// prepare compiles a setup and makes the servers that old does not have.
func (h *Handler) prepare(setup Setup, old *rules) (*rules, error) {
	table, err := routing.NewTable(setup.Routing.On("", ""))
	if err != nil {
		return nil, fmt.Errorf("proxy: compile the routes: %w", err)
	}
	next := &rules{
		config: setup.Proxy, limits: &setup.Proxy.Limits, tables: map[string]*routing.Table{"": table},
		backends: make(map[string]replicas), observe: setup.Proxy.Mode == "observe",
		histories: make(map[*routing.Route]*admission.History), tenantHeader: http.CanonicalHeaderKey(setup.Proxy.Tenants.Header),
		bounds: boundsOf(setup),
	}
	known := make(map[routeKey]*admission.History)
	if old != nil {
		for route, history := range old.histories {
			known[keyOf(route)] = history
		}
	}
	routes := table.Routes()
	for name, l := range setup.Proxy.Listeners {
		if table, err = routing.NewTable(setup.Routing.On(name, l.Backend)); err != nil {
			return nil, fmt.Errorf("proxy: compile the routes of listener %s: %w", name, err)
		}
		next.tables[name] = table
		routes = append(routes, table.Routes()...)
	}
	h.addRoutes(next, routes, known)
	for _, text := range setup.Proxy.Trusted {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("proxy: trusted: %w", err)
		}
		next.trusted = append(next.trusted, prefix.Masked())
	}
	for name, config := range setup.Routing.Backends {
		for _, server := range config.Servers() {
			b := old.same(name, server)
			if b == nil {
				if b, err = newReplica(name, server); err != nil {
					next.retire(old)
					return nil, err
				}
				b.Transitions(func(from, to, why string) { h.breakerMoved(b, from, to, why) })
			}
			next.backends[name] = append(next.backends[name], b)
		}
	}
	return next, nil
}

// addRoutes gives each route its history. known has the histories that exist already.
func (h *Handler) addRoutes(next *rules, routes []*routing.Route, known map[routeKey]*admission.History) {
	listed := make(map[routeKey]bool)
	for _, route := range routes {
		key := keyOf(route)
		if !listed[key] {
			listed[key] = true
			next.routes = append(next.routes, route)
		}
		if route.Pass {
			continue
		}
		// Rules of one route have one history, whatever listener they are of.
		if known[key] == nil {
			known[key] = h.recalled.history(key)
		}
		next.histories[route] = known[key]
		if route.Completion != nil && route.Completion.Watch {
			if next.watched == nil {
				next.watched = make(map[string]bool)
			}
			next.watched[route.Backend] = true
		}
	}
}

// install puts rules in force for new requests.
func (h *Handler) install(next, old *rules) {
	h.spool.limit.Store(int64(next.limits.Spool))
	// First the servers that go stop reporting: other servers may get their numbers.
	next.leavesOut(old, func(b *replica) { b.link.connect(nil, 0) })
	for _, servers := range next.backends {
		for i, b := range servers {
			b.link.connect(h.controller, i)
		}
	}
	h.rules.Store(next)
	h.telemetry.Bound(next.bounds)
	if old != nil {
		h.recalled.keep(old, next)
		old.retire(next)
	}
}

// retire ends the servers that the other rules do not have. Requests in flight go on.
func (s *rules) retire(other *rules) {
	other.leavesOut(s, func(b *replica) {
		b.link.connect(nil, 0)
		b.cancel()
		b.Close()
	})
}

// leavesOut calls do for each server of other rules that these do not have. No
// rules have none.
func (s *rules) leavesOut(other *rules, do func(*replica)) {
	if other == nil {
		return
	}
	for name, servers := range other.backends {
		for _, b := range servers {
			if s == nil || !slices.Contains(s.backends[name], b) {
				do(b)
			}
		}
	}
}

// Inspect asks backends that can tell whether they are loaded, so that memory
// found in use at the start is known for theirs. It waits two seconds for their
// answers at the most; call it when the cards have been read, and before
// requests come.
func (h *Handler) Inspect() { h.ladder.inspect(h.rules.Load(), nil) }

// Close ends health checks, unloads and wakes under way, the following of jobs, and idle
// connections. Requests in flight go on.
func (h *Handler) Close() {
	h.jobs.close()
	h.ladder.close()
	h.rules.Load().retire(nil)
}

// Drain sets the end of the grace, which clients that are refused from now on are told. The
// controller does the refusing.
func (h *Handler) Drain(until time.Time) { h.drainUntil.Store(until.UnixNano()) }

// Draining says that Drain was called.
func (h *Handler) Draining() bool { return h.drainUntil.Load() != 0 }

// Config is the configuration in force.
func (h *Handler) Config() Config { return h.rules.Load().config }

// Servers gives the servers of each configured backend, by replica. There is one or
// more of each.
func (h *Handler) Servers() map[string][]*backend.Server {
	all := make(map[string][]*backend.Server)
	for name, replicas := range h.rules.Load().backends {
		for _, b := range replicas {
			all[name] = append(all[name], b.Server)
		}
	}
	return all
}

// Histories gives the routes that ask admission, with what was learned of each, in the
// order of the file.
func (h *Handler) Histories() iter.Seq2[*routing.Route, *admission.History] {
	current := h.rules.Load()
	return func(yield func(*routing.Route, *admission.History) bool) {
		for _, route := range current.routes {
			if history := current.histories[route]; history != nil && !yield(route, history) {
				return
			}
		}
	}
}

// Breakers gives each backend's breaker states, by replica.
func (h *Handler) Breakers() map[string][]string {
	backends := h.rules.Load().backends
	states := make(map[string][]string, len(backends))
	for name, servers := range backends {
		for _, b := range servers {
			states[name] = append(states[name], b.State())
		}
	}
	return states
}

// CloseBreaker closes the breakers of a backend's servers; false: there is no
// such backend.
func (h *Handler) CloseBreaker(name string) bool {
	servers := h.rules.Load().backends[name]
	for _, b := range servers {
		b.Server.CloseBreaker()
	}
	return len(servers) > 0
}

// backendNames are in order.
func (s *rules) backendNames() []string { return slices.Sorted(maps.Keys(s.backends)) }

var _ http.RoundTripper = (*exchange)(nil)
