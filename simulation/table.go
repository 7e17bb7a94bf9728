package simulation

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Routes is the table of what an engine serves.
type Routes struct {
	mux      http.ServeMux
	patterns []string
}

// HandleFunc adds a route. The pattern is one of http.ServeMux and has a method, but for
// a last one that answers everything else.
func (r *Routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	r.mux.HandleFunc(pattern, handler)
	r.patterns = append(r.patterns, pattern)
}

// Routes are the engine's routes, each as "METHOD /path", sorted by path and method.
func (e *Engine) Routes() []string {
	list := make([]string, len(e.routes.patterns))
	for i, p := range e.routes.patterns {
		list[i] = strings.Replace(p, "{$}", "", 1)
	}
	slices.SortFunc(list, func(a, b string) int {
		_, one, _ := strings.Cut(a, " ")
		_, other, _ := strings.Cut(b, " ")
		return cmp.Or(strings.Compare(one, other), strings.Compare(a, b))
	})
	return list
}

// Serves are the routes of an engine of the kind, as Engine.Routes has them.
func (k Kind) Serves() []string {
	e := NewEngine(k, NewCard(0), Options{})
	defer e.Close()
	return e.Routes()
}

// openAPI adds the description of all routes that a FastAPI application and its like serve
// of themselves, with its page.
func openAPI(e *Engine, routes *Routes, path, title, version string) {
	routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
		paths := map[string]any{}
		for _, pattern := range e.Routes() {
			method, path, ok := strings.Cut(pattern, " ")
			if !ok {
				continue
			}
			of, _ := paths[path].(map[string]any)
			if of == nil {
				of = map[string]any{}
				paths[path] = of
			}
			of[strings.ToLower(method)] = map[string]any{"responses": map[string]any{"200": map[string]string{"description": "Successful Response"}}}
		}
		answer(w, http.StatusOK, map[string]any{"openapi": "3.1.0", "info": map[string]string{"title": title, "version": version}, "paths": paths})
	})
	routes.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		page(w, title+" - Swagger UI", "The routes are in "+path+".")
	})
}

// page answers a small page in HTML.
func page(w http.ResponseWriter, title, text string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, "<!DOCTYPE html>\n<html><head><title>%s</title></head><body><p>%s</p></body></html>\n", title, text)
}

// text answers plain text.
func text(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}
