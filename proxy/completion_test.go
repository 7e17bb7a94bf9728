package proxy_test

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// comfy is a ComfyUI: it answers at once, and draws until a test says that it
// is done.
type comfy struct {
	mu      sync.Mutex
	next    int
	drawing map[string]bool // guarded by mu
	history map[string]any  // guarded by mu
	most    int             // guarded by mu; drawn at once, ever
	calls   []string        // guarded by mu; beside prompts and polls
	asked   []*http.Request // guarded by mu; polls
	slips   bool            // guarded by mu; what is drawn ends when the queue is asked

	arrived chan string
	answer  chan struct{} // nil: prompts are answered at once
}

func newComfy() *comfy {
	return &comfy{drawing: map[string]bool{}, history: map[string]any{}, arrived: make(chan string, 100)}
}

func (c *comfy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	id, poll := strings.CutPrefix(r.URL.Path, "/history/")
	switch {
	case r.Method == "POST" && r.URL.Path == "/prompt":
		switch string(body) {
		case "bad":
			w.WriteHeader(400)
			io.WriteString(w, `{"error": "bad", "node_errors": {}}`)
			return
		case "no id":
			io.WriteString(w, `{"node_errors": {}}`)
			return
		}
		c.next++
		id := fmt.Sprint("job-", c.next)
		c.drawing[id] = true
		c.most = max(c.most, len(c.drawing))
		c.arrived <- id
		if c.answer != nil {
			c.mu.Unlock()
			<-c.answer
			c.mu.Lock()
		}
		if r.Header.Get("Accept-Encoding") != "" {
			w.Header().Set("Content-Encoding", "gzip") // which nobody in between could read
			c := gzip.NewWriter(w)
			fmt.Fprintf(c, `{"prompt_id": %q}`, id)
			c.Close()
			return
		}
		fmt.Fprintf(w, `{"prompt_id": %q, "number": %d, "node_errors": {}}`, id, c.next)
	case poll:
		c.asked = append(c.asked, r)
		found := map[string]any{}
		if h, ok := c.history[id]; ok {
			found[id] = h
		}
		json.NewEncoder(w).Encode(found)
	case r.URL.Path == "/queue":
		for id := range c.drawing {
			if c.slips {
				c.end(id, "success")
			}
		}
		running := [][]any{}
		for id := range c.drawing {
			running = append(running, []any{1, id, map[string]any{}})
		}
		json.NewEncoder(w).Encode(map[string]any{"queue_running": running, "queue_pending": []any{}})
	default:
		c.calls = append(c.calls, r.Method+" "+r.URL.Path+" "+string(body))
	}
}

// finish is the end of a job.
func (c *comfy) finish(id, status string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(id, status)
}

// end is finish under mu. What more it says comes with the status.
func (c *comfy) end(id, status string) {
	delete(c.drawing, id)
	status, message, _ := strings.Cut(status, ": ")
	c.history[id] = map[string]any{"status": map[string]any{"status_str": status, "messages": []string{message}, "completed": status == "success"}}
}

// lose takes a job out without a trace.
func (c *comfy) lose(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.drawing, id)
}

// polled waits until the engine has been asked n times more.
func (c *comfy) polled(t testing.TB, n int) {
	t.Helper()
	count := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.asked)
	}
	from := count()
	eventually(t, "it is asked", func() bool { return count() >= from+n })
}

func (c *comfy) called() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// drawn is how many were drawn at once.
func (c *comfy) drawn() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.most
}

// asComfy routes ComfyUI's prompts to the slow backend, as heavy work.
func asComfy(change ...func(*backend.CompletionConfig)) func(*proxy.Setup) {
	return func(s *proxy.Setup) {
		setBackend(s, "slow", func(b *backend.Config) {
			b.Completion = backend.CompletionConfig{Preset: "comfyui", Every: time.Millisecond, Timeout: time.Minute}
			for _, c := range change {
				c(&b.Completion)
			}
		})
		s.Routing.Routes = append(s.Routing.Routes, routing.RouteConfig{Name: "prompt",
			Match: routing.MatchConfig{Path: routing.Texts{"/prompt"}}, Class: "heavy", Backend: "slow"})
	}
}

