package proxy_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// One list of what several backends serve; one that does not answer is left out.
func TestListsOfModelsArePutTogether(t *testing.T) {
	lists := map[string]string{
		"/v1/models|quick": `{"object":"list","data":[{"id":"flux","size":12345678901234567890},{"id":"both"}],"extra":1}`,
		"/v1/models|slow":  `{"object":"list","data":[{"id":"both"},{"id":"llama3"}]}`,
		"/api/tags|quick":  `not a list`,
		"/api/tags|slow":   `{"models":[{"name":"llama3","model":"llama3"}]}`,
		"/none|quick":      `{}`,
		"/none|slow":       `[]`,
	}
	answer := func(name string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "Bearer k" {
				w.WriteHeader(http.StatusUnauthorized)
			}
			io.WriteString(w, lists[r.URL.Path+"|"+name])
		}
	}
	other := serve(t, answer("slow"))
	b := open(t, answer("quick"), func(s *proxy.Setup) {
		config := s.Routing.Backends["slow"]
		config.URL = other
		s.Routing.Backends["slow"] = config
		s.Routing.Routes = append([]routing.RouteConfig{{Name: "models", Match: routing.MatchConfig{Method: routing.Texts{"GET"},
			Path: routing.Texts{"/v1/models", "/api/tags", "/none"}}, Pass: true, Backend: "quick", Merge: []string{"slow"}}}, s.Routing.Routes...)
	})
	get := func(path string) (int, string) {
		r, _ := http.NewRequest("GET", b.url+path, nil)
		r.Header.Set("Authorization", "Bearer k")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode == 200 && (!json.Valid(text) || res.Header.Get("Content-Type") != "application/json") {
			t.Errorf("%s: %s", path, text)
		}
		return res.StatusCode, string(text)
	}
	if _, got := get("/v1/models"); got != `{"data":[{"id":"flux","size":12345678901234567890},{"id":"both"},{"id":"llama3"}],"extra":1,"object":"list"}`+"\n" {
		t.Errorf("models: %s", got)
	}
	if _, got := get("/api/tags"); got != `{"models":[{"name":"llama3","model":"llama3"}]}`+"\n" {
		t.Errorf("tags: %s", got)
	}
	if status, _ := get("/none"); status != http.StatusServiceUnavailable {
		t.Errorf("no list: %d", status)
	}
}
