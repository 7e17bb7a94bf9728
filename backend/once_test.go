package backend_test

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
)

// listen serves each connection with a function, and ends with the test.
func listen(t testing.TB, network, address string, serve func(net.Conn)) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	var mu sync.Mutex
	conns := make(map[net.Conn]bool) // guarded by mu
	open.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			open.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		open.Wait()
	})
	return l
}

// backendAt is a backend that nothing listens to, with a breaker that never
// opens unless the test says so.
func backendAt(t testing.TB, url string, change ...func(*backend.Config)) *backend.Server {
	t.Helper()
	config := backend.Config{URL: url, Breaker: backend.BreakerConfig{Failures: 1000, Open: time.Hour}}
	for _, c := range change {
		c(&config)
	}
	b, err := backend.New(t.Context(), "it", config, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func newRequest(t testing.TB, b *backend.Server, method, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, b.Base().String()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// roundTrip sends a request and reads the answer.
func roundTrip(b *backend.Server, r *http.Request) (*http.Response, string, error) {
	res, err := b.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// once is a server that answers the first request on a connection, and lets
// the connection die when it has the second: a worker that crashes, or a
// keep-alive that ends at the wrong moment. It counts what it has executed.
type once struct {
	mu    sync.Mutex
	ran   []string // guarded by mu
	reset bool
}

func (o *once) serve(c net.Conn) {
	in := bufio.NewReader(c)
	for first := true; ; first = false {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(r.Body)
		o.mu.Lock()
		o.ran = append(o.ran, fmt.Sprintf("%s %s %s%s", r.Method, r.RequestURI, body, r.Header.Get("Idempotency-Key")))
		o.mu.Unlock()
		if !first {
			if tcp, ok := c.(*net.TCPConn); ok && o.reset {
				tcp.SetLinger(0)
			}
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	}
}

func TestARequestOnAConnectionThatDiesIsExecutedOnce(t *testing.T) {
	for _, c := range []struct{ method, body, key string }{
		{"GET", "", ""}, {"HEAD", "", ""}, {"OPTIONS", "", ""}, {"TRACE", "", ""}, {"DELETE", "", ""}, {"PUT", "", ""}, {"POST", "", ""},
		{"GET", "", "k"}, {"POST", "", "k"}, {"POST", "work", ""}, {"POST", "work", "k"}, {"GET", "work", "k"}, {"PATCH", "", "k"},
	} {
		for _, way := range []string{"FIN", "RST", "unix"} {
			t.Run(strings.Join([]string{c.method, c.body, c.key, way}, "_"), func(t *testing.T) {
				server := &once{reset: way == "RST"}
				var url string
				if way == "unix" {
					url = "unix:" + filepath.Join(t.TempDir(), "s")
					listen(t, "unix", strings.TrimPrefix(url, "unix:"), server.serve)
				} else {
					url = "http://" + listen(t, "tcp", "127.0.0.1:0", server.serve).Addr().String()
				}
				b := backendAt(t, url)
				if _, _, err := roundTrip(b, newRequest(t, b, "GET", "/warm", nil)); err != nil {
					t.Fatal(err)
				}
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body) // has GetBody
				}
				r := newRequest(t, b, c.method, "/job", body)
				if c.key != "" {
					r.Header.Set("Idempotency-Key", c.key)
					r.Header.Set("X-Idempotency-Key", c.key)
				}
				if _, _, err := roundTrip(b, r); !errors.Is(err, backend.ErrProtocol) {
					t.Errorf("got %v, want ErrProtocol", err)
				}
				server.mu.Lock()
				defer server.mu.Unlock()
				if want := fmt.Sprintf("%s /job %s%s", c.method, c.body, c.key); len(server.ran) != 2 || server.ran[1] != want {
					t.Errorf("executed %q, want the second to be %q, once", server.ran, want)
				}
			})
		}
	}
}

func TestARequestWithoutABodyIsSentWithoutOne(t *testing.T) {
	sent := make(chan string, 10)
	l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			var head strings.Builder
			for !strings.HasSuffix(head.String(), "\r\n\r\n") {
				line, err := in.ReadString('\n')
				if err != nil {
					return
				}
				head.WriteString(line)
			}
			sent <- c.RemoteAddr().String() + " " + head.String()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	b := backendAt(t, "http://"+l.Addr().String())
	var address string
	for _, method := range []string{"GET", "HEAD", "GET", "OPTIONS", "DELETE", "PROPFIND", "POST"} {
		if _, _, err := roundTrip(b, newRequest(t, b, method, "/x", nil)); err != nil {
			t.Fatal(err)
		}
		from, head, _ := strings.Cut(<-sent, " ")
		lower := strings.ToLower(head)
		if strings.Contains(lower, "transfer-encoding") || strings.Contains(lower, "content-length: 0\r\n") != (method == "POST") {
			t.Errorf("got %q", head)
		}
		if address != "" && from != address {
			t.Errorf("the connection was not kept: %s, then %s", address, from)
		}
		address = from
	}
}

// frame is one of HTTP/2.
func frame(kind, flags byte, stream uint32, payload ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(payload))<<8|uint32(kind))
	b = append(b, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

const (
	data, headers, reset, settings, goAway = 0, 1, 3, 4, 7 // kinds of frames
	endStream, acknowledged                = 1, 1          // flags
)

// http2Server tells a function of each frame that comes, until it says that
// the connection is to end. Settings it answers itself. It gives its address.
func http2Server(t testing.TB, frameCame func(c net.Conn, kind, flags byte, stream uint32) (goOn bool)) string {
	l := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))); err != nil {
			return
		}
		c.Write(frame(settings, 0, 0))
		for {
			var head [9]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint32(head[:])>>8)); err != nil {
				return
			}
			kind, flags := head[3], head[4]
			if kind == settings && flags&acknowledged == 0 {
				c.Write(frame(settings, acknowledged, 0))
			} else if !frameCame(c, kind, flags, binary.BigEndian.Uint32(head[5:])) {
				return
			}
		}
	})
	return "http://" + l.Addr().String()
}

