package proxy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// aliased has a route on which the clients' gpt-4o is the backend's own "a \"model\"".
func aliased(t *testing.T, backend http.HandlerFunc) *box {
	return open(t, backend, func(s *proxy.Setup) {
		s.Proxy.Limits.BodyMemory = 4 << 10
		s.Routing.Routes = []routing.RouteConfig{
			{Name: "alias", Match: routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/v1/chat"}, Model: routing.Texts{"gpt-4o"}},
				Class: "light", Backend: "quick", RewriteModel: `a "model"`},
			{Name: "every", Match: routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/v1/any"}}, Class: "light",
				Backend: "quick", RewriteModel: "m"},
			{Name: "own", Match: routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/v1/chat"}}, Class: "light", Backend: "quick"},
			{Name: "rest", Match: routing.MatchConfig{Path: routing.Texts{"/**"}}, Pass: true, Backend: "quick"},
		}
	})
}

func TestTheModelOfABodyGetsTheBackendsName(t *testing.T) {
	b := aliased(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if int64(len(body)) != r.ContentLength {
			t.Errorf("%d bytes came, %d were announced", len(body), r.ContentLength)
		}
		if r.Header.Get("Content-Digest") != "" {
			fmt.Fprint(w, "digest ")
		}
		w.Write(body)
	})
	send := func(path, kind, body string) (int, string) {
		r, _ := http.NewRequest("POST", b.url+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Content-Digest", "sha-256=:AAAA:")
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(text)
	}
	const kind, form = "application/json", "application/x-www-form-urlencoded"
	long := strings.Repeat("x", 100<<10) // in a file
	parts := func(model, more string) (string, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		w.SetBoundary("BOUNDARY")
		w.WriteField("before", more)
		w.WriteField("model", model)
		file, _ := w.CreateFormFile("file", "a.wav")
		io.WriteString(file, "model=gpt-4o"+more)
		w.Close()
		return w.FormDataContentType(), b.String()
	}
	multi, small := parts("gpt-4o", "")
	_, smallNow := parts(`a "model"`, "")
	_, large := parts("gpt-4o", long)
	_, largeNow := parts(`a "model"`, long)
	for name, c := range map[string]struct{ path, kind, body, want string }{
		"JSON":              {"/v1/chat", kind, `{"x": "gpt-4o", "model" : "gpt-4o", "y": 1}`, `{"x": "gpt-4o", "model" : "a \"model\"", "y": 1}`},
		"JSON with escapes": {"/v1/chat", kind, `{"model":"gpt\u002d4o"}`, `{"model":"a \"model\""}`},
		"JSON in a file": {"/v1/chat", kind, `{"x":"` + long + `","model":"gpt-4o","y":"` + long + `"}`, `{"x":"` + long +
			`","model":"a \"model\"","y":"` + long + `"}`},
		"JSON as curl sends it": {"/v1/chat", form, `{"model":"gpt-4o"}`, `{"model":"a \"model\""}`},
		"a form":                {"/v1/chat", form, "a=b&model=gpt-4o&c=d", "a=b&model=a+%22model%22&c=d"},
		"a form with files":     {"/v1/chat", multi, small, smallNow},
		"a form in a file":      {"/v1/chat", multi, large, largeNow},
		"any model":             {"/v1/any", kind, `{"model":"whatever"}`, `{"model":"m"}`},
		"no model":              {"/v1/any", kind, `{"x":1}`, `digest {"x":1}`},
		"its own name":          {"/v1/any", kind, `{"model":"m"}`, `digest {"model":"m"}`},
		"a model of no alias":   {"/v1/chat", kind, `{"model":"llama3"}`, `digest {"model":"llama3"}`},
	} {
		if status, got := send(c.path, c.kind, c.body); status != 200 || got != c.want {
			t.Errorf("%s: %d, %.300s\nwant %.300s", name, status, got, c.want)
		}
	}
	for name, c := range map[string]struct{ path, kind, body string }{
		"twice in JSON":        {"/v1/any", kind, `{"model":"a","model":"b"}`},
		"twice in a form":      {"/v1/any", form, `model=a&model=a`},
		"in other letters too": {"/v1/any", kind, `{"model":"a","Model":"b"}`},
		"that is a number":     {"/v1/any", kind, `{"model":1}`},
		"of no JSON":           {"/v1/any", kind, `{"model":`},
	} {
		if status, got := send(c.path, c.kind, c.body); status != http.StatusBadRequest || !strings.Contains(got, "no single meaning") {
			t.Errorf("%s: %d, %s, want 400", name, status, got)
		}
	}
}

func TestModelsAreListedByTheirOtherNamesToo(t *testing.T) {
	b := aliased(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/models" {
			fmt.Fprint(w, `{"object":"list","data":[{"id":"a \"model\"","size":3},{"id":"other"}]}`)
		} else {
			fmt.Fprint(w, `{"models":[{"name":"a \"model\":latest","model":"a \"model\":latest"}]}`)
		}
	})
	names := func(path string) (all []string) {
		res, err := http.Get(b.url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var list struct {
			Data, Models []struct{ ID, Name, Model string }
		}
		if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
			t.Fatal(err)
		}
		for _, m := range append(list.Data, list.Models...) {
			all = append(all, url.QueryEscape(m.ID+m.Name))
		}
		return all
	}
	for path, want := range map[string]string{
		"/v1/models": "a+%22model%22 gpt-4o other",
		"/api/tags":  "a+%22model%22%3Alatest gpt-4o",
	} {
		if got := strings.Join(names(path), " "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
