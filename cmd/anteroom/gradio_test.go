package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/wait"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// TestAGradioJobWithoutAListener gives its slot back when it ends, at a simulated
// Gradio app with its preset: so does one whose page was closed.
func TestAGradioJobWithoutAListener(t *testing.T) {
	engine := engineProcess(t, "gradio", "50")
	s := serveProcessAt(t, write(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
state: {file: ""}
gpus: {gpu0: {memory: 48GiB, source: declared}}
backends: {app: {preset: gradio, url: "%s", completion: {every: 10ms, timeout: 1h}}}
`, engine)))
	post := func(session string) string {
		t.Helper()
		res, err := http.Post(s.url+"/gradio_api/queue/join", "application/json",
			strings.NewReader(`{"data": ["a bird"], "fn_index": 0, "session_hash": "`+session+`"}`))
		must(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 || !strings.Contains(string(text), "event_id") {
			t.Fatalf("to join it got %s %s, %v", res.Status, text, err)
		}
		return string(text)
	}
	listen := func(session string) *http.Response {
		t.Helper()
		res, err := http.Get(s.url + "/gradio_api/queue/data?session_hash=" + session)
		must(t, err)
		return res
	}
	idle := func(what string) {
		t.Helper()
		wait.Until(t, what+": nothing runs", func() bool {
			var state admin.State
			must(t, newClient(s.admin, "").get("/api/state", &state))
			return len(state.Running) == 0
		})
	}
	post("unheard")
	idle("whose stream was never opened")
	late := listen("unheard")
	defer late.Body.Close()
	if text, err := io.ReadAll(late.Body); err != nil || !strings.Contains(string(text), `"process_completed"`) ||
		!strings.Contains(string(text), `"close_stream"`) {
		t.Errorf("a client that comes late gets %s, %v", text, err)
	}

	post("left")
	page := listen("left")
	_, err := io.ReadFull(page.Body, make([]byte, 10))
	must(t, err)
	page.Body.Close()
	idle("whose page was closed")

	post("there")
	page = listen("there")
	defer page.Body.Close()
	if text, err := io.ReadAll(page.Body); err != nil || !strings.Contains(string(text), `"process_completed"`) {
		t.Errorf("a client that listens gets %s, %v", text, err)
	}
	idle("whose client listened")
}

// engineProcess is a simulated engine, so many times as fast as such a server, and gives
// its URL.
func engineProcess(t *testing.T, kind, speed string) string {
	t.Helper()
	p := process("engine", "--kind", kind, "--speed", speed)
	out, err := p.StdoutPipe()
	must(t, err)
	must(t, p.Start())
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	var word, on, url string
	_, err = fmt.Fscan(out, &word, &on, &url)
	must(t, err)
	return url
}
