package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// endless streams events until its caller has gone, and says when that is.
func endless(gone chan<- string, kind string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", kind)
		for r.Context().Err() == nil {
			fmt.Fprint(w, "data: alive\n\n")
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(time.Millisecond):
			case <-r.Context().Done():
			}
		}
		gone <- r.URL.Path
	})
}

// TestAStreamWhoseClientLeftEnds though its backend works on for others.
func TestAStreamWhoseClientLeftEnds(t *testing.T) {
	for _, c := range []struct{ method, path, kind string }{
		{"POST", "/slow/x", "text/event-stream"},
		{"POST", "/slow/x", "text/event-stream; charset=utf-8"},
		{"POST", "/slow/x", "application/x-ndjson"},
		{"GET", "/slow/named", "text/event-stream"},
		{"GET", "/slow/named", "image/gif"}, // a camera's
		{"GET", "/slow/x", "image/gif"},
	} {
		gone := make(chan string, 1)
		b := open(t, endless(gone, c.kind), func(s *proxy.Setup) {
			named := s.Routing.Routes[2]
			named.Name, named.Match = "named", routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/slow/named"}}
			s.Routing.Routes = append([]routing.RouteConfig{named}, s.Routing.Routes...)
		})
		ctx, leave := context.WithCancel(t.Context())
		res, err := b.client.Do(b.request(ctx, c.method, c.path, ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 30)); err != nil {
			t.Fatal(err)
		}
		want := 1
		if c.path == "/slow/x" && c.method == "GET" {
			want = 0
		}
		if n := b.running(); n != want {
			t.Errorf("%v: %d grants while it streams, want %d", c, n, want)
		}
		leave()
		<-gone
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}

// TestAStreamEndsAtItsExecutionTimeout, because no client listens any more.
func TestAStreamEndsAtItsExecutionTimeout(t *testing.T) {
	unhurried(t, func(t *testing.T, limit time.Duration) bool {
		gone := make(chan string, 1)
		b := open(t, endless(gone, "text/event-stream"), func(s *proxy.Setup) {
			class(s, "light", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
		})
		res, err := b.client.Do(b.request(t.Context(), "POST", "/slow/x", "{}"))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode == http.StatusGatewayTimeout {
			return false
		}
		if _, err := io.Copy(io.Discard, res.Body); err == nil {
			t.Error("the stream has a clean end")
		}
		<-gone
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
		return true
	})
}

// TestAShutdownDoesNotWaitForPagesThatAreOpen has a WebSocket and streams that
// hold nothing, beside a request that is being answered.
func TestAShutdownDoesNotWaitForPagesThatAreOpen(t *testing.T) {
	let, gone := make(chan struct{}), make(chan string, 10)
	arrived := make(chan struct{}, 1)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Upgrade") != "":
			c, brw := upgraded(t, w)
			io.Copy(io.Discard, brw)
			c.Close()
			gone <- r.URL.Path
		case strings.HasSuffix(r.URL.Path, "/work"):
			arrived <- struct{}{}
			<-let
			io.WriteString(w, "done")
		default:
			endless(gone, "text/event-stream").ServeHTTP(w, r)
		}
	}))
	c, r := b.raw("GET /light/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	defer c.Close()
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v, %v, want 101", res, err)
	}
	for _, path := range []string{"/pass/events", "/slow/events"} {
		stream := dial(t, b)
		fmt.Fprintf(stream, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		if _, err := bufio.NewReader(stream).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	answers := make(chan string, 1)
	go func() {
		_, body := b.do("POST", "/pass/work", "")
		answers <- body
	}()
	<-arrived
	down := make(chan error, 1)
	go func() { down <- b.server.Shutdown(t.Context()) }()
	select {
	case path := <-gone:
		t.Errorf("%s was cut while a request was being answered", path)
	case <-time.After(50 * time.Millisecond): // nothing tells that nothing happens
	}
	close(let)
	if got := <-answers; got != "done" {
		t.Errorf("the request beside them got %q", got)
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	for range 3 {
		<-gone
	}
}

// TestTheEndOfAWebSocketIsNoLeaving whichever side closes it.
func TestTheEndOfAWebSocketIsNoLeaving(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, brw := upgraded(t, w)
		io.Copy(io.Discard, brw)
		c.Close()
	}))
	c, r := b.raw("GET /light/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 101 {
		t.Fatalf("got %v, %v, want 101", res, err)
	}
	c.Close()
	eventually(t, "its line is logged", func() bool { return strings.Contains(b.logs.String(), `"msg":"request"`) })
	if line := b.logs.String(); !strings.Contains(line, `"status":101`) || strings.Contains(line, "client_cancelled") {
		t.Errorf("got %s", line)
	}
}

// TestAHandshakeThatABackendTakesForARequestIsWork sends an offer of a WebSocket
// at a rule that names GET, to a backend that does not know of WebSockets.
func TestAHandshakeThatABackendTakesForARequestIsWork(t *testing.T) {
	m := newModel(t)
	b := open(t, m, func(s *proxy.Setup) {
		s.Routing.Routes[0].Match.Method = routing.Texts{"GET"}
	})
	for range 3 {
		fmt.Fprint(dial(t, b), "GET /heavy?prompt=x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	}
	<-m.arrived
	eventually(t, "the others wait", func() bool { return b.waiting() == 2 })
	close(m.let)
	eventually(t, "all are done", func() bool { return m.total.Load() == 3 })
	if most := m.most.Load(); most != 1 {
		t.Errorf("%d at once in a class of one", most)
	}
}

// TestASmallAnswerIsPassedOnAsItComes holds the rest back until the client has its
// beginning.
func TestASmallAnswerIsPassedOnAsItComes(t *testing.T) {
	let := make(chan struct{})
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "9")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		<-let
		io.WriteString(w, " more")
	}))
	res, err := b.client.Do(b.request(t.Context(), "POST", "/light/x", "{}"))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "half" {
		t.Fatalf("got %q, %v", got, err)
	}
	if n := b.running(); n != 1 {
		t.Errorf("%d grants while it goes on, want 1", n)
	}
	close(let)
	if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != " more" {
		t.Errorf("got %q, %v", rest, err)
	}
}