const interrupt = `POST /interrupt {"prompt_id": "{{.json.prompt_id}}"}`

func interrupts(c *backend.CompletionConfig) { c.Cancel = interrupt }

func TestAJobHoldsItsGrantToItsRealEnd(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy())
	res, got := b.do("POST", "/prompt", "{}", "Authorization", "Bearer key", "Accept-Encoding", "gzip")
	if want := `{"prompt_id": "job-1", "number": 1, "node_errors": {}}`; got != want || res.StatusCode != 200 {
		t.Errorf("the caller got %d %s, want 200 %s", res.StatusCode, got, want)
	}
	if timing := res.Header.Get("Server-Timing"); !strings.Contains(timing, "wait;") || strings.Contains(timing, "execute") {
		t.Errorf("Server-Timing is %q, want the wait and no end of what goes on", timing)
	}
	first := <-c.arrived
	second := make(chan string, 1)
	go func() {
		_, got := b.do("POST", "/prompt", "{}")
		second <- got
	}()
	eventually(t, "the second waits", func() bool { return b.waiting() == 1 })
	c.polled(t, 20)
	if b.running() != 1 || b.waiting() != 1 {
		t.Errorf("%d run and %d wait while the first is drawn, want 1 and 1", b.running(), b.waiting())
	}
	c.mu.Lock()
	if key := c.asked[0].Header.Get("Authorization"); key != "Bearer key" {
		t.Errorf("the engine was asked with the key %q, want the caller's", key)
	}
	c.mu.Unlock()
	if n := b.metric(`anteroom_request_execution_seconds_count{anteroom_backend="slow",anteroom_class="heavy",anteroom_result="ok"`); n != "" {
		t.Errorf("%s executions have ended while the first is drawn", n)
	}
	c.finish(first, "success")
	if got := <-second; !strings.Contains(got, "job-2") {
		t.Errorf("the second got %s", got)
	}
	c.finish(<-c.arrived, "error")
	eventually(t, "all grants are back", func() bool { return b.running() == 0 })
	if n := c.drawn(); n != 1 {
		t.Errorf("%d were drawn at once, want 1", n)
	}
	b.executed("ok")
	b.executed("failed")
}

// executed waits until one heavy execution has ended with that result.
func (b *box) executed(result string) {
	b.t.Helper()
	eventually(b.t, "an execution is counted as "+result, func() bool {
		return b.metric(`anteroom_request_execution_seconds_count{anteroom_backend="slow",anteroom_class="heavy",anteroom_result="`+result+`"`) == "1"
	})
}

func TestAJobThatRunsOutOfMemoryIsCounted(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy(), func(s *proxy.Setup) {
		setBackend(s, "slow", func(b *backend.Config) { b.OOMPatterns, b.RetryOOM = []string{"CUDA out of memory"}, true })
	})
	b.do("POST", "/prompt", "{}")
	c.finish(<-c.arrived, "error: CUDA out of memory")
	b.executed("failed")
	if got := b.metric(`anteroom_oom_total{anteroom_backend="slow",anteroom_result="passed"`); got != "1" {
		t.Errorf("%q are counted, want 1", got)
	}
	b.do("POST", "/prompt", "{}")
	c.finish(<-c.arrived, "success: of a prompt about CUDA out of memory")
	b.executed("ok")
	if got := b.metric(`anteroom_oom_total{anteroom_backend="slow",anteroom_result="passed"`); got != "1" || c.next != 2 {
		t.Errorf("%q are counted after %d prompts, want 1 after 2", got, c.next)
	}
}

