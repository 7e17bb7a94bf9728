package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// Setup is everything that a configuration says to a handler. It is checked
// already.
type Setup struct {
	Proxy   Config
	Routing routing.Config
	Desk    admission.Config
}

// rules are what one configuration makes of a handler. They are immutable; a
// request keeps those it began under.
type rules struct {
	config   Config
	limits   *LimitsConfig
	table    *routing.Table
	backends map[string]*backend
	// histories are what was learned of each route, by name.
	histories map[string]*admission.History
	// watched are the backends whose jobs end in events that pass by. Nil: none.
	watched      map[string]bool
	trusted      []netip.Prefix
	observe      bool
	tenantHeader string // canonical
}

// backend is a model server and its line to the desk.
type backend struct {
	*routing.Backend
	cancel context.CancelFunc // ends its health check
	link   *link
}

// link carries a backend's word on what may be used of it to the desk, as long
// as the backend is the one that rules.
type link struct {
	mu    sync.Mutex
	desk  *admission.Controller // guarded by mu; nil: not yet, or no longer
	slots int                   // guarded by mu; the last word
}

func (l *link) available(name string, slots int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slots = slots
	if l.desk != nil {
		l.desk.SetAvailable(name, 0, slots)
	}
}

// connect makes the link speak to a desk, beginning with the last word; nil
// silences it.
func (l *link) connect(name string, desk *admission.Controller) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.desk = desk
	if desk != nil {
		desk.SetAvailable(name, 0, l.slots)
	}
}

// New makes a handler in front of a desk that was opened for the same box.
func New(setup Setup, desk *admission.Controller, t *telemetry.Telemetry) (*Handler, error) {
	h := &Handler{desk: desk, telemetry: t, log: t.Log()}
	h.ahead.limit.Store(readAheadMemory)
	next, err := h.prepare(setup, nil)
	if err != nil {
		return nil, err
	}
	h.install(next, nil)
	return h, nil
}

// Reload puts new rules and limits in place. What runs and what waits stays; a
// backend that is configured as before stays too, with its breaker. A setup
// that is refused changes nothing. Calls must not overlap.
func (h *Handler) Reload(setup Setup) error {
	old := h.rules.Load()
	next, err := h.prepare(setup, old)
	if err == nil {
		err = h.desk.Reconfigure(setup.Desk)
	}
	if err != nil {
		if next != nil {
			next.retire(old)
		}
		return err
	}
	h.install(next, old)
	return nil
}

// prepare compiles a setup and makes the backends that old does not have.
func (h *Handler) prepare(setup Setup, old *rules) (*rules, error) {
	table, err := routing.NewTable(setup.Routing)
	if err != nil {
		return nil, fmt.Errorf("proxy: compile the routes: %w", err)
	}
	next := &rules{
		config: setup.Proxy, limits: &setup.Proxy.Limits, table: table,
		backends: make(map[string]*backend), observe: setup.Proxy.Mode == "observe",
		histories: make(map[string]*admission.History), tenantHeader: http.CanonicalHeaderKey(setup.Proxy.Tenants.Header),
	}
	for _, route := range table.Routes() {
		next.histories[route.Name] = new(admission.History)
		if old != nil && old.histories[route.Name] != nil {
			next.histories[route.Name] = old.histories[route.Name]
		}
		if route.Completion != nil && route.Completion.Watch {
			if next.watched == nil {
				next.watched = make(map[string]bool)
			}
			next.watched[route.Backend] = true
		}
	}
	for _, text := range setup.Proxy.Trusted {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("proxy: trusted: %w", err)
		}
		next.trusted = append(next.trusted, prefix.Masked())
	}
	for name, config := range setup.Routing.Backends {
		if old != nil && old.backends[name] != nil && reflect.DeepEqual(old.backends[name].Config, config) {
			next.backends[name] = old.backends[name]
			continue
		}
		if next.backends[name], err = newBackend(name, config); err != nil {
			delete(next.backends, name)
			next.retire(old)
			return nil, err
		}
	}
	return next, nil
}

func newBackend(name string, config routing.BackendConfig) (*backend, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &link{slots: -1}
	b, err := routing.NewBackend(ctx, name, config, func(slots int) { l.available(name, slots) })
	if err != nil {
		cancel()
		return nil, fmt.Errorf("proxy: backend %s: %w", name, err)
	}
	return &backend{Backend: b, cancel: cancel, link: l}, nil
}

// install makes rules the ones that new requests begin under.
func (h *Handler) install(next, old *rules) {
	h.spool.limit.Store(int64(next.limits.Spool))
	if old != nil {
		for name, b := range old.backends {
			if next.backends[name] != b {
				b.link.connect(name, nil)
			}
		}
	}
	for name, b := range next.backends {
		b.link.connect(name, h.desk)
	}
	h.rules.Store(next)
	if old != nil {
		old.retire(next)
	}
}

// retire ends the backends that the other rules do not share. What is in
// flight goes on.
func (s *rules) retire(other *rules) {
	for name, b := range s.backends {
		if other == nil || other.backends[name] != b {
			b.link.connect(name, nil)
			b.cancel()
			b.Close()
		}
	}
}

// Close ends health checks, the following of jobs and idle connections. What
// is in flight goes on.
func (h *Handler) Close() {
	h.jobs.close()
	h.rules.Load().retire(nil)
}

// Drain tells clients that are refused from now on when the grace ends; the
// desk does the refusing.
func (h *Handler) Drain(until time.Time) { h.drainUntil.Store(until.UnixNano()) }

// Draining says that Drain was called.
func (h *Handler) Draining() bool { return h.drainUntil.Load() != 0 }

// Breakers gives each backend's breaker state.
func (h *Handler) Breakers() map[string]string {
	backends := h.rules.Load().backends
	states := make(map[string]string, len(backends))
	for name, b := range backends {
		states[name] = b.State()
	}
	return states
}

// backendNames are in order.
func (s *rules) backendNames() []string { return slices.Sorted(maps.Keys(s.backends)) }

// tunnels are the connections that were upgraded: http.Server does not know
// them any more.
type tunnels struct {
	mu    sync.Mutex
	open  map[*tunnel]struct{} // guarded by mu
	empty chan struct{}        // guarded by mu; closed when the last one goes; nil: nobody waits
}

func (t *tunnels) add(c *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = make(map[*tunnel]struct{})
	}
	t.open[c] = struct{}{}
}

func (t *tunnels) remove(c *tunnel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	if len(t.open) == 0 && t.empty != nil {
		close(t.empty)
		t.empty = nil
	}
}

// wait returns when no tunnel is open, or closes those that are when ctx ends.
func (t *tunnels) wait(ctx context.Context) {
	t.mu.Lock()
	if len(t.open) == 0 {
		t.mu.Unlock()
		return
	}
	if t.empty == nil {
		t.empty = make(chan struct{})
	}
	empty := t.empty
	t.mu.Unlock()
	select {
	case <-empty:
		return
	case <-ctx.Done():
	}
	t.mu.Lock()
	left := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, c := range left {
		c.Close()
	}
}

var _ http.RoundTripper = (*exchange)(nil)
