package proxy_test

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// outOfMemory is what PyTorch says.
const outOfMemory = `{"error":{"message":"CUDA out of memory. Tried to allocate 2.00 GiB."}}`

// tooLarge is what it says to a request that no GPU has room for.
const tooLarge = `{"error":{"message":"CUDA out of memory. Tried to allocate 200.00 GiB."}}`

// scarce is a model server that runs out of memory the first so many times.
type scarce struct {
	left   atomic.Int32
	calls  atomic.Int32
	bodies chan string
	then   func() // nil: nothing happens before it answers so
	says   string // empty: outOfMemory
}

func (m *scarce) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	m.bodies <- string(body)
	m.calls.Add(1)
	if m.left.Add(-1) >= 0 {
		if m.then != nil {
			m.then()
		}
		w.WriteHeader(http.StatusInternalServerError)
		io.WriteString(w, cmp.Or(m.says, outOfMemory))
		return
	}
	io.WriteString(w, "done")
}

func openScarce(t *testing.T, times int32, change ...func(*proxy.Setup)) (*box, *scarce) {
	m := &scarce{bodies: make(chan string, 100)}
	m.left.Store(times)
	return open(t, m, append([]func(*proxy.Setup){func(s *proxy.Setup) {
		for _, name := range []string{"slow", "quick"} {
			setBackend(s, name, func(c *backend.Config) { c.RetryOOM, c.OOMPatterns = true, []string{"CUDA out of memory"} })
		}
	}}, change...)...), m
}

func TestWhatRanOutOfMemoryIsTriedOnceMore(t *testing.T) {
	small, large := `{"n":1}`, strings.Repeat("0123456789abcdef", 1<<17)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/heavy", small}, {"POST", "/light/x", small}, {"POST", "/light/x", large}, {"POST", "/heavy", large}, {"POST", "/light/x", ""},
	} {
		b, m := openScarce(t, 1)
		if res, body := b.do(c.method, c.path, c.body); res.StatusCode != 200 || body != "done" {
			t.Fatalf("%s %s with %d bytes is answered with %s: %s", c.method, c.path, len(c.body), res.Status, body)
		}
		if first, second := <-m.bodies, <-m.bodies; first != c.body || second != c.body {
			t.Errorf("%s %s: the bodies are of %d and %d bytes, want %d", c.method, c.path, len(first), len(second), len(c.body))
		}
		if b.running() != 0 {
			t.Errorf("%s %s: a grant is left", c.method, c.path)
		}
	}
}

func TestASecondOutOfMemoryIsTheClients(t *testing.T) {
	b, m := openScarce(t, 1000)
	m.says = tooLarge
	for i := range int32(10) {
		res, body := b.do("POST", "/light/x", "{}")
		if res.StatusCode != 500 || body != tooLarge {
			t.Fatalf("it is answered with %s: %s", res.Status, body)
		}
		if got := m.calls.Load(); got != 2*(i+1) {
			t.Fatalf("%d requests were sent %d times", i+1, got)
		}
	}
	// The backend is as well as before.
	if state := b.handler.Breakers()["quick"][0]; state != "closed" {
		t.Errorf("the breaker is %s", state)
	}
}

// TestWhoLacksWhatOthersHoldWaits: the error says that the card is full for the figure,
// and nothing else tells. Nobody else is sent into it, and those who have waited for too
// long are told that, and not their engine's error.
func TestWhoLacksWhatOthersHoldWaits(t *testing.T) {
	b, m := openScarce(t, 1, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Queue.Timeout = 200 * time.Millisecond })
	})
	m.says = "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 48.00 GiB of which 100.00 MiB is free. " +
		"Including non-PyTorch memory, this process has 20.00 MiB memory in use."
	for range 2 {
		res, body := b.do("POST", "/light/x", "{}")
		if res.StatusCode != 503 || res.Header.Get("Retry-After") == "" || !strings.Contains(body, `"code":"queue_timeout"`) ||
			!strings.Contains(body, "gpu0: trial: needs ") {
			t.Errorf("it is answered with %s: %s", res.Status, body)
		}
	}
	if n := m.calls.Load(); n != 1 {
		t.Errorf("%d were sent, want one", n)
	}
	if b.running() != 0 {
		t.Error("a grant is left")
	}
}

