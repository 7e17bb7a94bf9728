package routing

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAModelIsReadWhereARequestNamesOne(t *testing.T) {
	for name, c := range map[string]struct{ pattern, dialect, method, path, body, want string }{
		"in the body":               {"/v1/chat/completions", "openai", "POST", "/v1/chat/completions", `{"messages":[],"model":"llama-3"}`, "llama-3"},
		"in the path":               {"/v2/models/{model}/infer", "problem", "POST", "/v2/models/flux-1/infer", `{}`, "flux-1"},
		"in a path that is short":   {"/v2/models/{model}/**", "problem", "POST", "/v2/models", `{}`, ""},
		"in a body of other routes": {"/light", "problem", "POST", "/light", `{"model":"llama-3"}`, ""},
		"twice, for it is a report": {"/v1/x", "openai", "POST", "/v1/x", `{"model":"a","model":"b"}`, "a"},
		"as a number":               {"/v1/x", "openai", "POST", "/v1/x", `{"model":7}`, ""},
		"too long":                  {"/v1/x", "openai", "POST", "/v1/x", `{"model":"` + strings.Repeat("x", 129) + `"}`, ""},
		"without a body":            {"/v1/models", "openai", "GET", "/v1/models", "", ""},
		"in a broken body":          {"/api/chat", "ollama", "POST", "/api/chat", `{"model":"a"`, ""},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", "application/json")
		route := Route{Pattern: c.pattern, Errors: c.dialect, modelAt: modelSegment(c.pattern)}
		got := ""
		if route.NamesModels() {
			got = route.Model(r, Body{Prefix: []byte(c.body), Size: int64(len(c.body))})
		}
		if got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
