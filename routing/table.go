package routing

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/http"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
)

var (
	// ErrNoRoute is a request that no rule matches.
	ErrNoRoute = errors.New("routing: no rule matches")
	// ErrAmbiguous is a request that could be one of several routes which differ
	// in their backend, or in whether they ask admission: what they look at has
	// no single meaning. It wraps the reason.
	ErrAmbiguous = errors.New("routing: what the routes look at has no single meaning")
	// ErrBody is a body that cannot be judged, for a rule with require_body. It
	// wraps the reason.
	ErrBody = errors.New("routing: the body cannot be judged")
)

// Table is the rules, compiled. It is immutable and safe for concurrent use.
type Table struct {
	rules []rule
	names names // of all rules
}

// Routes are the rules in order. They must not be changed.
func (t *Table) Routes() []*Route {
	routes := make([]*Route, len(t.rules))
	for i := range t.rules {
		routes[i] = &t.rules[i].route
	}
	return routes
}

// rule is a Route and when it applies.
type rule struct {
	route   Route
	method  string // empty: any
	pattern pattern
	host    string // lower case; empty: any; from a dot on: any below
	headers []headerRule
	when    *expression // nil: always
	closed  []control   // what the pattern matches and the rule does not

	vram   admission.Bytes // unless amount works
	amount *expression     // nil: vram
	room   admission.Bytes // what a demand is not rounded past; -1: no bound
	why    string          // the sentence for the common case
}

// headerRule is a header that must have a value, or any value.
type headerRule struct {
	name  string // canonical
	value string
	any   bool
}

// Route is one rule, compiled, with its class and backend resolved.
type Route struct {
	Name        string // as configured, else "routes[3]"
	Pattern     string // the path pattern, "/**" where none is given: for span names and labels
	ClassName   string // empty for a pass route
	Class       ClassConfig
	Backend     string
	Pass        bool
	Learn       bool   // its demand is to be learned; what a Decision says is the least until then
	Errors      string // dialect: problem | openai | ollama | grpc; resolved from route, backend, path
	RequireBody bool
	Completion  *Completion // nil: an answer is the end of its work
}

// matches judges everything but the expression. The error says why the answer
// is maybe.
func (u *rule) matches(r *http.Request, path string) (answer, error) {
	if u.method != "" && u.method != r.Method && (u.method != http.MethodGet || r.Method != http.MethodHead) {
		return no, nil
	}
	if !u.pattern.match(path) || u.host != "" && !matchHost(u.host, r.Host) {
		return no, nil
	}
	if u.isClosed(r.Method, path) {
		return no, nil
	}
	result, why := yes, error(nil)
	for i := range u.headers {
		h := &u.headers[i]
		values := r.Header[h.name]
		fits := len(values) > 0 && h.any
		for _, v := range values {
			fits = fits || v == h.value
		}
		switch {
		case !fits:
			return no, nil
		case !isSingle(r, h.name):
			result, why = maybe, fmt.Errorf("the header %s has two values, or does not reach the backend", h.name)
		}
	}
	return result, why
}

