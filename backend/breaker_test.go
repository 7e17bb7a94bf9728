package backend

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pipes are connections without a network, on which the clock of a bubble
// runs. It is a net.Listener.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes"} }

// bench is a backend in a bubble, what it said of itself, and its server.
type bench struct {
	*Server
	t     *testing.T
	pipes *pipes
	start time.Time
	busy  atomic.Bool

	mu   sync.Mutex
	told []word // guarded by mu
}

// word is a call of available, and when it came.
type word struct {
	slots int
	at    time.Duration
}

// inBubble runs a test on a backend whose breaker opens after three failures
// for half a minute.
func inBubble(t *testing.T, serve http.HandlerFunc, test func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, start: time.Now(), pipes: &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}}
		config := Config{URL: "http://backend", Breaker: BreakerConfig{Failures: 3, Open: 30 * time.Second}}
		var err error
		b.Server, err = New(t.Context(), "it", config, func(slots int) {
			if b.busy.Swap(true) {
				t.Error("two calls overlap")
			}
			b.mu.Lock()
			b.told = append(b.told, word{slots, time.Since(b.start)})
			b.mu.Unlock()
			b.busy.Store(false)
		})
		if err != nil {
			t.Fatal(err)
		}
		b.transport.Load().DialContext = b.pipes.dial
		server := http.Server{Handler: serve}
		go server.Serve(b.pipes)
		defer synctest.Wait()
		defer server.Close()
		defer b.Close()
		test(t, b)
	})
}

func (b *bench) request(ctx context.Context, path string, body io.Reader) *http.Request {
	b.t.Helper()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, b.Base().String()+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// get sends a request and reads the answer to its end.
func (b *bench) get(path string) error {
	b.t.Helper()
	res, err := b.RoundTrip(b.request(b.t.Context(), path, nil))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func (b *bench) wantState(want string) {
	b.t.Helper()
	if got := b.State(); got != want {
		b.t.Fatalf("%v after the start: the breaker is %s, want %s; told %v", time.Since(b.start), got, want, b.heard())
	}
}

func (b *bench) wantTold(want ...word) {
	b.t.Helper()
	if got := b.heard(); !slices.Equal(got, want) {
		b.t.Errorf("told %v, want %v", got, want)
	}
}

func (b *bench) heard() []word {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told)
}

// wait lets the bubble's clock run on. Nothing sleeps for real.
func (b *bench) wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// answering says by the path what the server does: /500 answers 500, /hold
// answers at the caller's end, /cut breaks off.
func answering(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/429":
		w.WriteHeader(http.StatusTooManyRequests)
	case "/500":
		http.Error(w, "it does not work", http.StatusInternalServerError)
	case "/503":
		w.WriteHeader(http.StatusServiceUnavailable)
	case "/404":
		w.WriteHeader(http.StatusNotFound)
	case "/hold":
		<-r.Context().Done()
	case "/stream":
		w.Write([]byte("first"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case "/cut":
		w.Header().Set("Content-Length", "100")
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case "/chunks":
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case "/read":
		io.Copy(io.Discard, r.Body)
	default:
		w.Write([]byte("fine"))
	}
}

// probing gives the backend a health path, so that a probe asks that.
func (b *bench) probing() { b.Config.Health = HealthConfig{Path: "/health", Every: 4 * time.Second} }

// send sends a request of a client and reads the answer to its end.
func (b *bench) send(client, path string) error {
	b.t.Helper()
	r := b.request(b.t.Context(), path, nil)
	r.RemoteAddr = client + ":1234"
	res, err := b.RoundTrip(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return err
}

func (b *bench) wantCounted(failed, total int) {
	b.t.Helper()
	if f, n := b.Failures(); f != failed || n != total {
		b.t.Errorf("%d of %d failed, want %d of %d", f, n, failed, total)
	}
}

func TestAConnectionThatIsNotMadeOpensTheBreaker(t *testing.T) {
	t.Run("where it is refused", func(t *testing.T) {
		inBubble(t, answering, func(t *testing.T, b *bench) {
			b.pipes.Close()
			if err := b.get("/"); !errors.Is(err, ErrRefused) {
				t.Fatalf("got %v, want ErrRefused", err)
			}
			b.wantState("open") // before anything else can be sent there
			b.wantTold(word{0, 0})
		})
	})
	t.Run("where a probe fails too", func(t *testing.T) {
		inBubble(t, answering, func(t *testing.T, b *bench) {
			b.transport.Load().DialContext = func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}
			}
			if err := b.get("/"); !errors.Is(err, ErrUnreachable) || errors.Is(err, ErrRefused) {
				t.Fatalf("got %v, want ErrUnreachable", err)
			}
			synctest.Wait()
			b.wantState("open")
		})
	})
	t.Run("after some in a row in any case", func(t *testing.T) {
		inBubble(t, answering, func(t *testing.T, b *bench) {
			var down atomic.Bool
			dial := b.transport.Load().DialContext
			b.breaker.probe = func(context.Context) error { return nil }
			b.transport.Load().DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
				if down.Load() {
					return nil, &net.OpError{Op: "dial", Err: syscall.ETIMEDOUT}
				}
				return dial(ctx, network, address)
			}
			for _, fails := range []bool{true, true, false, true, true} {
				b.transport.Load().CloseIdleConnections()
				down.Store(fails)
				b.get("/")
				synctest.Wait()
				b.wantState("closed")
			}
			b.get("/")
			b.wantState("open")
		})
	})
	t.Run("but not for what the proxy lacks", func(t *testing.T) {
		for _, lack := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL} {
			inBubble(t, answering, func(t *testing.T, b *bench) {
				b.transport.Load().DialContext = func(context.Context, string, string) (net.Conn, error) {
					return nil, &net.OpError{Op: "dial", Err: lack}
				}
				for range 100 {
					if err := b.get("/"); !errors.Is(err, ErrShort) || errors.Is(err, ErrRefused) {
						t.Fatalf("got %v, want ErrShort", err)
					}
				}
				b.wantState("closed")
				b.wantCounted(0, 0)
			})
		}
	})
}

