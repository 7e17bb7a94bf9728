package routing

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/internal/check"
	"github.com/anteroom-gpu/anteroom/routing/expression"
)

// RouteConfig is one entry of `routes`.
type RouteConfig struct {
	Name        string      `koanf:"name"`
	Match       MatchConfig `koanf:"match"`
	Class       string      `koanf:"class"`
	Backend     string      `koanf:"backend"`
	Pass        bool        `koanf:"pass"`
	VRAM        string      `koanf:"vram"` // an amount ("20GiB"), an expression, or "learn"; empty: the class's
	Errors      string      `koanf:"errors"`
	RequireBody bool        `koanf:"require_body"`
	HoldSlot    bool        `koanf:"hold_slot"` // a WebSocket counts as work
	// WaitingComments is how often a stream that waits gets a comment; 0: never.
	WaitingComments time.Duration `koanf:"waiting_comments"`
	// StripPrefix is taken off the path before it is forwarded, and AddPrefix put in
	// front of what is left.
	StripPrefix string `koanf:"strip_prefix"`
	AddPrefix   string `koanf:"add_prefix"`
	// RewriteModel is the backend's name for the model that a body asks for; empty: the
	// client's.
	RewriteModel string        `koanf:"rewrite_model"`
	Headers      HeadersConfig `koanf:"headers"`
	Listener     string        `koanf:"listener"` // that it belongs to; empty: the main one, and its backend's
	Merge        []string      `koanf:"merge"`    // backends whose lists of models are added to its backend's
	Derived      bool          `koanf:"-"`        // it follows from a preset: another may take all of it first
	// Completion is the backend's, but for what it says itself.
	Completion backend.CompletionConfig `koanf:"completion"`
}

// ClassConfig is one entry of `classes`.
type ClassConfig struct {
	Slots            int           `koanf:"slots"`
	VRAM             VRAM          `koanf:"vram"`
	Estimate         time.Duration `koanf:"estimate"`
	Queue            QueueConfig   `koanf:"queue"`
	ExecutionTimeout time.Duration `koanf:"execution_timeout"`
	Boost            time.Duration `koanf:"boost"`
	Reserved         int           `koanf:"reserved"`
	StrictAfter      time.Duration `koanf:"strict_after"`
}

// QueueConfig bounds a class's queue.
type QueueConfig struct {
	Limit   int             `koanf:"limit"`
	Bytes   admission.Bytes `koanf:"bytes"`
	Timeout time.Duration   `koanf:"timeout"`
}

// Config is the part of the file that this package owns.
type Config struct {
	Classes  map[string]ClassConfig    `koanf:"classes"`
	Backends map[string]backend.Config `koanf:"backends"`
	Routes   []RouteConfig             `koanf:"routes"`
	// Room is the most a request may book on each GPU (capacity − reserve), by
	// name; buckets never round past it. A GPU that is not listed has no bound.
	Room map[string]admission.Bytes `koanf:"-"`
}

// Check reports every mistake: the path of the key in the file and a sentence
// that says what is wrong and what is wanted.
func (c Config) Check(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Classes)) {
		c.Classes[name].check(check.At(report, "classes."+name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Backends)) {
		c.Backends[name].Check(check.At(report, "backends."+name))
	}
	var rules []rule // that shadow others
	var from []int   // the route of each
	names := make(map[string]int)
	for i, r := range c.Routes {
		here := check.At(report, fmt.Sprintf("routes[%d]", i))
		ok := true
		compiled := c.compile(i, func(path, problem string) {
			ok = false
			here(path, problem)
		})
		if first, taken := names[r.Name]; taken && r.Name != "" {
			here("name", fmt.Sprintf("%q: routes[%d] has it too: want a name of its own", r.Name, first))
		} else {
			names[r.Name] = i
		}
		if !ok {
			continue
		}
		// What the same listener serves; a route of the main one may be its backend's own
		// listener's too, where others are not in its way.
		if by := shadow(rules, compiled, func(j int) bool { return c.Routes[from[j]].serves(r.Listener, r.Backend) }); by >= 0 && !r.Derived {
			here("match", fmt.Sprintf("never reached: %s matches all of it first: want this one before it, or a narrower one there", c.routeName(from[by])))
		}
		for _, u := range compiled {
			rules, from = append(rules, u), append(from, i)
		}
	}
	c.checkRoom(report)
}

