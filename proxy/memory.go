package proxy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// StateConfig names the file for what has been learned.
type StateConfig struct {
	File string `koanf:"file"` // empty: nowhere
}

// Memory is what a proxy has learned, as it is kept over restarts. Amounts are
// numbers of bytes.
type Memory struct {
	Version  int             `json:"anteroom_state"`
	Routes   []RouteMemory   `json:"routes"`
	Accounts []AccountMemory `json:"accounts"`
}

// RouteMemory is what was learned of a route's work on a backend. A route that
// has no name of its own is told by its place; class and path say whether it is
// the same one still.
type RouteMemory struct {
	Backend string `json:"backend"`
	Route   string `json:"route"`
	Class   string `json:"class"`
	Path    string `json:"path"`
	Learn   bool   `json:"learn"` // its demand is to be learned
	// Seen is the day on which it was last configured.
	Seen    string          `json:"seen"`
	Learned json.RawMessage `json:"learned"`
}

// AccountMemory is what was learned of a replica on a GPU. An older state has
// kept_bytes beside it, which mean nothing any more: what a backend holds is read
// off the card.
type AccountMemory struct {
	Backend string `json:"backend"`
	Replica int    `json:"replica"`
	GPU     string `json:"gpu"`
	Seen    string `json:"seen"`
	// Resident is what it holds while idle, as learned.
	Resident int64 `json:"resident_bytes,omitempty"`
}

const (
	memoryVersion = 1
	// maxRemembered bounds what is kept of routes and accounts that are not
	// configured, and rememberFor for how long.
	maxRemembered = 1000
	rememberFor   = 30 * 24 * time.Hour
)

// ReadMemory reads what Memory wrote as JSON. Its error says what is wrong with
// a text that is none, or that a later version wrote.
func ReadMemory(text []byte) (Memory, error) {
	var m Memory
	if err := json.Unmarshal(text, &m); err != nil {
		return Memory{}, err
	}
	switch {
	case m.Version == 0:
		return Memory{}, errors.New("it is not a state of anteroom")
	case m.Version != memoryVersion:
		return Memory{}, fmt.Errorf("version %d is not known: want %d", m.Version, memoryVersion)
	}
	for _, r := range m.Routes {
		if err := json.Unmarshal(r.Learned, new(admission.History)); err != nil {
			return Memory{}, fmt.Errorf("route %s on %s: %w", r.Route, r.Backend, err)
		}
	}
	const most = 1 << 55 // sums of a few still fit
	for _, a := range m.Accounts {
		if a.Resident < 0 || a.Resident > most {
			return Memory{}, fmt.Errorf("%s on %s: resident_bytes: %d is not an amount of memory", a.Backend, a.GPU, a.Resident)
		}
	}
	return m, nil
}

// routeKey tells a route over restarts and reloads.
type routeKey struct{ backend, route, class, path string }

func keyOf(r *routing.Route) routeKey { return routeKey{r.Backend, r.Name, r.ClassName, r.Pattern} }

func (m RouteMemory) key() routeKey { return routeKey{m.Backend, m.Route, m.Class, m.Path} }

type accountKey struct {
	backend string
	replica int
	gpu     string
}

// recalled is what is remembered of routes and accounts that are not configured now.
type recalled struct {
	mu       sync.Mutex
	routes   map[routeKey]RouteMemory     // guarded by mu
	accounts map[accountKey]AccountMemory // guarded by mu
}

// history makes the history of a route, with what is remembered of the route.
func (c *recalled) history(key routeKey) *admission.History {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := new(admission.History)
	if m, ok := c.routes[key]; ok {
		json.Unmarshal(m.Learned, h) // after an error the history is empty
	}
	return h
}

// keep remembers the routes and accounts that a reload removed.
func (c *recalled) keep(old, next *rules) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stays := make(map[routeKey]bool)
	for route := range next.histories {
		stays[keyOf(route)] = true
		delete(c.routes, keyOf(route))
	}
	for route, history := range old.histories {
		if !stays[keyOf(route)] {
			c.add(remember(route, history, today()))
		}
	}
}

// add remembers a route. The caller holds mu.
func (c *recalled) add(m RouteMemory) {
	if c.routes == nil {
		c.routes = make(map[routeKey]RouteMemory)
	}
	if len(c.routes) < maxRemembered {
		c.routes[m.key()] = m
	}
}

func today() string { return time.Now().UTC().Format(time.DateOnly) }