func TestErrorsOpenTheBreakerWhereManyClientsGetThemAndAProbeFailsToo(t *testing.T) {
	for name, c := range map[string]struct {
		paths   []string // in turn
		clients []string // in turn
		n       int
		health  int32
		want    string
	}{
		"half of them":             {[]string{"/500", "/fine"}, []string{"a", "a", "b", "b"}, 21, 500, "open"},
		"all of them":              {[]string{"/500"}, []string{"a", "b"}, 20, 500, "open"},
		"a connection that breaks": {[]string{"/cut"}, []string{"a"}, 1, 500, "open"},
		"a body that is cut":       {[]string{"/chunks"}, []string{"a"}, 1, 500, "open"},
		"cut, but it is there":     {[]string{"/cut"}, []string{"a", "b"}, 60, 200, "closed"},
		"too few":                  {[]string{"/500"}, []string{"a", "b"}, 19, 500, "closed"},
		"less than half":           {[]string{"/500", "/fine", "/fine"}, []string{"a", "b"}, 60, 500, "closed"},
		"one client's alone":       {[]string{"/500", "/fine"}, []string{"a", "b"}, 60, 500, "closed"},
		"a server that is there":   {[]string{"/500"}, []string{"a", "b"}, 60, 200, "closed"},
		"what counts for nothing":  {[]string{"/429", "/503"}, []string{"a", "b"}, 60, 500, "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			server := &checked{}
			inBubble(t, server.serve, func(t *testing.T, b *bench) {
				b.probing()
				server.status.Store(c.health)
				for i := range c.n {
					b.send(c.clients[i%len(c.clients)], c.paths[i%len(c.paths)])
				}
				synctest.Wait()
				b.wantState(c.want)
			})
		})
	}
	t.Run("answers that are too late", func(t *testing.T) {
		server := &checked{}
		inBubble(t, server.serve, func(t *testing.T, b *bench) {
			b.probing()
			server.status.Store(500)
			for i := range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				r := b.request(ctx, "/hold", nil)
				r.RemoteAddr = string(rune('a'+i%2)) + ":1"
				if _, err := b.RoundTrip(r); !errors.Is(err, context.DeadlineExceeded) {
					t.Fatalf("got %v, want DeadlineExceeded", err)
				}
				cancel()
			}
			synctest.Wait()
			b.wantState("open")
		})
	})
	t.Run("in the window alone", func(t *testing.T) {
		server := &checked{}
		inBubble(t, server.serve, func(t *testing.T, b *bench) {
			b.probing()
			server.status.Store(500)
			for i := range 60 {
				b.send(string(rune('a'+i%2)), "/500")
				b.wait(2 * time.Second)
			}
			b.wantState("closed")
		})
	})
}

