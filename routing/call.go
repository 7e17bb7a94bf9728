package routing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Call is a request of the proxy's own to a backend.
type Call struct {
	Method string
	Target string // path and query
	Body   string // JSON; empty: none
	// Without are keys of the answer, within what is right in it, that nobody looks
	// at. Their values are left out of it, however large they are.
	Without []string
}

// maxCallAnswer bounds what a call may be answered.
const maxCallAnswer = 16 << 20

// readWithout reads JSON as it comes and leaves out what nobody looks at: an entry
// of ComfyUI's history repeats the workflow, with the pictures in it.
func readWithout(body io.Reader, keys []string) ([]byte, error) {
	read := readJSON(&window{rest: body}, &names{whole: true, without: keys}, false)
	if read.err != nil {
		return nil, read.err
	}
	return json.Marshal(read.body)
}

// Ask makes a call beside the requests that clients make: it passes the breaker
// by and is not counted there. host and header may be empty. It fails with
// ErrRefused where nobody listens at the backend's address, so that its
// process is gone.
func (b *Backend) Ask(ctx context.Context, c Call, host string, header http.Header) (status int, answer []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, c.Method, b.base.String()+c.Target, nil)
	if err != nil {
		return 0, nil, fmt.Errorf("routing: ask %s: %w", b.Name, err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Host = host
	if c.Body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(c.Body)), int64(len(c.Body))
		r.Header.Set("Content-Type", "application/json")
	}
	b.sendOnce(r)
	res, err := b.transport.Load().RoundTrip(r)
	if err != nil {
		if refused(err) {
			return 0, nil, fmt.Errorf("%w: %s: %v", ErrRefused, b.Name, err)
		}
		return 0, nil, fmt.Errorf("routing: ask %s: %w", b.Name, err)
	}
	defer res.Body.Close()
	if len(c.Without) > 0 && res.StatusCode/100 == 2 {
		answer, err = readWithout(res.Body, c.Without)
	} else {
		answer, err = io.ReadAll(io.LimitReader(res.Body, maxCallAnswer+1))
	}
	if err == nil && len(answer) > maxCallAnswer {
		err = errors.New("the answer is too long")
	}
	if err != nil {
		return res.StatusCode, nil, fmt.Errorf("routing: ask %s: %w", b.Name, err)
	}
	return res.StatusCode, answer, nil
}

// callTemplate is a call with places for values of an answer.
type callTemplate struct {
	method string
	target []piece
	body   []piece
}

// piece is a text, or the path to a value.
type piece struct {
	text  string
	path  []string // nil: text
	query bool     // behind the question mark
}

// place is where a value goes: {{.json.id}}, {{ .json.job.id }}.
var place = regexp.MustCompile(`\{\{\s*\.json((?:\.[A-Za-z0-9_-]+)+)\s*\}\}`)

// parseCall reads `METHOD /path` and, behind a space, a body.
func parseCall(text string) (*callTemplate, error) {
	const want = "want METHOD /path, such as GET /jobs/{{.json.id}}"
	text = place.ReplaceAllString(strings.TrimSpace(text), "{{.json$1}}") // without the spaces
	method, rest, _ := strings.Cut(text, " ")
	target, body, _ := strings.Cut(strings.TrimSpace(rest), " ")
	sample := place.ReplaceAllString(target, "x")
	if strings.Contains(place.ReplaceAllString(text, ""), "{{") {
		return nil, errors.New("a place for a value cannot be read: want {{.json.NAME}}, a value of the answer to the request")
	}
	if method == "" || !isToken(method) || method != strings.ToUpper(method) || method == http.MethodConnect || method == http.MethodHead {
		return nil, errors.New("does not begin with a method: " + want)
	}
	if u, err := url.ParseRequestURI(sample); err != nil || sample[0] != '/' || u.Host != "" || strings.Contains(sample, "#") {
		return nil, errors.New("has no path: " + want)
	}
	body = strings.TrimSpace(body)
	if body != "" && !json.Valid([]byte(place.ReplaceAllString(body, "0"))) {
		return nil, errors.New("the body is not JSON: want METHOD /path, or METHOD /path {…}")
	}
	return &callTemplate{method: method, target: pieces(target), body: pieces(body)}, nil
}

func pieces(text string) (out []piece) {
	at, query := 0, false
	add := func(s string) {
		if s != "" {
			out = append(out, piece{text: s})
			query = query || strings.Contains(s, "?")
		}
	}
	for _, m := range place.FindAllStringSubmatchIndex(text, -1) {
		add(text[at:m[0]])
		out = append(out, piece{path: strings.Split(text[m[2]+1:m[3]], "."), query: query})
		at = m[1]
	}
	add(text[at:])
	return out
}

// fill puts the values of an answer in their places.
func (t *callTemplate) fill(answer any) (Call, error) {
	var target, body strings.Builder
	for _, p := range t.target {
		v, err := p.value(answer)
		switch {
		case err != nil:
			return Call{}, err
		case p.path == nil:
			target.WriteString(v)
		case p.query:
			target.WriteString(url.QueryEscape(v))
		case v == "" || v == "." || v == "..":
			return Call{}, fmt.Errorf("%s of the answer is %q, which is no part of a path", strings.Join(p.path, "."), v)
		default:
			target.WriteString(url.PathEscape(v))
		}
	}
	for _, p := range t.body {
		v, err := p.value(answer)
		if err != nil {
			return Call{}, err
		}
		if p.path != nil {
			quoted, _ := json.Marshal(v) // of a string
			v = string(quoted[1 : len(quoted)-1])
		}
		body.WriteString(v)
	}
	return Call{Method: t.method, Target: target.String(), Body: body.String()}, nil
}

// value is the text of a piece. Numbers of the answer are json.Numbers.
func (p *piece) value(answer any) (string, error) {
	if p.path == nil {
		return p.text, nil
	}
	v := answer
	for _, name := range p.path {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	}
	return "", fmt.Errorf("the answer has no %s", strings.Join(p.path, "."))
}
