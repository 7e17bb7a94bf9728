package backend_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
)

// completion is what a route makes of its own words and its backend's.
func completion(t *testing.T, route, of backend.CompletionConfig) *backend.Completion {
	t.Helper()
	return route.Over(of).Compile(func(path, problem string) { t.Fatalf("the test's own configuration: %s: %s", path, problem) })
}

func times(c backend.CompletionConfig) backend.CompletionConfig {
	c.Every, c.Timeout = time.Second, time.Minute
	return c
}

func TestACompletionAppliesToWhatAnEngineTakesIn(t *testing.T) {
	own := backend.CompletionConfig{Poll: "GET /jobs/{{.json.id}}", Until: `body.done`}
	for _, c := range []struct {
		name      string
		route, of backend.CompletionConfig
		request   string
		want      bool
	}{
		{"nothing is configured", backend.CompletionConfig{}, times(backend.CompletionConfig{}), "POST /prompt", false},
		{"ComfyUI's prompt", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "comfyui"}), "POST /prompt", true},
		{"its page's prompt", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "comfyui"}), "POST /api/prompt", true},
		{"its queue's length", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "comfyui"}), "GET /prompt", false},
		{"its uploads", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "comfyui"}), "POST /upload/image", false},
		{"Gradio's queue", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "gradio"}), "POST /gradio_api/queue/join", true},
		{"Gradio's plain calls", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "gradio"}), "POST /gradio_api/call/predict", true},
		{"Gradio's uploads", backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "gradio"}), "POST /gradio_api/upload", false},
		{"what is named", backend.CompletionConfig{}, times(backend.CompletionConfig{On: []string{"POST /jobs"}, Poll: own.Poll,
			Until: own.Until}), "POST /jobs", true},
		{"what is not named", backend.CompletionConfig{},
			times(backend.CompletionConfig{On: []string{"POST /jobs"}, Poll: own.Poll, Until: own.Until}), "POST /sync", false},
		{"a poll of one's own", backend.CompletionConfig{}, times(own), "PUT /anything", true},
		{"a poll of one's own, read", backend.CompletionConfig{}, times(own), "GET /anything", false},
		{"a route of its own", own, times(backend.CompletionConfig{Preset: "comfyui"}), "POST /anything", true},
		{"a route with none", backend.CompletionConfig{Preset: "none"}, times(own), "POST /anything", false},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		r := httptest.NewRequest(method, path, nil)
		if got := completion(t, c.route, c.of).Applies(r); got != c.want {
			t.Errorf("%s: %s: got %v, want %v", c.name, c.request, got, c.want)
		}
	}
}

func TestARouteTakesFromItsBackendWhatItDoesNotSay(t *testing.T) {
	of := times(backend.CompletionConfig{Preset: "comfyui", Cancel: "POST /interrupt"})
	one := completion(t, backend.CompletionConfig{Timeout: time.Hour}, of)
	if one.Every != time.Second || one.Timeout != time.Hour {
		t.Errorf("it looks every %v for %v, want every 1s for 1h", one.Every, one.Timeout)
	}
	job, err := one.Job("/prompt", []byte(`{"prompt_id": "a"}`))
	if err != nil || job.Poll.Target != "/history/a" || job.Cancel.Target != "/interrupt" {
		t.Errorf("got %+v, %v, want the backend's calls", job, err)
	}
	other := completion(t, backend.CompletionConfig{Poll: "GET /jobs/{{.json.id}}", Until: "body.done"}, of)
	job, err = other.Job("/x", []byte(`{"id": 1}`))
	if err != nil || job.Poll.Target != "/jobs/1" || job.Cancel.Method != "" || job.Gone.Method != "" {
		t.Errorf("got %+v, %v, want the route's own call alone", job, err)
	}
}

