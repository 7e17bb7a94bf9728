package proxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

func TestAClientThatLeavesTheQueueIsNeverServed(t *testing.T) {
	for name, hangUp := range map[string]func(*net.TCPConn){
		"by closing": func(c *net.TCPConn) { c.Close() }, "by resetting": func(c *net.TCPConn) { c.SetLinger(0); c.Close() },
		"by half a close": func(c *net.TCPConn) { c.CloseWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t)
			b := open(t, m)
			go b.client.Do(b.request(t.Context(), "POST", "/heavy", "first"))
			<-m.arrived
			c, _ := b.raw("POST /heavy HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsecond")
			eventually(t, "the second waits", func() bool { return b.waiting() == 1 })
			hangUp(c.(*net.TCPConn))
			eventually(t, "the second is out of the queue", func() bool { return b.waiting() == 0 })
			close(m.let)
			eventually(t, "the first is done", func() bool { return b.running() == 0 })
			if got := m.total.Load(); got != 1 {
				t.Errorf("the backend got %d requests, want the first alone", got)
			}
		})
	}
}

func TestWorkThatIgnoresItsCallerKeepsItsGrant(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	var all sync.WaitGroup
	for i := range 10 {
		ctx, cancel := context.WithCancel(t.Context())
		all.Go(func() {
			if res, err := b.client.Do(b.request(ctx, "POST", "/heavy", "{}")); err == nil {
				res.Body.Close()
				t.Errorf("a cancelled request was answered with %d", res.StatusCode)
			}
		})
		// One runs, and its caller leaves: the next must not start for that.
		if i == 0 {
			<-m.arrived
		} else {
			eventually(t, "it waits", func() bool { return b.waiting() == 1 })
		}
		cancel()
		all.Wait()
		eventually(t, "it does not wait any more", func() bool { return b.waiting() == 0 })
	}
	if b.running() != 1 {
		t.Errorf("%d grants are held while the backend works, want 1", b.running())
	}
	after := make(chan int, 1)
	go func() {
		res, err := b.client.Do(b.request(t.Context(), "POST", "/heavy", "{}"))
		if err != nil {
			after <- 0
			return
		}
		defer res.Body.Close()
		after <- res.StatusCode
	}()
	eventually(t, "the eleventh waits", func() bool { return b.waiting() == 1 })
	m.let <- struct{}{} // the first has really ended
	m.let <- struct{}{}
	if got := <-after; got != 200 || m.most.Load() != 1 || m.total.Load() != 2 {
		t.Errorf("the next got %d, %d were at the backend at once and %d in all, want 200, 1 and 2", got, m.most.Load(), m.total.Load())
	}
}

func TestAnAnswerNobodyReadsIsReadToItsEnd(t *testing.T) {
	started, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "begin")
		http.NewResponseController(w).Flush()
		close(started)
		select {
		case <-goOn:
		case <-t.Context().Done():
		}
		_, err := w.Write(make([]byte, 64<<20)) // far more than may be buffered
		ended <- err
	}))
	ctx, cancel := context.WithCancel(t.Context())
	res, err := b.client.Do(b.request(ctx, "POST", "/slow/x", "{}"))
	if err != nil {
		t.Fatal(err)
	}
	<-started
	cancel()
	res.Body.Close()
	if b.running() != 1 {
		t.Errorf("%d grants while the backend works on, want 1", b.running())
	}
	close(goOn)
	if err := <-ended; err != nil {
		t.Errorf("the backend could not finish: %v", err)
	}
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
}

