package routing

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing/body"
	"github.com/anteroom-gpu/anteroom/routing/expression"
)

var (
	// ErrNoRoute is a request that no rule matches.
	ErrNoRoute = errors.New("routing: no rule matches")
	// ErrPath is a path that servers read in different ways, which lead to
	// different routes.
	ErrPath = errors.New("routing: the readings of the path lead to different routes")
	// ErrTarget is a target that is no path at all.
	ErrTarget = errors.New("routing: the target does not begin with a slash")
	// ErrControl is a call that controls an engine and that no rule opens.
	ErrControl = errors.New("routing: the path controls an engine")
	// ErrAmbiguous is a request that could be one of several routes which differ
	// in their backend, or in whether they ask admission: what they look at has
	// no single meaning. It wraps the reason.
	ErrAmbiguous = errors.New("routing: what the routes look at has no single meaning")
	// ErrBody is a body that cannot be judged, for a rule with require_body. It
	// wraps the reason.
	ErrBody = errors.New("routing: the body cannot be judged")
)

// Body is a request body as the rules see it.
type Body = body.Body

// Table is the rules, compiled. It is immutable and safe for concurrent use.
type Table struct {
	rules   []rule
	index   *index
	names   body.Names // of all rules
	aliases []Alias
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
	when    *expression.Expression // nil: always
	models  []string               // when says that the body names one of these, and nothing else; nil: it says something else
	closed  []control              // what the pattern matches and the rule does not open

	vram   admission.Bytes        // unless amount works
	amount *expression.Expression // nil: vram
	room   admission.Bytes        // what a demand is not rounded past; -1: no bound
	why    string                 // the sentence for the common case
}

// headerRule is a header that must have a value, or any value.
type headerRule struct {
	name  string // canonical
	value string
	any   bool
}

// Route is one rule, compiled, with its class and backend resolved.
type Route struct {
	Name            string // as configured, else "routes[3]"
	Pattern         string // the path pattern, "/**" where none is given: for span names and labels
	ClassName       string // empty for a pass route
	Class           ClassConfig
	Backend         string
	Rewrite         Rewrite
	Merge           []string // backends whose lists of models are added
	Pass            bool
	Learn           bool   // its demand is to be learned; what a Decision says is the least until then
	Errors          string // dialect: problem | openai | ollama | grpc; resolved from route, backend, path
	RequireBody     bool
	WaitingComments time.Duration // how often a stream that waits gets a comment; 0: never
	// RewriteModel is the backend's name for the model of the body; empty: the client's.
	RewriteModel string
	HoldSlot     bool                // a WebSocket holds a slot and has the execution clock
	Completion   *backend.Completion // nil: an answer is the end of its work

	modelAt int // the segment of the path that names a model, from 1; 0: none does
}

// matches judges everything but the expression. The error says why the answer
// is maybe.
func (u *rule) matches(r *http.Request, at *spelling) (answer, error) {
	if u.method != "" && u.method != at.method && (u.method != http.MethodGet || at.method != http.MethodHead) && u.method != preflight(r) {
		return no, nil
	}
	if !u.pattern.match(at.path) || u.host != "" && !matchHost(u.host, r.Host) {
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
		case !body.SingleHeader(r, h.name):
			result, why = maybe, fmt.Errorf("the header %s has two values, or does not reach the backend", h.name)
		}
	}
	return result, why
}

// matchHost compares without port, case and a final dot.
func matchHost(want, host string) bool {
	host = bareHost(host)
	if want[0] == '.' {
		return len(host) > len(want) && strings.EqualFold(host[len(host)-len(want):], want)
	}
	return strings.EqualFold(host, want)
}

// bareHost is a host without port and final dot.
func bareHost(host string) string {
	if strings.IndexByte(host, ':') >= 0 {
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
	}
	return strings.TrimSuffix(host, ".")
}

// needsBody says whether the body decides on the rule or its demand.
func (u *rule) needsBody(r *http.Request) bool {
	needs := func(e *expression.Expression) bool { return e != nil && (e.Body || e.Size && r.ContentLength < 0) }
	return needs(u.when) || !u.free(r) && (u.route.RequireBody || needs(u.amount))
}

// Candidates is what method, host, path and headers leave of the rules, before
// the body is known. The zero value holds no rule.
type Candidates struct {
	table *Table
	at    spelling
	// chosen is the rule, where the body does not decide on that. Else rules
	// from `from` to before `to` are possible, the last of them certain to
	// match if the others do not where `certain` says so.
	chosen   *rule
	reason   error // why chosen stands for rules that could not be decided
	from, to int
	certain  bool
	needBody bool
	barred   barrier
	// others are the candidates of the request's other readings.
	others []Candidates
}