func TestAnAnswerFillsTheCalls(t *testing.T) {
	c := completion(t, backend.CompletionConfig{}, times(backend.CompletionConfig{
		Poll: "GET /jobs/{{ .json.job.id }}?of={{.json.user}}", Until: "body.done",
		Cancel: `POST /cancel {"id": "{{.json.job.id}}", "n": {{.json.n}}}`,
	}))
	job, err := c.Job("/x", []byte(`{"job": {"id": "a/b \"c\"?"}, "user": "x&y", "n": 12345678901234567890}`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (backend.Call{Method: "GET", Target: "/jobs/a%2Fb%20%22c%22%3F?of=x%26y"}); !reflect.DeepEqual(job.Poll, want) {
		t.Errorf("the poll is %+v, want %+v", job.Poll, want)
	}
	if want := (backend.Call{Method: "POST", Target: "/cancel",
		Body: `{"id": "a/b \"c\"?", "n": 12345678901234567890}`}); !reflect.DeepEqual(job.Cancel, want) {
		t.Errorf("the cancel call is %+v, want %+v", job.Cancel, want)
	}
	for _, answer := range []string{``, `[]`, `{}`, `{"job": 3, "user": "x"}`, `{"job": {"id": ".."}, "user": "x", "n": 1}`,
		`{"job": {"id": null}, "user": "x", "n": 1}`} {
		if job, err := c.Job("/x", []byte(answer)); err == nil {
			t.Errorf("%q tells of %+v, want no job", answer, job)
		}
	}
}

func TestComfyUISaysHowAPromptEnded(t *testing.T) {
	c := completion(t, backend.CompletionConfig{}, times(backend.CompletionConfig{Preset: "comfyui"}))
	job, err := c.Job("/prompt", []byte(`{"prompt_id": "a", "number": 3, "node_errors": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	for answer, want := range map[string][2]bool{
		`{}`:        {false, false},
		`not JSON`:  {false, false},
		`{"b": {}}`: {false, false},
		`{"a": {}}`: {true, false}, // from before there was a status
		`{"a": {"status": {"status_str": "success"}}}`: {true, false},
		`{"a": {"status": {"status_str": "error"}}}`:   {true, true},
	} {
		if ended, failed := job.Ended(200, []byte(answer)); ended != want[0] || failed != want[1] {
			t.Errorf("the history %s: got %v %v, want %v", answer, ended, failed, want)
		}
	}
	for answer, want := range map[string]bool{
		`{"queue_running": [[3, "a", {}]], "queue_pending": []}`: false,
		`{"queue_running": [], "queue_pending": [[3, "a", {}]]}`: false,
		`{"queue_running": [[2, "b", {}]], "queue_pending": []}`: true,
		`{"error": "busy"}`: false, ``: false,
	} {
		if got := job.Unknown(200, []byte(answer)); got != want {
			t.Errorf("the queue %s: unknown %v, want %v", answer, got, want)
		}
	}
}

func TestAskingPassesTheBreakerBy(t *testing.T) {
	broken := true
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken {
			w.WriteHeader(500)
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	defer s.Close()
	b, err := backend.New(t.Context(), "flux", backend.Config{URL: s.URL, Breaker: backend.BreakerConfig{Failures: 1, Open: time.Hour}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ask := func() (int, string, error) {
		status, answer, err := b.Ask(t.Context(), backend.Call{Method: "GET", Target: "/jobs/1"}, "", http.Header{"Authorization": {"secret"}})
		return status, string(answer), err
	}
	if status, _, err := ask(); status != 500 || err != nil {
		t.Errorf("got %d, %v, want 500", status, err)
	}
	if _, counted := b.Failures(); counted != 0 {
		t.Error("the breaker counted it")
	}
	b.TripBreaker()
	broken = false
	if status, answer, err := ask(); status != 200 || answer != "GET /jobs/1 secret" || err != nil || b.State() != "open" {
		t.Errorf("got %d %q, %v and a breaker that is %s, want the answer while it is open", status, answer, err, b.State())
	}
}