func TestARequestOverHTTP2ThatIsResetIsExecutedOnce(t *testing.T) {
	for _, how := range []string{"reset", "go away", "closed"} {
		for _, method := range []string{"GET", "HEAD", "POST"} {
			for _, body := range []string{"", "work"} {
				t.Run(strings.Join([]string{how, method, body}, "_"), func(t *testing.T) {
					var ran atomic.Int32
					url := http2Server(t, func(c net.Conn, kind, flags byte, stream uint32) bool {
						if kind != headers && kind != data || flags&endStream == 0 {
							return true
						}
						const protocolError = 1
						switch again := ran.Add(1) > 1; {
						case again: // the test has failed, and shall end
							c.Write(frame(headers, endStream|4, stream, 0x88))
						case how == "reset":
							c.Write(frame(reset, 0, stream, 0, 0, 0, protocolError))
						case how == "go away": // it has begun this stream
							c.Write(frame(goAway, 0, 0, 0, 0, 0, byte(stream), 0, 0, 0, protocolError))
							return false
						default:
							return false
						}
						return true
					})
					b := backendAt(t, url, func(c *backend.Config) { c.Protocol = "h2c" })
					var in io.Reader
					if body != "" {
						in = strings.NewReader(body)
					}
					if _, _, err := roundTrip(b, newRequest(t, b, method, "/job", in)); !errors.Is(err, backend.ErrProtocol) {
						t.Errorf("got %v, want ErrProtocol", err)
					}
					if n := ran.Load(); n != 1 {
						t.Errorf("executed %d times", n)
					}
				})
			}
		}
	}
}

func TestABackendSpeaksHTTP2WithoutTLSWhereItIsToldTo(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Trailer", "Grpc-Status")
		fmt.Fprintf(w, "%s %s %s %d", r.Proto, r.Method, body, r.ContentLength)
		w.Header().Set("Grpc-Status", "0")
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	b := backendAt(t, server.URL, func(c *backend.Config) { c.Protocol = "h2c" })
	t.Cleanup(b.Close) // before the server waits for its connections
	for _, c := range []struct{ method, body, want string }{{"GET", "", "HTTP/2.0 GET  -1"}, {"POST", "work", "HTTP/2.0 POST work 4"}} {
		var in io.Reader
		if c.body != "" {
			in = strings.NewReader(c.body)
		}
		res, body, err := roundTrip(b, newRequest(t, b, c.method, "/", in))
		if err != nil || body != c.want || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("got %q, %v, %v; want %q", body, res, err, c.want)
		}
	}
}
