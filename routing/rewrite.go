package routing

import (
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/anteroom-gpu/anteroom/backend"
)

// HeadersConfig changes the headers of the requests that a route forwards.
type HeadersConfig struct {
	Add    map[string]string `koanf:"add"` // set, whatever the client sent
	Remove []string          `koanf:"remove"`
}

// Rewrite is how a route's requests differ from what its clients sent. The zero value
// changes nothing.
type Rewrite struct {
	strip  int    // segments that are taken off the path
	add    string // put in front of it
	set    http.Header
	remove []string
}

// Path is the path that is forwarded for one that a client wrote, in its own encoding.
func (w *Rewrite) Path(path string) string {
	rest := path
	for range w.strip {
		i := strings.IndexByte(rest[min(1, len(rest)):], '/')
		if i < 0 {
			rest = "/"
			break
		}
		rest = rest[i+1:]
	}
	return w.add + rest
}

// Header changes the headers of a request that is forwarded.
func (w *Rewrite) Header(h http.Header) {
	for _, name := range w.remove {
		delete(h, name)
	}
	for name, values := range w.set {
		h[name] = values
	}
}

// untouchable says that a header is not a route's to change: it frames the message,
// or says who the client is.
func untouchable(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Host", "Expect":
		return true
	}
	return strings.HasPrefix(name, "X-Forwarded-") || strings.HasPrefix(name, "X-Anteroom-") || name == "Forwarded" || name == "X-Real-Ip"
}

// rewrite compiles what a route changes, and reports what is wrong with it.
func (r *RouteConfig) rewrite(report func(path, problem string)) (w Rewrite) {
	prefix := func(key, text string) string {
		if text == "" {
			return ""
		}
		if text[0] != '/' || strings.HasSuffix(text, "/") || strings.ContainsAny(text, "{}*?#% ;\\") || !isClean(text) {
			report(key, fmt.Sprintf("%q: not a prefix: want one such as /comfy", text))
		}
		return text
	}
	strip := prefix("strip_prefix", r.StripPrefix)
	w.strip, w.add = strings.Count(strip, "/"), prefix("add_prefix", r.AddPrefix)
	for at, path := range r.Match.Path.each("match.path") {
		if strip != "" && path != strip && !strings.HasPrefix(path, strip+"/") {
			report(at, fmt.Sprintf("%q: does not begin with strip_prefix %s: want %s/**", path, strip, strip))
		}
	}
	name := func(key, name string) string {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		switch {
		case !httpguts.ValidHeaderFieldName(name):
			report(key, fmt.Sprintf("%q: not a header: want letters, digits and dashes", name))
		case untouchable(canonical):
			report(key, fmt.Sprintf("%q: is the proxy's own to set: want another", name))
		}
		return canonical
	}
	for _, key := range slices.Sorted(maps.Keys(r.Headers.Add)) {
		if value := r.Headers.Add[key]; !httpguts.ValidHeaderFieldValue(value) {
			report("headers.add."+key, "not a header's value: want one line of text")
		}
		if w.set == nil {
			w.set = make(http.Header)
		}
		w.set[name("headers.add."+key, key)] = []string{r.Headers.Add[key]}
	}
	for i, text := range r.Headers.Remove {
		w.remove = append(w.remove, name(fmt.Sprintf("headers.remove[%d]", i), text))
	}
	return w
}

// seenAs are the controls of a backend as a route's clients would have to write them.
func (r *RouteConfig) seenAs(to backend.Config) []control {
	all := to.Controls()
	var seen []backend.Control
	for _, c := range all {
		rest, below := strings.CutPrefix(c.Path, r.AddPrefix)
		if !below || rest != "" && rest[0] != '/' {
			continue // nothing that the route forwards gets there
		}
		seen = append(seen, backend.Control{Method: c.Method, Path: r.StripPrefix + rest})
	}
	return patterns(seen)
}
