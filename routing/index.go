package routing

import (
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// index finds the rules that a request may match without a look at all of them: by the
// literal beginning of their paths, then by host, then by model. What it leaves out would
// not match; what it gives is still to be judged.
type index struct {
	groups []group
	starts map[string]*hosts // by pattern.start
	depth  int               // the most segments that a start has
}

// group is the rules from `from` to before `to`, in which nothing differs that is judged
// without the body. It is one rule, or several that differ in their models.
type group struct {
	from, to int
	models   map[string][]int // rules by model; nil: it is one rule
}

// hosts are groups by the host that they want.
type hosts struct {
	any   []int // want none, or any below one
	exact map[string][]int
}

func newIndex(rules []rule) *index {
	x := &index{starts: map[string]*hosts{}}
	for i := range rules {
		u := &rules[i]
		if i > 0 && u.differsInModel(&rules[i-1]) {
			g := &x.groups[len(x.groups)-1]
			if g.models == nil {
				g.models = map[string][]int{}
				g.add(&rules[i-1], i-1)
			}
			g.to = i + 1
			g.add(u, i)
			continue
		}
		n := len(x.groups)
		x.groups = append(x.groups, group{from: i, to: i + 1})
		at := x.starts[u.pattern.start]
		if at == nil {
			at = &hosts{exact: map[string][]int{}}
			x.starts[u.pattern.start] = at
			x.depth = max(x.depth, strings.Count(u.pattern.start, "/"))
		}
		if u.host == "" || u.host[0] == '.' {
			at.any = append(at.any, n)
		} else {
			host := strings.ToLower(u.host)
			at.exact[host] = append(at.exact[host], n)
		}
	}
	return x
}

func (g *group) add(u *rule, i int) {
	for _, model := range u.models {
		if of := g.models[model]; len(of) == 0 || of[len(of)-1] != i {
			g.models[model] = append(of, i)
		}
	}
}

// differsInModel says that of two rules the body's model alone decides which one applies.
func (u *rule) differsInModel(before *rule) bool {
	return u.models != nil && before.models != nil && len(u.closed) == 0 && len(before.closed) == 0 &&
		u.method == before.method && u.pattern.text == before.pattern.text && u.host == before.host && slices.Equal(u.headers, before.headers)
}

// possible gives the groups that a request may match, in order. room is where they go
// if they fit.
func (x *index) possible(r *http.Request, at *spelling, room []int) []int {
	host, isKnown := hostOf(r.Host)
	found := x.at("", host, isKnown, room)
	depth := 0
	for i := 1; i <= len(at.path) && depth < x.depth; i++ {
		if i == len(at.path) || at.path[i] == '/' {
			found = x.at(at.path[:i], host, isKnown, found)
			depth++
		}
	}
	slices.Sort(found)
	return found
}

// at adds the groups whose paths begin so.
func (x *index) at(start, host string, isKnown bool, found []int) []int {
	of := x.starts[start]
	switch {
	case of == nil:
		return found
	case isKnown:
		return append(append(found, of.any...), of.exact[host]...)
	}
	found = append(found, of.any...)
	for _, groups := range of.exact {
		found = append(found, groups...)
	}
	return found
}

// hostOf is a request's host as the index has it. It is not known where letters beyond
// ASCII could be the same as others.
func hostOf(host string) (lower string, isKnown bool) {
	host = bareHost(host)
	for i := range len(host) {
		if host[i] >= utf8.RuneSelf {
			return "", false
		}
	}
	return strings.ToLower(host), true
}

// within gives the rules of a group that a body leaves, where it says which they are.
func (x *group) within(f *facts, rules []rule) (some []int, ok bool) {
	if x.models == nil {
		return nil, false
	}
	first := &rules[x.from]
	if err := f.prepare(first, first.when); err != nil {
		return nil, false // it may be any of them
	}
	object, ok := f.env.Body.(map[string]any)
	if !ok {
		return nil, false
	}
	model, ok := object["model"].(string)
	return x.models[model], ok
}