// shadow is the first rule that takes what the last of a route's rules would match,
// where others take what the rest would; -1: the route is reached. counts says which
// rules are beside it.
func shadow(rules, route []rule, counts func(i int) bool) int {
	by := -1
	for i := range route {
		by = -1
		for j := range rules {
			if by < 0 && counts(j) && rules[j].covers(&route[i]) {
				by = j
			}
		}
		if by < 0 {
			return -1
		}
	}
	return by
}

// On is the configuration of a listener, which is a backend's own: with the routes that
// it serves. The empty names stand for the main listener.
func (c Config) On(listener, backend string) Config {
	var routes []RouteConfig
	for i, r := range c.Routes {
		r.Name = cmp.Or(r.Name, fmt.Sprintf("routes[%d]", i))
		if r.serves(listener, backend) {
			routes = append(routes, r)
		}
	}
	c.Routes = routes
	return c
}

// serves says that a route is one of a listener's.
func (r *RouteConfig) serves(listener, backend string) bool {
	return r.Listener == listener || r.Listener == "" && r.Backend == backend
}

func (c Config) routeName(i int) string {
	if name := c.Routes[i].Name; name != "" {
		return fmt.Sprintf("routes[%d] (%s)", i, name)
	}
	return fmt.Sprintf("routes[%d]", i)
}

func (k ClassConfig) check(report func(path, problem string)) {
	check.AtLeast(report, "slots", k.Slots, 1)
	check.AtLeast(report, "vram", k.VRAM.Amount, 0)
	check.AtLeast(report, "queue.limit", k.Queue.Limit, 0)
	check.AtLeast(report, "queue.bytes", k.Queue.Bytes, 0)
	check.AtLeast(report, "queue.timeout", k.Queue.Timeout, 0)
	check.AtLeast(report, "execution_timeout", k.ExecutionTimeout, 0)
	check.AtLeast(report, "strict_after", k.StrictAfter, 0)
	if k.Estimate <= 0 {
		report("estimate", fmt.Sprintf("%v: too small: want the execution time to expect, such as 5s", k.Estimate))
	}
	check.AtLeast(report, "boost", k.Boost, 0)
	check.AtLeast(report, "reserved", k.Reserved, 0)
}

// compile makes rules of a route, one for each of its methods and paths, and reports
// what is wrong with it, by paths below the route.
func (c Config) compile(i int, report func(path, problem string)) []rule {
	r := c.Routes[i]
	u := c.compileRest(i, report)
	to := c.Backends[r.Backend]
	closed := r.seenAs(to)
	var rules []rule
	for at, method := range r.Match.Method.each("match.method") {
		if method != "" && !httpguts.ValidHeaderFieldName(method) || method != strings.ToUpper(method) {
			report(at, fmt.Sprintf("%q: not a method: want one in capitals, such as POST", method))
		}
		if method == "CONNECT" {
			report(at, `"CONNECT": is never forwarded: want another`)
		}
		for at, path := range r.Match.Path.each("match.path") {
			one := u
			one.method = method
			var err error
			if one.pattern, err = parsePattern(path); err != nil && len(rules) < max(1, len(r.Match.Path)) {
				report(at, fmt.Sprintf("%q: %v", path, err))
			}
			one.route.Pattern, one.route.modelAt = one.pattern.text, modelSegment(one.pattern.text)
			one.closed = one.closedTo(slices.Clone(closed))
			one.route.Errors = dialect(cmp.Or(noAuto(r.Errors), noAuto(to.Errors)), one.pattern.text, to.EngineErrors())
			if problem := one.route.commentless(); problem != "" && len(rules) == 0 {
				report("waiting_comments", fmt.Sprintf("%v: %s: want 0s", r.WaitingComments, problem))
			}
			rules = append(rules, one)
		}
	}
	return rules
}

// commentless says why comments would be of no use to a route's clients; empty: they
// may be sent.
func (r *Route) commentless() string {
	switch {
	case r.WaitingComments == 0:
		return ""
	case r.WaitingComments < 0:
		return "too short"
	case r.Pass:
		return "nothing waits on a route with pass"
	case r.Errors == "ollama" || r.Errors == "grpc":
		return "its streams are not server-sent events"
	}
	return ""
}