// Find gives the rules that the request may match. NeedBody says whether the
// body decides among them or sets the demand; if it is false, Decide may be
// called with a nil body. It fails with ErrPath where the readings of the path
// lead to different routes, ErrControl where the path controls a backend and no
// rule opens it, ErrAmbiguous as Decide does, and ErrNoRoute where no rule can
// match.
func (t *Table) Find(r *http.Request) (Candidates, error) {
	first, readings, err := spellingsOf(r)
	if err != nil {
		return Candidates{}, err
	}
	if readings == nil {
		return t.find(r, first)
	}
	var all []Candidates
	var controlled error
	lost := false // a reading leads nowhere that might be a way around the rules
	for _, reading := range readings {
		c, err := t.find(r, reading)
		switch {
		case err == nil:
			all = append(all, c)
		case errors.Is(err, ErrControl):
			controlled = err
		case errors.Is(err, ErrNoRoute):
			lost = lost || reading.strict
		default:
			return Candidates{}, err
		}
	}
	switch {
	case len(all) == 0 && controlled != nil:
		return Candidates{}, controlled
	case len(all) == 0:
		return Candidates{}, ErrNoRoute
	case controlled != nil || lost:
		return Candidates{}, ErrPath
	}
	c := all[0]
	for _, other := range all[1:] {
		c.needBody = c.needBody || other.needBody
		if c.chosen != nil && other.chosen != nil && !sameKind(r, c.chosen, other.chosen) {
			return Candidates{}, differ(r)
		}
	}
	c.others = all[1:]
	return c, nil
}

// sameKind says that a request is the same work under either rule: of one
// backend, and of one class or both past admission.
func sameKind(r *http.Request, a, b *rule) bool {
	free := a.free(r)
	return a.route.Backend == b.route.Backend && free == b.free(r) && (free || a.route.ClassName == b.route.ClassName)
}

// differ is the error of a request whose readings lead to different routes.
func differ(r *http.Request) error {
	if method, name := override(r); method != "" {
		return &ambiguousError{fmt.Errorf("the header %s says %s", name, method)}
	}
	return ErrPath
}

