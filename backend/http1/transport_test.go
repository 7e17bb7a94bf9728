package http1_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/backend/http1"
)

func body(text string) io.Reader { return strings.NewReader(text) }

// streamed is a body that is of no known type.
func streamed(text string) io.Reader { return io.MultiReader(readerOf([]byte(text))) }

// TestAConnectionIsUsedAgain where both sides can know where the answer ended.
func TestAConnectionIsUsedAgain(t *testing.T) {
	for name, c := range map[string]struct {
		method, answer string
		again          bool
	}{
		"a length":                   {"GET", fine, true},
		"nothing":                    {"GET", ok + "Content-Length: 0\r\n\r\n", true},
		"chunks":                     {"GET", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\n\r\n", true},
		"a trailer":                  {"GET", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n0\r\nA: b\r\n\r\n", true},
		"to a HEAD":                  {"HEAD", ok + "Content-Length: 4\r\n\r\n", true},
		"204":                        {"POST", "HTTP/1.1 204 No Content\r\n\r\n", true},
		"304":                        {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n", true},
		"early hints":                {"GET", "HTTP/1.1 103 Early Hints\r\n\r\n" + fine, true},
		"close":                      {"GET", ok + "Connection: close\r\nContent-Length: 4\r\n\r\nfine", false},
		"HTTP/1.0":                   {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nfine", false},
		"HTTP/1.0 that is kept":      {"GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 4\r\n\r\nfine", true},
		"more than it":               {"GET", fine + "x", false},
		"more than nothing":          {"GET", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", false},
		"another answer behind it":   {"GET", fine + fine, false},
		"more than a HEAD's":         {"HEAD", ok + "Content-Length: 4\r\n\r\nfine", false},
		"101 that was not asked for": {"GET", "HTTP/1.1 101 Switching Protocols\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := answers(t, c.answer)
			for _, in := range []io.Reader{nil, streamed("work")} {
				r := b.request(c.method, "/", in)
				if in != nil {
					r.ContentLength = 4
				}
				if _, _, err := b.do(r); err != nil {
					t.Fatal(err)
				}
			}
			b.wantConnections(map[bool]int{true: 1, false: 2}[c.again])
		})
	}
}

// TestAClosedConnectionIsNotUsed: a request that must not be sent twice is sent by another.
func TestAClosedConnectionIsNotUsed(t *testing.T) {
	for _, how := range []string{"closed", "reset", "closed with words", "unix"} {
		t.Run(how, func(t *testing.T) {
			ended := make(chan struct{}, 1)
			each := func(f *far) {
				if f.request() == nil {
					return
				}
				f.say(fine)
				switch how {
				case "reset":
					f.Conn.(*net.TCPConn).SetLinger(0)
				case "closed with words":
					f.say("HTTP/1.1 408 Request Timeout\r\n\r\n")
				}
				f.Close()
				ended <- struct{}{}
			}
			network, at := "tcp", "127.0.0.1:0"
			if how == "unix" {
				network, at = "unix", filepath.Join(t.TempDir(), "s")
			}
			l, err := net.Listen(network, at)
			if err != nil {
				t.Fatal(err)
			}
			b := serveAt(t, l, each)
			for range 3 {
				b.fine(b.request("POST", "/", streamed("work")))
				<-ended
			}
			b.wantConnections(3)
		})
	}
}

// TestARequestIsSentOnce on a connection that dies under it, but where it may be repeated.
func TestARequestIsSentOnce(t *testing.T) {
	for name, c := range map[string]struct {
		method string
		body   func() io.Reader
		key    bool
		again  bool
	}{
		"GET":                     {"GET", nil, false, true},
		"HEAD":                    {"HEAD", nil, false, true},
		"POST":                    {"POST", nil, false, false},
		"POST with a key":         {"POST", nil, true, true},
		"PUT":                     {"PUT", nil, false, false},
		"DELETE":                  {"DELETE", nil, false, false},
		"GET that is sent once":   {"GET", func() io.Reader { return http1.Empty{} }, false, false},
		"POST with a body":        {"POST", func() io.Reader { return body("work") }, false, false},
		"POST with both":          {"POST", func() io.Reader { return body("work") }, true, true},
		"POST of a stream":        {"POST", func() io.Reader { return streamed("work") }, true, false},
		"POST of 100 KB":          {"POST", func() io.Reader { return body(strings.Repeat("x", 100_000)) }, false, false},
		"POST of 100 KB and both": {"POST", func() io.Reader { return body(strings.Repeat("x", 100_000)) }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			var ran atomic.Int32
			b := serve(t, func(f *far) {
				for f.request() != nil {
					if ran.Add(1) == 2 {
						return
					}
					f.say(ok + "Content-Length: 0\r\n\r\n")
				}
			})
			b.do(b.request("GET", "/", nil))
			var in io.Reader
			if c.body != nil {
				in = c.body()
			}
			r := b.request(c.method, "/", in)
			if c.key {
				r.Header.Set("Idempotency-Key", "k")
			}
			_, _, err := b.do(r)
			if want := map[bool]int32{true: 3, false: 2}[c.again]; (err == nil) != c.again || ran.Load() != want {
				t.Errorf("got %v after %d requests, want %d", err, ran.Load(), want)
			}
		})
	}
}

// TestACancelledRequestClosesItsConnection at every stage, whether or not the client reads.
func TestACancelledRequestClosesItsConnection(t *testing.T) {
	cause := errors.New("the client has left")
	for name, c := range map[string]struct {
		body func() io.Reader
		say  string
		read bool // its answer, while it is cancelled
	}{
		"while it is sent":                            {func() io.Reader { return io.LimitReader(zeros{}, 1<<40) }, "", false},
		"while it waits":                              {func() io.Reader { return body("work") }, "", false},
		"after an early hint":                         {func() io.Reader { return body("work") }, "HTTP/1.1 103 Early Hints\r\n\r\n", false},
		"in the head":                                 {func() io.Reader { return body("work") }, ok, false},
		"in the answer, while it is read":             {func() io.Reader { return body("work") }, ok + "Content-Length: 100\r\n\r\nfine", true},
		"in the answer, and the client does not read": {func() io.Reader { return body("work") }, ok + "Content-Length: 100\r\n\r\nfine", false},
		"in the answer, while it is sent": {func() io.Reader { return io.LimitReader(zeros{}, 1<<40) }, ok +
			"Content-Length: 100\r\n\r\nfine", true},
		"in an answer that ends with it": {func() io.Reader { return body("work") }, ok + "\r\nfine", true},
		"in chunks": {func() io.Reader { return body("work") }, ok +
			"Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n", true},
		"while it waits to be asked for it": {func() io.Reader { return body("work") }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			said, closed := make(chan struct{}), make(chan struct{})
			b := serve(t, func(f *far) {
				f.in.Peek(1)
				f.say(c.say)
				close(said)
				if strings.HasSuffix(name, "sent") {
					// What it does not read closes nothing: a write says that it is gone.
					for err := error(nil); err == nil; {
						_, err = f.in.Discard(1 << 16)
					}
				}
				f.awaitClose()
				close(closed)
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			r := b.request("POST", "/", c.body()).WithContext(ctx)
			if strings.Contains(name, "asked") {
				r.Header.Set("Expect", "100-continue")
			}
			got := make(chan error, 1)
			begun := make(chan struct{})
			go func() {
				res, err := b.RoundTrip(r)
				if err == nil {
					io.ReadFull(res.Body, make([]byte, 4))
					close(begun)
					if !c.read {
						<-closed
					}
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				got <- err
			}()
			<-said
			if strings.Contains(c.say, "fine") {
				<-begun
			}
			cancel(cause)
			<-closed
			if err := <-got; err != cause {
				t.Errorf("got %v, want %v", err, cause)
			}
			if _, _, err := b.do(r); err != cause {
				t.Errorf("of a request whose context has ended: got %v", err)
			}
			b.wantConnections(1)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestARequestThatIsCancelledWhileAConnectionIsMade leaves it to the next.
func TestARequestThatIsCancelledWhileAConnectionIsMade(t *testing.T) {
	b := answers(t, fine)
	dial, begun, goOn := b.DialContext, make(chan struct{}), make(chan struct{})
	b.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address != "box:80" {
			t.Errorf("dialled %s", address)
		}
		begun <- struct{}{}
		<-goOn
		return dial(ctx, network, address)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, _, err := b.do(b.request("GET", "/", nil).WithContext(ctx)); err != context.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	go func() { <-begun }() // the second's own, which comes too late
	goOn <- struct{}{}
	b.fine(b.request("POST", "/", body("x")))
	b.wantConnections(1)
	goOn <- struct{}{}
}

// TestAConnectionThatBecomesIdleServesWhoWaits for one that is being made.
func TestAConnectionThatBecomesIdleServesWhoWaits(t *testing.T) {
	answer, arrived := make(chan struct{}), make(chan struct{}, 2)
	b := serve(t, func(f *far) {
		for f.request() != nil {
			arrived <- struct{}{}
			<-answer
			f.say(fine)
		}
	})
	dial := b.DialContext
	var dials atomic.Int32
	begun, never := make(chan struct{}), make(chan struct{})
	b.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials.Add(1) == 2 {
			close(begun)
			<-never
			return nil, errors.New("it took too long")
		}
		return dial(ctx, network, address)
	}
	done := make(chan struct{})
	go func() { b.fine(b.request("GET", "/1", nil)); done <- struct{}{} }()
	<-arrived
	go func() { b.fine(b.request("GET", "/2", nil)); done <- struct{}{} }()
	<-begun
	answer <- struct{}{}
	<-done
	answer <- struct{}{}
	<-done
	close(never)
	b.wantConnections(1)
}

func TestAConnectionThatCannotBeMadeIsTheError(t *testing.T) {
	b := answers(t, fine)
	want := &net.OpError{Op: "dial", Err: errors.New("no")}
	b.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, want }
	in := &tracked{Reader: body("work")}
	if _, _, err := b.do(b.request("POST", "/", in)); err != error(want) || !in.closed.Load() {
		t.Errorf("got %v, and the body is closed: %v", err, in.closed.Load())
	}
}

type tracked struct {
	io.Reader
	closed atomic.Bool
	close  func()
}

func (b *tracked) Close() error {
	if !b.closed.Swap(true) && b.close != nil {
		b.close()
	}
	return nil
}

// TestAnEarlyAnswerIsRead while its request is still being sent, which then stops.
func TestAnEarlyAnswerIsRead(t *testing.T) {
	for _, name := range []string{"and the connection closed", "and nothing read any more"} {
		t.Run(name, func(t *testing.T) {
			test := make(chan struct{})
			defer close(test)
			b := serve(t, func(f *far) {
				f.in.Peek(1)
				f.say("HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge")
				if strings.Contains(name, "read") {
					<-test
				} else {
					f.in.Discard(1 << 20)
				}
			})
			closed := make(chan struct{})
			r := b.request("POST", "/", &tracked{Reader: io.LimitReader(zeros{}, 1<<40), close: func() { close(closed) }})
			r.ContentLength = 1 << 40
			res, text, err := b.do(r)
			if err != nil || res.StatusCode != 413 || text != "large" {
				t.Fatalf("got %v, %q, %v", res, text, err)
			}
			<-closed // the upload has stopped
			b.wantConnections(1)
		})
	}
}

// TestAServerThatSpeaksFirstIsHeard: one that is full says so to each new connection.
func TestAServerThatSpeaksFirstIsHeard(t *testing.T) {
	said := make(chan struct{})
	b := serve(t, func(f *far) {
		f.say("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 4\r\n\r\nfull")
		f.Conn.(*net.TCPConn).CloseWrite()
		said <- struct{}{}
		f.awaitClose()
	})
	dial := b.DialContext
	b.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		<-said // on loopback it is here then
		return c, err
	}
	for _, in := range []io.Reader{nil, body("work"), streamed("work")} {
		if res, text, err := b.do(b.request("POST", "/", in)); err != nil || res.StatusCode != 503 || text != "full" {
			t.Errorf("got %v, %q, %v", res, text, err)
		}
	}
}

// TestASmallSocketTakesAllOfARequest bit by bit.
func TestASmallSocketTakesAllOfARequest(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 1<<10)
	b := serve(t, func(f *far) {
		f.Conn.(*net.TCPConn).SetReadBuffer(1)
		for {
			r := f.request()
			if r == nil {
				return
			}
			if got, _ := io.ReadAll(r.Body); string(got) != text {
				t.Errorf("the server got %d bytes, want %d", len(got), len(text))
			}
			f.say(fine)
		}
	})
	dial := b.DialContext
	b.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err == nil {
			c.(*net.TCPConn).SetWriteBuffer(1)
		}
		return c, err
	}
	for range 5 {
		b.fine(b.request("POST", "/", body(text)))
	}
	b.wantConnections(1)
}

// TestBothSidesMaySpeakAtOnce: what is sent next depends on what was answered.
func TestBothSidesMaySpeakAtOnce(t *testing.T) {
	b := serve(t, func(f *far) {
		r, err := http.ReadRequest(f.in)
		if err != nil {
			return
		}
		f.say(ok + "Transfer-Encoding: chunked\r\n\r\n")
		for {
			var one [1]byte
			if _, err := r.Body.Read(one[:]); err != nil {
				break
			}
			f.say("1\r\n" + string(one[:]) + "\r\n")
		}
		f.say("0\r\nSum: 3\r\n\r\n")
		if f.request() != nil { // on the same connection
			f.say(fine)
		}
	})
	source, client := io.Pipe()
	res, err := b.RoundTrip(b.request("POST", "/", source))
	if err != nil {
		t.Fatal(err)
	}
	var one [1]byte
	for _, letter := range "abc" {
		fmt.Fprintf(client, "%c", letter)
		if n, err := res.Body.Read(one[:]); n != 1 || err != nil || rune(one[0]) != letter {
			t.Fatalf("got %q, %v, want %c", one[:n], err, letter)
		}
	}
	client.Close()
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("Sum") != "3" {
		t.Errorf("got %q, %v, %v", rest, err, res.Trailer)
	}
	b.fine(b.request("GET", "/", nil))
	b.wantConnections(1)
}

// TestABodyIsSentWhenItIsAskedFor, or refused.
func TestABodyIsSentWhenItIsAskedFor(t *testing.T) {
	const refused = "HTTP/1.1 417 Expectation Failed\r\n"
	for name, c := range map[string]struct {
		first, then string
		sent, again bool
	}{
		"asked":                       {"HTTP/1.1 100 Continue\r\n\r\n", ok + "Content-Length: 0\r\n\r\n", true, true},
		"after an early hint":         {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n", ok + "Content-Length: 0\r\n\r\n", true, true},
		"refused":                     {refused + "Content-Length: 0\r\n\r\n", "", true, true}, // it goes on, so that the body has to come
		"refused, and closed":         {refused + "Connection: close\r\nContent-Length: 0\r\n\r\n", "", false, false},
		"refused by a server of 1999": {"HTTP/1.0 417 Expectation Failed\r\n\r\n", "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 1)
			b := serve(t, func(f *far) {
				r, err := http.ReadRequest(f.in)
				if err != nil {
					return
				}
				f.say(c.first)
				if !c.sent {
					f.Conn.(*net.TCPConn).CloseWrite()
				}
				text, _ := io.ReadAll(r.Body)
				got <- string(text)
				f.say(c.then)
				f.awaitClose()
			})
			r := b.request("POST", "/", body("work"))
			r.Header.Set("Expect", "100-continue")
			asked := false
			r = r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{Got100Continue: func() { asked = true }}))
			if _, _, err := b.do(r); err != nil {
				t.Fatal(err)
			}
			if text := <-got; (text == "work") != c.sent || asked != strings.Contains(c.first, " 100 ") {
				t.Errorf("the server got %q", text)
			}
		})
	}
	t.Run("not answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			standard, _ := piped(func(c net.Conn) {
				defer c.Close()
				f := newFar(c)
				began := time.Now()
				if f.request() != nil && time.Since(began) == time.Second {
					f.say(fine)
				}
			})
			standard.ExpectContinueTimeout = time.Second
			r, _ := http.NewRequestWithContext(t.Context(), "POST", "http://box/", body("work"))
			r.Header.Set("Expect", "100-continue")
			res, err := http1.New(standard, "box").RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			standard.CloseIdleConnections()
		})
	})
}

