package routing

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
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
	// Completion is the backend's, but for what it says itself.
	Completion CompletionConfig `koanf:"completion"`
}

// MatchConfig is what a request must look like. Empty fields match anything.
type MatchConfig struct {
	Method  string            `koanf:"method"` // GET matches HEAD too
	Path    string            `koanf:"path"`
	Host    string            `koanf:"host"`    // exact, or *.example.com for all below
	Headers map[string]string `koanf:"headers"` // exact values; *: any
	When    string            `koanf:"when"`
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

// BackendConfig is one entry of `backends`. An empty choice is its first.
type BackendConfig struct {
	Preset        string          `koanf:"preset"` // the engine; see Resolve
	URL           string          `koanf:"url"`
	URLs          []string        `koanf:"urls"`     // in place of URL
	Replicas      []ReplicaConfig `koanf:"replicas"` // in place of URL
	GPU           string          `koanf:"gpu"`
	Resident      Resident        `koanf:"resident"`
	ReturnsMemory bool            `koanf:"returns_memory"`
	Slots         int             `koanf:"slots"`
	Protocol      string          `koanf:"protocol"` // http | h2c
	Cancel        string          `koanf:"cancel"`   // ignored | aborts
	Idle          time.Duration   `koanf:"idle"`     // of connections to it; 0: 4s
	PreserveHost  bool            `koanf:"preserve_host"`
	Errors        string          `koanf:"errors"`
	Health        HealthConfig    `koanf:"health"`
	Breaker       BreakerConfig   `koanf:"breaker"`

	Reclaim ReclaimConfig `koanf:"reclaim"`
	// RetryOOM tries once more what ran out of memory; OOMPatterns are
	// what such errors say. AbandonAfter gives the grant of work back that has
	// not ended so long after its client has gone; zero: never.
	RetryOOM     bool             `koanf:"retry_oom"`
	OOMPatterns  []string         `koanf:"oom_patterns"`
	Completion   CompletionConfig `koanf:"completion"`
	AbandonAfter time.Duration    `koanf:"abandon_after"`
	Process      ProcessConfig    `koanf:"process"`
	Pinned       bool             `koanf:"pinned"`        // never reclaimed
	MinResidency time.Duration    `koanf:"min_residency"` // how long it stays once it is loaded
}

// ProcessConfig says which process of the host a backend is, where the port that
// it listens on does not tell.
type ProcessConfig struct {
	PID  int    `koanf:"pid"`
	Name string `koanf:"name"` // of its program
}

// HealthConfig is a backend's health check. An empty path: none.
type HealthConfig struct {
	Path  string        `koanf:"path"`
	Every time.Duration `koanf:"every"`
}

// BreakerConfig is a backend's circuit breaker.
type BreakerConfig struct {
	Failures int           `koanf:"failures"`  // connections in a row that are not made
	Ratio    float64       `koanf:"ratio"`     // of requests that fail; 0: 0.5
	Minimum  int           `koanf:"minimum"`   // requests that a ratio is taken of; 0: 20
	Window   time.Duration `koanf:"window"`    // in which they are counted; 0: 30s
	Open     time.Duration `koanf:"open"`      // how long it stays open at the most
	WhenOpen string        `koanf:"when_open"` // reject | hold
}

// Config is the part of the file that this package owns.
type Config struct {
	Classes  map[string]ClassConfig   `koanf:"classes"`
	Backends map[string]BackendConfig `koanf:"backends"`
	Routes   []RouteConfig            `koanf:"routes"`
	// Room is the most a request may book on each GPU (capacity − reserve), by
	// name; buckets never round past it. A GPU that is not listed has no bound.
	Room map[string]admission.Bytes `koanf:"-"`
}

// Check reports every mistake: the path of the key in the file and a sentence
// that says what is wrong and what is wanted.
func (c Config) Check(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Classes)) {
		c.Classes[name].check(at(report, "classes."+name))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Backends)) {
		c.Backends[name].check(at(report, "backends."+name))
	}
	rules := make([]rule, len(c.Routes))
	names := make(map[string]int)
	for i, r := range c.Routes {
		here := at(report, fmt.Sprintf("routes[%d]", i))
		ok := true
		rules[i] = c.compile(i, func(path, problem string) {
			ok = false
			here(path, problem)
		})
		if first, taken := names[r.Name]; taken && r.Name != "" {
			here("name", fmt.Sprintf("%q: routes[%d] has it too: want a name of its own", r.Name, first))
		} else {
			names[r.Name] = i
		}
		if !ok {
			rules[i].when = new(expression) // it shadows nobody
			continue
		}
		for j := range rules[:i] {
			if rules[j].covers(&rules[i]) {
				here("match", fmt.Sprintf("never reached: %s matches all of it first: want this one before it, or a narrower one there", c.routeName(j)))
				break
			}
		}
	}
	c.checkRoom(report)
}