func TestOverloadAndCallersThatLeaveAreNeitherFailureNorSuccess(t *testing.T) {
	leave := func(b *bench, path string) {
		ctx, cancel := context.WithCancel(b.t.Context())
		defer cancel()
		if path == "/hold" {
			go func() { b.wait(time.Second); cancel() }()
		}
		res, err := b.RoundTrip(b.request(ctx, path, nil))
		if err == nil { // a stream: the caller has seen its beginning
			io.ReadFull(res.Body, make([]byte, 5))
			cancel()
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		} else if !errors.Is(err, context.Canceled) {
			b.t.Fatalf("got %v, want Canceled", err)
		}
	}
	hangUp := func(b *bench, path string) {
		res, err := b.RoundTrip(b.request(b.t.Context(), path, nil))
		if err != nil {
			b.t.Fatal(err)
		}
		res.Body.Close()
	}
	upload := func(b *bench, path string) {
		source, client := io.Pipe()
		go client.CloseWithError(io.ErrUnexpectedEOF)
		if _, err := b.RoundTrip(b.request(b.t.Context(), path, source)); err == nil {
			b.t.Fatal("a cut upload was answered")
		}
	}
	get := func(b *bench, path string) { b.get(path) }
	for _, c := range []struct {
		name, path string
		do         func(*bench, string)
	}{
		{"429", "/429", get}, {"503", "/503", get},
		{"left before the answer", "/hold", leave}, {"left in the middle", "/stream", leave}, {"closed in the middle", "/stream", hangUp},
		{"cut while sending", "/read", upload},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, answering, func(t *testing.T, b *bench) {
				for range 10 {
					c.do(b, c.path)
				}
				b.get("/500")
				c.do(b, c.path)
				b.get("/fine")
				b.wantCounted(1, 2)
			})
		})
	}
}

// opened is a bench whose breaker has just opened, and whose probes fail until
// its health is set.
func opened(t *testing.T, server *checked, test func(t *testing.T, b *bench)) {
	t.Helper()
	inBubble(t, server.serve, func(t *testing.T, b *bench) {
		server.status.Store(500)
		b.probing()
		b.breaker.trip("the test says so")
		test(t, b)
	})
}

func TestAnOpenBreakerClosesWithTheFirstProbeThatIsAnswered(t *testing.T) {
	server := &checked{}
	opened(t, server, func(t *testing.T, b *bench) {
		b.wait(9500 * time.Millisecond)
		b.wantState("open")
		server.status.Store(200)
		b.wait(time.Second)
		b.wantState("closed")
		b.wantTold(word{0, 0}, word{-1, 10 * time.Second})
	})
	// Without a health path a connection tells.
	inBubble(t, answering, func(t *testing.T, b *bench) {
		var down atomic.Bool
		down.Store(true)
		dial := b.transport.Load().DialContext
		b.transport.Load().DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			if down.Load() {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}
			return dial(ctx, network, address)
		}
		b.get("/")
		b.wait(5500 * time.Millisecond)
		b.wantState("open")
		down.Store(false)
		b.wait(time.Second)
		b.wantState("closed")
	})
}