// matchHost compares without port, case and a final dot.
func matchHost(want, host string) bool {
	if strings.IndexByte(host, ':') >= 0 {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	host = strings.TrimSuffix(host, ".")
	if want[0] == '.' {
		return len(host) > len(want) && strings.EqualFold(host[len(host)-len(want):], want)
	}
	return strings.EqualFold(host, want)
}

// needsBody says whether the body decides on the rule or its demand.
func (u *rule) needsBody(r *http.Request) bool {
	needs := func(e *expression) bool { return e != nil && (e.body || e.size && r.ContentLength < 0) }
	return u.route.RequireBody || needs(u.when) || needs(u.amount)
}

// Candidates is what method, host, path and headers leave of the rules, before
// the body is known. The zero value holds no rule.
type Candidates struct {
	table *Table
	path  string
	// chosen is the rule, where the body does not decide on that. Else rules
	// from `from` to before `to` are possible, the last of them certain to
	// match if the others do not where `certain` says so.
	chosen   *rule
	reason   error // why chosen stands for rules that could not be decided
	from, to int
	certain  bool
	needBody bool
}

// Find gives the rules that the request may match. NeedBody says whether the
// body decides among them or sets the demand; if it is false, Decide may be
// called with a nil body. It fails with ErrPath where the path has no single
// meaning, ErrNoRoute where no rule can match, with the reason where it is that
// the path controls a backend and no rule names it.
func (t *Table) Find(r *http.Request) (Candidates, error) {
	path, err := cleanPath(r)
	if err != nil {
		return Candidates{}, err
	}
	c := Candidates{table: t, path: path, from: -1}
	var f *facts
	open := 0 // rules that may match, before one that does
	for i := range t.rules {
		rule := &t.rules[i]
		match, _ := rule.matches(r, path)
		if match != no && rule.when != nil {
			if rule.when.body || rule.when.size && r.ContentLength < 0 {
				match = maybe
			} else {
				if f == nil {
					f = &facts{r: r, path: path, names: &t.names}
				}
				judged, _ := f.when(rule)
				match = min(match, judged)
			}
		}
		if match == no {
			continue
		}
		if c.from < 0 {
			c.from = i
		}
		c.to = i + 1
		c.needBody = c.needBody || rule.needsBody(r)
		if match == yes {
			c.certain = true
			if open == 0 {
				c.chosen = rule
			}
			break
		}
		open++
	}
	if c.from < 0 {
		return Candidates{}, t.noRoute(r, path)
	}
	if c.chosen == nil && !c.needBody {
		// All is known already, and some of it cannot be decided.
		d, rule, err := c.decide(r, Body{})
		if err != nil {
			return Candidates{}, err
		}
		c.chosen, c.reason = rule, d.reason
	}
	return c, nil
}

// NeedBody says whether Decide needs the body.
func (c Candidates) NeedBody() bool { return c.needBody }

// First is the rule that applies, where the body does not decide on that; else
// the one that will apply if no `when` says otherwise: the one to name in early
// refusals. It is nil for the zero Candidates.
func (c Candidates) First() *Route {
	switch {
	case c.table == nil:
		return nil
	case c.chosen != nil:
		return &c.chosen.route
	case c.certain:
		return &c.table.rules[c.to-1].route
	}
	return &c.table.rules[c.from].route
}

// Decision is what a request is.
type Decision struct {
	Route *Route
	// VRAM is the demand, rounded up to a bucket where it comes from an
	// expression; zero for a pass route.
	VRAM admission.Bytes
	// Why is a sentence for `explain` and for debug logs.
	Why string

	reason error // why Route stands for several
}

// Decide picks the rule and works out the demand. A `when` that cannot be
// decided takes the most expensive of the routes it could match if these are of
// one backend, else ErrAmbiguous is returned; ErrBody only where the rule says
// require_body.
func (c Candidates) Decide(r *http.Request, b Body) (Decision, error) {
	switch {
	case c.table == nil:
		return Decision{}, ErrNoRoute
	case c.chosen == nil:
		d, _, err := c.decide(r, b)
		return d, err
	case c.chosen.amount == nil && !c.chosen.route.RequireBody:
		d := Decision{Route: &c.chosen.route, VRAM: c.chosen.vram, Why: c.chosen.why}
		return d.because(c.reason), nil
	}
	f := &facts{r: r, path: c.path, body: b, names: &c.table.names}
	if err := f.require(c.chosen); err != nil {
		return Decision{}, err
	}
	return c.chosen.decide(f).because(c.reason), nil
}

// decide judges the rules that the body decides on. It gives the rule too.
//
// Several rules are possible where what they look at has no single meaning.
// Those of one backend are priced as the dearest of them. Doubt never takes a
// request to another backend, and never past admission.
func (c Candidates) decide(r *http.Request, b Body) (Decision, *rule, error) {
	f := &facts{r: r, path: c.path, body: b, names: &c.table.names}
	var best *rule
	var dearest Decision
	var reason error // why more than one is possible
	certain := false
	for i := c.from; i < c.to && !certain; i++ {
		rule := &c.table.rules[i]
		match, why := rule.matches(r, c.path)
		if match != no && rule.when != nil {
			judged, err := f.when(rule)
			match, why = min(match, judged), cmp.Or(why, err)
		}
		if match == no {
			continue
		}
		if match == maybe && reason == nil {
			reason = why
		}
		certain = match == yes
		d := rule.decide(f)
		switch {
		case best == nil:
			best, dearest = rule, d
		case best.route.Backend != rule.route.Backend || best.route.Pass != rule.route.Pass:
			return Decision{}, nil, &ambiguousError{reason}
		case rule.route.Pass || dearer(d, dearest): // of passes the last, which is the one that may be certain
			best, dearest = rule, d
		}
	}
	switch {
	case best == nil:
		return Decision{}, nil, ErrNoRoute
	case best.route.Pass && !certain:
		return Decision{}, nil, &ambiguousError{reason}
	}
	if err := f.require(best); err != nil {
		return Decision{}, nil, err
	}
	return dearest.because(reason), best, nil
}

// ambiguousError is ErrAmbiguous with the reason.
type ambiguousError struct{ reason error }

func (e *ambiguousError) Error() string   { return ErrAmbiguous.Error() + ": " + e.reason.Error() }
func (e *ambiguousError) Unwrap() []error { return []error{ErrAmbiguous, e.reason} }

// dearer compares by demand, then by how few of its class may run at once,
// then by how long they run. A demand that is to be learned is not compared.
func dearer(a, b Decision) bool {
	if a.VRAM != b.VRAM && !a.Route.Learn && !b.Route.Learn {
		return a.VRAM > b.VRAM
	}
	if a.Route.Class.Slots != b.Route.Class.Slots {
		return a.Route.Class.Slots < b.Route.Class.Slots
	}
	return a.Route.Class.Estimate > b.Route.Class.Estimate
}

// require refuses a body that a rule with require_body cannot do with: none,
// or one that cannot be judged.
func (f *facts) require(rule *rule) error {
	if !rule.route.RequireBody {
		return nil
	}
	read := f.readBody()
	err := read.err
	for _, e := range [...]*expression{rule.when, rule.amount} {
		if err == nil && e != nil && e.body {
			err = read.doubtful(e)
		}
	}
	if err == nil && rule.when == nil && rule.amount == nil {
		err = read.doubtful(nil)
	}
	if err == nil && read.body == nil && f.body.Whole == nil && len(f.body.Prefix) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		return &bodyError{err}
	}
	return nil
}