// at reports below a path.
func at(report func(path, problem string), prefix string) func(path, problem string) {
	return func(path, problem string) { report(prefix+"."+path, problem) }
}

func (c Config) routeName(i int) string {
	if name := c.Routes[i].Name; name != "" {
		return fmt.Sprintf("routes[%d] (%s)", i, name)
	}
	return fmt.Sprintf("routes[%d]", i)
}

// wantOne reports a choice that is not one of those there are. Empty is always
// one.
func wantOne(report func(path, problem string), path, value string, choices ...string) {
	if value != "" && !slices.Contains(choices, value) {
		report(path, fmt.Sprintf("%q: not known: want %s", value, strings.Join(choices, " or ")))
	}
}

// wantAtLeast reports a number that is too small.
func wantAtLeast[N cmp.Ordered](report func(path, problem string), path string, value, least N) {
	if value < least {
		report(path, fmt.Sprintf("%v: too small: want %v or more", value, least))
	}
}

// wantAtMost reports a number that is too large.
func wantAtMost[N cmp.Ordered](report func(path, problem string), path string, value, most N) {
	if value > most {
		report(path, fmt.Sprintf("%v: too large: want %v or less", value, most))
	}
}

func (k ClassConfig) check(report func(path, problem string)) {
	wantAtLeast(report, "slots", k.Slots, 1)
	wantAtLeast(report, "vram", k.VRAM.Amount, 0)
	wantAtLeast(report, "queue.limit", k.Queue.Limit, 0)
	wantAtLeast(report, "queue.bytes", k.Queue.Bytes, 0)
	wantAtLeast(report, "queue.timeout", k.Queue.Timeout, 0)
	wantAtLeast(report, "execution_timeout", k.ExecutionTimeout, 0)
	wantAtLeast(report, "strict_after", k.StrictAfter, 0)
	if k.Estimate <= 0 {
		report("estimate", fmt.Sprintf("%v: too small: want the execution time to expect, such as 5s", k.Estimate))
	}
	wantAtLeast(report, "boost", k.Boost, 0)
	wantAtLeast(report, "reserved", k.Reserved, 0)
}

var dialects = []string{"auto", "problem", "openai", "ollama", "grpc"}

func (b BackendConfig) check(report func(path, problem string)) {
	b.checkServers(report)
	wantAtLeast(report, "slots", b.Slots, 0)
	wantOne(report, "protocol", b.Protocol, "http", "h2c")
	wantOne(report, "preset", b.Preset, engines()...)
	wantOne(report, "cancel", b.Cancel, "ignored", "aborts")
	wantOne(report, "errors", b.Errors, dialects...)
	wantOne(report, "breaker.when_open", b.Breaker.WhenOpen, "reject", "hold")
	wantAtLeast(report, "breaker.failures", b.Breaker.Failures, 1)
	wantAtMost(report, "breaker.failures", b.Breaker.Failures, 1000)
	if r := b.Breaker.Ratio; !(r >= 0 && r <= 1) {
		report("breaker.ratio", fmt.Sprintf("%v: not a share: want more than 0 and at most 1, such as 0.5", r))
	}
	wantAtLeast(report, "breaker.minimum", b.Breaker.Minimum, 0)
	wantAtMost(report, "breaker.minimum", b.Breaker.Minimum, mostMinimum)
	wantAtLeast(report, "breaker.window", b.Breaker.Window, 0)
	if b.Breaker.Open <= 0 {
		report("breaker.open", fmt.Sprintf("%v: too short: want a time such as 30s", b.Breaker.Open))
	}
	wantAtLeast(report, "min_residency", b.MinResidency, 0)
	b.Reclaim.check(at(report, "reclaim"), b.Health.Path)
	wantOne(report, "completion.preset", b.Completion.Preset, "none", "comfyui", "gradio")
	b.Completion.compile(at(report, "completion"))
	wantAtLeast(report, "abandon_after", b.AbandonAfter, 0)
	wantAtLeast(report, "idle", b.Idle, 0)
	wantAtLeast(report, "process.pid", b.Process.PID, 0)
	for i, pattern := range b.OOMPatterns {
		if pattern == "" {
			report(fmt.Sprintf("oom_patterns[%d]", i), `"": in every answer: want what an out-of-memory error says`)
		}
	}
	if b.Health.Path == "" {
		return
	}
	if _, err := url.ParseRequestURI(b.Health.Path); err != nil || b.Health.Path[0] != '/' {
		report("health.path", fmt.Sprintf("%q: not a path: want one such as /health", b.Health.Path))
	}
	if b.Health.Every <= 0 {
		report("health.every", fmt.Sprintf("%v: too short: want a time such as 5s", b.Health.Every))
	}
}

