package backend

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/check"
)

// Config is one entry of `backends`. If a key with fixed values is empty, it has the first
// value.
type Config struct {
	Preset string   `koanf:"preset"` // the engine; see Resolve and Routes
	Class  string   `koanf:"class"`  // of the preset's work; empty: its own
	Models []string `koanf:"models"` // the models that it serves; needed if another backend has the same paths
	// Aliases are more names that its clients may call models by, with its own.
	Aliases       map[string]string `koanf:"aliases"`
	URL           string            `koanf:"url"`
	URLs          []string          `koanf:"urls"`     // in place of URL
	Replicas      []ReplicaConfig   `koanf:"replicas"` // in place of URL
	GPU           string            `koanf:"gpu"`
	Resident      Resident          `koanf:"resident"`
	ReturnsMemory bool              `koanf:"returns_memory"`
	Slots         int               `koanf:"slots"`
	Protocol      string            `koanf:"protocol"`  // http | h2c
	Transport     string            `koanf:"transport"` // lean | standard
	Cancel        string            `koanf:"cancel"`    // ignored | aborts
	Idle          time.Duration     `koanf:"idle"`      // of connections to it; 0: 4s
	PreserveHost  bool              `koanf:"preserve_host"`
	Errors        string            `koanf:"errors"`
	Health        HealthConfig      `koanf:"health"`
	Breaker       BreakerConfig     `koanf:"breaker"`

	Reclaim ReclaimConfig `koanf:"reclaim"`
	// RetryOOM sends a request once more that ran out of memory. OOMPatterns are words of
	// such errors. AbandonAfter is how long after its client has left work keeps its grant
	// if it has not ended; zero: until it ends.
	RetryOOM     bool             `koanf:"retry_oom"`
	OOMPatterns  []string         `koanf:"oom_patterns"`
	Completion   CompletionConfig `koanf:"completion"`
	AbandonAfter time.Duration    `koanf:"abandon_after"`
	Process      ProcessConfig    `koanf:"process"`
	Pinned       bool             `koanf:"pinned"`        // never reclaimed
	MinResidency time.Duration    `koanf:"min_residency"` // how long it stays once it is loaded
}

// ProcessConfig names a backend's process on the host, if it cannot be found by the port
// that it listens on.
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
	Minimum  int           `koanf:"minimum"`   // the least number of requests for the ratio; 0: 20
	Window   time.Duration `koanf:"window"`    // in which they are counted; 0: 30s
	Open     time.Duration `koanf:"open"`      // how long it stays open at the most
	WhenOpen string        `koanf:"when_open"` // reject | hold
}

// Dialects are those that a refusal may be written in.
var Dialects = []string{"auto", "problem", "openai", "ollama", "grpc"}

// Check reports mistakes, by paths below the backend.
func (b Config) Check(report func(path, problem string)) {
	b.checkServers(report)
	check.AtLeast(report, "slots", b.Slots, 0)
	check.OneOf(report, "protocol", b.Protocol, "http", "h2c")
	check.OneOf(report, "transport", b.Transport, "lean", "standard")
	check.OneOf(report, "preset", b.Preset, Engines()...)
	for _, name := range slices.Sorted(maps.Keys(b.Aliases)) {
		if b.Aliases[name] == "" {
			report("aliases."+name, `"": no model: want the backend's own name`)
		} else if b.Preset == "" {
			report("aliases."+name, "no preset says which paths name a model: want preset, or routes with match.model and rewrite_model")
		}
	}
	check.OneOf(report, "cancel", b.Cancel, "ignored", "aborts")
	check.OneOf(report, "errors", b.Errors, Dialects...)
	check.OneOf(report, "breaker.when_open", b.Breaker.WhenOpen, "reject", "hold")
	check.AtLeast(report, "breaker.failures", b.Breaker.Failures, 1)
	check.AtMost(report, "breaker.failures", b.Breaker.Failures, 1000)
	if r := b.Breaker.Ratio; !(r >= 0 && r <= 1) {
		report("breaker.ratio", fmt.Sprintf("%v: not a share: want more than 0 and at most 1, such as 0.5", r))
	}
	check.AtLeast(report, "breaker.minimum", b.Breaker.Minimum, 0)
	check.AtMost(report, "breaker.minimum", b.Breaker.Minimum, mostMinimum)
	check.AtLeast(report, "breaker.window", b.Breaker.Window, 0)
	if b.Breaker.Open <= 0 {
		report("breaker.open", fmt.Sprintf("%v: too short: want a time such as 30s", b.Breaker.Open))
	}
	check.AtLeast(report, "min_residency", b.MinResidency, 0)
	b.Reclaim.check(check.At(report, "reclaim"), b.Health.Path)
	b.Completion.Check(check.At(report, "completion"))
	b.Completion.Compile(check.At(report, "completion"))
	check.AtLeast(report, "abandon_after", b.AbandonAfter, 0)
	check.AtLeast(report, "idle", b.Idle, 0)
	check.AtLeast(report, "process.pid", b.Process.PID, 0)
	for i, pattern := range b.OOMPatterns {
		if pattern == "" {
			report(fmt.Sprintf("oom_patterns[%d]", i), `"": in every answer: want what an out-of-memory error says`)
		}
	}
	if b.Health.Path == "" {
		return
	}
	if _, _, rest, ok := splitCall("GET " + b.Health.Path); !ok || rest != "" {
		report("health.path", fmt.Sprintf("%q: not a path: want one such as /health", b.Health.Path))
	}
	if b.Health.Every <= 0 {
		report("health.every", fmt.Sprintf("%v: too short: want a time such as 5s", b.Health.Every))
	}
}

// parseURL reads a backend's address. Its errors do not repeat a password.
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
	if _, port, err := net.SplitHostPort(text); err == nil && strings.Trim(port, "0123456789") == "" {
		return nil, fmt.Errorf("%q: has no scheme: want http://%s", text, text)
	}
	if err != nil {
		// The parser's own error repeats the address.
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
		return nil, fmt.Errorf("%q: has a path, and requests keep their own: want %s://%s, and add_prefix: %s on the routes of clients that leave it out",
			text, u.Scheme, u.Host, strings.TrimSuffix(u.Path, "/"))
	}
	if address, err := netip.ParseAddr(u.Hostname()); err == nil && isLinkLocal(address) {
		return nil, fmt.Errorf("%q: a link-local address, where clouds keep credentials: want the server's own", text)
	}
	return u, nil
}

func isLinkLocal(address netip.Addr) bool {
	return address.IsLinkLocalUnicast() || address.IsLinkLocalMulticast()
}
