package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// filesIn counts the open files that were made in a folder, whether or not they have
// their names yet.
func filesIn(t *testing.T, folder string) (n int) {
	t.Helper()
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range open {
		if name, err := os.Readlink(file); err == nil && strings.HasPrefix(name, folder) {
			n++
		}
	}
	return n
}

// What waits does not need its body: a long queue holds some in memory and the others in
// files, and each comes whole when its turn has come. A short queue writes no files.
func TestAWaitingRequestIsSmall(t *testing.T) {
	const waiting, size = 400, 64 << 10
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	let, wrong := make(chan struct{}), make(chan string, 2*waiting)
	served := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-let
		text, err := io.ReadAll(r.Body)
		if want := bodyOf(r.URL.Query().Get("n"), size); err != nil || string(text) != want {
			wrong <- fmt.Sprintf("body %s came with %d bytes, %v", r.URL.Query().Get("n"), len(text), err)
		}
	})
	b := open(t, served, func(s *proxy.Setup) {
		class(s, "light", func(c *routing.ClassConfig) { c.Slots, c.Queue.Limit = 1, waiting })
	})
	send := func(n int) net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		fmt.Fprintf(c, "POST /light/x?n=%d HTTP/1.1\r\nHost: box\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", n, size,
			bodyOf(fmt.Sprint(n), size))
		return c
	}
	all := []net.Conn{send(0)}
	eventually(t, "one runs", func() bool { return b.running() == 1 })
	before, goroutines := heap(), runtime.NumGoroutine()
	for n := range 10 {
		all = append(all, send(n+1))
	}
	eventually(t, "10 wait", func() bool { return b.waiting() == 10 })
	if n := filesIn(t, folder); n != 0 {
		t.Errorf("10 bodies that wait made %d files, want none", n)
	}
	for n := 10; n < waiting; n++ {
		all = append(all, send(n+1))
	}
	eventually(t, "all wait", func() bool { return b.waiting() == waiting })
	eventually(t, "most bodies are in files", func() bool { return filesIn(t, folder) > waiting*3/4 })
	// Its handler's; the client's leaving is the watcher's, for all of them.
	if n := runtime.NumGoroutine() - goroutines; n > waiting+waiting/10 {
		t.Errorf("%d waiting requests have %d goroutines, want one each", waiting, n)
	}
	// 1 MiB of bodies is 3 KiB of each of these, and 10 KiB are net/http's buffers.
	if each := (heap() - before) / waiting; each > 26<<10 {
		t.Errorf("a waiting request takes %d bytes of the heap, want at most 26 KiB of one with a body of 64 KiB", each)
	}
	close(let)
	for _, c := range all {
		if text, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 200 ") {
			t.Errorf("got %.60q, %v", text, err)
		}
	}
	if len(wrong) > 0 {
		t.Error(<-wrong)
	}
	eventually(t, "the files are gone", func() bool { return filesIn(t, folder) == 0 })
}

// A client that hangs up together with its request leaves the queue, whichever is seen
// first. One that has sent a further request behind it, and hangs up then, is answered.
func TestAHangUpIsSeenWheneverItComes(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	go b.client.Do(b.request(t.Context(), "POST", "/heavy", "first"))
	<-m.arrived
	const request = "POST /heavy HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsecond"
	for range 200 {
		c, r := b.raw(request)
		c.(*net.TCPConn).CloseWrite()
		if text, err := io.ReadAll(r); len(text) > 0 || err != nil {
			t.Fatalf("got %.60q, %v, want nothing", text, err)
		}
	}
	eventually(t, "none waits", func() bool { return b.waiting() == 0 })
	c, r := b.raw(request)
	eventually(t, "one of two waits", func() bool { return b.waiting() == 1 })
	io.WriteString(c, request)
	c.(*net.TCPConn).CloseWrite()
	close(m.let)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 200 {
		t.Errorf("got %v, %v, want 200", res, err)
	}
}

func bodyOf(n string, size int) string { return n + strings.Repeat("x", size-len(n)) }

func heap() int64 {
	var m runtime.MemStats
	for range 3 { // pools are emptied by the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