// parseURL reads a backend's address. What it says of a wrong one does not
// repeat a password.
func parseURL(text string) (*url.URL, error) {
	if text == "" {
		return nil, errors.New(`"": missing: want http://host:port, https://host or unix:/path`)
	}
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if len(path) < 2 || path[0] != '/' || strings.HasPrefix(path, "//") || strings.ContainsAny(path, "\x00?#") {
			return nil, fmt.Errorf("%q: not a socket's path: want unix:/path", text)
		}
		return &url.URL{Scheme: "unix", Path: path}, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		// The parser's own words repeat the address.
		return nil, errors.New("the url: cannot be read: want http://host:port, https://host or unix:/path")
	}
	if u.User != nil {
		return nil, fmt.Errorf("%q: holds a user or a password: want none, for urls are logged", u.Redacted())
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q: not a server's address: want http://host:port, https://host or unix:/path", text)
	case u.Hostname() == "" || u.Opaque != "":
		return nil, fmt.Errorf("%q: has no host: want http://host:port", text)
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, fmt.Errorf("%q: has a query or a fragment: want scheme and host alone", text)
	case u.Path != "" && u.Path != "/":
		return nil, fmt.Errorf("%q: has a path, and requests keep their own: want scheme and host alone", text)
	}
	if address, err := netip.ParseAddr(u.Hostname()); err == nil && isLinkLocal(address) {
		return nil, fmt.Errorf("%q: a link-local address, where clouds keep credentials: want the server's own", text)
	}
	return u, nil
}

func isLinkLocal(address netip.Addr) bool {
	return address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast()
}