func TestEarlyHintsAreTold(t *testing.T) {
	b := answers(t, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 3)+
		"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"+fine)
	var told []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		told = append(told, fmt.Sprint(code, header.Get("Link")))
		return nil
	}}
	r := b.request("GET", "/", nil)
	b.fine(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	if want := "103</x> 103</x> 103</x> 102 100"; strings.Join(told, " ") != want {
		t.Errorf("told %q, want %q", told, want)
	}
	no := errors.New("no")
	trace.Got1xxResponse = func(int, textproto.MIMEHeader) error { return no }
	if _, _, err := b.do(r.WithContext(httptrace.WithClientTrace(r.Context(), trace))); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
}

// TestAPanicClosesTheConnection of what is told of an early hint.
func TestAPanicClosesTheConnection(t *testing.T) {
	closed := make(chan struct{})
	b := serve(t, func(f *far) {
		f.request()
		f.say("HTTP/1.1 103 Early Hints\r\n\r\n")
		f.awaitClose()
		close(closed)
	})
	r := b.request("GET", "/", nil)
	func() {
		defer func() { recover() }()
		b.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { panic(http.ErrAbortHandler) }})))
	}()
	<-closed
}

func TestALongHeadIsAnError(t *testing.T) {
	for name, text := range map[string]string{
		"one header":   ok + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n",
		"many headers": ok + strings.Repeat("X: 1234567890\r\n", 100_000) + "\r\n",
		"early hints":  strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", 100_000) + fine,
	} {
		b := answers(t, text)
		if _, _, err := b.do(b.request("GET", "/", nil)); err == nil || !strings.Contains(err.Error(), "at most 1048576 bytes") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// Of the body there may be more.
	b := answers(t, ok+"Content-Length: 3000000\r\n\r\n"+strings.Repeat("x", 3_000_000))
	if _, text, err := b.do(b.request("GET", "/", nil)); err != nil || len(text) != 3_000_000 {
		t.Errorf("got %d bytes, %v", len(text), err)
	}
}

// TestABodyThatCannotBeReadIsTheError, and the server does not take it for whole.
func TestABodyThatCannotBeReadIsTheError(t *testing.T) {
	broken := errors.New("the client is gone")
	for name, c := range map[string]struct {
		body   io.Reader
		length int64
		want   error
	}{
		"after some":          {io.MultiReader(streamed("half"), failing{broken}), -1, broken},
		"after some of many":  {io.MultiReader(streamed("half"), failing{broken}), 100, broken},
		"at once":             {failing{broken}, 100, broken},
		"too short":           {streamed("half"), 100, io.ErrUnexpectedEOF},
		"too short, chunked":  {io.MultiReader(streamed("half"), failing{io.ErrUnexpectedEOF}), -1, io.ErrUnexpectedEOF},
		"in memory":           {body("half"), 100, io.ErrUnexpectedEOF},
		"too long":            {streamed("much more"), 4, nil},
		"too long in memory":  {body("much more"), 4, nil},
		"too long, by reads":  {struct{ io.Reader }{streamed("much more")}, 4, nil}, // not by WriteTo
		"too short, by reads": {struct{ io.Reader }{streamed("half")}, 100, io.ErrUnexpectedEOF},
		"at once, by reads":   {struct{ io.Reader }{failing{broken}}, 100, broken},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan bool, 1)
			b := serve(t, func(f *far) { got <- f.request() != nil; f.awaitClose() })
			r := b.request("POST", "/", c.body)
			r.ContentLength = c.length
			_, _, err := b.do(r)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if strings.HasPrefix(name, "too long") || name == "in memory" {
				return // the server got all that it was to get, or nothing
			}
			if <-got {
				t.Error("the server took it for whole")
			}
		})
	}
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

