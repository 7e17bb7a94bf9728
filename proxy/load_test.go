package proxy_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// full makes the load tests as large as the product promises; without it they
// are a part of that, for every day.
var full = flag.Bool("full", false, "run the load tests at their full size")

func atFull(small, large int) int {
	if *full {
		return large
	}
	return small
}

func TestAnswersGivenAtOnceArriveWhole(t *testing.T) {
	// A backend that answers before it has read the request, over connections
	// that are kept: a proxy that forwards the body while the answer comes cuts
	// one answer in a hundred here.
	want := data(5, 5<<20)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(want)))
		w.Write(want)
	}))
	requests := atFull(300, 2000)
	for _, path := range []string{"/light/x", "/slow/x", "/pass/x"} {
		var all sync.WaitGroup
		var left atomic.Int64
		left.Store(int64(requests / 3))
		for range 8 {
			all.Go(func() {
				got := bytes.NewBuffer(make([]byte, 0, len(want)+1))
				for left.Add(-1) >= 0 {
					res, err := b.client.Post(b.url+path, "application/json", strings.NewReader(`{"prompt":"a"}`))
					if err != nil {
						t.Errorf("%s: %v", path, err)
						return
					}
					got.Reset()
					_, err = got.ReadFrom(res.Body)
					res.Body.Close()
					if err != nil || !bytes.Equal(got.Bytes(), want) {
						t.Errorf("%s: got %d bytes, %v, want the %d that were sent", path, got.Len(), err, len(want))
						return
					}
				}
			})
		}
		all.Wait()
	}
}

func TestEveryRequestIsExecutedOnce(t *testing.T) {
	requests := atFull(4000, 300_000)
	executed := make([]atomic.Int32, requests)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var id [8]byte
		io.ReadFull(r.Body, id[:])
		executed[binary.BigEndian.Uint64(id[:])].Add(1)
		w.Write(id[:])
	}), func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Slots = 16 })
	})
	b.do("POST", "/light/x", string(make([]byte, 8)))
	executed[0].Store(0)
	b.client.CloseIdleConnections()
	goroutines, files := settled(b), openFiles(t)

	var next atomic.Int64
	var all sync.WaitGroup
	aborted := make([]bool, requests)
	for range 64 {
		all.Go(func() {
			transport := &http.Transport{MaxIdleConnsPerHost: 1}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport}
			for {
				i := int(next.Add(1)) - 1
				if i >= requests {
					return
				}
				path := []string{"/light/x", "/slow/x"}[i%2]
				ctx, cancel := context.WithCancel(t.Context())
				aborted[i] = rand.IntN(100) == 0
				if aborted[i] {
					time.AfterFunc(rand.N(2*time.Millisecond), cancel)
				}
				id := binary.BigEndian.AppendUint64(nil, uint64(i))
				res, err := client.Do(b.request(ctx, "POST", path, string(id)))
				var got []byte
				if err == nil {
					got, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				if !aborted[i] && (err != nil || !bytes.Equal(got, id)) {
					t.Errorf("request %d: got %q, %v", i, got, err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	eventually(t, "nothing runs or waits", func() bool { return b.running() == 0 && b.waiting() == 0 })
	for i := range executed {
		n := executed[i].Load()
		if n > 1 || n == 0 && !aborted[i] {
			t.Errorf("request %d was executed %d times", i, n)
		}
	}
	b.handler.Close() // the idle connections to the backend are there on purpose
	eventually(t, fmt.Sprintf("goroutines are back to %d", goroutines), func() bool { return runtime.NumGoroutine() <= goroutines+2 })
	eventually(t, fmt.Sprintf("open files are back to %d", files), func() bool { return openFiles(t) <= files+2 })
}

// settled is how many goroutines an idle box has.
func settled(b *box) int {
	n := runtime.NumGoroutine()
	for range 20 {
		<-time.After(5 * time.Millisecond) // connections that were closed still end
		n = min(n, runtime.NumGoroutine())
	}
	return n
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc/self/fd to count open files with")
	}
	return len(entries)
}

// TestMain lets the test binary be a model server that can be killed.
func TestMain(m *testing.M) {
	if address := os.Getenv("PROXY_TEST_MODEL"); address != "" {
		serveModel(address)
	}
	os.Exit(m.Run())
}

// serveModel answers GETs at once, and holds POSTs for ever: it prints a line for each.
func serveModel(address string) {
	l, err := newListener(address)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			io.Copy(io.Discard, r.Body)
			fmt.Println("held")
			<-r.Context().Done()
		}
	}))
}

