package routing

import (
	"errors"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/anteroom-gpu/anteroom/routing/body"
	"github.com/anteroom-gpu/anteroom/routing/expression"
)

// answer is what can be said of a condition.
type answer uint8

const (
	no answer = iota
	maybe
	yes
)

var (
	errAmbiguous = errors.New("a header or query parameter that the rule looks at has two values")
	errQuery     = errors.New("the query can be read in two ways")
	errSize      = errors.New("the body's size is not known")
)

// facts are what the expressions of the rules look at in one request. Each is
// worked out when the first expression asks for it.
type facts struct {
	r     *http.Request
	at    spelling
	body  Body
	names *body.Names
	env   expression.Environment

	query         fields
	queryRead     bool
	bodyRead      bool
	reading       body.Reading
	headersFilled bool // with all headers, not some
}

// prepare fills the environment for an expression of a rule. An error says why
// the expression cannot be judged.
func (f *facts) prepare(rule *rule, e *expression.Expression) error {
	f.env.Method, f.env.Path = f.at.method, shown(f.at.path)
	if e.Params {
		f.env.Params = rule.pattern.params(f.at.path)
	}
	if e.Header.Any() && !f.header(&e.Header) || e.Query.Any() && !f.parameters(&e.Query) {
		return errAmbiguous
	}
	if e.Size {
		size := f.body.Size
		if size <= 0 {
			size = f.r.ContentLength
		}
		if size < 0 {
			return errSize
		}
		f.env.Size = int(size)
	}
	if e.Body {
		return f.readBody().Doubtful(e.LooksAt)
	}
	return nil
}

// readBody reads the body once.
func (f *facts) readBody() *body.Reading {
	if !f.bodyRead {
		f.reading, f.bodyRead = body.Read(f.r, &f.body, f.names), true
		f.env.Body = f.reading.Body
	}
	return &f.reading
}

// header fills in the headers that an expression looks at, and says whether
// each of them has one meaning.
func (f *facts) header(m *expression.Mentioned) bool {
	if m.All {
		if !f.headersFilled {
			f.headersFilled = true
			f.env.Header = make(map[string]string, len(f.r.Header)+1)
			for name, values := range f.r.Header {
				if len(values) > 0 {
					f.env.Header[strings.ToLower(name)] = values[0]
				}
			}
			f.env.Header["host"] = f.r.Host
		}
		for name := range f.r.Header {
			if !body.SingleHeader(f.r, name) {
				return false
			}
		}
		return true
	}
	if f.env.Header == nil {
		f.env.Header = make(map[string]string, len(m.Keys))
	}
	for _, key := range m.Keys {
		if key == "host" {
			f.env.Header[key] = f.r.Host
			continue
		}
		name := textproto.CanonicalMIMEHeaderKey(key)
		if !body.SingleHeader(f.r, name) {
			return false
		}
		if values := f.r.Header[name]; len(values) > 0 {
			f.env.Header[key] = values[0]
		}
	}
	return true
}

// fields are the parameters of a query.
type fields struct {
	values   map[string]string
	doubtful map[string]bool // come several times, with different values
	err      error           // parsers disagree about all of them
}

// readFields reads a query. Semicolons separate for some parsers and not for
// others, and bad escapes are dropped, kept or refused.
func readFields(s string) fields {
	f := fields{values: make(map[string]string)}
	if strings.IndexByte(s, ';') >= 0 {
		f.err = errQuery
		return f
	}
	count := 0
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" {
			continue
		}
		if count++; count > body.MaxFields {
			f.err = errQuery
			return f
		}
		name, value, _ := strings.Cut(pair, "=")
		name, badName := url.QueryUnescape(name)
		value, badValue := url.QueryUnescape(value)
		if badName != nil || badValue != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			f.err = errQuery
			return f
		}
		if before, ok := f.values[name]; ok && before != value {
			if f.doubtful == nil {
				f.doubtful = make(map[string]bool)
			}
			f.doubtful[name] = true
			continue
		}
		f.values[name] = value
	}
	return f
}

// parameters fills in the query and says whether what an expression looks at
// of it has one meaning.
func (f *facts) parameters(m *expression.Mentioned) bool {
	if !f.queryRead {
		f.query, f.queryRead = readFields(f.r.URL.RawQuery), true
		f.env.Query = f.query.values
	}
	if f.query.err != nil || m.All && len(f.query.doubtful) > 0 {
		return false
	}
	for _, key := range m.Keys {
		if f.query.doubtful[key] {
			return false
		}
	}
	return true
}

// when judges a rule's expression. It cannot be decided where what it looks at
// has no single meaning, or another type than the expression takes: a backend
// may convert it. What is missing makes the answer no.
func (f *facts) when(rule *rule) (answer, error) {
	if err := f.prepare(rule, rule.when); err != nil {
		return maybe, err
	}
	switch ok, err := rule.when.True(&f.env); {
	case ok:
		return yes, nil
	case err != nil && !errors.Is(err, expression.ErrAbsent):
		return maybe, err
	}
	return no, nil
}
