package backend

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// template is a call with placeholders for values. It is immutable.
type template struct {
	line         string // method and target, as they are written
	method       string
	target, body []piece
}

// piece is a text, or the placeholder of a value.
type piece struct {
	text  string
	path  []string // of the value; nil: text
	query bool     // behind the question mark
}

// values are the values for the placeholders of a template.
type values struct {
	model string // {{model}}
	json  any    // {{.json.id}}: in the answer that work began with; numbers are json.Numbers
}

// place matches a placeholder: {{model}}, {{.json.id}}, {{ .json.job.id }}.
var place = regexp.MustCompile(`\{\{\s*(model|\.json(?:\.[A-Za-z0-9_-]+)+)\s*\}\}`)

// The placeholders that a template may have.
const (
	ofModels  = "model"
	ofAnswers = ".json"
)

// eachModel stands in a call or its body for one model after another.
const eachModel = "{{model}}"

// methods are those that a call may have.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead}

// splitCall reads `METHOD /path`, and behind a space a body.
func splitCall(text string) (method, target, body string, ok bool) {
	method, target, _ = strings.Cut(text, " ")
	target, body, _ = strings.Cut(target, " ")
	u, err := url.ParseRequestURI(place.ReplaceAllString(target, "m"))
	ok = err == nil && target[0] == '/' && !strings.HasPrefix(target, "//") && u.Path != "" && !strings.Contains(target, "#") &&
		httpguts.ValidHeaderFieldName(method) && method == strings.ToUpper(method)
	return method, target, body, ok
}

// parseCall reads `METHOD /path` and, after a space, a body of JSON, with placeholders of
// one kind. such is an example for errors.
func parseCall(text, places, such string) (*template, error) {
	text = place.ReplaceAllString(text, "{{$1}}") // without the spaces
	for _, found := range place.FindAllStringSubmatch(text, -1) {
		if !strings.HasPrefix(found[1], places) {
			return nil, fmt.Errorf("%s has no value here: want a call such as %s", found[0], such)
		}
	}
	if strings.Contains(place.ReplaceAllString(text, ""), "{{") {
		if places == ofModels {
			return nil, errors.New("a place for a value cannot be read: want {{model}}, one model after another")
		}
		return nil, errors.New("a place for a value cannot be read: want {{.json.NAME}}, a value of the answer to the request")
	}
	method, target, body, ok := splitCall(text)
	switch {
	case !ok:
		return nil, errors.New("not a call: want a method and a path, such as " + such)
	case !slices.Contains(methods, method):
		return nil, fmt.Errorf("%s is no method: want %s", method, strings.Join(methods, ", "))
	case body != "" && !validBody(body):
		return nil, errors.New("not a call: what is behind the path is not JSON: want METHOD /path, or METHOD /path {…}")
	}
	return &template{line: method + " " + target, method: method, target: pieces(target), body: pieces(body)}, nil
}

// validBody says that a body is JSON when the values are in it: a model is a text, a
// value of an answer may be a number.
func validBody(body string) bool {
	body = strings.ReplaceAll(body, eachModel, "m")
	return json.Valid([]byte(place.ReplaceAllString(body, "0")))
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
		out = append(out, piece{path: strings.Split(strings.TrimPrefix(text[m[2]:m[3]], "."), "."), query: query})
		at = m[1]
	}
	add(text[at:])
	return out
}

// fill puts values in their places.
func (t *template) fill(of values) (Call, error) {
	var target, body strings.Builder
	for _, p := range t.target {
		v, err := p.value(of)
		switch {
		case err != nil:
			return Call{}, err
		case p.path == nil:
			target.WriteString(v)
		case p.query:
			target.WriteString(url.QueryEscape(v))
		case v == "" || v == "." || v == "..":
			return Call{}, fmt.Errorf("%s is %q, which is no part of a path", strings.Join(p.path, "."), v)
		default:
			target.WriteString(url.PathEscape(v))
		}
	}
	for _, p := range t.body {
		v, err := p.value(of)
		if err != nil {
			return Call{}, err
		}
		if p.path != nil {
			quoted, _ := json.Marshal(v) // of a string: it does not fail
			v = string(quoted[1 : len(quoted)-1])
		}
		body.WriteString(v)
	}
	return Call{Method: t.method, Target: target.String(), Body: body.String()}, nil
}

// value is the text of a piece.
func (p *piece) value(of values) (string, error) {
	switch {
	case p.path == nil:
		return p.text, nil
	case p.path[0] == "model":
		return of.model, nil
	}
	v := of.json
	for _, name := range p.path[1:] {
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
	return "", fmt.Errorf("the answer has no %s", strings.Join(p.path[1:], "."))
}
