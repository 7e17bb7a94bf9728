package routing

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/anteroom-gpu/anteroom/routing/body"
)

// spelling is a request's method and path as a server may read them.
type spelling struct {
	method string
	path   string // decoded; inSegment stands for a slash within a segment
	// strict says that the reading leaves out parts of the path or finds new ones
	// in it. Where it leads to no route, it may be a way around the rules.
	strict bool
}

// inSegment stands for an encoded slash to servers that take a path apart before
// they decode it (Go's, aiohttp's, Express): no literal of a pattern has it.
const inSegment = "\xff"

// shown is a path as expressions see it.
func shown(path string) string {
	if strings.IndexByte(path, inSegment[0]) < 0 {
		return path
	}
	return strings.ReplaceAll(path, inSegment, "/")
}

// mostReadings is where a path has so many readings that no good client sends it.
const mostReadings = 64

// spellingsOf are the readings that a backend could make of a request's path, and
// of a method that a header says in place of its own. The first is the usual
// one: decoded, and nothing more. The path is forwarded as it was sent, whichever
// server then reads it: Python's decode it and look for slashes then, Go's and
// aiohttp look for them before, nginx and Java's resolve dots, merge slashes and
// drop `;x`, and what stands in between may decode once more.
//
// more has all of them, the first too, where there are several.
func spellingsOf(r *http.Request) (first spelling, more []spelling, err error) {
	u := r.URL
	if u == nil || u.Opaque != "" {
		return first, nil, ErrTarget
	}
	path := u.Path
	if path == "" && u.Host != "" {
		path = "/" // http://host
	}
	if path == "" || path[0] != '/' {
		return first, nil, ErrTarget
	}
	first = spelling{method: r.Method, path: path}
	// RawPath is set where the path came in another encoding than Go's own; only
	// there an encoded slash or a number sign can hide.
	if !isClean(path) || strings.ContainsAny(path, "?#") || hides(u.RawPath) {
		if more = readings([]spelling{first}, cmp.Or(u.RawPath, u.EscapedPath())); len(more) > mostReadings {
			return first, nil, ErrPath
		}
	}
	if method, _ := override(r); method != "" {
		if more == nil {
			more = []spelling{first}
		}
		for _, s := range slices.Clone(more) {
			s.method = method
			more = append(more, s)
		}
	}
	if len(more) == 1 {
		more = nil
	}
	return first, more, nil
}

// hides says whether an encoded path is more than one to a server that decodes it.
func hides(raw string) bool {
	if strings.IndexByte(raw, '#') >= 0 {
		return true
	}
	for i := 0; i+2 < len(raw); i++ {
		if raw[i] == '%' && raw[i+1] == '2' && raw[i+2]|0x20 == 'f' {
			return true
		}
	}
	return false
}

// override gives the method that a request says beside its own, and the header
// that says it.
func override(r *http.Request) (method, header string) {
	for _, name := range [...]string{"X-Http-Method-Override", "X-Http-Method", "X-Method-Override"} {
		for _, value := range r.Header[name] {
			if value = strings.ToUpper(strings.TrimSpace(value)); value != "" && value != r.Method {
				return value, name
			}
		}
	}
	return "", ""
}

// IsWebSocket says that a request offers the one protocol that is switched to. An
// offer of another (h2c, which every JDK client makes; an empty one; one on a
// POST) is for the next hop alone.
func IsWebSocket(r *http.Request) bool {
	offers := r.Header["Upgrade"]
	if r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.ContentLength != 0 ||
		len(offers) != 1 || !strings.EqualFold(strings.TrimSpace(offers[0]), "websocket") {
		return false
	}
	for _, v := range r.Header["Connection"] {
		for token := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(token), "upgrade") {
				return true
			}
		}
	}
	return false
}

// preflight gives the method for which a browser asks whether a page may use it;
// empty: the request is no such question.
func preflight(r *http.Request) string {
	if r.Method != http.MethodOptions {
		return ""
	}
	return r.Header.Get("Access-Control-Request-Method")
}

// free says that a request goes past admission where the rule applies: it is one
// that needs no card. A rule that names its method knows of work behind it.
func (u *rule) free(r *http.Request) bool {
	if u.route.Pass {
		return true
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete:
	default:
		return false
	}
	if method, _ := override(r); method != "" {
		return false
	}
	if preflight(r) != "" && u.method != r.Method {
		return true // it asks for a page whether the method of the rule may be used
	}
	if u.method != "" || u.route.Completion.Names(r) {
		return false
	}
	return r.Method != http.MethodGet || !u.route.HoldSlot || !IsWebSocket(r)
}

