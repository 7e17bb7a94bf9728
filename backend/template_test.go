package backend

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestACallHasTheValuesInItsPlaces(t *testing.T) {
	answer := map[string]any{"id": "a/b", "job": map[string]any{"n": json.Number("12345678901234567890"), "ok": true}, "dots": ".."}
	for _, c := range []struct {
		line, body, places string
		want               Call
	}{
		{"GET /jobs/{{.json.id}}", "", ofAnswers, Call{Method: "GET", Target: "/jobs/a%2Fb"}},
		{"GET /jobs?id={{ .json.id }}&ok={{.json.job.ok}}", "", ofAnswers, Call{Method: "GET", Target: "/jobs?id=a%2Fb&ok=true"}},
		{`POST /cancel {"id":"{{.json.id}}","n":{{.json.job.n}}}`, "", ofAnswers,
			Call{Method: "POST", Target: "/cancel", Body: `{"id":"a/b","n":12345678901234567890}`}},
		{"POST /models/{{model}}/unload?name={{model}}", `{"model":"{{ model }}"}`, ofModels,
			Call{Method: "POST", Target: "/models/x%20%22/unload?name=x+%22", Body: `{"model":"x \""}`}},
		{"POST /free", "all=yes", ofModels, Call{Method: "POST", Target: "/free", Body: "all=yes"}},
	} {
		parsed, err := parseCall(c.line, c.places, "GET /x")
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		if c.body != "" {
			parsed.body = pieces(c.body)
		}
		if got, err := parsed.fill(values{model: `x "`, json: answer}); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: got %+v, %v; want %+v", c.line, got, err, c.want)
		}
	}
	for line, says := range map[string]string{
		"GET /jobs/{{.json.dots}}": `json.dots is "..", which is no part of a path`,
		"GET /jobs/{{.json.job}}":  "the answer has no job",
		"GET /jobs?x={{.json.no}}": "the answer has no no",
	} {
		parsed, err := parseCall(line, ofAnswers, "GET /x")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := parsed.fill(values{json: answer}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %+v, %v; want %s", line, got, err, says)
		}
	}
}

// TestAPlaceWithoutAValueIsAMistake: a call that frees memory has no answer to take
// values of, and one of a job has no list of models.
func TestAPlaceWithoutAValueIsAMistake(t *testing.T) {
	for _, c := range [][3]string{
		{"POST /unload/{{.json.id}}", ofModels, "{{.json.id}} has no value here"},
		{"GET /jobs/{{model}}", ofAnswers, "{{model}} has no value here"},
		{"GET /jobs/{{.body.id}}", ofAnswers, "cannot be read"},
		{"POST /unload/{{models}}", ofModels, "want {{model}}"},
		{"TRACE /x", ofAnswers, "TRACE is no method"},
	} {
		if _, err := parseCall(c[0], c[1], "GET /x"); err == nil || !strings.Contains(err.Error(), c[2]) {
			t.Errorf("%q: got %v, want %s", c[0], err, c[2])
		}
	}
}

// TestACallsPathIsClosed, whatever stands in it.
func TestACallsPathIsClosed(t *testing.T) {
	for call, want := range map[string]string{
		"POST /free": "/free", "POST /free/": "/free", "POST /free?deep=1": "/free", "POST /": "/{$}",
		"POST /models/{{model}}/unload": "/models/{any1}/unload", "POST /a%20b/%2Fc": "/a b/{any1}", "POST /%ff": "/{any0}",
	} {
		got := Config{Reclaim: ReclaimConfig{Call: call}}.Controls()
		if len(got) != 1 || got[0] != (Control{"POST", want}) {
			t.Errorf("%s: got %+v, want POST %s", call, got, want)
		}
	}
}
