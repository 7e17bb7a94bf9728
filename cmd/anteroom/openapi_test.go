package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// api is docs/openapi.yaml beside a server, with the operations that were tried.
type api struct {
	t      *testing.T
	file   map[string]any
	schema *jsonschema.Compiler
	tried  map[string]bool
}

func openAPI(t *testing.T) *api {
	t.Helper()
	text, err := os.ReadFile("../../docs/openapi.yaml")
	must(t, err)
	a := &api{t: t, schema: jsonschema.NewCompiler(), tried: map[string]bool{}}
	must(t, yaml.Unmarshal(text, &a.file))
	plain, err := json.Marshal(a.file)
	must(t, err)
	file, err := jsonschema.UnmarshalJSON(strings.NewReader(string(plain)))
	must(t, err)
	closeObjects(file)
	must(t, a.schema.AddResource("api.json", file))
	a.schema.AssertFormat()
	return a
}

// closeObjects lets no object of the file have a property that it does not name: a client
// has to bear with others, and a test has not.
func closeObjects(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			closeObjects(x)
		}
	case map[string]any:
		for _, x := range v {
			closeObjects(x)
		}
		if properties, ok := v["properties"].(map[string]any); ok && v["type"] == "object" && len(properties) > 0 {
			v["additionalProperties"] = false
		}
	}
}

// at is what stands in the file at some keys; nil: nothing.
func (a *api) at(keys ...string) any {
	var v any = a.file
	for _, key := range keys {
		object, _ := v.(map[string]any)
		v = object[key]
		object, _ = v.(map[string]any)
		if ref, ok := object["$ref"].(string); ok {
			v = a.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
		}
	}
	return v
}

// valid says whether JSON is as the file has it at a place.
func (a *api) valid(what, place, text string) {
	a.t.Helper()
	schema, err := a.schema.Compile("api.json#" + place)
	must(a.t, err)
	value, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err == nil {
		err = schema.Validate(value)
	}
	if err != nil {
		a.t.Errorf("%s: %v: %.2000s", what, err, text)
	}
}

// call makes the call of an operation, with arguments for its path and a query, and holds
// the answer against the file.
func (a *api) call(base, operation string, status int, with ...string) string {
	a.t.Helper()
	method, path, _ := strings.Cut(operation, " ")
	target := path
	for _, w := range with {
		if from, to := strings.IndexByte(target, '{'), strings.IndexByte(target, '}'); from >= 0 {
			target = target[:from] + w + target[to+1:]
		} else {
			target += w
		}
	}
	r, err := http.NewRequest(method, base+target, nil)
	must(a.t, err)
	if body, _ := a.at("paths", path, strings.ToLower(method), "requestBody").(map[string]any); body != nil {
		r.Body = io.NopCloser(strings.NewReader(`{"token": "secret"}`))
	}
	r.Header.Set("Authorization", "Bearer secret")
	if status == 401 {
		r.Header.Set("Authorization", "Bearer guessed")
	}
	res, err := http.DefaultClient.Do(r)
	must(a.t, err)
	defer res.Body.Close()
	what := method + " " + target
	answers, _ := a.at("paths", path, strings.ToLower(method), "responses").(map[string]any)
	answer, listed := answers[fmt.Sprint(status)]
	if res.StatusCode != status || !listed {
		text, _ := io.ReadAll(res.Body)
		a.t.Fatalf("%s: %s %s, want %d; in the file: %v", what, res.Status, text, status, listed)
	}
	a.tried[operation] = true
	place := fmt.Sprintf("/paths/%s/%s/responses/%d", strings.ReplaceAll(path, "/", "~1"), strings.ToLower(method), status)
	if ref, ok := answer.(map[string]any)["$ref"].(string); ok {
		place, answer = strings.TrimPrefix(ref, "#"), a.at(strings.Split(strings.TrimPrefix(ref, "#/"), "/")...)
	}
	content, _ := answer.(map[string]any)["content"].(map[string]any)
	if len(content) == 0 {
		if text, _ := io.ReadAll(res.Body); len(text) > 0 {
			a.t.Errorf("%s answers %s, and nothing in the file", what, text)
		}
		return ""
	}
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if _, ok := content[kind]; err != nil || !ok {
		a.t.Errorf("%s answers with %q, which is not in the file", what, res.Header.Get("Content-Type"))
		return ""
	}
	place += "/content/" + strings.ReplaceAll(kind, "/", "~1")
	if kind == "text/event-stream" {
		a.events(what, place, res.Body)
		return ""
	}
	text, err := io.ReadAll(res.Body)
	must(a.t, err)
	if strings.HasSuffix(kind, "json") {
		a.valid(what, place+"/schema", string(text))
	}
	return string(text)
}

// events reads a stream until each of its events has come, and holds them against the
// file.
func (a *api) events(what, place string, stream io.Reader) {
	a.t.Helper()
	wanted := map[string]bool{"snapshot": true, "state": true, "request": true, "decision": true, "sample": true}
	lines := bufio.NewReader(stream)
	for name := ""; len(wanted) > 0; {
		line, err := lines.ReadString('\n')
		must(a.t, err)
		field, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			a.valid(what+": "+name, place+"/x-events/"+name, value)
			delete(wanted, name)
		}
	}
}

