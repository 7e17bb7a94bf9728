package main

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/wait"
)

var reloads = flag.Int("reloads", 20, "reload so many times under load")

// TestNoRequestFailsUnderReloads changes the file of a process that is under load,
// again and again: slots, a backend that comes and goes, and the route.
func TestNoRequestFailsUnderReloads(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, "done "+r.URL.Path)
	}))
	defer server.Close()
	model := server.URL
	file := func(i int) string {
		text := serveFile(model, fmt.Sprint(8+i%3))
		if i%2 == 1 {
			text = strings.NewReplacer(
				"backends: {", fmt.Sprintf(`backends: {other: {url: "http://127.0.0.1:1", gpu: gpu0, resident: %dMiB}, `, i%7),
				"routes: [", "routes: [{match: {path: /other/**}, class: work, backend: other}, ").Replace(text)
		}
		return text
	}
	s := serveProcess(t, model)
	descriptors := func() int {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.process.Process.Pid))
		if err != nil {
			t.Skip("no /proc to count the descriptors of a process in")
		}
		return len(entries)
	}
	var sent, failed atomic.Int64
	var ended atomic.Bool
	var all sync.WaitGroup
	load := func(done func() bool) {
		for client := range 8 {
			all.Go(func() {
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				for i := 0; !done(); i++ {
					path := fmt.Sprintf("/%d/%d", client, i)
					res, err := (&http.Client{Transport: transport}).Post(s.url+path, "text/plain", strings.NewReader("x"))
					sent.Add(1)
					if err != nil {
						failed.Add(1)
						t.Errorf("%s: %v", path, err)
						continue
					}
					text, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || string(text) != "done "+path {
						failed.Add(1)
						t.Errorf("%s: %s: %q, %v", path, res.Status, text, err)
					}
				}
			})
		}
	}
	load(func() bool { return sent.Load() > 400 })
	all.Wait()
	before := descriptors()
	load(ended.Load)
	for i := range *reloads {
		must(t, os.WriteFile(s.file, []byte(file(i)), 0o644))
		s.signal(syscall.SIGHUP)
		s.until("was reloaded")
	}
	ended.Store(true)
	all.Wait()
	t.Logf("%d requests, %d failed, under %d reloads; %d descriptors before, %d after", sent.Load(), failed.Load(), *reloads, before, descriptors())
	// Beside them there may be connections that are idle.
	wait.Until(t, fmt.Sprintf("the descriptors that are open are the %d of before", before), func() bool { return descriptors() <= before+8 })
	s.signal(os.Interrupt)
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
}
