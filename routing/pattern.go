package routing

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// isClean says whether a decoded path has one meaning.
func isClean(path string) bool {
	ascii := true
	start := 1 // of the segment
	for i := 1; i <= len(path); i++ {
		if i == len(path) || path[i] == '/' {
			switch path[start:i] {
			case "":
				if i < len(path) {
					return false // the last one may be empty: a trailing slash
				}
			case ".", "..":
				return false
			}
			start = i + 1
			continue
		}
		switch c := path[i]; {
		case c < 0x20, c == 0x7f, c == '\\', c == ';':
			return false
		case c == '%':
			if i+2 < len(path) && isHex(path[i+1]) && isHex(path[i+2]) {
				return false
			}
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(path)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

// pattern is a path pattern in the style of net/http: literal segments,
// `{name}` for one segment, and at its end `/**`, `{name...}` or a slash for
// all that is below, `{$}` for the slash itself. It differs in one thing: a
// slash at the end of the path does not matter to a pattern that does not end
// in `{$}`. Most frameworks serve both with the same handler, and so a slash
// takes no request past its rule.
type pattern struct {
	text     string
	start    string // the literals before the first wildcard: /a/b
	segments []segment
	open     bool   // matches everything below
	rest     string // the name for what is below
	slash    bool   // ended in {$}: the path must end in a slash
}

// segment is one step of a path: a literal, or a wildcard with a name.
type segment struct{ literal, name string }

// regular is what stands in regular expressions and in no pattern.
var regular = regexp.MustCompile(`^[\^~]|\$$|\.[*+]|\\[dws./]|\[[^]]+\][*+]`)

// parsePattern reads a pattern. Empty is `/**`.
func parsePattern(text string) (pattern, error) {
	p := pattern{text: text}
	if text == "" {
		p.text, p.open = "/**", true
		return p, nil
	}
	if text[0] != '/' && !regular.MatchString(text) {
		return p, errors.New("it does not begin with a slash: want a pattern such as /v1/models/{model}/infer")
	}
	names := make(map[string]bool)
	if regular.MatchString(text) {
		return p, errors.New("regular expressions are not patterns: want {name} for one segment, /** for all below, or match.when with matches")
	}
	parts := strings.Split(text[1:], "/")
	for i, part := range parts {
		last := i == len(parts)-1
		inner, braced := strings.CutPrefix(part, "{")
		if braced {
			inner, braced = strings.CutSuffix(inner, "}")
		}
		name, rest := strings.CutSuffix(inner, "...")
		switch {
		case part == "**" || part == "" || part == "{$}" || braced && rest:
			if !last {
				return p, fmt.Errorf("%q is not at the end: want it there, or a segment with a name", part)
			}
			p.slash = part == "{$}"
			p.open = !p.slash
			if !braced || p.slash {
				continue
			}
			p.rest = name
		case braced:
			p.segments = append(p.segments, segment{name: name})
		case strings.ContainsAny(part, "{}*"):
			return p, fmt.Errorf("%q is no wildcard: want {name} for one segment, or ** at the end for all below", part)
		case strings.Contains(part, "?"):
			return p, fmt.Errorf("%q has a query: want match.when for that, such as query.n == \"1\"", part)
		case strings.Contains(part, "%"):
			return p, fmt.Errorf("%q is encoded: want it as it reads decoded", part)
		case !isClean("/" + part):
			return p, fmt.Errorf("%q has no single meaning: want a path without dot segments, backslashes and parameters", part)
		default:
			if len(p.segments) == strings.Count(p.start, "/") {
				p.start += "/" + part
			}
			p.segments = append(p.segments, segment{literal: part})
			continue
		}
		if !isName(name) {
			return p, fmt.Errorf("%q is not a name: want letters, digits and underscores", name)
		}
		if names[name] {
			return p, fmt.Errorf("{%s} stands there twice: want each name once", name)
		}
		names[name] = true
	}
	return p, nil
}

func isName(s string) bool {
	for i, c := range s {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// match says whether a path fits.
func (p *pattern) match(path string) bool {
	rest, ok := strings.CutPrefix(path, p.start) // empty, or from a slash on
	if !ok || rest != "" && rest[0] != '/' {
		return false
	}
	for i := strings.Count(p.start, "/"); i < len(p.segments); i++ {
		part, tail := cutSegment(rest)
		if s := &p.segments[i]; part == "" || s.name == "" && part != s.literal {
			return false
		}
		rest = tail
	}
	switch {
	case p.open:
		return true
	case p.slash:
		return rest == "/"
	}
	return rest == "" || rest == "/"
}

// params gives the values of the wildcards for a path that matches.
func (p *pattern) params(path string) map[string]string {
	params := make(map[string]string, len(p.segments)+1)
	for _, s := range p.segments {
		var part string
		part, path = cutSegment(path)
		if s.name != "" {
			params[s.name] = shown(part)
		}
	}
	if p.rest != "" {
		params[p.rest] = shown(strings.TrimPrefix(path, "/"))
	}
	return params
}

// cutSegment takes the first segment off a path that is empty or begins with a
// slash.
func cutSegment(path string) (part, rest string) {
	if len(path) < 2 {
		return "", ""
	}
	if end := strings.IndexByte(path[1:], '/'); end >= 0 {
		return path[1 : end+1], path[end+1:]
	}
	return path[1:], ""
}

// covers says whether p matches every path that other matches.
func (p *pattern) covers(other *pattern) bool {
	if len(p.segments) > len(other.segments) {
		return false
	}
	for i, s := range p.segments {
		if s.name == "" && (other.segments[i].name != "" || other.segments[i].literal != s.literal) {
			return false
		}
	}
	if p.open {
		return true
	}
	return len(p.segments) == len(other.segments) && !other.open && (!p.slash || other.slash)
}