// TestAJobEndsHoweverLongItsHistoryIs has one that repeats a workflow with
// pictures in it, whose text says what an error would.
func TestAJobEndsHoweverLongItsHistoryIs(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy(), func(s *proxy.Setup) {
		setBackend(s, "slow", func(b *backend.Config) { b.OOMPatterns = []string{"CUDA out of memory"} })
	})
	b.do("POST", "/prompt", "{}")
	id := <-c.arrived
	c.mu.Lock()
	delete(c.drawing, id)
	c.history[id] = map[string]any{
		"prompt":  []any{1, id, map[string]any{"6": strings.Repeat("CUDA out of memory ", 1<<20)}},
		"outputs": map[string]any{"9": strings.Repeat("x", 1<<20)},
		"status": map[string]any{"status_str": "error", "completed": false,
			"messages": []any{[]any{"execution_error", map[string]any{"current_inputs": "CUDA out of memory", "exception_message": "interrupted"}}}},
	}
	c.mu.Unlock()
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	var l struct {
		Routes []struct {
			OutOfMemory int `json:"out_of_memory"`
		} `json:"routes"`
	}
	b.ask("GET", "/api/learned", &l)
	for _, r := range l.Routes {
		if r.OutOfMemory != 0 {
			t.Errorf("what the user wrote counts as an error: %+v", l)
		}
	}
}

func TestAJobThatEndsBetweenTwoLooksHasEndedWell(t *testing.T) {
	c := newComfy()
	c.slips = true
	b := open(t, c, asComfy())
	b.do("POST", "/prompt", "{}")
	b.executed("ok")
}

func TestAnAnswerWithoutAJobIsTheEnd(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy())
	for body, status := range map[string]int{"bad": 400, "no id": 200} {
		if res, _ := b.do("POST", "/prompt", body); res.StatusCode != status || res.Header.Get("Server-Timing") == "" {
			t.Errorf("%s: got %d, want the engine's %d", body, res.StatusCode, status)
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
	// What else the backend serves ends with its answer.
	b.do("POST", "/slow/free", "{}")
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
}

func TestAJobThatDoesNotEndIsGivenUp(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy(func(c *backend.CompletionConfig) { c.Timeout = 50 * time.Millisecond }))
	b.do("POST", "/prompt", "{}")
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	eventually(t, "the log says so", func() bool { return strings.Contains(b.logs.String(), "did not end within completion.timeout") })
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.drawing) != 1 {
		t.Errorf("%d are drawn, want the one that goes on", len(c.drawing))
	}
}

func TestAJobThatTheEngineForgotIsOver(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy())
	b.do("POST", "/prompt", "{}")
	id := <-c.arrived
	c.polled(t, 20)
	if b.running() != 1 {
		t.Errorf("%d grants while it is drawn, want 1", b.running())
	}
	c.lose(id)
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	b.executed("failed")
}

func TestAJobEndsWithItsBackend(t *testing.T) {
	c := newComfy()
	engine := httptest.NewServer(c)
	b := openAt(t, engine.URL, asComfy())
	b.do("POST", "/prompt", "{}")
	c.polled(t, 3)
	engine.CloseClientConnections()
	engine.Close()
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	if !strings.Contains(b.logs.String(), "a job's backend is gone") {
		t.Errorf("the log does not tell of it: %s", b.logs)
	}
}

func TestAJobWhoseCallerLeftWithoutTheAnswer(t *testing.T) {
	for name, want := range map[string][]string{"is cancelled once": {`POST /interrupt {"prompt_id": "job-1"}`},
		"goes on where it cannot be cancelled": nil} {
		t.Run(name, func(t *testing.T) {
			c := newComfy()
			c.answer = make(chan struct{})
			change := func(*backend.CompletionConfig) {}
			if want != nil {
				change = interrupts
			}
			b := open(t, c, asComfy(change), func(s *proxy.Setup) {
				setBackend(s, "slow", func(b *backend.Config) { b.Cancel = "aborts" }) // a submit is never aborted
			})
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				if res, err := b.client.Do(b.request(ctx, "POST", "/prompt", "{}")); err == nil {
					res.Body.Close()
				}
			}()
			id := <-c.arrived
			cancel()
			<-gone
			eventually(t, "the proxy has seen it", func() bool { return strings.Contains(b.logs.String(), `"status":499`) })
			close(c.answer)
			c.polled(t, 1)
			eventually(t, "the cancel call", func() bool { return len(c.called()) == len(want) })
			c.polled(t, 10)
			if b.running() != 1 {
				t.Errorf("%d grants while it is drawn, want 1", b.running())
			}
			c.finish(id, "error")
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			if got := c.called(); !slices.Equal(got, want) {
				t.Errorf("the engine was called %q, want %q", got, want)
			}
		})
	}
}

