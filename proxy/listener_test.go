package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// broker is a Gradio app whose messages wait for a reader, and are read once.
type broker struct {
	mu      sync.Mutex
	joined  int // guarded by mu
	opened  chan string
	closed  chan string
	waiting map[string]chan string // guarded by mu; by the stream's path and query
}

func (g *broker) to(stream string) chan string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting[stream] == nil {
		g.waiting[stream] = make(chan string, 1000)
	}
	return g.waiting[stream]
}

func (g *broker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == "POST":
		io.Copy(io.Discard, r.Body)
		g.mu.Lock()
		g.joined++
		id := fmt.Sprint("event-", g.joined)
		g.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"event_id": %q}`, id)
	case strings.HasSuffix(r.URL.Path, "/queue/status"):
		io.WriteString(w, "{}")
	default:
		g.opened <- r.URL.RequestURI() + " " + r.Header.Get("Cookie")
		defer func() { g.closed <- r.URL.RequestURI() }()
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		for {
			select {
			case text := <-g.to(r.URL.RequestURI()):
				if text == "" {
					return
				}
				io.WriteString(w, text)
				http.NewResponseController(w).Flush()
			case <-r.Context().Done():
				return
			}
		}
	}
}

// brokered is a box in front of it, whose jobs are looked at so often.
func brokered(t *testing.T, every time.Duration) (*box, *broker) {
	g := &broker{opened: make(chan string, 100), closed: make(chan string, 100), waiting: make(map[string]chan string)}
	return open(t, g, func(s *proxy.Setup) {
		setBackend(s, "slow", func(b *backend.Config) {
			b.Completion = backend.CompletionConfig{Preset: "gradio", Every: every, Timeout: time.Hour}
		})
		s.Routing.Routes = append([]routing.RouteConfig{
			{Name: "events", Match: routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/app/**"}}, Pass: true, Backend: "slow",
				StripPrefix: "/app"},
			{Name: "join", Match: routing.MatchConfig{Path: routing.Texts{"/app/**"}}, Class: "heavy", Backend: "slow", StripPrefix: "/app"},
		}, s.Routing.Routes...)
	}), g
}

const (
	joinSession = `{"data": [], "fn_index": 0, "session_hash": "s1"}`
	itsStream   = "/queue/data?session_hash=s1"
)

func completed(event int) string {
	return fmt.Sprintf("data: {\"msg\":\"process_completed\",\"event_id\":\"event-%d\",\"output\":{},\"success\":true}\n\n", event)
}

// TestAJobThatNobodyListensForEnds when its work does: its stream is read for it, and a
// client that comes late gets all of it.
func TestAJobThatNobodyListensForEnds(t *testing.T) {
	for name, c := range map[string]struct{ join, body, stream, end string }{
		"of a session": {"/app/queue/join", joinSession, itsStream, completed(1)},
		"of a call":    {"/app/gradio_api/call/draw", `{"data": []}`, "/gradio_api/call/draw/event-1", "event: complete\ndata: []\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			b, g := brokered(t, time.Millisecond)
			if _, got := b.do("POST", c.join, c.body, "Content-Type", "application/json", "Cookie", "me=1"); got != `{"event_id": "event-1"}` {
				t.Fatalf("the caller got %s", got)
			}
			if got := <-g.opened; got != c.stream+" me=1" {
				t.Errorf("the proxy opens %q, want %q as its caller would", got, c.stream)
			}
			g.to(c.stream) <- ": still here\n\n"
			if b.running() != 1 {
				t.Errorf("%d grants while it works, want 1", b.running())
			}
			g.to(c.stream) <- c.end
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			g.to(c.stream) <- ""
			<-g.closed
			if _, got := b.do("GET", "/app"+c.stream, ""); got != ": still here\n\n"+c.end {
				t.Errorf("a late client got %q", got)
			}
			if len(g.opened) > 0 {
				t.Errorf("the stream was opened again: %s", <-g.opened)
			}
			// What it has had is not kept for another.
			g.to(c.stream) <- ""
			if _, got := b.do("GET", "/app"+c.stream, ""); got != "" || len(g.opened) != 1 {
				t.Errorf("the next client got %q, of %d streams", got, len(g.opened))
			}
		})
	}
}

// TestALateClientTakesOver the stream that is read for its job.
func TestALateClientTakesOver(t *testing.T) {
	b, g := brokered(t, time.Millisecond)
	b.do("POST", "/app/queue/join", joinSession)
	<-g.opened
	g.to(itsStream) <- "data: {\"msg\":\"process_starts\",\"event_id\":\"event-1\"}\n\n"
	res, err := b.client.Do(b.request(t.Context(), "GET", "/app"+itsStream, ""))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	g.to(itsStream) <- completed(1)
	g.to(itsStream) <- ""
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != "data: {\"msg\":\"process_starts\",\"event_id\":\"event-1\"}\n\n"+completed(1) {
		t.Errorf("it got %q, %v", got, err)
	}
	if res.Header.Get("Content-Type") != "text/event-stream" || len(g.opened) > 0 {
		t.Errorf("it got %v, and the stream was opened %d times more", res.Header, len(g.opened))
	}
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
}

// TestAStreamIsReadOnForTheJobOfAClientThatLeft, and no longer.
func TestAStreamIsReadOnForTheJobOfAClientThatLeft(t *testing.T) {
	b, g := brokered(t, time.Hour)
	listen := func() (leave func()) {
		ctx, leave := context.WithCancel(t.Context())
		res, err := b.client.Do(b.request(ctx, "GET", "/app"+itsStream, ""))
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, res.Body)
		return leave
	}
	leave := listen()
	<-g.opened
	b.do("POST", "/app/queue/join", joinSession)
	leave()
	g.to(itsStream) <- "data: {\"msg\":\"progress\",\"event_id\":\"event-1\"}\n\n"
	eventually(t, "it is read on", func() bool { return len(g.to(itsStream)) == 0 })
	select {
	case got := <-g.closed:
		t.Fatalf("%s is closed while its job runs", got)
	default:
	}
	g.to(itsStream) <- completed(1)
	if got := <-g.closed; got != itsStream {
		t.Errorf("%s is closed, want %s", got, itsStream)
	}

	// Without a job it is closed at once, and another client opens one of its own.
	leave = listen()
	<-g.opened
	leave()
	<-g.closed
}