// TestWhatIsThereIsRead: an event of a stream is passed on as it comes.
func TestWhatIsThereIsRead(t *testing.T) {
	for name, frame := range map[string]string{"chunked": "6\r\n%s\r\n", "until the end": "%s"} {
		goOn := make(chan struct{})
		b := serve(t, func(f *far) {
			f.request()
			f.say(ok + map[string]string{"chunked": "Transfer-Encoding: chunked\r\n"}[name] + "Content-Type: text/event-stream\r\n\r\n")
			for range 3 {
				f.say(fmt.Sprintf(frame, "data\n\n"))
				<-goOn
			}
		})
		res, err := b.RoundTrip(b.request("GET", "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if n, err := res.Body.Read(make([]byte, 100)); n != 6 || err != nil {
				t.Fatalf("%s: got %d bytes, %v", name, n, err)
			}
			goOn <- struct{}{}
		}
		res.Body.Close()
	}
}

// TestAnAnswerThatIsClosedEarly leaves its connection only where its rest is here.
func TestAnAnswerThatIsClosedEarly(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		again  bool
	}{"here": {fine, true}, "not here": {ok + "Content-Length: 100000\r\n\r\nfine", false},
		"chunked": {ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nfine\r\n", false}} {
		b := answers(t, c.answer)
		for range 2 {
			res, err := b.RoundTrip(b.request("GET", "/", nil))
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Read(make([]byte, 1))
			res.Body.Close()
			res.Body.Close()
			if _, err := res.Body.Read(make([]byte, 1)); err != http.ErrBodyReadAfterClose {
				t.Errorf("%s: after its end: %v", name, err)
			}
		}
		b.wantConnections(map[bool]int{true: 1, false: 2}[c.again])
	}
}