func TestAJobThatTakesTooLongIsCancelledOnce(t *testing.T) {
	unhurried(t, func(t *testing.T, limit time.Duration) bool {
		c := newComfy()
		b := open(t, c, asComfy(interrupts), func(s *proxy.Setup) {
			class(s, "heavy", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
		})
		if res, _ := b.do("POST", "/prompt", "{}"); res.StatusCode != http.StatusOK {
			return false
		}
		c.cancelledOnce(b)
		return true
	})
}

func TestAJobThatWasLateBeforeItsAnswerIsCancelledOnce(t *testing.T) {
	unhurried(t, func(t *testing.T, limit time.Duration) bool {
		c := newComfy()
		c.answer = make(chan struct{})
		b := open(t, c, asComfy(interrupts), func(s *proxy.Setup) {
			class(s, "heavy", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
		})
		if res, _ := b.do("POST", "/prompt", "{}"); res.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("got %d, want 504", res.StatusCode)
		}
		close(c.answer) // now it is late, and nobody knows of it
		if len(c.arrived) == 0 {
			return false
		}
		c.cancelledOnce(b)
		return true
	})
}

// cancelledOnce waits for the cancel call of the first job, and sees that it keeps its
// grant until its end.
func (c *comfy) cancelledOnce(b *box) {
	b.t.Helper()
	eventually(b.t, "the cancel call", func() bool { return len(c.called()) > 0 })
	c.polled(b.t, 10)
	if got, want := c.called(), []string{`POST /interrupt {"prompt_id": "job-1"}`}; !slices.Equal(got, want) || b.running() != 1 {
		b.t.Errorf("the engine was called %q with %d grants held, want %q and 1", got, b.running(), want)
	}
	c.finish(<-c.arrived, "error")
	eventually(b.t, "the grant is back", func() bool { return b.running() == 0 })
}

func TestAJobsGrantCanBeGivenBackByHand(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy(interrupts))
	b.do("POST", "/prompt", "{}")
	id := b.controller.Running()[0].ID
	res, err := b.client.Post(fmt.Sprintf("%s/api/grants/%d/release", b.server.AdminURL(), id), "", nil)
	if err != nil || res.StatusCode != http.StatusNoContent || b.running() != 0 {
		t.Fatalf("got %v, %v with %d grants held, want 204 and none", res, err, b.running())
	}
	res.Body.Close()
	b.executed("cancelled")
	if got := c.called(); len(got) != 0 {
		t.Errorf("the engine was called %q, want no call: an operator says that it is over", got)
	}
}

func TestADrainWaitsForAJob(t *testing.T) {
	c := newComfy()
	b := open(t, c, asComfy())
	b.do("POST", "/prompt", "{}")
	drained := make(chan error, 1)
	go func() { drained <- b.controller.Drain(t.Context(), true) }()
	c.polled(t, 10)
	select {
	case err := <-drained:
		t.Fatalf("the drain ended with %v while a job is drawn", err)
	default:
	}
	c.finish(<-c.arrived, "success")
	if err := <-drained; err != nil {
		t.Errorf("the drain ended with %v, want nil", err)
	}
}

// gradio is a Gradio app: events come by one stream for each session.
type gradio struct {
	mu       sync.Mutex
	sessions map[string]chan string // guarded by mu
	joined   chan string
	next     int // guarded by mu
}

func (g *gradio) stream(session string) chan string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[session] == nil {
		g.sessions[session] = make(chan string, 100)
	}
	return g.sessions[session]
}

