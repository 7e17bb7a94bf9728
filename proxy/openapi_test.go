package proxy_test

import (
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
	"go.yaml.in/yaml/v3"
)

// TestTheOpenAPIFileHasEachRoute of the admin listener with its methods, and no other.
// The page's own files are no part of the API.
func TestTheOpenAPIFileHasEachRoute(t *testing.T) {
	text, err := os.ReadFile("../docs/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Paths map[string]map[string]any
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for path, methods := range file.Paths {
		for method := range methods {
			listed[strings.ToUpper(method)+" "+path] = true
		}
	}
	place := "GET " + queueRoute + "{id}" // of the public listeners
	if !listed[place] {
		t.Errorf("%s is not in the file", place)
	}
	delete(listed, place)

	b := open(t, http.NotFoundHandler())
	served := map[string]bool{}
	parameter := regexp.MustCompile(`:(\w+)`)
	for _, r := range b.admin().(*echo.Echo).Routes() {
		if r.Path == "/" || strings.HasPrefix(r.Path, "/page/") || r.Method == echo.RouteNotFound {
			continue
		}
		served[r.Method+" "+parameter.ReplaceAllString(r.Path, "{$1}")] = true
	}
	for _, r := range slices.Sorted(maps.Keys(served)) {
		if !listed[r] {
			t.Errorf("%s is served, and not in the file", r)
		}
	}
	for _, r := range slices.Sorted(maps.Keys(listed)) {
		if !served[r] {
			t.Errorf("%s is in the file, and not served", r)
		}
	}
}