// compileRest is what the rules of a route have in common: all but method and path.
func (c Config) compileRest(i int, report func(path, problem string)) rule {
	r := c.Routes[i]
	class, to := c.Classes[r.Class], c.Backends[r.Backend]
	u := rule{vram: class.VRAM.Amount, room: -1, why: "the first rule that matches; the class's vram"}
	u.route = Route{
		Name: cmp.Or(r.Name, fmt.Sprintf("routes[%d]", i)), ClassName: r.Class, Class: class,
		Backend: r.Backend, Merge: r.Merge, Pass: r.Pass, RequireBody: r.RequireBody, HoldSlot: r.HoldSlot,
		WaitingComments: r.WaitingComments, RewriteModel: r.RewriteModel,
	}
	if most, ok := c.roomiest(to); ok {
		u.room = most.left
	}

	u.compileMatch(r.Match, report)
	u.route.Rewrite = r.rewrite(report)
	check.OneOf(report, "errors", r.Errors, backend.Dialects...)
	c.checkBackends(r, report)
	r.checkModel(report)
	if r.Pass {
		u.route.Class, u.vram, u.why = ClassConfig{}, 0, "the first rule that matches; passed through"
		if r.Class != "" {
			report("class", fmt.Sprintf("%q: a route with pass has no queue: want class or pass, not both", r.Class))
		}
		if r.VRAM != "" {
			report("vram", fmt.Sprintf("%q: a route with pass books nothing: want it left out", r.VRAM))
		}
		if !r.Completion.IsZero() {
			report("completion", "a route with pass holds nothing to its end: want it left out")
		}
		return u
	}
	r.Completion.Check(check.At(report, "completion"))
	u.route.Completion = r.Completion.Over(to.Completion).Compile(func(path, problem string) {
		if !r.Completion.IsZero() { // else the backend says so
			report("completion."+path, problem)
		}
	})
	if r.Class == "" {
		report("class", "missing: want "+choices(c.Classes)+", or pass: true")
	} else if _, ok := c.Classes[r.Class]; !ok {
		report("class", fmt.Sprintf("%q: not in classes: want %s", r.Class, choices(c.Classes)))
	}
	u.compileVRAM(r.VRAM, class, report)
	return u
}

// compileMatch is the conditions of a route: all but method and path.
func (u *rule) compileMatch(m MatchConfig, report func(path, problem string)) {
	u.host = strings.ToLower(strings.TrimPrefix(m.Host, "*"))
	if u.host != "" && strings.ContainsAny(u.host, "*/: ") || strings.HasSuffix(u.host, ".") || m.Host == "*" ||
		strings.HasPrefix(m.Host, "*") != strings.HasPrefix(u.host, ".") {
		report("match.host", fmt.Sprintf("%q: not a host: want a name such as example.com or *.example.com, without a port", m.Host))
	}
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		value := m.Headers[name]
		switch {
		case !httpguts.ValidHeaderFieldName(name) || strings.Contains(name, "_"):
			report("match.headers."+name, fmt.Sprintf("%q: not a header: want letters, digits and dashes", name))
		case strings.EqualFold(name, "Host"):
			report("match.headers."+name, fmt.Sprintf("%q: Host is not among the headers: want match.host", name))
		}
		u.headers = append(u.headers, headerRule{name: textproto.CanonicalMIMEHeaderKey(name), value: value, any: value == "*"})
	}
	condition := m.condition()
	if condition == "" {
		return
	}
	var err error
	if u.when, err = expression.When(condition); err != nil {
		report("match.when", fmt.Sprintf("%q: %v: want a condition such as body.model == \"flux\"", m.When, err))
	}
	if m.When == "" && !slices.ContainsFunc(m.Model, func(m string) bool { return strings.Contains(m, "*") }) {
		u.models = m.Model
	}
}

// checkBackends reports where a route leads to no backend.
func (c Config) checkBackends(r RouteConfig, report func(path, problem string)) {
	if r.Backend == "" {
		report("backend", "missing: want "+choices(c.Backends))
	} else if _, ok := c.Backends[r.Backend]; !ok {
		report("backend", fmt.Sprintf("%q: not in backends: want %s", r.Backend, choices(c.Backends)))
	}
	for j, name := range r.Merge {
		if _, ok := c.Backends[name]; !ok {
			report(fmt.Sprintf("merge[%d]", j), fmt.Sprintf("%q: not in backends: want %s", name, choices(c.Backends)))
		}
	}
	if len(r.Merge) > 0 && !r.Pass {
		report("merge", "lists of models need no card: want pass: true")
	}
}

