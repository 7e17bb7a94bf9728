package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// escapes are headers that say of a request that it is something else than an
// ordinary one.
func escapes() map[string]string {
	all := map[string]string{
		"an h2c offer as the JDK makes it": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " +
			"AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n",
		"an offer without a token": "Upgrade: h2c\r\n",
		"settings alone":           "Connection: HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n",
		"two offers":               "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n",
		"two upgrade tokens":       "Connection: upgrade, upgrade\r\nUpgrade: websocket\r\n",
		"keep-alive":               "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n",
		"a proxy's connection":     "Proxy-Connection: keep-alive\r\n",
		"trailers wanted":          "Te: trailers\r\nConnection: te\r\n",
		"trailers announced":       "Trailer: X-Sum\r\n",
		"proxy authentication":     "Proxy-Authorization: Basic eDp4\r\n",
		"what a server would send": "Proxy-Authenticate: Basic\r\n",
		"its length taken off":     "Connection: content-length\r\n",
		"its host taken off":       "Connection: host\r\n",
		"a method override":        "X-HTTP-Method-Override: GET\r\n",
		"a rewritten target":       "X-Original-URL: /pass/x\r\nX-Rewrite-URL: /pass/x\r\n",
		"our own headers":          "X-Anteroom-Class: light\r\nX-Anteroom-Position: 0\r\n",
		"a WebSocket's handshake": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: " +
			"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
	}
	for _, value := range []string{"", "h2c", "H2C", "websocket", "WebSocket", "websocket, h2c", "h2c, websocket", "websocket/13", "TLS/1.0",
		"HTTP/2.0", "foo", "x", " ", "é", "a b", "raw"} {
		all[fmt.Sprintf("Upgrade: %q", value)] = "Connection: Upgrade\r\nUpgrade: " + value + "\r\n"
	}
	for _, kind := range []string{"application/grpc", "application/grpc+proto", "application/grpc+json", "application/grpc-web",
		"application/grpc-web+proto", "Application/GRPC", "application/grpc;x=y"} {
		all["Content-Type: "+kind] = "Content-Type: " + kind + "\r\n"
	}
	return all
}

// TestNoHeaderEscapesAdmission sends a request with each header of a list at a
// class route, and holds what it took beside what the plain request takes.
func TestNoHeaderEscapesAdmission(t *testing.T) {
	type seen struct {
		class, route, body string
		vram               admission.Bytes
		slots              int
	}
	arrived, let := make(chan string, 1), make(chan struct{})
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		for _, name := range []string{"Upgrade", "Http2-Settings"} {
			if v := r.Header[name]; v != nil {
				t.Errorf("the backend got %s: %q", name, v)
			}
		}
		arrived <- string(body)
		<-let
	}), func(s *proxy.Setup) {
		s.Routing.Routes = append([]routing.RouteConfig{
			{Name: "large", Match: routing.MatchConfig{Path: routing.Texts{"/light/x"}, When: "num(body.n, 1) > 4"}, Class: "light",
				Backend: "quick", VRAM: "8GiB"},
		}, s.Routing.Routes...)
	})
	once := func(header string) (s seen) {
		conn := dial(t, b)
		defer conn.Close()
		const body = `{"n":5}`
		fmt.Fprintf(conn, "POST /light/x HTTP/1.1\r\nHost: box\r\n%sContent-Length: %d\r\n\r\n%s", header, len(body), body)
		answered := make(chan string, 1)
		go func() {
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				answered <- err.Error()
				return
			}
			answered <- res.Status + " " + res.Header.Get("X-Anteroom-Class")
		}()
		select {
		case s.body = <-arrived:
		case status := <-answered:
			t.Fatalf("%q: answered with %s before the backend had it", header, status)
		}
		for _, r := range b.controller.Running() {
			s.slots++
			s.class, s.vram = r.Class, r.VRAM
		}
		let <- struct{}{}
		s.route = <-answered
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
		return s
	}
	plain := once("")
	if plain.slots != 1 || plain.vram != 8*admission.GiB || plain.class != "light" || plain.body != `{"n":5}` {
		t.Fatalf("the plain request took %+v", plain)
	}
	for name, header := range escapes() {
		if got := once(header); got != plain {
			t.Errorf("%s: took %+v, the plain request %+v", name, got, plain)
		}
	}
}

func dial(t testing.TB, b *box) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// TestHalfABodyHoldsNoSlotWhateverItsHeadersSay is the same for a client that
// stops in the middle of its upload.
func TestHalfABodyHoldsNoSlotWhateverItsHeadersSay(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	for name, header := range escapes() {
		half := dial(t, b)
		fmt.Fprintf(half, "POST /heavy HTTP/1.1\r\nHost: box\r\n%sContent-Length: 1000\r\n\r\nabc", header)
		if res, _ := b.do("POST", "/heavy", "{}"); res.StatusCode != 200 {
			t.Errorf("%s: another caller got %d", name, res.StatusCode)
		}
		half.Close()
	}
}

// TestAStreamOverHTTP2IsOneOnlyToABackendThatSpeaksIt sends gRPC at a backend
// that speaks HTTP/1.1: it would take the call for an ordinary request.
func TestAStreamOverHTTP2IsOneOnlyToABackendThatSpeaksIt(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	in, out := io.Pipe()
	r := b.request(ctx, "POST", "/heavy", "", "Content-Type", "application/grpc", "Te", "trailers")
	r.Body, r.ContentLength = in, -1
	go h2c(t).Do(r)
	io.WriteString(out, "half")
	if res, _ := b.do("POST", "/heavy", "{}"); res.StatusCode != 200 {
		t.Errorf("another caller got %d", res.StatusCode)
	}
}

// TestOneJobAtATimeWhateverTheClientOffers follows a job that was submitted with
// an offer of HTTP/2.
func TestOneJobAtATimeWhateverTheClientOffers(t *testing.T) {
	done := make(chan struct{})
	submitted := make(chan struct{}, 10)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if r.Method == "POST" {
			submitted <- struct{}{}
			io.WriteString(w, `{"id":"a"}`)
			return
		}
		select {
		case <-done:
			io.WriteString(w, `{"state":"done"}`)
		default:
			io.WriteString(w, `{"state":"running"}`)
		}
	}), func(s *proxy.Setup) {
		s.Routing.Routes[0].Completion = backend.CompletionConfig{Poll: "GET /jobs/{{.json.id}}", Until: `body.state == "done"`,
			Every: 5 * time.Millisecond, Timeout: time.Minute}
	})
	for _, header := range []string{"Connection: Upgrade\r\nUpgrade: h2c\r\n", "Content-Type: application/grpc\r\n"} {
		conn := dial(t, b)
		fmt.Fprintf(conn, "POST /heavy HTTP/1.1\r\nHost: box\r\n%sContent-Length: 2\r\n\r\n{}", header)
		<-submitted
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%q: got %v, %v", header, res, err)
		}
		io.Copy(io.Discard, res.Body)
		if n := b.running(); n != 1 {
			t.Errorf("%q: %d grants are held behind the answer, want 1", header, n)
		}
		done <- struct{}{}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}