// bodyError is ErrBody with the reason.
type bodyError struct{ reason error }

func (e *bodyError) Error() string   { return ErrBody.Error() + ": " + e.reason.Error() }
func (e *bodyError) Unwrap() []error { return []error{ErrBody, e.reason} }

// because adds to a decision why it stands for rules that cannot be decided.
func (d Decision) because(reason error) Decision {
	if reason != nil {
		d.reason = reason
		d.Why = "the most expensive of the routes that may match, because " + reason.Error() + "; " + d.Why
	}
	return d
}

// decide works out the demand of a rule that applies. Where the expression
// cannot be judged or fails, it is what the class takes: the operator has said
// that this is enough, and a client cannot make it less.
func (u *rule) decide(f *facts) Decision {
	d := Decision{Route: &u.route, VRAM: u.vram, Why: u.why}
	if u.amount == nil {
		return d
	}
	err := f.prepare(u, u.amount)
	if err == nil {
		var n int64
		if n, err = u.amount.amount(&f.env); err == nil {
			d.VRAM = bucket(admission.Bytes(n), u.room)
			return d
		}
	}
	d.Why = "the first rule that matches; the class's vram, because of its own: " + err.Error()
	return d
}

// Buckets are 64 MiB apart up to 1 GiB and an eighth of the power of two below
// from there on: at most eight for each doubling, so that shapes stay few, and
// at most an eighth more than was asked for.
const (
	smallestStep = 64 * admission.MiB
	perDoubling  = 8
)

// RoundUp rounds a demand up to a bucket, as Decide does. There is no bound.
func RoundUp(n admission.Bytes) admission.Bytes { return bucket(n, -1) }

// bucket rounds an amount up. It does not round past what the card can give,
// for what fits exactly must not become what never fits; an amount that is
// past it already stays so. room -1: no bound.
func bucket(n, room admission.Bytes) admission.Bytes {
	if n <= 0 {
		return 0
	}
	step := max(admission.Bytes(1)<<(bits.Len64(uint64(n))-1)/perDoubling, smallestStep)
	rounded := (n + step - 1) / step * step
	if room >= 0 && n <= room {
		rounded = min(rounded, room)
	}
	return rounded
}
