package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// studio is a server that answers at once and works later, as ComfyUI does.
type studio struct {
	mu        sync.Mutex
	jobs      int             // guarded by mu
	done      map[string]bool // guarded by mu
	cancelled atomic.Int32
}

func (s *studio) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.URL.Path == "/heavy":
		s.jobs++
		fmt.Fprintf(w, `{"prompt_id":"p %d"}`, s.jobs)
	case strings.HasPrefix(r.URL.Path, "/history/"):
		answer := map[string]any{}
		if id := strings.TrimPrefix(r.URL.Path, "/history/"); s.done[id] {
			answer[id] = map[string]any{"status": "success"}
		}
		json.NewEncoder(w).Encode(answer)
	case r.URL.Path == "/interrupt":
		s.cancelled.Add(1)
	}
}

func (s *studio) finish(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = map[string]bool{}
	}
	s.done[id] = true
}

func (s *studio) started() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs
}

func openStudio(t *testing.T, s http.Handler, change func(*routing.CompletionConfig)) *box {
	return open(t, s, func(p *proxy.Setup) {
		backend(p, "slow", func(c *routing.BackendConfig) {
			c.Completion = routing.CompletionConfig{On: []string{"POST /heavy"}, Poll: "GET /history/{{.json.prompt_id}}",
				Until: "has(body, json.prompt_id)", Every: 2 * time.Millisecond, Timeout: time.Minute, Cancel: "POST /interrupt"}
			c.Reclaim.Timeout = time.Minute
			if change != nil {
				change(&c.Completion)
			}
		})
	})
}

func TestAGrantIsHeldUntilTheWorkHasEnded(t *testing.T) {
	s := new(studio)
	b := openStudio(t, s, nil)
	if res, body := b.do("POST", "/heavy", "{}"); res.StatusCode != 200 || body != `{"prompt_id":"p 1"}` {
		t.Fatalf("it is answered with %s: %s", res.Status, body)
	}
	if b.running() != 1 {
		t.Fatal("its grant was given back with the answer")
	}
	second := make(chan int, 1)
	go func() { res, _ := b.do("POST", "/heavy", "{}"); second <- res.StatusCode }()
	eventually(t, "the second waits", func() bool { return b.waiting() == 1 })
	if got := s.started(); got != 1 {
		t.Fatalf("%d jobs are on the engine, want 1", got)
	}
	s.finish("p 1")
	if status := <-second; status != 200 {
		t.Errorf("the second is answered with %d", status)
	}
	s.finish("p 2")
	eventually(t, "nothing runs", func() bool { return b.running() == 0 })
}

func TestWorkThatIsNeverSeenToEndGivesItsGrantBack(t *testing.T) {
	b := openStudio(t, new(studio), func(c *routing.CompletionConfig) { c.Timeout = 20 * time.Millisecond })
	b.do("POST", "/heavy", "{}")
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	eventually(t, "the log says so", func() bool { return strings.Contains(b.logs.String(), "not seen to end") })
}

func TestAnAnswerThatNamesNoWorkIsTheEnd(t *testing.T) {
	b := openStudio(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"error":"no"}`) }), nil)
	if _, body := b.do("POST", "/heavy", "{}"); body != `{"error":"no"}` {
		t.Errorf("it is answered with %s", body)
	}
	if b.running() != 0 {
		t.Error("a grant is held for nothing")
	}
}

func TestWorkThatTakesTooLongIsCancelled(t *testing.T) {
	s := new(studio)
	b := openStudio(t, s, nil)
	setup := b.setup
	class(&setup, "heavy", func(c *routing.ClassConfig) { c.ExecutionTimeout = 10 * time.Millisecond })
	if err := b.handler.Reload(setup); err != nil {
		t.Fatal(err)
	}
	b.do("POST", "/heavy", "{}")
	eventually(t, "it is told to stop", func() bool { return s.cancelled.Load() == 1 })
	if b.running() != 1 {
		t.Error("its grant was given back before it ended")
	}
	s.finish("p 1")
	eventually(t, "nothing runs", func() bool { return b.running() == 0 })
}

// gallery tells of the end of its work in a stream that one client reads.
type gallery struct{ ended chan string }

func (g *gallery) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		io.WriteString(w, `{"event_id":"e1"}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.(http.Flusher).Flush()
	for id := range g.ended {
		fmt.Fprintf(w, "data: {\"msg\":\"process_generating\",\"event_id\":%q}\n\n", id)
		fmt.Fprintf(w, "data: {\"msg\":\"process_completed\",\"event_id\":%q}\n\n", id)
		w.(http.Flusher).Flush()
	}
}

func TestTheEndIsReadInEventsThatPass(t *testing.T) {
	g := &gallery{ended: make(chan string)}
	b := openStudio(t, g, func(c *routing.CompletionConfig) {
		*c = routing.CompletionConfig{Preset: "gradio", On: []string{"POST /heavy"}, Every: time.Millisecond, Timeout: time.Minute}
	})
	b.do("POST", "/heavy", "{}")
	done := make(chan string, 1)
	go func() { _, body := b.do("GET", "/slow/queue", ""); done <- body }()
	g.ended <- "another"
	if b.running() < 1 {
		t.Error("the end of another's work was taken for its own")
	}
	g.ended <- "e1"
	close(g.ended)
	if body := <-done; strings.Count(body, "process_completed") != 2 {
		t.Errorf("the client got %s", body)
	}
	eventually(t, "nothing runs", func() bool { return b.running() == 0 })
}