func TestAnOpenBreakerRefusesThenTriesOneThenCloses(t *testing.T) {
	opened(t, &checked{}, func(t *testing.T, b *bench) {
		if remaining, open := b.Open(); !open || remaining != 30*time.Second {
			t.Errorf("got %v, %v", remaining, open)
		}
		b.wait(29 * time.Second)
		if remaining, open := b.Open(); !open || remaining != time.Second {
			t.Errorf("got %v, %v", remaining, open)
		}
		if err := b.get("/"); !errors.Is(err, ErrBreakerOpen) {
			t.Fatalf("got %v, want ErrBreakerOpen", err)
		}
		b.wantTold(word{0, 0})
		// No new request comes: those that wait must be woken all the same.
		b.wait(1500 * time.Millisecond)
		b.wantState("half-open")
		b.wantTold(word{0, 0}, word{1, 30 * time.Second})
		if remaining, open := b.Open(); open || remaining != 0 {
			t.Errorf("got %v, %v", remaining, open)
		}

		res, err := b.RoundTrip(b.request(t.Context(), "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.get("/"); !errors.Is(err, ErrBreakerOpen) {
			t.Errorf("a second one beside the probe: got %v, want ErrBreakerOpen", err)
		}
		b.wantState("half-open") // it counts when its body ends
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		b.wantState("closed")
		if err := b.get("/"); err != nil {
			t.Error(err)
		}
		b.wantTold(word{0, 0}, word{1, 30 * time.Second}, word{-1, 30500 * time.Millisecond})
	})
}

func TestAnOperatorClosesTheBreaker(t *testing.T) {
	opened(t, &checked{}, func(t *testing.T, b *bench) {
		b.wait(5 * time.Second)
		b.CloseBreaker()
		b.wantState("closed")
		b.wait(time.Hour)
		b.wantTold(word{0, 0}, word{-1, 5 * time.Second})
	})
}

func TestAFailedProbeOpensTheBreakerAgain(t *testing.T) {
	opened(t, &checked{}, func(t *testing.T, b *bench) {
		b.wait(time.Minute)
		b.get("/500")
		b.wantState("open")
		if remaining, _ := b.Open(); remaining != 30*time.Second {
			t.Errorf("%v remain", remaining)
		}
		b.wait(time.Minute)
		b.get("/")
		b.wantState("closed")
		b.wantTold(word{0, 0}, word{1, 30 * time.Second}, word{0, time.Minute}, word{1, 90 * time.Second}, word{-1, 2 * time.Minute})
	})
}

func TestAProbeThatSaysNothingGivesItsPermitBack(t *testing.T) {
	for _, path := range []string{"/hold", "/stream", "/429", "/503"} {
		t.Run(path[1:], func(t *testing.T) {
			opened(t, &checked{}, func(t *testing.T, b *bench) {
				b.wait(time.Minute)
				for range 5 {
					ctx, leave := context.WithCancel(t.Context())
					if path == "/hold" {
						go func() { b.wait(time.Second / 2); leave() }()
					}
					res, err := b.RoundTrip(b.request(ctx, path, nil))
					if err == nil {
						res.Body.Close()
					} else if !errors.Is(err, context.Canceled) {
						t.Fatalf("got %v, want Canceled", err)
					}
					leave()
					b.wantState("half-open")
				}
				if err := b.get("/"); err != nil {
					t.Fatalf("no permit is left: %v", err)
				}
				b.wantState("closed")
			})
		})
	}
}

func TestAnAnswerFromBeforeTheBreakerOpenedDoesNotCloseIt(t *testing.T) {
	proceed := make(chan struct{})
	serve := func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/slow":
			w.(http.Flusher).Flush()
			select {
			case <-proceed:
			case <-r.Context().Done():
			}
		case "/health":
			w.WriteHeader(500)
		}
	}
	inBubble(t, serve, func(t *testing.T, b *bench) {
		proceed = make(chan struct{}) // of this bubble
		b.probing()
		res, err := b.RoundTrip(b.request(t.Context(), "/slow", nil))
		if err != nil {
			t.Fatal(err)
		}
		b.breaker.trip("the test says so")
		b.wait(time.Minute)
		close(proceed)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		b.wantState("half-open")
	})
}

