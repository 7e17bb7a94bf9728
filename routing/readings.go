package routing

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
)

// Reading is one way in which a server may read a request, and the rule that it would
// fall under if that were the only one.
type Reading struct {
	Method string
	Path   string // decoded, but for slashes within a segment
	// Decision has no Route where Err says why: ErrNoRoute, ErrControl, ErrAmbiguous
	// or ErrBody.
	Decision Decision
	Err      error
}

// Readings are all the ways in which a server may read a request, the usual one first.
// It fails with ErrPath where there are too many, and with ErrTarget.
func (t *Table) Readings(r *http.Request, b Body) ([]Reading, error) {
	first, more, err := spellingsOf(r)
	if err != nil {
		return nil, err
	}
	if more == nil {
		more = []spelling{first}
	}
	var all []Reading
	for _, at := range more {
		reading := Reading{Method: at.method, Path: strings.ReplaceAll(at.path, inSegment, "%2F")}
		c, err := t.find(r, at)
		if err == nil {
			reading.Decision, _, err = c.settle(r, b)
		}
		reading.Err = err
		all = append(all, reading)
	}
	return all, nil
}

// Label is what a route is called where its number would not do: by its name, else by
// what it matches.
func (r *RouteConfig) Label() string {
	if r.Name != "" {
		return r.Name
	}
	label := strings.TrimSpace(strings.Join(slices.Concat(r.Match.Method, r.Match.Path, r.Match.Model), " "))
	for _, more := range []string{r.Match.Host, r.Match.When} {
		if more != "" {
			label += " " + more
		}
	}
	return cmp.Or(label, "/**")
}