func (g *gradio) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case r.Method == "POST":
		io.Copy(io.Discard, r.Body)
		g.mu.Lock()
		g.next++
		id := fmt.Sprint("event-", g.next)
		g.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"event_id": %q}`, id)
		g.joined <- id
	case strings.HasSuffix(path, "/queue/data"), strings.Contains(path, "/call/"):
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		for text := range g.stream(path + r.URL.Query().Get("session_hash")) {
			io.WriteString(w, text)
			http.NewResponseController(w).Flush()
		}
	}
}

func TestGradiosOwnEventsEndAJob(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	for name, c := range map[string]struct {
		join, events, session string
		before, end           string
	}{
		"of a queue": {"/queue/join", "/gradio/queue/data", "s1",
			`data: {"msg":"process_starts","event_id":"event-1"}` + "\n\n" + `data: {"msg":"process_completed","event_id":"event-7","output":{}}` + "\n\n",
			`data: {"msg":"process_completed","event_id":"event-1","output":{"data":["` + large + `"]},"success":true}` + "\n\n"},
		"of a plain call": {"/call/draw", "/gradio/call/draw/event-1", "",
			"event: generating\ndata: [\"complete\"]\n\n", "event: complete\ndata: [\"" + large + "\"]\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gradio{sessions: map[string]chan string{}, joined: make(chan string, 10)}
			b := open(t, g, func(s *proxy.Setup) {
				setBackend(s, "slow", func(b *backend.Config) {
					b.Completion = backend.CompletionConfig{Preset: "gradio", Every: time.Millisecond, Timeout: time.Minute}
				})
				s.Routing.Routes = append([]routing.RouteConfig{
					{Name: "events", Match: routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/gradio/**"}}, Pass: true, Backend: "slow"},
					{Name: "join", Match: routing.MatchConfig{Path: routing.Texts{"/gradio/**"}}, Class: "heavy", Backend: "slow"},
				}, s.Routing.Routes...)
			})
			if _, got := b.do("POST", "/gradio"+c.join, "{}"); got != `{"event_id": "event-1"}` {
				t.Fatalf("the caller got %s", got)
			}
			<-g.joined
			res, err := b.client.Do(b.request(t.Context(), "GET", c.events+"?session_hash="+c.session, ""))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			events := g.stream(c.events + c.session)
			defer close(events)
			read := func(want string) {
				t.Helper()
				got := make([]byte, len(want))
				if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want {
					t.Fatalf("the client read %.100q, %v, want %.100q", got, err, want)
				}
			}
			events <- c.before
			read(c.before)
			if b.running() != 1 {
				t.Errorf("%d grants while it works, want 1", b.running())
			}
			events <- c.end
			read(c.end)
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
		})
	}
	t.Run("that overtook its answer", func(t *testing.T) {
		g := &gradio{sessions: map[string]chan string{}, joined: make(chan string, 10)}
		b := open(t, g, func(s *proxy.Setup) {
			s.Routing.Routes = append([]routing.RouteConfig{
				{Name: "events", Match: routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/queue/data"}}, Pass: true, Backend: "slow"},
				{Name: "join", Match: routing.MatchConfig{Path: routing.Texts{"/queue/join"}}, Class: "heavy", Backend: "slow",
					Completion: backend.CompletionConfig{
						Preset: "gradio", Every: time.Millisecond, Timeout: time.Minute}},
			}, s.Routing.Routes...)
		})
		res, err := b.client.Do(b.request(t.Context(), "GET", "/queue/data?session_hash=s", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		events := g.stream("/queue/datas")
		defer close(events)
		end := `data: {"msg": "process_completed", "event_id": "event-1", "success": false}` + "\r\n\r\n"
		events <- end
		if _, err := io.ReadFull(res.Body, make([]byte, len(end))); err != nil {
			t.Fatal(err)
		}
		b.do("POST", "/queue/join", "{}")
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	})
}

// metric is a series' value, by the beginning of its line; empty: there is no
// such series.
func (b *box) metric(series string) string {
	b.t.Helper()
	res, err := b.client.Get(b.server.AdminURL() + "/metrics")
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, series) {
			return strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:])
		}
	}
	return ""
}