func remember(route *routing.Route, history *admission.History, day string) RouteMemory {
	text, err := json.Marshal(history)
	if err != nil {
		panic("proxy: a history that is no JSON: " + err.Error())
	}
	return RouteMemory{Backend: route.Backend, Route: route.Name, Class: route.ClassName, Path: route.Pattern, Learn: route.Learn, Seen: day,
		Learned: text}
}

// Memory is all that is kept over a restart, in a stable order.
func (h *Handler) Memory() Memory {
	day := today()
	m := Memory{Version: memoryVersion, Routes: []RouteMemory{}, Accounts: []AccountMemory{}}
	for route, history := range h.rules.Load().histories {
		if len(history.Learned()) > 0 {
			m.Routes = append(m.Routes, remember(route, history, day))
		}
	}
	configured := make(map[accountKey]bool)
	for _, b := range h.controller.Snapshot().Backends {
		for _, a := range b.Accounts {
			configured[accountKey{b.Name, a.Replica, a.GPU}] = true
			if a.Learns && a.Resident > 0 {
				m.Accounts = append(m.Accounts, AccountMemory{Backend: b.Name, Replica: a.Replica, GPU: a.GPU, Seen: day, Resident: int64(a.Resident)})
			}
		}
	}
	h.recalled.mu.Lock()
	m.Routes = slices.AppendSeq(m.Routes, maps.Values(h.recalled.routes))
	for key, a := range h.recalled.accounts {
		if !configured[key] {
			m.Accounts = append(m.Accounts, a)
		}
	}
	h.recalled.mu.Unlock()
	slices.SortFunc(m.Routes, func(a, b RouteMemory) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Route, b.Route), cmp.Compare(a.Class, b.Class), cmp.Compare(a.Path, b.Path))
	})
	slices.SortFunc(m.Accounts, func(a, b AccountMemory) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.GPU, b.GPU))
	})
	return m
}

// Recall takes what an earlier process remembered. It is called before the
// first reading of a card and the first request. What is not configured now is
// remembered for a while.
func (h *Handler) Recall(m Memory, now time.Time) {
	current := h.rules.Load()
	histories := make(map[routeKey]*admission.History)
	for route, history := range current.histories {
		histories[keyOf(route)] = history
	}
	oldest := now.Add(-rememberFor).UTC().Format(time.DateOnly)
	h.recalled.mu.Lock()
	defer h.recalled.mu.Unlock()
	for _, r := range m.Routes {
		if history := histories[r.key()]; history != nil {
			if err := json.Unmarshal(r.Learned, history); err != nil {
				h.log.Warn("what was learned of a route is lost", "route", r.Route, "backend", r.Backend, "error", err.Error())
			}
		} else if r.Seen >= oldest {
			h.recalled.add(r)
		}
	}
	for _, a := range m.Accounts {
		if a.Resident == 0 {
			continue // an older state file has entries of routes that learned nothing
		}
		if !h.controller.SetResident(a.Backend, a.Replica, a.GPU, admission.Bytes(a.Resident)) && a.Seen >= oldest &&
			len(h.recalled.accounts) < maxRemembered {
			if h.recalled.accounts == nil {
				h.recalled.accounts = make(map[accountKey]AccountMemory)
			}
			h.recalled.accounts[accountKey{a.Backend, a.Replica, a.GPU}] = a
		}
	}
}

// Forget forgets what was learned of the routes of a name. It reports whether
// there is one.
func (h *Handler) Forget(name string) bool {
	found := false
	for route, history := range h.rules.Load().histories {
		if route.Name == name && history != nil {
			h.controller.Forget(history)
			found = true
		}
	}
	return found
}

// RouteMemory gives the declared and the measured memory of each route, for the demand that
// was measured most often.
func (h *Handler) RouteMemory() []telemetry.RouteMemory {
	current := h.rules.Load()
	var all []telemetry.RouteMemory
	for route, history := range current.histories {
		known := history.Learned()
		if len(known) == 0 {
			continue
		}
		l := slices.MaxFunc(known, func(a, b admission.Learned) int { return int(min(a.Peak.Runs, 1<<30)) - int(min(b.Peak.Runs, 1<<30)) })
		if l.Peak.Runs > 0 {
			all = append(all, telemetry.RouteMemory{Route: route.Name, Declared: l.VRAM, P95: l.Peak.Most, Most: l.Peak.Most})
		}
	}
	slices.SortFunc(all, func(a, b telemetry.RouteMemory) int { return strings.Compare(a.Route, b.Route) })
	return all
}