func TestACloseEndsARead(t *testing.T) {
	b := answers(t, ok+"Content-Length: 100\r\n\r\nfine")
	res, err := b.RoundTrip(b.request("GET", "/", nil))
	if err != nil {
		t.Fatal(err)
	}
	io.ReadFull(res.Body, make([]byte, 4))
	ended := make(chan error)
	go func() { _, err := res.Body.Read(make([]byte, 4)); ended <- err }()
	res.Body.Close()
	if err := <-ended; err != http.ErrBodyReadAfterClose {
		t.Errorf("got %v", err)
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Run("after their time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var made, ended atomic.Int32
			standard, _ := piped(func(c net.Conn) {
				made.Add(1)
				defer ended.Add(1)
				for f := newFar(c); f.request() != nil; {
					f.say(fine)
				}
			})
			standard.IdleConnTimeout = time.Minute
			b := &box{Transport: http1.New(standard, "box"), t: t}
			for i, pause := range []time.Duration{40 * time.Second, 70 * time.Second, 70 * time.Second} {
				b.fine(b.request("GET", "/", nil))
				if want := int32(1 + i/2); made.Load() != want {
					t.Errorf("%d connections, want %d", made.Load(), want)
				}
				time.Sleep(pause)
			}
			synctest.Wait()
			if ended.Load() != 2 {
				t.Errorf("%d of 2 were closed", ended.Load())
			}
		})
	})
	t.Run("when they are told to", func(t *testing.T) {
		ended := make(chan struct{}, 2)
		b := serve(t, func(f *far) {
			for f.request() != nil {
				f.say(fine)
			}
			ended <- struct{}{}
		})
		b.fine(b.request("GET", "/", nil))
		b.CloseIdleConnections()
		<-ended
		res, err := b.RoundTrip(b.request("GET", "/", nil)) // one that is in use is closed when it is not
		if err != nil {
			t.Fatal(err)
		}
		b.CloseIdleConnections()
		io.Copy(io.Discard, res.Body)
		<-ended
	})
	t.Run("when none are to be kept", func(t *testing.T) {
		b := answers(t, fine)
		b.DisableKeepAlives = true
		for range 2 {
			b.fine(b.request("GET", "/", nil))
		}
		b.wantConnections(2)
	})
}

