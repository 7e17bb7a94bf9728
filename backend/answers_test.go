package backend_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
)

// answered is a server that reads a request and says what it is given, then
// closes the connection.
func answered(t testing.TB, answer string) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			io.Copy(io.Discard, r.Body) // what is unread would make a reset of the end
			io.WriteString(c, answer)
		}
	})
	return "http://" + l.Addr().String()
}

func TestWhatIsNotHTTPIsABrokenProtocol(t *testing.T) {
	header := "HTTP/1.1 200 OK\r\n"
	for name, answer := range map[string]string{
		"nothing":                    "",
		"garbage":                    "\x00\x01\x02\x03 what?\r\n\r\n",
		"another protocol":           "SSH-2.0-OpenSSH_9.2\r\n",
		"half a status":              "HTTP/1.1 2",
		"a bad status":               "HTTP/1.1 abc OK\r\n\r\n",
		"half a header":              header + "Content-Le",
		"a header without a colon":   header + "what\r\n\r\n",
		"two lengths":                header + "Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
		"a bad length":               header + "Content-Length: -5\r\n\r\nhello",
		"an unknown encoding":        header + "Transfer-Encoding: rot13\r\n\r\nhello",
		"a header of 2 MiB":          header + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
		"100,000 headers":            header + strings.Repeat("X: 1234567890\r\n", 100_000) + "\r\n",
		"100,000 early hints":        strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000) + header + "\r\n",
		"HTTP/2, which nobody asked": string(frame(4, 0, 0)),
	} {
		t.Run(name, func(t *testing.T) {
			b := backendAt(t, answered(t, answer), func(c *backend.Config) { c.Breaker.Failures = 1 })
			res, err := b.RoundTrip(newRequest(t, b, "GET", "/", nil))
			if !errors.Is(err, backend.ErrProtocol) || res != nil {
				t.Fatalf("got %v, %v; want ErrProtocol", res, err)
			}
			if errors.Is(err, backend.ErrUnreachable) || !strings.Contains(err.Error(), "it") {
				t.Errorf("got %v", err)
			}
			if failed, _ := b.Failures(); failed != 1 {
				t.Error("the breaker did not count it")
			}
		})
	}
}

func TestABodyThatIsCutIsNeverACleanEnd(t *testing.T) {
	for name, answer := range map[string]string{
		"shorter than announced":     "Content-Length: 100\r\n\r\nhalf",
		"a chunk missing":            "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
		"in a chunk":                 "Transfer-Encoding: chunked\r\n\r\n8\r\nhalf",
		"a bad chunk":                "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nxyz\r\n",
		"chunked, whatever's length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n4\r\nhalf\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			b := backendAt(t, answered(t, "HTTP/1.1 200 OK\r\n"+answer), func(c *backend.Config) { c.Breaker.Failures = 1 })
			_, body, err := roundTrip(b, newRequest(t, b, "GET", "/", nil))
			if body != "half" || err == nil {
				t.Errorf("got %q, %v; want half of it and an error", body, err)
			}
			if failed, _ := b.Failures(); failed != 1 {
				t.Error("the breaker did not count it")
			}
		})
	}
}

func TestAnAnswerPassesAsItIs(t *testing.T) {
	for name, c := range map[string]struct{ answer, body string }{
		"a length":           {"Content-Length: 4\r\n\r\nbody", "body"},
		"nothing":            {"Content-Length: 0\r\n\r\n", ""},
		"until the end":      {"Connection: close\r\n\r\nbody", "body"},
		"chunks":             {"Transfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n", "body"},
		"compressed":         {"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x08", "\x1f\x8b\x08"},
		"a header of 64 KiB": {"X: " + strings.Repeat("x", 64<<10) + "\r\nContent-Length: 4\r\n\r\nbody", "body"},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendAt(t, answered(t, "HTTP/1.1 200 OK\r\n"+c.answer), func(c *backend.Config) { c.Breaker.Failures = 1 })
			_, body, err := roundTrip(b, newRequest(t, b, "POST", "/", strings.NewReader("x")))
			if err != nil || body != c.body {
				t.Fatalf("got %q, %v; want %q", body, err, c.body)
			}
			if failed, _ := b.Failures(); failed != 0 {
				t.Error("the breaker counted it")
			}
		})
	}
}

func TestAConnectionWithMoreThanItsAnswerIsNotUsedAgain(t *testing.T) {
	log.SetOutput(io.Discard) // net/http tells of what comes unasked
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	ended := make(chan struct{}, 2)
	l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				ended <- struct{}{}
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
		}
	})
	b := backendAt(t, "http://"+l.Addr().String())
	for range 2 {
		_, body, err := roundTrip(b, newRequest(t, b, "POST", "/", strings.NewReader("x")))
		if err != nil || body != "body" {
			t.Fatalf("got %q, %v", body, err)
		}
		<-ended
	}
}

func TestWhatDoesNotListenIsUnreachable(t *testing.T) {
	for name, config := range map[string]backend.Config{
		"refused":         {URL: "http://127.0.0.1:1"},
		"refused, h2c":    {URL: "http://127.0.0.1:1", Protocol: "h2c"},
		"refused, TLS":    {URL: "https://127.0.0.1:1"},
		"no such name":    {URL: "http://no-such-host.invalid"},
		"no such socket":  {URL: "unix:" + filepath.Join(t.TempDir(), "none")},
		"not a directory": {URL: "unix:/dev/null/s"},
	} {
		t.Run(name, func(t *testing.T) {
			b := backendAt(t, config.URL, func(c *backend.Config) { c.Protocol, c.Breaker.Failures = config.Protocol, 1 })
			_, _, err := roundTrip(b, newRequest(t, b, "POST", "/", strings.NewReader("work")))
			if !errors.Is(err, backend.ErrUnreachable) || errors.Is(err, backend.ErrProtocol) {
				t.Errorf("got %v, want ErrUnreachable", err)
			}
			if b.State() != "open" {
				t.Error("the breaker did not count it")
			}
			body := &tracked{Reader: strings.NewReader("work")}
			r := newRequest(t, b, "POST", "/", body)
			if _, err := b.RoundTrip(r); !errors.Is(err, backend.ErrBreakerOpen) || body.closed {
				t.Errorf("got %v, want ErrBreakerOpen and the body left alone", err)
			}
		})
	}
}

