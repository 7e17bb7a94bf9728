package routing_test

import (
	"bufio"
	"errors"
	"flag"
	"math/rand/v2"
	"net/http"
	"net/url"
	gopath "path"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

var mutations = flag.Int("mutations", 20_000, "how many paths TestNoServerReadsAPathPastItsRoute tries")

// pathReaders are servers' readings of a path: the rule of theDoor's that their
// handler for it would have; empty: they refuse it.
var pathReaders = map[string]func(raw string) string{
	// Starlette, Flask, Django: decoded once, then compared.
	"one that decodes": func(raw string) string {
		p, err := url.PathUnescape(raw)
		if err != nil {
			return ""
		}
		return handler(p)
	},
	// Starlette, Django, nginx: a regular expression, whose $ matches before a newline.
	"one with regular expressions": func(raw string) string {
		p, err := url.PathUnescape(raw)
		if err != nil {
			return ""
		}
		return handler(strings.TrimSuffix(p, "\n"))
	},
	// nginx: decoded, slashes merged, dots resolved.
	"one that resolves": func(raw string) string {
		p, err := url.PathUnescape(raw)
		if err != nil || strings.Contains(p, "\x00") {
			return ""
		}
		return handler(resolved(p))
	},
	// Tomcat and others: parameters dropped before all that.
	"one that drops parameters": func(raw string) string {
		var kept []string
		for segment := range strings.SplitSeq(raw, "/") {
			segment, _, _ = strings.Cut(segment, ";")
			kept = append(kept, segment)
		}
		p, err := url.PathUnescape(strings.Join(kept, "/"))
		if err != nil {
			return ""
		}
		return handler(resolved(strings.ReplaceAll(p, `\`, "/")))
	},
	// A proxy in between that has decoded once already.
	"one that decodes twice": func(raw string) string {
		once, err := url.PathUnescape(raw)
		if err != nil {
			return ""
		}
		twice, err := url.PathUnescape(once)
		if err != nil {
			return ""
		}
		twice, _, _ = strings.Cut(twice, "?")
		twice, _, _ = strings.Cut(twice, "#")
		return handler(resolved(twice))
	},
	// Go's own.
	"net/http": func(raw string) string {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST " + raw + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			return ""
		}
		_, pattern := mux.Handler(r)
		return map[string]string{"/v1/images": "images", "/v1/images/{$}": "images", "/v1/models/{m}/infer": "infer",
			"/v1/models/{m}/infer/{$}": "infer", "/files/": "files", "/": "rest"}[pattern]
	},
}

var mux = func() *http.ServeMux {
	m := http.NewServeMux()
	for _, pattern := range []string{"/v1/images", "/v1/images/{$}", "/v1/models/{m}/infer", "/v1/models/{m}/infer/{$}", "/files/", "/"} {
		m.HandleFunc(pattern, func(http.ResponseWriter, *http.Request) {})
	}
	return m
}()

// resolved is a path with its slashes merged and its dots resolved.
func resolved(p string) string {
	clean := gopath.Clean("/" + p)
	if clean != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		clean += "/"
	}
	return clean
}

// handler is the rule of theDoor's for a path that is read already.
func handler(p string) string {
	segments := strings.Split(strings.TrimSuffix(strings.TrimPrefix(p, "/"), "/"), "/")
	switch {
	case len(segments) == 2 && segments[0] == "v1" && segments[1] == "images":
		return "images"
	case len(segments) == 4 && segments[0] == "v1" && segments[1] == "models" && segments[2] != "" && segments[3] == "infer":
		return "infer"
	case segments[0] == "files" && strings.HasPrefix(p, "/"):
		return "files"
	}
	return "rest"
}

// TestNoServerReadsAPathPastItsRoute mutates paths and compares the rule that each
// falls under with the handler that servers would take it to.
func TestNoServerReadsAPathPastItsRoute(t *testing.T) {
	table := aTable(t, heavyToo("images", routing.MatchConfig{Path: routing.Texts{"/v1/images"}}),
		light("infer", routing.MatchConfig{Path: routing.Texts{"/v1/models/{m}/infer"}}),
		pass("files", routing.MatchConfig{Path: routing.Texts{"/files/**"}}),
		routing.RouteConfig{Name: "rest", Match: routing.MatchConfig{Path: routing.Texts{"/**"}}, Class: "heavy", Backend: "flux"})
	pieces := []string{"/", "/v1", "/images", "/models", "/m", "/infer", "/files", "a", "%2F", "%2f", "%5C", `\`, ";", ";a=b", "..", ".",
		"/..", "/.", "//", "%2e", "%2E%2e", "%252F", "%252e%252e", "%25",
		"%3F", "%23", "é", "+", "%20", "|", "org", "%41", "%76", "%69", "V1", "..;", "%3B", "%2F..", "%0A"}
	bases := []string{"/v1/images", "/v1/models/m/infer", "/files/a", "/x", "/files/../v1/images", "/v1/models/a%2Fb/infer"}
	random := rand.New(rand.NewPCG(1, 2))
	routed, refused := 0, 0
	for range *mutations {
		target := bases[random.IntN(len(bases))]
		for range random.IntN(4) {
			at := random.IntN(len(target) + 1)
			target = target[:at] + pieces[random.IntN(len(pieces))] + target[min(len(target), at+random.IntN(3)):]
		}
		if !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")))
		if err != nil {
			continue // net/http's server answers 400
		}
		d, err := decide(t, table, r, routing.Body{})
		if errors.Is(err, routing.ErrPath) {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		routed++
		for name, read := range pathReaders {
			if want := read(target); want != "" && want != d.Route.Name {
				t.Fatalf("%s falls under %s, but %s reads it as %s", target, d.Route.Name, name, want)
			}
		}
	}
	t.Logf("%d routed, %d refused", routed, refused)
	if routed == 0 || refused == 0 {
		t.Error("want some of both")
	}
}
