package routing

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/anteroom-gpu/anteroom/backend"
)

// control is a path of a backend that is not for clients: it frees or
// loads models under requests that run. A rule reaches it only where its own
// path names it.
type control struct {
	method  string // empty: any
	pattern pattern
}

// patterns are controls with their paths read.
func patterns(controls []backend.Control) []control {
	var all []control
	for _, c := range controls {
		p, err := parsePattern(c.Path)
		if err != nil {
			panic("routing: a control of backend's: " + err.Error())
		}
		all = append(all, control{c.Method, p})
	}
	return all
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

// closes gives the control that a request asks for and the rule does not open;
// nil: none.
func (u *rule) closes(at spelling) *control {
	for i := range u.closed {
		if u.closed[i].applies(at.method, at.path) {
			return &u.closed[i]
		}
	}
	return nil
}

// barrier is the first rule that a call of an engine's own would have matched.
// Behind it only a rule that names the call's path is open: another backend's
// wildcard does not get a call that was meant for this one.
type barrier struct {
	rule    *rule // nil: none so far
	index   int
	control *control
}

// stops says whether a request does not go where a rule, which it matches, would
// send it. It may be asked again for the same rules.
func (b *barrier) stops(u *rule, index int, at spelling) bool {
	if b.rule != nil && index > b.index {
		return !u.pattern.names(&b.control.pattern) || u.closes(at) != nil
	}
	c := u.closes(at)
	if c != nil && b.rule == nil {
		*b = barrier{u, index, c}
	}
	return c != nil
}

// error is why no rule is left.
func (b *barrier) error(at spelling) error {
	if b.rule == nil {
		return ErrNoRoute
	}
	return &controlError{path: at.path, backend: b.rule.route.Backend, rule: b.rule.route.Name}
}

// controlError is ErrControl with what would open the path.
type controlError struct{ path, backend, rule string }

func (e *controlError) Error() string {
	return fmt.Sprintf("%v: %s controls backend %s, which %s does not open by a wildcard: want a rule with that path, if clients may ask for it",
		ErrControl, shown(e.path), e.backend, e.rule)
}

func (e *controlError) Unwrap() error { return ErrControl }

// leaves says whether other names a control that u, which comes before it,
// leaves to it.
func (u *rule) leaves(other *rule) bool {
	return slices.ContainsFunc(u.closed, func(c control) bool {
		return c.pattern.meets(&other.pattern) && other.pattern.names(&c.pattern)
	})
}