// TestAnUpgradeIsNetHTTPs, and so is what goes to another host.
func TestAnUpgradeIsNetHTTPs(t *testing.T) {
	b := serve(t, func(f *far) {
		f.request()
		f.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		io.Copy(f, f.in)
	})
	r := b.request("GET", "/", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "echo")
	res, err := b.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	c := res.Body.(io.ReadWriteCloser)
	defer c.Close()
	io.WriteString(c, "hello")
	if text := make([]byte, 5); res.StatusCode != 101 {
		t.Errorf("got %s", res.Status)
	} else if _, err := io.ReadFull(c, text); err != nil || string(text) != "hello" {
		t.Errorf("got %q, %v", text, err)
	}
}

// TestNoOtherGoroutineIsNeeded: a request that waits has no goroutine but its own, and a second
// one allocates little.
func TestNoOtherGoroutineIsNeeded(t *testing.T) {
	b := answers(t, ok+"Content-Type: application/json\r\nContent-Length: 4\r\n\r\nfine")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	block := make([]byte, 100)
	r := b.request("POST", "/", nil).WithContext(ctx)
	one := func() {
		in := strings.NewReader("work")
		r.Body, r.ContentLength = io.NopCloser(in), 4
		res, err := b.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(res.Body, block[:4])
		res.Body.Read(block)
		res.Body.Close()
	}
	one()
	// 26 are usual; those of the server in this process, which reads by net/http, are among them.
	if n := testing.AllocsPerRun(200, one); n > 60 {
		t.Errorf("%.0f allocations, want at most 60", n)
	}
	b.wantConnections(1)
}
