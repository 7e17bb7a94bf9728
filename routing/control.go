package routing

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// control is a path of a backend that is no client's business: it frees or
// loads models under requests that run. A rule reaches it only where its own
// path names it.
type control struct {
	method  string // empty: any
	pattern pattern
}

// controls are those of the calls that are configured, and of the engine.
func (c ReclaimConfig) controls() []control {
	var all []control
	for _, text := range presets[c.Preset].controls {
		p, err := parsePattern(text)
		if err != nil {
			panic("routing: preset " + c.Preset + ": " + err.Error())
		}
		// By any method: some engines take GET for it too.
		all = append(all, control{pattern: p})
	}
	for _, line := range [...]string{c.Call, c.Wake} {
		if method, target, ok := splitCall(line); ok {
			all = append(all, control{method: method, pattern: callPattern(target)})
		}
	}
	return all
}

// callPattern is the pattern of a call's path. A segment with a model in it may
// be any.
func callPattern(target string) pattern {
	path, _, _ := strings.Cut(target, "?")
	p := pattern{text: path}
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		s := segment{literal: part}
		if decoded, err := url.PathUnescape(part); err == nil {
			s.literal = decoded
		}
		if strings.Contains(part, eachModel) {
			s = segment{name: "model"}
		}
		if part != "" {
			p.segments = append(p.segments, s)
		}
	}
	return p
}

// applies says whether a request asks for the control.
func (c *control) applies(method, path string) bool {
	return (c.method == "" || c.method == method || c.method == http.MethodGet && method == http.MethodHead) && c.pattern.match(path)
}

// names says whether a rule's pattern spells out what a control's does.
func (p *pattern) names(c *pattern) bool {
	if len(p.segments) < len(c.segments) {
		return false
	}
	for i, s := range c.segments {
		if s.name == "" && p.segments[i].literal != s.literal {
			return false
		}
	}
	return len(c.segments) > 0 || !p.open
}

// meets says whether some path could match both patterns.
func (p *pattern) meets(c *pattern) bool {
	for i := range min(len(p.segments), len(c.segments)) {
		a, b := p.segments[i], c.segments[i]
		if a.name == "" && b.name == "" && a.literal != b.literal {
			return false
		}
	}
	return len(p.segments) == len(c.segments) || len(p.segments) < len(c.segments) && p.open || len(c.segments) < len(p.segments) && c.open
}

// closedTo are the controls that a rule would reach by a wildcard.
func (u *rule) closedTo(all []control) []control {
	return slices.DeleteFunc(all, func(c control) bool {
		return u.pattern.names(&c.pattern) || !u.pattern.meets(&c.pattern) ||
			u.method != "" && c.method != "" && u.method != c.method && (u.method != http.MethodGet || c.method != http.MethodHead)
	})
}

// isClosed says whether a request asks for a control that the rule does not
// name.
func (u *rule) isClosed(method, path string) bool {
	for i := range u.closed {
		if u.closed[i].applies(method, path) {
			return true
		}
	}
	return false
}

// leaves says whether other names a control that u, which comes before it,
// leaves to it.
func (u *rule) leaves(other *rule) bool {
	return slices.ContainsFunc(u.closed, func(c control) bool {
		return c.pattern.meets(&other.pattern) && other.pattern.names(&c.pattern)
	})
}

// noRoute is ErrNoRoute, with the reason where a rule would have matched if it
// named what was asked for.
func (t *Table) noRoute(r *http.Request, path string) error {
	for i := range t.rules {
		if len(t.rules[i].closed) == 0 {
			continue
		}
		open := t.rules[i]
		open.closed = nil
		if match, _ := open.matches(r, path); match != no {
			return fmt.Errorf("%w: %s controls backend %s, which %s does not open by a wildcard: want a rule with that path, if clients may ask for it",
				ErrNoRoute, path, open.route.Backend, open.route.Name)
		}
	}
	return ErrNoRoute
}