// readings adds to the decoded path whatever else servers make of it.
func readings(all []spelling, raw string) []spelling {
	add := func(s spelling, path string, strict bool) {
		if path == "" || path[0] != '/' {
			path = "/" + path
		}
		s.path, s.strict = path, s.strict || strict
		for i := range all {
			if all[i].path == path {
				all[i].strict = all[i].strict && s.strict
				return
			}
		}
		if len(all) <= mostReadings {
			all = append(all, s)
		}
	}
	// What is done before it is decoded.
	type written struct {
		path   string
		strict bool
	}
	sent := []written{{raw, false}}
	for _, change := range [...]change{{upToFragment, true}, {withoutParameters, true}, {mergeSlashes, false}, {resolveDots, true}} {
		for _, w := range slices.Clone(sent) {
			if path := change.make(w.path); path != w.path {
				sent = append(sent, written{path, w.strict || change.strict})
			}
		}
	}
	for _, w := range sent {
		if path, err := url.PathUnescape(w.path); err == nil {
			add(all[0], path, w.strict)
		}
		if kept := keepSlashes(w.path); kept != "" {
			add(all[0], kept, w.strict)
		}
	}
	// And afterwards.
	for _, change := range [...]change{
		{lastSlash, false}, {lastNewline, true}, {upToZero, true}, {decodeAgain, true}, {shorten, true}, {straighten, true},
		{withoutParameters, true}, {mergeSlashes, false}, {resolveDots, true},
	} {
		for _, s := range slices.Clone(all) {
			if path := change.make(s.path); path != s.path {
				add(s, path, change.strict)
			}
		}
	}
	return all
}

// change is something that servers do to a path.
type change struct {
	make   func(path string) string
	strict bool // as in spelling
}

// keepSlashes decodes a path whose encoded slashes stay within their segments;
// empty: it has none.
func keepSlashes(raw string) string {
	if !hides(raw) {
		return ""
	}
	segments := strings.Split(raw, "/")
	for i, s := range segments {
		decoded, err := url.PathUnescape(s)
		if err != nil {
			return ""
		}
		segments[i] = strings.ReplaceAll(decoded, "/", inSegment)
	}
	return strings.Join(segments, "/")
}

func upToFragment(raw string) string {
	raw, _, _ = strings.Cut(raw, "#")
	return raw
}

// lastSlash takes an encoded slash that is a segment of its own at the end for the
// slash itself, as the patterns of Go's ServeMux do.
func lastSlash(path string) string {
	if strings.HasSuffix(path, "/"+inSegment) {
		return path[:len(path)-len(inSegment)]
	}
	return path
}

// lastNewline takes a newline off the end: the $ of Python's and Perl's regular
// expressions, by which Starlette, Django and nginx compare, matches before it.
func lastNewline(path string) string { return strings.TrimSuffix(path, "\n") }

// upToZero is what is left of a path where a zero byte ends a text.
func upToZero(path string) string {
	path, _, _ = strings.Cut(path, "\x00")
	return path
}

// decodeAgain is what a server reads behind one that has decoded the path already,
// and so has made a query or a fragment of what was none.
func decodeAgain(path string) string {
	cut := func(s string) string {
		if end := strings.IndexAny(s, "?#"); end >= 0 {
			return s[:end]
		}
		return s
	}
	return cut(body.Unescape(cut(path)))
}

// shorten reads what is too long an encoding for UTF-8 as the letter of ASCII
// that it stands for, as decoders do that do not check.
func shorten(path string) string {
	if utf8.ValidString(path) {
		return path
	}
	short := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if c := path[i]; (c == 0xc0 || c == 0xc1) && i+1 < len(path) && path[i+1]&0xc0 == 0x80 {
			short = append(short, c&1<<6|path[i+1]&0x3f)
			i++
			continue
		}
		short = append(short, path[i])
	}
	return string(short)
}

// straighten takes backslashes for slashes.
func straighten(path string) string { return strings.ReplaceAll(path, `\`, "/") }

// withoutParameters drops what stands behind a semicolon in a segment.
func withoutParameters(path string) string {
	if strings.IndexByte(path, ';') < 0 {
		return path
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

// mergeSlashes takes several slashes in a row for one.
func mergeSlashes(path string) string {
	for strings.Contains(path, "//") {
		path = strings.ReplaceAll(path, "//", "/")
	}
	return path
}

// resolveDots resolves dot segments as RFC 3986, section 5.2.4 does.
func resolveDots(path string) string {
	if !strings.Contains(path, "/.") {
		return path
	}
	var kept []string
	segments := strings.Split(path[1:], "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".":
		case "..":
			if len(kept) > 0 {
				kept = kept[:len(kept)-1]
			}
		default:
			kept = append(kept, s)
			continue
		}
		if last {
			kept = append(kept, "")
		}
	}
	return "/" + strings.Join(kept, "/")
}