// find gives the rules for one reading of the request.
func (t *Table) find(r *http.Request, at spelling) (Candidates, error) {
	c := Candidates{table: t, at: at, from: -1}
	var f *facts
	open := 0 // rules that may match, before one that does
	var room [8]int
	for _, n := range t.index.possible(r, &c.at, room[:0]) {
		i := t.index.groups[n].from
		rule := &t.rules[i] // it stands for all of its group
		match, _ := rule.matches(r, &c.at)
		if match != no && rule.when != nil {
			if rule.when.Body || rule.when.Size && r.ContentLength < 0 {
				match = maybe
			} else {
				if f == nil {
					f = &facts{r: r, at: at, names: &t.names}
				}
				judged, _ := f.when(rule)
				match = min(match, judged)
			}
		}
		if match == no || c.barred.stops(rule, i, at) {
			continue
		}
		if c.from < 0 {
			c.from = i
		}
		c.to = t.index.groups[n].to
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
		return Candidates{}, c.barred.error(at)
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

// Free says that the request goes past admission, as far as First tells.
func (c Candidates) Free(r *http.Request) bool {
	switch {
	case c.table == nil:
		return false
	case c.chosen != nil:
		return c.chosen.free(r)
	case c.certain:
		return c.table.rules[c.to-1].free(r)
	}
	return c.table.rules[c.from].free(r)
}

// Decision is what a request is.
type Decision struct {
	Route *Route
	// Pass says that the request is forwarded without asking admission: by a
	// route that says so, or as one of the calls that need no card.
	Pass bool
	// VRAM is the demand, rounded up to a bucket where it comes from an
	// expression; zero where it passes.
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
	d, rule, err := c.settle(r, b)
	if len(c.others) == 0 {
		return d, err
	}
	for _, other := range c.others {
		also, its, otherwise := other.settle(r, b)
		if errors.Is(otherwise, ErrNoRoute) && other.at.strict || errors.Is(err, ErrNoRoute) && c.at.strict {
			return Decision{}, ErrPath
		}
		switch {
		case errors.Is(otherwise, ErrNoRoute):
		case otherwise != nil:
			return Decision{}, otherwise
		case err != nil && !errors.Is(err, ErrNoRoute):
			return Decision{}, err
		case err != nil:
			d, rule, err = also, its, nil
		case !sameKind(r, rule, its):
			return Decision{}, differ(r)
		case costlier(also, d):
			d, rule = also, its
		}
	}
	return d, err
}

// settle decides on one reading of the request.
func (c Candidates) settle(r *http.Request, b Body) (Decision, *rule, error) {
	switch {
	case c.table == nil:
		return Decision{}, nil, ErrNoRoute
	case c.chosen == nil:
		return c.decide(r, b)
	case c.chosen.free(r) || c.chosen.amount == nil && !c.chosen.route.RequireBody:
		d := Decision{Route: &c.chosen.route, VRAM: c.chosen.vram, Why: c.chosen.why}
		return d.because(c.reason).passing(r, c.chosen), c.chosen, nil
	}
	f := &facts{r: r, at: c.at, body: b, names: &c.table.names}
	if err := f.require(c.chosen); err != nil {
		return Decision{}, nil, err
	}
	return c.chosen.decide(f).because(c.reason), c.chosen, nil
}

// decide judges the rules that the body decides on. It gives the rule too.
//
// Several rules are possible where what they look at has no single meaning.
// Those of one backend are priced at the most expensive of them. Doubt never takes a
// request to another backend, and never past admission.
func (c Candidates) decide(r *http.Request, b Body) (Decision, *rule, error) {
	f := &facts{r: r, at: c.at, body: b, names: &c.table.names}
	p := pick{Candidates: &c, request: r, facts: f}
	if err := p.judgeAll(); err != nil {
		return Decision{}, nil, err
	}
	best, costliest, reason := p.best, p.costliest, p.reason
	switch {
	case best == nil:
		return Decision{}, nil, ErrNoRoute
	case best.free(r) && !p.sure:
		return Decision{}, nil, &ambiguousError{reason}
	}
	if best.free(r) {
		return costliest.because(reason).passing(r, best), best, nil
	}
	if err := f.require(best); err != nil {
		return Decision{}, nil, err
	}
	return costliest.because(reason), best, nil
}

// pick is the choice among rules that are possible.
type pick struct {
	*Candidates
	request   *http.Request
	facts     *facts
	best      *rule // nil: none so far
	costliest Decision
	reason    error // why more than one is possible
	sure      bool  // the last one applies, whatever else may
}

// judgeAll looks at the rules in order, until one applies for sure.
func (p *pick) judgeAll() error {
	var room [8]int
	for _, n := range p.table.index.possible(p.request, &p.at, room[:0]) {
		of := &p.table.index.groups[n]
		if of.to <= p.from || of.from >= p.to {
			continue
		}
		some, known := of.within(p.facts, p.table.rules)
		if !known {
			for i := of.from; i < of.to && !p.sure; i++ {
				if err := p.judge(i); err != nil {
					return err
				}
			}
		}
		for _, i := range some {
			if err := p.judge(i); err != nil || p.sure {
				return err
			}
		}
		if p.sure {
			break
		}
	}
	return nil
}

// judge looks at the next rule.
func (p *pick) judge(i int) error {
	rule := &p.table.rules[i]
	match, why := rule.matches(p.request, &p.at)
	if match != no && p.barred.stops(rule, i, p.at) {
		return nil
	}
	if match != no && rule.when != nil {
		judged, err := p.facts.when(rule)
		match, why = min(match, judged), cmp.Or(why, err)
	}
	if match == no {
		return nil
	}
	if match == maybe && p.reason == nil {
		p.reason = why
	}
	p.sure = match == yes
	d := rule.decide(p.facts)
	switch {
	case p.best == nil:
		p.best, p.costliest = rule, d
	case p.best.route.Backend != rule.route.Backend || p.best.free(p.request) != rule.free(p.request):
		return &ambiguousError{p.reason}
	case rule.free(p.request) || costlier(d, p.costliest): // of passes the last, which is the one that may be certain
		p.best, p.costliest = rule, d
	}
	return nil
}

// ambiguousError is ErrAmbiguous with the reason.
type ambiguousError struct{ reason error }

func (e *ambiguousError) Error() string   { return ErrAmbiguous.Error() + ": " + e.reason.Error() }
func (e *ambiguousError) Unwrap() []error { return []error{ErrAmbiguous, e.reason} }

// costlier compares by demand, then by how few of its class may run at once,
// then by how long they run. A demand that is to be learned is not compared.
func costlier(a, b Decision) bool {
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
	err := read.Err
	for _, e := range [...]*expression.Expression{rule.when, rule.amount} {
		if err == nil && e != nil && e.Body {
			err = read.Doubtful(e.LooksAt)
		}
	}
	if err == nil && rule.when == nil && rule.amount == nil {
		err = read.Doubtful(nil)
	}
	if err == nil && read.Body == nil && f.body.Whole == nil && len(f.body.Prefix) == 0 {
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

// passing makes a decision one that asks nothing, where its rule says so.
func (d Decision) passing(r *http.Request, u *rule) Decision {
	if d.Pass = u.free(r); d.Pass {
		d.VRAM = 0
		if !u.route.Pass {
			d.Why = "the first rule that matches; it names no method, and " + r.Method + " needs no card"
			if IsWebSocket(r) {
				d.Why = "the first rule that matches; a WebSocket holds no slot"
			}
		}
	}
	return d
}

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
		if n, err = u.amount.Bytes(&f.env); err == nil {
			d.VRAM = bucket(admission.Bytes(n), u.room)
			return d
		}
	}
	d.Why = "the first rule that matches; the class's vram, because of its own: " + err.Error()
	return d
}

// Buckets are 64 MiB apart up to 1 GiB and an eighth of the power of two below
// from there on: at most eight for each doubling, so that shapes stay few. A bucket is
// at most 64 MiB more than was asked for, or an eighth of that.
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