// startModel starts one in a process of its own. held counts the requests that it holds.
func startModel(t *testing.T, address string) (kill func(), at string, held *atomic.Int32) {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PROXY_TEST_MODEL="+address)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatalf("the model server says nothing: %v", lines.Err())
	}
	at, held = lines.Text(), new(atomic.Int32)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
			held.Add(1)
		}
	}()
	kill = sync.OnceFunc(func() { c.Process.Kill(); <-ended; c.Wait() })
	t.Cleanup(kill)
	return kill, at, held
}

func TestABackendThatIsKilled(t *testing.T) {
	kill, at, held := startModel(t, "127.0.0.1:0")
	b := openAt(t, "http://"+at, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Slots = 20; c.VRAM.Amount = admission.GiB })
	})
	answers := make(chan int, 20)
	for range 20 {
		go func() {
			res, err := b.client.Do(b.request(t.Context(), "POST", "/light/x", "{}"))
			if err != nil {
				answers <- 0
				return
			}
			res.Body.Close()
			answers <- res.StatusCode
		}()
	}
	eventually(t, "20 are in flight", func() bool { return held.Load() == 20 })
	kill()
	for range 20 {
		if got := <-answers; got != http.StatusBadGateway {
			t.Errorf("got %d for a request in flight, want 502", got)
		}
	}
	// A server that is slow to end may have taken the probe's connection.
	eventually(t, "the breaker is open", func() bool {
		b.do("PUT", "/light/x", "")
		return b.handler.Breakers()["quick"][0] == "open"
	})
	for range 10 {
		if res, body := b.do("PUT", "/light/x", ""); res.StatusCode != 503 || !strings.Contains(body, "backend_unavailable") {
			t.Errorf("while the breaker is open: got %d %s, want 503", res.StatusCode, body)
		}
	}
	startModel(t, at)
	eventually(t, "it is served again", func() bool {
		res, _ := b.do("PUT", "/light/x", "")
		return res.StatusCode == 200
	})
}

// TestWhatWaitsIsNotSentToAServerThatHasJustEnded: it waits for the server's return. A
// health path makes that certain however slowly the server ends: a connection alone
// would have to be watched for as long as that takes.
func TestWhatWaitsIsNotSentToAServerThatHasJustEnded(t *testing.T) {
	kill, at, held := startModel(t, "127.0.0.1:0")
	b := openAt(t, "http://"+at, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Slots = 1 })
		setBackend(s, "quick", func(c *backend.Config) { c.Health = backend.HealthConfig{Path: "/", Every: time.Hour} })
	})
	send := func(method string) <-chan int {
		status := make(chan int, 1)
		go func() {
			res, err := b.client.Do(b.request(t.Context(), method, "/light/x", "{}"))
			if err != nil {
				status <- 0
				return
			}
			res.Body.Close()
			status <- res.StatusCode
		}()
		return status
	}
	running := send("POST")
	eventually(t, "one is in flight", func() bool { return held.Load() == 1 })
	var waiting []<-chan int
	for range 5 {
		waiting = append(waiting, send("PUT"))
	}
	eventually(t, "five wait", func() bool { return b.waiting() == 5 })
	kill()
	if got := <-running; got != http.StatusBadGateway {
		t.Errorf("got %d for the request in flight, want 502", got)
	}
	eventually(t, "the breaker is open", func() bool { return b.handler.Breakers()["quick"][0] == "open" })
	startModel(t, at)
	for _, status := range waiting {
		if got := <-status; got != http.StatusOK {
			t.Errorf("got %d for a request that waited, want 200 when the server is back", got)
		}
	}
}