func TestWorkThatAbortsWithItsCallerGivesBackAtOnce(t *testing.T) {
	for _, streaming := range []bool{false, true} {
		arrived, gone := make(chan struct{}), make(chan struct{})
		b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body) // else a server does not see its caller leave
			if streaming {
				io.WriteString(w, "begin")
				http.NewResponseController(w).Flush()
			}
			close(arrived)
			<-r.Context().Done()
			close(gone)
		}))
		ctx, cancel := context.WithCancel(t.Context())
		finished := make(chan struct{})
		go func() {
			defer close(finished)
			if res, err := b.client.Do(b.request(ctx, "POST", "/light/x", "{}")); err == nil {
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
		<-arrived
		cancel()
		<-finished
		<-gone
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}

func TestTheExecutionTimeoutAnswersTheClient(t *testing.T) {
	within := func(limit time.Duration) func(s *proxy.Setup) {
		return func(s *proxy.Setup) {
			class(s, "light", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
		}
	}
	late := func(t *testing.T, b *box, path string) {
		t.Helper()
		if res, body := b.do("POST", path, ""); res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(body, "execution_timeout") {
			t.Errorf("got %d %s, want 504 execution_timeout", res.StatusCode, body)
		}
	}
	t.Run("and ends work that can be ended", func(t *testing.T) {
		unhurried(t, func(t *testing.T, limit time.Duration) bool {
			var began atomic.Bool
			gone := make(chan struct{})
			b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				began.Store(true)
				<-r.Context().Done()
				close(gone)
			}), within(limit))
			late(t, b, "/light/x")
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			if !began.Load() {
				return false
			}
			<-gone
			return true
		})
	})
	t.Run("while the work keeps its grant", func(t *testing.T) {
		unhurried(t, func(t *testing.T, limit time.Duration) bool {
			m := newModel(t)
			b := open(t, m, within(limit))
			late(t, b, "/slow/x")
			if !m.reached() {
				return false
			}
			if b.running() != 1 {
				t.Errorf("%d grants while the backend works on, want 1", b.running())
			}
			close(m.let)
			eventually(t, "the grant is back", func() bool { return b.running() == 0 })
			return true
		})
	})
	t.Run("by a cut in the middle of an answer", func(t *testing.T) {
		unhurried(t, func(t *testing.T, limit time.Duration) bool {
			goOn := make(chan struct{})
			b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, "begin")
				http.NewResponseController(w).Flush()
				select {
				case <-goOn:
				case <-t.Context().Done():
				}
			}), within(limit))
			defer close(goOn)
			res, err := b.client.Do(b.request(t.Context(), "POST", "/slow/x", ""))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if res.StatusCode == http.StatusGatewayTimeout {
				return false
			}
			if got, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("the client saw a clean end after %q", got)
			}
			if b.running() != 1 {
				t.Errorf("%d grants while the backend works on, want 1", b.running())
			}
			return true
		})
	})
}

func TestASlowReaderHoldsNoSlot(t *testing.T) {
	const size = 4 << 20 // less than response_buffer, more than sockets hold
	sent := make(chan struct{})
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(data(3, size))
		close(sent)
	}))
	res, err := b.client.Do(b.request(t.Context(), "POST", "/light/x", "{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	<-sent
	eventually(t, "the grant is back before the client has read", func() bool { return b.running() == 0 })
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != string(data(3, size)) {
		t.Errorf("the client got %d bytes, %v, want all %d", len(got), err, size)
	}
}

func TestAReaderThatStallsIsCut(t *testing.T) {
	arrived := make(chan struct{})
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	}), func(s *proxy.Setup) { s.Proxy.Limits.WriteStall = 50 * time.Millisecond })
	b.raw("POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
	<-arrived
	eventually(t, "the grant is back", func() bool { return b.running() == 0 })
}

func TestAPanicGivesTheGrantBack(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	b.server.Close()
	w := &panicking{header: http.Header{}}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("the handler ended with %v, want http.ErrAbortHandler", p)
			}
		}()
		r := b.request(t.Context(), "POST", "/light/x", "{}")
		r.RequestURI, r.URL.Host, r.URL.Scheme = "/light/x", "", ""
		b.handler.ServeHTTP(w, r)
	}()
	if b.running() != 0 {
		t.Errorf("%d grants are held after a panic, want 0", b.running())
	}
	if !strings.Contains(b.logs.String(), "panicking on purpose") {
		t.Errorf("the log does not tell of the panic: %s", b.logs)
	}
}

// panicking is a client's end that breaks our handler.
type panicking struct{ header http.Header }

func (p *panicking) Header() http.Header       { return p.header }
func (p *panicking) WriteHeader(int)           { panic(errors.New("panicking on purpose")) }
func (p *panicking) Write([]byte) (int, error) { panic(errors.New("panicking on purpose")) }