// compileVRAM is the demand of a route: its class's, a figure, one that is learned, or
// an expression.
func (u *rule) compileVRAM(text string, class ClassConfig, report func(path, problem string)) {
	switch strings.TrimSpace(text) {
	case "":
		if class.VRAM.Learn {
			u.route.Learn, u.why = true, "the first rule that matches; its vram is learned from its runs"
		}
		return
	case "learn":
		u.route.Learn = true
		u.why = "the first rule that matches; its vram is learned from its runs, and is the class's at the least until then"
		return
	}
	var err error
	if u.vram, err = admission.ParseBytes(text); err == nil {
		u.why = "the first rule that matches; its vram"
		return
	}
	u.vram, u.why = class.VRAM.Amount, "the first rule that matches; its vram, worked out"
	if _, bare := strconv.ParseFloat(strings.TrimSpace(text), 64); bare == nil {
		report("vram", err.Error())
	} else if u.amount, err = expression.Amount(text); err != nil {
		report("vram", fmt.Sprintf("%q: %v: want an amount such as 20GiB, "+
			"or an expression in bytes such as gib(18) + gib(4) * num(body.n, 1)", text, err))
	}
}

func noAuto(dialect string) string {
	if dialect == "auto" {
		return ""
	}
	return dialect
}

// dialect is how refusals look where the path alone says it.
func dialect(configured, pattern, engine string) string {
	switch {
	case configured != "":
		return configured
	case strings.HasPrefix(pattern, "/v1/"):
		return "openai"
	case pattern == "/api/generate", pattern == "/api/chat", strings.HasPrefix(pattern, "/api/embed"):
		return "ollama"
	}
	return cmp.Or(engine, "problem")
}

// choices names the entries of a section.
func choices[V any](section map[string]V) string {
	if len(section) == 0 {
		return "an entry of that name there"
	}
	return strings.Join(slices.Sorted(maps.Keys(section)), " or ")
}

// covers says whether everything that other matches is taken by u before.
func (u *rule) covers(other *rule) bool {
	if u.when != nil || u.method != "" && u.method != other.method && (u.method != "GET" || other.method != "HEAD") {
		return false
	}
	if u.host != "" && u.host != other.host && !(u.host[0] == '.' && strings.HasSuffix(other.host, u.host)) {
		return false
	}
	for _, h := range u.headers {
		if !slices.ContainsFunc(other.headers, func(o headerRule) bool { return o.name == h.name && (h.any || o.value == h.value && !o.any) }) {
			return false
		}
	}
	return u.pattern.covers(&other.pattern) && !u.leaves(other)
}

// checkRoom finds what never fits its card.
func (c Config) checkRoom(report func(path, problem string)) {
	told := make(map[string]bool)
	for i, r := range c.Routes {
		class, known := c.Classes[r.Class]
		most, bounded := c.roomiest(c.Backends[r.Backend])
		if r.Pass || !known || !bounded {
			continue
		}
		path, demand := "classes."+r.Class+".vram", class.VRAM.Amount
		if own, err := admission.ParseBytes(r.VRAM); err == nil {
			path, demand = fmt.Sprintf("routes[%d].vram", i), own
		}
		if demand > most.left && !told[path] {
			told[path] = true
			beside := ""
			if most.at.Resident > 0 {
				beside = fmt.Sprintf(" beside the %v that backend %s holds", most.at.Resident, r.Backend)
			}
			report(path, fmt.Sprintf("%v: more than %s can ever give%s: want %v or less",
				demand, most.at.GPU, beside, most.left))
		}
	}
}

// NewTable compiles the rules of a configuration that Check accepts.
func NewTable(c Config) (*Table, error) {
	t := new(Table)
	var mistakes []error
	for i := range c.Routes {
		compiled := c.compile(i, func(path, problem string) {
			mistakes = append(mistakes, fmt.Errorf("routing: routes[%d].%s: %s", i, path, problem))
		})
		for _, e := range [...]*expression.Expression{compiled[0].when, compiled[0].amount} {
			if e != nil {
				t.names.Add(e.Keys())
			}
		}
		t.rules = append(t.rules, compiled...)
	}
	t.index = newIndex(t.rules)
	for _, r := range c.Routes {
		t.aliases = append(t.aliases, r.aliases()...)
	}
	return t, errors.Join(mistakes...)
}