func TestWithoutRetryTheFirstOutOfMemoryIsTheClients(t *testing.T) {
	b, m := openScarce(t, 1, func(s *proxy.Setup) { setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM = false }) })
	if res, _ := b.do("POST", "/light/x", "{}"); res.StatusCode != 500 || m.calls.Load() != 1 {
		t.Errorf("it is answered with %s after %d calls", res.Status, m.calls.Load())
	}
}

func TestOtherErrorsAreNotTriedAgain(t *testing.T) {
	var calls atomic.Int32
	large := bytes.Repeat([]byte("x"), 1<<20)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusInternalServerError)
		w.Write(large)
	}), func(s *proxy.Setup) {
		setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM, c.OOMPatterns = true, []string{"CUDA out of memory"} })
	})
	if res, body := b.do("POST", "/light/x", "{}"); res.StatusCode != 500 || body != string(large) || calls.Load() != 1 {
		t.Errorf("it is answered with %s and %d bytes after %d calls", res.Status, len(body), calls.Load())
	}
}

func TestTheSecondTryWaitsForItsRaisedFigure(t *testing.T) {
	m := newModel(t)
	s := &scarce{bodies: make(chan string, 100)}
	s.left.Store(1)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/heavy" {
			m.ServeHTTP(w, r)
			return
		}
		s.ServeHTTP(w, r)
	}), func(s *proxy.Setup) {
		setBackend(s, "quick", func(c *backend.Config) { c.RetryOOM, c.OOMPatterns = true, []string{"CUDA out of memory"} })
		// It fits beside the heavy one's 34 GiB of 47, and with a quarter more it does not.
		class(s, "light", func(c *routing.ClassConfig) { c.VRAM.Amount = 11 * admission.GiB })
	})
	other, first := make(chan int, 1), make(chan int, 1)
	go func() { res, _ := b.do("POST", "/heavy", "{}"); other <- res.StatusCode }()
	<-m.arrived
	go func() { res, _ := b.do("POST", "/light/x", "{}"); first <- res.StatusCode }()
	eventually(t, "the second try waits", func() bool { return b.waiting() == 1 })
	if s.calls.Load() != 1 {
		t.Errorf("it was sent %d times beside another", s.calls.Load())
	}
	m.let <- struct{}{}
	if a, b := <-other, <-first; a != 200 || b != 200 {
		t.Errorf("they are answered with %d and %d", a, b)
	}
}

// failing is a model whose first request fails; /slow/other never does.
func failing(t *testing.T, fail func(w http.ResponseWriter), change ...func(*proxy.Setup)) (*box, *model) {
	m := newModel(t)
	var first atomic.Bool
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/slow/other" && !first.Swap(true) {
			io.Copy(io.Discard, r.Body)
			m.total.Add(1)
			fail(w)
			return
		}
		m.ServeHTTP(w, r)
	}), append([]func(*proxy.Setup){func(s *proxy.Setup) {
		setBackend(s, "slow", func(c *backend.Config) { c.RetryOOM, c.OOMPatterns = true, []string{"CUDA out of memory"} })
		// Two fit beside each other in 47 GiB, and with a quarter more for one they do not.
		class(s, "light", func(c *routing.ClassConfig) { c.VRAM.Amount = 21 * admission.GiB })
	}}, change...)...)
	return b, m
}

func inPieces(w http.ResponseWriter) {
	w.WriteHeader(http.StatusInternalServerError)
	io.WriteString(w, "torch.cuda: CUDA out")
	http.NewResponseController(w).Flush()
	io.WriteString(w, " of memory")
}

func TestAnOutOfMemoryOfUnknownLengthIsTriedOnceMore(t *testing.T) {
	b, m := failing(t, inPieces)
	close(m.let)
	res, body := b.do("POST", "/slow/x", "{}")
	if res.StatusCode != 200 || body != "done" || m.total.Load() != 2 {
		t.Errorf("got %d %s after %d runs, want 200 after 2", res.StatusCode, body, m.total.Load())
	}
	if got := b.metric(`anteroom_oom_total{anteroom_backend="slow",anteroom_result="retried"`); got != "1" {
		t.Errorf("%q retries are counted, want 1", got)
	}
}

