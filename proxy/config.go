package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Config is the part of the file that this package owns.
type Config struct {
	Listen string    `koanf:"listen"` // host:port or unix:/path
	TLS    TLSConfig `koanf:"tls"`
	// Listeners are more ports, each for one backend.
	Listeners map[string]ListenerConfig `koanf:"listeners"`
	Admin     AdminConfig               `koanf:"admin"`
	Mode      string                    `koanf:"mode"` // enforce | observe
	Trusted   []string                  `koanf:"trusted"`
	Tenants   TenantsConfig             `koanf:"tenants"`
	CORS      CORSConfig                `koanf:"cors"`
	Limits    LimitsConfig              `koanf:"limits"`
	Drain     DrainConfig               `koanf:"drain"`
	State     StateConfig               `koanf:"state"`
}

// TLSConfig names the files of a certificate and its key, both or neither.
type TLSConfig struct {
	Cert string `koanf:"cert"`
	Key  string `koanf:"key"`
}

// ListenerConfig is one entry of `listeners`: a port that serves the routes of one
// backend alone, so that engines with the same paths can be behind one proxy.
type ListenerConfig struct {
	Listen  string `koanf:"listen"` // host:port or unix:/path
	Backend string `koanf:"backend"`
}

// AdminConfig is the listener for health, metrics and control.
type AdminConfig struct {
	Listen    string `koanf:"listen"` // empty: there is none
	Token     string `koanf:"token"`
	ReadToken string `koanf:"read_token"` // for callers that may only read; empty: there is none
	// TraceURL is the address of a trace, with {trace_id} in place of its id; empty: there
	// is none.
	TraceURL string `koanf:"trace_url"`
}