func TestAFailedCheckOpensAHalfOpenBreakerWhoseOneRequestIsUnderWay(t *testing.T) {
	opened(t, &checked{}, func(t *testing.T, b *bench) {
		b.wait(30500 * time.Millisecond)
		res, err := b.RoundTrip(b.request(t.Context(), "/", nil))
		if err != nil {
			t.Fatal(err)
		}
		b.breaker.trip("the test says so")
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		b.wantState("open")
		b.wait(30 * time.Second)
		b.wantState("half-open")
		b.wantTold(word{0, 0}, word{1, 30 * time.Second}, word{0, 30500 * time.Millisecond}, word{1, 60500 * time.Millisecond})
	})
}

func TestAFailureFromBeforeTheBreakerWasClosedDoesNotCount(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		done, err := b.breaker.allow("a", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.breaker.trip("the test says so")
		b.CloseBreaker()
		done(ErrRefused)
		b.wantState("closed")
		b.wantTold(word{0, 0}, word{-1, 0})
	})
}

func TestARequestCountsInTheWindowInWhichItEnds(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		done, err := b.breaker.allow("a", nil)
		if err != nil {
			t.Fatal(err)
		}
		b.wait(time.Hour)
		done(context.DeadlineExceeded)
		b.wantCounted(1, 1)
		b.wait(29 * time.Second)
		b.wantCounted(1, 1)
		b.wait(time.Second)
		b.wantCounted(0, 0)
	})
}

func TestEachRequestIsCountedOnce(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		for _, path := range []string{"/cut", "/cut", "/", "/"} {
			res, err := b.RoundTrip(b.request(t.Context(), path, nil))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 { // however often it is read
				io.Copy(io.Discard, res.Body)
			}
			res.Body.Close()
			res.Body.Close()
		}
		b.wantCounted(2, 4)
	})
}

func TestAClosedBackendSaysNothingMore(t *testing.T) {
	opened(t, &checked{}, func(t *testing.T, b *bench) {
		b.Close()
		b.wait(time.Hour)
		b.wantTold(word{0, 0})
	})
	inBubble(t, answering, func(t *testing.T, b *bench) {
		res, err := b.RoundTrip(b.request(t.Context(), "/stream", nil))
		if err != nil {
			t.Fatal(err)
		}
		b.Close()
		b.pipes.Close()
		b.get("/") // what was in flight fails after the end
		b.get("/")
		res.Body.Close()
		b.wait(time.Hour)
		b.wantTold() // what it says of itself has no effect any more
	})
}

// TestNothingIsSentUntilAProbeHasAnsweredForABrokenConnection: what waits would be
// sent to a server that may just have ended.
func TestNothingIsSentUntilAProbeHasAnsweredForABrokenConnection(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.probing()
		b.get("/cut")
		if got := b.heard(); len(got) == 0 || got[0] != (word{0, 0}) {
			t.Errorf("when the request has ended it has told %v, want that nothing may be sent", got)
		}
		synctest.Wait()
		b.wantState("closed")
		b.wantTold(word{0, 0}, word{-1, 0})
	})
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.get("/")
		b.pipes.Close() // connections that are open stay so
		b.get("/cut")
		synctest.Wait()
		b.wantState("open")
		for _, w := range b.heard() {
			if w.slots != 0 {
				t.Errorf("told %v, want that nothing is to be sent at any time", b.heard())
				break
			}
		}
	})
}

// TestAServerThatClosesWhatItTakesIsNotThere, as one that is ending.
func TestAServerThatClosesWhatItTakesIsNotThere(t *testing.T) {
	inBubble(t, answering, func(t *testing.T, b *bench) {
		b.transport.Load().DialContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			far.Close()
			return near, nil
		}
		if err := b.alive(t.Context()); !errors.Is(err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", err)
		}
	})
	inBubble(t, answering, func(t *testing.T, b *bench) {
		if err := b.alive(t.Context()); err != nil {
			t.Errorf("got %v of a server that is there", err)
		}
	})
}