// TestAnswersAreAsTheOpenAPIFileHasThem calls each operation of it at a process that has
// run, runs and waits.
func TestAnswersAreAsTheOpenAPIFileHasThem(t *testing.T) {
	model, arrived, open := gated(t)
	t.Setenv("ANTEROOM_ADMIN__TOKEN", "secret")
	s := serveProcess(t, model)
	a := openAPI(t)
	operator := newClient(s.admin, "secret")
	const id = "00112233445566778899aabbccddeeff"
	posts(t, s.url, 2)
	<-arrived
	<-arrived
	must(t, operator.post("/api/classes/work/pause", "for a test"))
	go func() {
		r, _ := http.NewRequest("POST", s.url+"/waits", strings.NewReader("x"))
		r.Header.Set("X-Anteroom-Queue-Id", id)
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
		}
	}()
	posts(t, s.url, 1)
	var queue admin.Queue
	for len(queue.Waiting) < 2 {
		must(t, operator.get("/api/queue", &queue))
	}
	waiting := fmt.Sprint(queue.Waiting[0].ID)
	var state admin.State
	must(t, operator.get("/api/state", &state))
	running := fmt.Sprint(state.Running[0].ID)

	for _, c := range []struct {
		operation string
		status    int
		with      []string
	}{
		{"GET /livez", 200, nil}, {"GET /readyz", 200, nil}, {"GET /readyz", 200, []string{"?verbose"}}, {"GET /metrics", 200, nil},
		{"GET /api/state", 200, nil}, {"GET /api/state", 401, nil},
		{"GET /api/queue", 200, nil}, {"GET /api/queue", 400, []string{"?limit=0"}},
		{"GET /api/queue/{id}", 200, []string{waiting}}, {"GET /api/queue/{id}", 404, []string{"999999"}},
		{"GET /.well-known/anteroom/queue/{id}", 200, []string{id}}, {"GET /.well-known/anteroom/queue/{id}", 404, []string{strings.Repeat("0", 32)}},
		{"GET /api/backends", 200, nil}, {"GET /api/learned", 200, nil}, {"GET /api/config", 200, nil},
		{"GET /api/session", 200, nil}, {"POST /api/session", 200, nil}, {"DELETE /api/session", 204, nil},
		{"POST /api/grants/{id}/release", 204, []string{running}}, {"POST /api/grants/{id}/release", 404, []string{running}},
		{"GET /api/history", 200, []string{"?for=1m"}}, {"GET /api/history", 400, []string{"?for=x"}},
		{"GET /api/decisions", 200, nil}, {"GET /api/events", 200, []string{"?for=1m&state=250ms"}}, {"GET /api/events", 400, []string{"?state=1ms"}},
		{"GET /api/record", 200, nil}, {"GET /api/record", 200, []string{"?format=trace"}}, {"GET /api/record", 400, []string{"?format=none"}},
		{"POST /api/queue/{id}/cancel", 204, []string{waiting}}, {"POST /api/queue/{id}/cancel", 404, []string{waiting}},
		{"POST /api/classes/{name}/pause", 204, []string{"work", "?reason=why"}}, {"POST /api/classes/{name}/pause", 404, []string{"none"}},
		{"POST /api/classes/{name}/pause", 401, []string{"work"}},
		{"POST /api/classes/{name}/resume", 204, []string{"work"}},
		{"POST /api/backends/{name}/drain", 204, []string{"model"}}, {"POST /api/backends/{name}/resume", 204, []string{"model"}},
		{"POST /api/backends/{name}/reclaim", 409, []string{"model"}}, {"POST /api/backends/{name}/reclaim", 404, []string{"none"}},
		{"POST /api/backends/{name}/wake", 202, []string{"model"}}, {"POST /api/backends/{name}/wake", 404, []string{"none"}},
		{"POST /api/backends/{name}/breaker/close", 204, []string{"model"}}, {"POST /api/backends/{name}/breaker/reset", 204, []string{"model"}},
		{"POST /api/learned/{name}/forget", 204, []string{"routes%5B0%5D"}}, {"POST /api/reload", 204, nil},
	} {
		base := s.admin
		if strings.Contains(c.operation, "well-known") {
			base = s.url
		}
		if strings.Contains(c.operation, "/api/history") && c.status == 200 { // something has ended
			open()
			for ended := ""; !strings.Contains(ended, `"result":"ok"`); {
				var text json.RawMessage
				must(t, operator.get("/api/history", &text))
				ended = string(text)
			}
		}
		a.call(base, c.operation, c.status, c.with...)
	}
	a.call(s.admin, "GET /api/compare", 200)
	var missing []string
	for path, methods := range a.file["paths"].(map[string]any) {
		for method := range methods.(map[string]any) {
			if operation := strings.ToUpper(method) + " " + path; !a.tried[operation] {
				missing = append(missing, operation)
			}
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		t.Errorf("not tried: %v", missing)
	}
}