// tracked is a body that knows whether it was closed.
type tracked struct {
	io.Reader
	closed bool
}

func (b *tracked) Close() error {
	b.closed = true
	return nil
}

func TestAServerThatComesBackIsFoundAgain(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	serve := func() *httptest.Server {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Host) }))
		server.Listener.Close()
		server.Listener = l
		server.Start()
		return server
	}
	for range 2 {
		b := backendAt(t, "unix:"+socket)
		server := serve()
		if _, body, err := roundTrip(b, newRequest(t, b, "GET", "/", nil)); err != nil || body != "localhost" {
			t.Errorf("got %q, %v", body, err)
		}
		server.Close()
		gone := backendAt(t, "unix:"+socket) // whose connections are not those of the one before
		if _, _, err := roundTrip(gone, newRequest(t, gone, "GET", "/", nil)); !errors.Is(err, backend.ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
		server = serve()
		gone.CloseBreaker()
		if _, body, err := roundTrip(gone, newRequest(t, gone, "GET", "/", nil)); err != nil || body != "localhost" {
			t.Errorf("after its return: got %q, %v", body, err)
		}
		server.Close()
	}
}

func TestTheContextsEndIsTheError(t *testing.T) {
	arrived := make(chan struct{}, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL, func(c *backend.Config) { c.Breaker.Failures = 1 })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if _, err := b.RoundTrip(newRequest(t, b, "POST", "/", strings.NewReader("x")).WithContext(ctx)); err != context.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	if failed, _ := b.Failures(); failed != 0 {
		t.Error("the breaker counted it")
	}
}

func TestAnEarlyAnswerIsDeliveredWhileTheUploadGoesOn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	}))
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL)
	source, client := io.Pipe()
	defer client.Close()
	r := newRequest(t, b, "POST", "/", source)
	r.ContentLength = 1 << 30
	res, body, err := roundTrip(b, r)
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge || body != "too large\n" {
		t.Errorf("got %v, %q, %v", res, body, err)
	}
}

func TestABrokenUploadIsNotTheBackendsFault(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL, func(c *backend.Config) { c.Breaker.Failures = 1 })
	source, client := io.Pipe()
	broken := errors.New("the client is gone")
	go func() {
		io.WriteString(client, "half")
		client.CloseWithError(broken)
	}()
	_, _, err := roundTrip(b, newRequest(t, b, "POST", "/", source))
	if !errors.Is(err, backend.ErrUpload) || !errors.Is(err, broken) {
		t.Errorf("got %v, want ErrUpload with the reason", err)
	}
	if failed, _ := b.Failures(); failed != 0 {
		t.Error("the breaker counted it")
	}
}

func TestABackendThatDiesUnderAnUploadIsAtFault(t *testing.T) {
	t.Run("HTTP/1", func(t *testing.T) {
		l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
			if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				io.ReadFull(r.Body, make([]byte, 4))
				c.(*net.TCPConn).SetLinger(0)
			}
		})
		source, client := io.Pipe()
		go func() {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(client, "more")
			}
		}()
		dieUnder(t, backendAt(t, "http://"+l.Addr().String(), func(c *backend.Config) { c.Breaker.Failures = 1 }), source)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		url := http2Server(t, func(_ net.Conn, kind, _ byte, _ uint32) (goOn bool) { return kind != data })
		source, client := io.Pipe()
		go io.WriteString(client, "half") // the rest never comes, and the transport closes the pipe
		dieUnder(t, backendAt(t, url, func(c *backend.Config) { c.Protocol, c.Breaker.Failures = "h2c", 1 }), source)
	})
}

func dieUnder(t *testing.T, b *backend.Server, source io.ReadCloser) {
	t.Helper()
	if _, _, err := roundTrip(b, newRequest(t, b, "POST", "/", source)); !errors.Is(err, backend.ErrProtocol) {
		t.Errorf("got %v, want ErrProtocol", err)
	}
	source.Close()
	if failed, _ := b.Failures(); failed != 1 {
		t.Error("the breaker did not count it")
	}
}

func TestRequestsOnAConnectionThatIsUpgradedAreCountedAtOnce(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		in := bufio.NewReader(c)
		if _, err := http.ReadRequest(in); err == nil {
			io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(c, in)
		}
	})
	b := backendAt(t, "http://"+l.Addr().String())
	r := newRequest(t, b, "GET", "/ws", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	res, err := b.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, ok := res.Body.(io.ReadWriteCloser)
	if !ok || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s with %T", res.Status, res.Body)
	}
	defer tunnel.Close()
	buffer := make([]byte, 5)
	if _, err := io.WriteString(tunnel, "hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(tunnel, buffer); err != nil || string(buffer) != "hello" {
		t.Errorf("got %q, %v", buffer, err)
	}
}

func TestManyRequestsKeepTheirConnections(t *testing.T) {
	conns := make(chan net.Conn, 100)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fine") }))
	server.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns <- c
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL)
	for range 50 {
		if _, _, err := roundTrip(b, newRequest(t, b, "POST", "/", strings.NewReader("x"))); err != nil {
			t.Fatal(err)
		}
	}
	if len(conns) != 1 {
		t.Errorf("%d connections for requests one after the other", len(conns))
	}
}