func TestAnOutOfMemoryThatDidNotEndIsNotTriedAgain(t *testing.T) {
	for name, fail := range map[string]func(http.ResponseWriter){
		"it is long": func(w http.ResponseWriter) {
			w.WriteHeader(http.StatusInternalServerError)
			io.WriteString(w, "CUDA out of memory"+strings.Repeat(" ", 1<<20))
		},
		"it is cut": func(w http.ResponseWriter) {
			inPieces(w)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		b, m := failing(t, fail)
		close(m.let)
		res, err := b.client.Do(b.request(t.Context(), "POST", "/slow/x", "{}"))
		if err != nil || res.StatusCode != http.StatusInternalServerError {
			t.Fatalf("%s: got %v, %v, want 500", name, res, err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if m.total.Load() != 1 {
			t.Errorf("%s: it ran %d times, want once", name, m.total.Load())
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}

func TestAClientThatLeavesBeforeTheSecondTryIsNotTriedAgain(t *testing.T) {
	b, m := failing(t, inPieces)
	go b.client.Do(b.request(t.Context(), "POST", "/slow/other", "{}"))
	<-m.arrived
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if res, err := b.client.Do(b.request(ctx, "POST", "/slow/x", "{}")); err == nil {
			res.Body.Close()
			t.Errorf("it was answered with %d", res.StatusCode)
		}
	}()
	eventually(t, "the second try waits for the other", func() bool { return b.waiting() == 1 })
	cancel()
	<-gone
	eventually(t, "it waits no more", func() bool { return b.waiting() == 0 })
	close(m.let)
	eventually(t, "nothing runs", func() bool { return b.running() == 0 })
	if m.total.Load() != 2 {
		t.Errorf("%d runs, want its first and the other", m.total.Load())
	}
	eventually(t, "the log shows that it left", func() bool { return strings.Contains(b.logs.String(), `"status":499`) })
}

func TestAFullQueueLeavesTheFirstOutOfMemoryToTheClient(t *testing.T) {
	b, m := failing(t, inPieces, func(s *proxy.Setup) { class(s, "light", func(c *routing.ClassConfig) { c.Queue.Limit = 0 }) })
	go b.client.Do(b.request(t.Context(), "POST", "/slow/other", "{}"))
	<-m.arrived
	if res, body := b.do("POST", "/slow/x", "{}"); res.StatusCode != 500 || !strings.HasSuffix(body, "CUDA out of memory") {
		t.Errorf("got %d %s, want the backend's 500", res.StatusCode, body)
	}
	close(m.let)
	eventually(t, "nothing runs", func() bool { return b.running() == 0 })
	if got := b.metric(`anteroom_oom_total{anteroom_backend="slow",anteroom_result="passed"`); got != "1" {
		t.Errorf("%q passed ones are counted, want 1", got)
	}
}

func TestWorkThatNeverEndsIsAbandonedWhereThatIsWanted(t *testing.T) {
	unhurried(t, func(t *testing.T, limit time.Duration) bool {
		m := newModel(t)
		b := open(t, m, func(s *proxy.Setup) {
			setBackend(s, "slow", func(c *backend.Config) { c.AbandonAfter = limit })
			class(s, "light", func(c *routing.ClassConfig) { c.ExecutionTimeout = limit })
		})
		if res, _ := b.do("POST", "/slow/x", "{}"); res.StatusCode != http.StatusGatewayTimeout {
			t.Errorf("it is answered with %s, want 504", res.Status)
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
		if !m.reached() {
			return false
		}
		if m.now.Load() != 1 {
			t.Errorf("%d are worked on, want the one that goes on", m.now.Load())
		}
		eventually(t, "the log says so", func() bool { return strings.Contains(b.logs.String(), "abandon_after passed") })
		return true
	})
}
