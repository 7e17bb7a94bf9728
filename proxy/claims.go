package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// TenantsConfig says how tenants are told apart, and how they share the classes.
type TenantsConfig struct {
	// Header names the tenant, where a trusted peer sends it.
	Header string `koanf:"header"`
	// Keys are tenants by the SHA-256 of their API key, in hex.
	Keys       map[string]string  `koanf:"keys"`
	Weights    map[string]float64 `koanf:"weights"`
	QueueLimit int                `koanf:"queue_limit"`
}

func (c TenantsConfig) check(report func(path, problem string)) {
	if c.Header != "" && strings.ContainsFunc(c.Header, func(r rune) bool {
		return !(r == '-' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}) {
		report("header", fmt.Sprintf("%q: not a header: want letters, digits and dashes, such as X-Tenant", c.Header))
	}
	for sum, name := range c.Keys {
		if b, err := hex.DecodeString(sum); err != nil || len(b) != sha256.Size {
			problem := "not the SHA-256 of a key: want the 64 digits that `printf %s KEY | sha256sum` prints, and the tenant as its value"
			if b, err := hex.DecodeString(name); err == nil && len(b) == sha256.Size {
				problem = "the SHA-256 of the key stands where the tenant does: want " + name + ": " + sum
			}
			report("keys."+sum, problem)
		} else if name == "" {
			report("keys."+sum, "no tenant: want its name")
		}
	}
	for name, w := range c.Weights {
		if !(w > 0) {
			report("weights."+name, fmt.Sprintf("%v: want more than 0", w))
		}
	}
	if c.QueueLimit < 0 {
		report("queue_limit", fmt.Sprintf("%d: want 0 (no limit) or more", c.QueueLimit))
	}
}

// Urgency is how much waiting a level of RFC 9218's priorities stands for.
const Urgency = 10 * time.Second

// claims is what a request says about itself. An untrusted peer can only lower the priority
// of its request.
func (s *rules) claims(r *http.Request, arrived time.Time, ask *admission.Request) {
	trusted := s.trusts(r.RemoteAddr)
	if p := r.Header["Priority"]; p != nil {
		ask.Boost = boost(p)
		if !trusted {
			ask.Boost = min(0, ask.Boost)
		}
	}
	if !trusted {
		return
	}
	if limit, ok := timeLimit(r.Header); ok {
		ask.Deadline = arrived.Add(limit)
	}
}

// maxTenant bounds a tenant's name.
const maxTenant = 128

// tenant is the tenant of the request; empty: the configuration names none for this client.
func (s *rules) tenant(r *http.Request) string {
	c := &s.config.Tenants
	if len(c.Keys) > 0 {
		key := r.Header.Get("X-Api-Key")
		if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			key = strings.TrimSpace(bearer)
		}
		if key != "" {
			sum := sha256.Sum256([]byte(key))
			if name := c.Keys[hex.EncodeToString(sum[:])]; name != "" {
				return name
			}
		}
	}
	if c.Header != "" && s.trusts(r.RemoteAddr) {
		if name := r.Header.Get(c.Header); len(name) <= maxTenant {
			return name
		}
	}
	return ""
}

// boost reads the urgency of an RFC 9218 priority: 0 is the most urgent, 3 is the default,
// 7 is the least urgent. The last one counts, as for any dictionary.
func boost(values []string) time.Duration {
	level := 3
	for _, value := range values {
		for member := range strings.SplitSeq(value, ",") {
			member, _, _ = strings.Cut(strings.TrimSpace(member), ";")
			if u, ok := strings.CutPrefix(member, "u="); ok && len(u) == 1 && '0' <= u[0] && u[0] <= '7' {
				level = int(u[0] - '0')
			}
		}
	}
	return time.Duration(3-level) * Urgency
}

// timeLimit is how long a client will wait for its answer, as its headers say; false: no
// header says it. The shortest time counts.
func timeLimit(h http.Header) (limit time.Duration, ok bool) {
	for _, known := range [...]struct {
		header string
		read   func(string) (time.Duration, bool)
	}{
		{"X-Request-Timeout", readTimeout},
		{"X-Stainless-Timeout", readTimeout},
		{"X-Envoy-Expected-Rq-Timeout-Ms", func(text string) (time.Duration, bool) { return seconds(text, time.Millisecond) }},
		{"Grpc-Timeout", grpcTimeout},
	} {
		v := h[known.header]
		if len(v) == 0 {
			continue
		}
		if d, read := known.read(strings.TrimSpace(v[0])); read && (!ok || d < limit) {
			limit, ok = d, true
		}
	}
	return limit, ok
}

// readTimeout takes seconds, or a duration with a unit.
func readTimeout(text string) (time.Duration, bool) {
	if d, err := time.ParseDuration(text); err == nil {
		return d, d > 0
	}
	return seconds(text, time.Second)
}

// maxTimeout is so long that a later deadline makes no difference.
const maxTimeout = 1000 * time.Hour

func seconds(text string, unit time.Duration) (time.Duration, bool) {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n > 0) {
		return 0, false
	}
	return time.Duration(math.Min(n*float64(unit), float64(maxTimeout))), true
}

// grpcTimeout reads what gRPC's clients send: up to eight digits and a unit.
// https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
func grpcTimeout(text string) (time.Duration, bool) {
	if len(text) < 2 || len(text) > 9 {
		return 0, false
	}
	unit, known := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second,
		'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond}[text[len(text)-1]]
	n, err := strconv.ParseUint(text[:len(text)-1], 10, 64)
	if err != nil || !known || n == 0 {
		return 0, false
	}
	return time.Duration(math.Min(float64(n)*float64(unit), float64(maxTimeout))), true
}
