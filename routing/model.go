package routing

import (
	"fmt"
	"net/http"
	"strings"
	"unicode"

	"github.com/anteroom-gpu/anteroom/routing/body"
)

// modelKey is the key by which bodies name a model.
var modelKey = func() *body.Names {
	n := new(body.Names)
	n.Add([]string{"model"}, nil, false)
	return n
}()

// maxModel bounds a model's name, in bytes.
const maxModel = 128

// NamesModels says that the route's requests may name a model: its pattern has {model},
// or it speaks OpenAI's or Ollama's dialect.
func (t *Route) NamesModels() bool {
	return t.modelAt > 0 || t.Errors == "openai" || t.Errors == "ollama"
}

// Model is the model that a request names, in its path or in its body. It is for reports
// and decides nothing. Empty: it names none, or not within 128 bytes, or its body is not
// in memory.
func (t *Route) Model(r *http.Request, b Body) string {
	if t.modelAt > 0 {
		return cutModel(pathSegment(r.URL.Path, t.modelAt))
	}
	if r.Method != http.MethodPost || b.Truncated || len(b.Prefix) == 0 {
		return ""
	}
	read := body.Read(r, &b, modelKey)
	object, ok := read.Body.(map[string]any)
	if !ok || read.Err != nil {
		return ""
	}
	name, _ := object["model"].(string)
	return cutModel(name)
}

func cutModel(name string) string {
	if len(name) > maxModel {
		return ""
	}
	return strings.Clone(name)
}

// modelSegment is the number of the segment {model} of a pattern, from 1; 0: it has
// none.
func modelSegment(pattern string) int {
	at := strings.Index(pattern, "/{model}")
	if at < 0 {
		return 0
	}
	return strings.Count(pattern[:at+1], "/")
}

// pathSegment is the n-th segment of a path, from 1.
func pathSegment(path string, n int) string {
	for range n {
		_, rest, ok := strings.Cut(path, "/")
		if !ok {
			return ""
		}
		path = rest
	}
	name, _, _ := strings.Cut(path, "/")
	return name
}

// Alias is a name that clients may call a backend's model by.
type Alias struct{ Name, Model, Backend string }

// Aliases are the names that models have here beside those that their backends list.
func (t *Table) Aliases() []Alias { return t.aliases }

// aliases are those that a route makes: the names without a wildcard that it matches, for
// the one that it writes in their place.
func (r *RouteConfig) aliases() (all []Alias) {
	if r.RewriteModel == "" {
		return nil
	}
	for _, name := range r.Match.Model {
		if !strings.Contains(name, "*") && name != r.RewriteModel {
			all = append(all, Alias{name, r.RewriteModel, r.Backend})
		}
	}
	return all
}

// checkModel reports what is wrong with a route's rewrite_model.
func (r *RouteConfig) checkModel(report func(path, problem string)) {
	switch name := r.RewriteModel; {
	case name == "":
	case r.Pass:
		report("rewrite_model", "a route with pass does not read bodies: want a class, or it left out")
	case len(name) > maxModel || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }):
		report("rewrite_model", fmt.Sprintf("%.40q: not a model's name: want up to %d printable bytes", name, maxModel))
	case strings.Contains(name, "*"):
		report("rewrite_model", fmt.Sprintf("%q: a wildcard names no model: want one name, as the backend lists it", name))
	}
}