func (c AdminConfig) check(report func(path, problem string)) {
	switch {
	case c.ReadToken != "" && c.Token == "":
		report("read_token", "set while admin.token is empty: everyone who reaches the listener may control it: want a token too, or neither")
	case c.ReadToken != "" && c.ReadToken == c.Token:
		report("read_token", "the same as admin.token: want another one")
	}
	if c.TraceURL == "" {
		return
	}
	u, err := url.Parse(strings.ReplaceAll(c.TraceURL, traceID, "0"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || !strings.Contains(c.TraceURL, traceID) {
		report("trace_url", fmt.Sprintf("%q: want an http or https URL with %s in it, such as http://127.0.0.1:16686/trace/%[2]s", c.TraceURL, traceID))
	}
}

// traceID stands for a trace's id in AdminConfig.TraceURL.
const traceID = "{trace_id}"

// LimitsConfig bounds what clients can make the proxy hold.
type LimitsConfig struct {
	Header         admission.Bytes `koanf:"header"`
	Body           admission.Bytes `koanf:"body"`
	BodyMemory     admission.Bytes `koanf:"body_memory"`
	Spool          admission.Bytes `koanf:"spool"`
	ResponseBuffer admission.Bytes `koanf:"response_buffer"`
	ReadHeader     time.Duration   `koanf:"read_header"`
	BodyIdle       time.Duration   `koanf:"body_idle"`
	WriteStall     time.Duration   `koanf:"write_stall"`
	Idle           time.Duration   `koanf:"idle"`
	Connections    int             `koanf:"connections"`
	Streams        int             `koanf:"streams"`
}

// DrainConfig is what a shutdown waits for.
type DrainConfig struct {
	Grace  time.Duration `koanf:"grace"`
	Queued string        `koanf:"queued"` // serve | reject
}

// Check reports every mistake in the sections.
func (c Config) Check(report func(path, problem string)) {
	if problem := checkAddress(c.Listen); problem != "" {
		report("listen", problem)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		report("tls", "only one of cert and key is set: want both, or neither")
	} else if c.TLS.Cert != "" {
		if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
			report("tls", fmt.Sprintf("%v: want the files of a certificate and its key, in PEM", err))
		}
	}
	if c.Admin.Listen != "" {
		if problem := checkAddress(c.Admin.Listen); problem != "" {
			report("admin.listen", problem)
		} else if c.Admin.Listen == c.Listen && !strings.HasSuffix(c.Listen, ":0") {
			report("admin.listen", fmt.Sprintf("%q is the public listener: want an address of its own", c.Admin.Listen))
		} else if c.Admin.Token == "" && !onlyLocal(c.Admin.Listen) {
			report("admin.token", fmt.Sprintf("empty while admin.listen %q is reachable from elsewhere: want a token, or an address on loopback",
				c.Admin.Listen))
		}
	}
	c.Admin.check(func(path, problem string) { report("admin."+path, problem) })
	taken := map[string]string{c.Listen: "listen", c.Admin.Listen: "admin.listen"}
	for _, name := range slices.Sorted(maps.Keys(c.Listeners)) {
		l, path := c.Listeners[name], "listeners."+name+".listen"
		if problem := checkAddress(l.Listen); problem != "" {
			report(path, problem)
		} else if other := taken[l.Listen]; other != "" && !strings.HasSuffix(l.Listen, ":0") {
			report(path, fmt.Sprintf("%q is the address of %s: want one of its own", l.Listen, other))
		}
		taken[l.Listen] = path
	}
	oneOf(report, "mode", c.Mode, "enforce", "observe")
	for i, text := range c.Trusted {
		if _, err := parsePrefix(text); err != nil {
			report(fmt.Sprintf("trusted[%d]", i), fmt.Sprintf("%q: want an address or a prefix such as 10.0.0.0/8", text))
		}
	}
	c.Tenants.check(func(path, problem string) { report("tenants."+path, problem) })
	c.CORS.check(func(path, problem string) { report("cors."+path, problem) })
	c.Limits.check(report)
	if c.Drain.Grace <= 0 {
		report("drain.grace", fmt.Sprintf("%v: want more than 0s", c.Drain.Grace))
	}
	oneOf(report, "drain.queued", c.Drain.Queued, "serve", "reject")
}

func (l LimitsConfig) check(report func(path, problem string)) {
	for _, b := range []struct {
		name         string
		value, least admission.Bytes
	}{
		{"header", l.Header, 4 * admission.KiB},
		{"body", l.Body, 1},
		{"body_memory", l.BodyMemory, admission.KiB},
		{"spool", l.Spool, 0},
		{"response_buffer", l.ResponseBuffer, 64 * admission.KiB},
	} {
		if b.value < b.least {
			report("limits."+b.name, fmt.Sprintf("%v: want %v or more", b.value, b.least))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"read_header", l.ReadHeader}, {"body_idle", l.BodyIdle}, {"write_stall", l.WriteStall}, {"idle", l.Idle},
	} {
		if d.value <= 0 {
			report("limits."+d.name, fmt.Sprintf("%v: want more than 0s", d.value))
		}
	}
	if l.Connections < 1 {
		report("limits.connections", fmt.Sprintf("%d: want 1 or more", l.Connections))
	}
	if l.Streams < 1 {
		report("limits.streams", fmt.Sprintf("%d: want 1 or more", l.Streams))
	}
}

func oneOf(report func(path, problem string), path, value string, wanted ...string) {
	for _, w := range wanted {
		if value == w {
			return
		}
	}
	report(path, fmt.Sprintf("%q: want %s", value, strings.Join(wanted, " or ")))
}

// checkAddress says what is wrong with an address to listen on; empty: nothing.
func checkAddress(address string) string {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return "\"unix:\" names no file: want unix:/path"
		}
		return ""
	}
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Sprintf("%q: has no host: want 127.0.0.1:%s, or :%s for every address of this machine", address, address, address)
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Sprintf("%q: want host:port or unix:/path", address)
	}
	return ""
}

// onlyLocal says that no other machine can reach the address.
func onlyLocal(address string) bool {
	if strings.HasPrefix(address, "unix:") {
		return true
	}
	host, _, _ := net.SplitHostPort(address)
	if host == "" {
		return false // every address
	}
	// A name has the address that the resolver gives it: localhost need not be loopback.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	return err == nil && len(addresses) > 0 && !slices.ContainsFunc(addresses, func(a netip.Addr) bool { return !a.Unmap().IsLoopback() })
}

// parsePrefix reads a prefix, or an address as the prefix that is itself.
func parsePrefix(text string) (netip.Prefix, error) {
	if !strings.Contains(text, "/") {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Prefix{}, err
		}
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	return netip.ParsePrefix(text)
}
