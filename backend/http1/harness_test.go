package http1_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend/http1"
)

// box is a server and a transport to it.
type box struct {
	*http1.Transport
	t    testing.TB
	mu   sync.Mutex
	open []*far // guarded by mu; each connection that came
}

// far is the server's side of a connection.
type far struct {
	net.Conn
	in *bufio.Reader
}

func newFar(c net.Conn) *far { return &far{c, bufio.NewReader(c)} }

// request reads a request, body and all. nil: there is none.
func (f *far) request() *http.Request {
	r, err := http.ReadRequest(f.in)
	if err != nil {
		return nil
	}
	if body, err := io.ReadAll(r.Body); err == nil {
		r.Body = io.NopCloser(readerOf(body))
		return r
	}
	return nil
}

func (f *far) say(text string) { io.WriteString(f, text) }

// awaitClose waits until the client has closed the connection.
func (f *far) awaitClose() { io.Copy(io.Discard, f.in) }

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"

// serve starts a server on loopback that serves each connection with a function.
func serve(t testing.TB, each func(f *far)) *box {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveAt(t, l, each)
}

func serveAt(t testing.TB, l net.Listener, each func(f *far)) *box {
	b := &box{t: t}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f := newFar(c)
			b.mu.Lock()
			b.open = append(b.open, f)
			b.mu.Unlock()
			all.Go(func() {
				defer c.Close()
				each(f)
			})
		}
	})
	standard := &http.Transport{ExpectContinueTimeout: time.Second, DisableCompression: true, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, l.Addr().Network(), l.Addr().String())
		}}
	b.Transport = http1.New(standard, "box")
	t.Cleanup(func() {
		l.Close()
		b.CloseIdleConnections()
		b.mu.Lock()
		for _, f := range b.open {
			f.Close()
		}
		b.mu.Unlock()
		all.Wait()
	})
	return b
}

// answers is a server that answers each request on a connection with the same.
func answers(t testing.TB, text string) *box {
	return serve(t, func(f *far) {
		for f.request() != nil {
			f.say(text)
		}
	})
}

func (b *box) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.open)
}

func (b *box) request(method, path string, body io.Reader) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, "http://box"+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// do sends a request and reads its answer.
func (b *box) do(r *http.Request) (*http.Response, string, error) {
	res, err := b.RoundTrip(r)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// fine sends a request that is to be answered well.
func (b *box) fine(r *http.Request) *http.Response {
	b.t.Helper()
	res, body, err := b.do(r)
	if err != nil || res.StatusCode != 200 || body != "fine" {
		b.t.Fatalf("got %v, %q, %v; want 200 with fine", res, body, err)
	}
	return res
}

// wantConnections says how many came.
func (b *box) wantConnections(want int) {
	b.t.Helper()
	if got := b.connections(); got != want {
		b.t.Errorf("%d connections, want %d", got, want)
	}
}

func readerOf(b []byte) io.Reader { return &slow{b} }

// slow is a reader of a type that nobody knows.
type slow struct{ rest []byte }

func (s *slow) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}