// compile makes a rule of a route and reports what is wrong with it, by paths
// below the route.
func (c Config) compile(i int, report func(path, problem string)) rule {
	r := c.Routes[i]
	class, backend := c.Classes[r.Class], c.Backends[r.Backend]
	u := rule{method: r.Match.Method, vram: class.VRAM.Amount, room: -1, why: "the first rule that matches; the class's vram"}
	u.route = Route{
		Name: cmp.Or(r.Name, fmt.Sprintf("routes[%d]", i)), ClassName: r.Class, Class: class,
		Backend: r.Backend, Pass: r.Pass, RequireBody: r.RequireBody, HoldSlot: r.HoldSlot,
	}
	if most, ok := c.roomiest(backend); ok {
		u.room = most.left
	}

	if !isToken(r.Match.Method) || r.Match.Method != strings.ToUpper(r.Match.Method) {
		report("match.method", fmt.Sprintf("%q: not a method: want one in capitals, such as POST", r.Match.Method))
	}
	if r.Match.Method == "CONNECT" {
		report("match.method", `"CONNECT": is never forwarded: want another`)
	}
	var err error
	if u.pattern, err = parsePattern(r.Match.Path); err != nil {
		report("match.path", fmt.Sprintf("%q: %v", r.Match.Path, err))
	}
	u.route.Pattern, u.route.modelAt = u.pattern.text, modelSegment(u.pattern.text)
	u.closed = u.closedTo(backend.controls())
	u.host = strings.ToLower(strings.TrimPrefix(r.Match.Host, "*"))
	if u.host != "" && strings.ContainsAny(u.host, "*/: ") || strings.HasSuffix(u.host, ".") || r.Match.Host == "*" ||
		strings.HasPrefix(r.Match.Host, "*") != strings.HasPrefix(u.host, ".") {
		report("match.host", fmt.Sprintf("%q: not a host: want a name such as example.com or *.example.com, without a port", r.Match.Host))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Match.Headers)) {
		value := r.Match.Headers[name]
		switch {
		case name == "" || !isToken(name) || strings.Contains(name, "_"):
			report("match.headers."+name, fmt.Sprintf("%q: not a header: want letters, digits and dashes", name))
		case strings.EqualFold(name, "Host"):
			report("match.headers."+name, fmt.Sprintf("%q: Host is not among the headers: want match.host", name))
		}
		u.headers = append(u.headers, headerRule{name: textproto.CanonicalMIMEHeaderKey(name), value: value, any: value == "*"})
	}
	if r.Match.When != "" {
		if u.when, err = compileWhen(r.Match.When); err != nil {
			report("match.when", fmt.Sprintf("%q: %v: want a condition such as body.model == \"flux\"", r.Match.When, err))
		}
	}
	wantOne(report, "errors", r.Errors, dialects...)
	u.route.Errors = dialect(cmp.Or(noAuto(r.Errors), noAuto(backend.Errors)), u.pattern.text, presets[backend.engine()].errors)

	if _, ok := c.Backends[r.Backend]; !ok {
		report("backend", fmt.Sprintf("%q: not in backends: want %s", r.Backend, choices(c.Backends)))
	}
	if r.Pass {
		u.route.Class, u.vram, u.why = ClassConfig{}, 0, "the first rule that matches; passed through"
		if r.Class != "" {
			report("class", fmt.Sprintf("%q: a route with pass has no queue: want class or pass, not both", r.Class))
		}
		if r.VRAM != "" {
			report("vram", fmt.Sprintf("%q: a route with pass books nothing: want it left out", r.VRAM))
		}
		if !r.Completion.isZero() {
			report("completion", "a route with pass holds nothing to its end: want it left out")
		}
		return u
	}
	wantOne(report, "completion.preset", r.Completion.Preset, "none", "comfyui", "gradio")
	u.route.Completion = r.Completion.over(backend.Completion).compile(func(path, problem string) {
		if !r.Completion.isZero() { // else the backend says so
			report("completion."+path, problem)
		}
	})
	if r.Class == "" {
		report("class", `"": missing: want a class, or pass: true`)
	} else if _, ok := c.Classes[r.Class]; !ok {
		report("class", fmt.Sprintf("%q: not in classes: want %s", r.Class, choices(c.Classes)))
	}
	switch strings.TrimSpace(r.VRAM) {
	case "":
		if class.VRAM.Learn {
			u.route.Learn, u.why = true, "the first rule that matches; its vram is learned from its runs"
		}
		return u
	case "learn":
		u.route.Learn, u.why = true, "the first rule that matches; its vram is learned from its runs, and is the class's at the least until then"
		return u
	}
	if u.vram, err = admission.ParseBytes(r.VRAM); err == nil {
		u.why = "the first rule that matches; its vram"
		return u
	}
	u.vram, u.why = class.VRAM.Amount, "the first rule that matches; its vram, worked out"
	if u.amount, err = compileAmount(r.VRAM); err != nil {
		report("vram", fmt.Sprintf("%q: %v: want an amount such as 20GiB, or an expression in bytes such as gib(18) + gib(4) * num(body.n, 1)", r.VRAM, err))
	}
	return u
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

// isToken says whether a text is a token of HTTP, or empty.
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
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
			report(path, fmt.Sprintf("%v: more than %s can ever give beside the %v that backend %s holds: want %v or less",
				demand, most.at.GPU, most.at.Resident, r.Backend, most.left))
		}
	}
}

// NewTable compiles the rules of a configuration that Check accepts.
func NewTable(c Config) (*Table, error) {
	t := &Table{rules: make([]rule, len(c.Routes))}
	var mistakes []error
	for i := range c.Routes {
		t.rules[i] = c.compile(i, func(path, problem string) {
			mistakes = append(mistakes, fmt.Errorf("routing: routes[%d].%s: %s", i, path, problem))
		})
		for _, e := range [...]*expression{t.rules[i].when, t.rules[i].amount} {
			if e != nil {
				e.addNames(&t.names)
			}
		}
	}
	return t, errors.Join(mistakes...)
}
