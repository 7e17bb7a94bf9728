package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// served is `anteroom serve` in a process of its own.
type served struct {
	t          *testing.T
	process    *exec.Cmd
	file       string
	url, admin string
	lines      chan map[string]any // its log
	ended      chan struct{}       // its standard error is closed
}

// serveProcess starts it with a file whose one backend is model.
func serveProcess(t *testing.T, model string, more ...string) *served {
	t.Helper()
	return serveProcessAt(t, write(t, serveFile(model, "200", more...)))
}

func serveProcessAt(t *testing.T, file string) *served {
	t.Helper()
	return serveCommand(t, file, process("serve", "-c", file))
}

// serveCommand starts it as the command says, which names the file.
func serveCommand(t *testing.T, file string, command *exec.Cmd) *served {
	t.Helper()
	s := &served{t: t, process: command, file: file, lines: make(chan map[string]any, 10000), ended: make(chan struct{})}
	out, err := s.process.StderrPipe()
	must(t, err)
	must(t, s.process.Start())
	t.Cleanup(func() { s.process.Process.Kill(); s.process.Wait() })
	go func() {
		defer close(s.ended)
		defer close(s.lines)
		for text := bufio.NewScanner(out); text.Scan(); {
			line := map[string]any{}
			if json.Unmarshal(text.Bytes(), &line) != nil {
				line["msg"] = text.Text()
			}
			s.lines <- line
		}
	}()
	l := s.until("listening")
	s.url, s.admin = l["url"].(string), l["admin"].(string)
	return s
}

func serveFile(model, slots string, more ...string) string {
	return serveFileWithState("", model, slots, more...)
}

func serveFileWithState(state, model, slots string, more ...string) string {
	return fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
state: {file: %q}
gpus: {gpu0: {memory: 48GiB, source: declared}}
classes: {work: {slots: %s, vram: 64MiB, estimate: 1s, queue: {limit: 1000}}}
backends: {model: {url: %q, gpu: gpu0, returns_memory: true}}
routes: [{match: {path: /**}, class: work, backend: model}]
%s
`, state, slots, model, strings.Join(more, "\n"))
}

// until reads the log on to a line with that message.
func (s *served) until(message string) map[string]any {
	s.t.Helper()
	for line := range s.lines {
		if text, _ := line["msg"].(string); strings.Contains(text, message) {
			return line
		}
	}
	s.t.Fatalf("the log ends without %q", message)
	return nil
}

func (s *served) signal(which os.Signal) {
	s.t.Helper()
	must(s.t, s.process.Process.Signal(which))
}

// exit waits for the end and gives the exit code.
func (s *served) exit() int {
	<-s.ended
	var exit *exec.ExitError
	if err := s.process.Wait(); errors.As(err, &exit) {
		return exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	return 0
}

// gated answers each request when it is let through.
func gated(t *testing.T) (url string, arrived <-chan struct{}, open func()) {
	t.Helper()
	came, gate := make(chan struct{}, 1000), make(chan struct{})
	open = sync.OnceFunc(func() { close(gate) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		came <- struct{}{}
		<-gate
		io.WriteString(w, "done "+r.URL.Path)
	}))
	t.Cleanup(func() { open(); s.Close() })
	return s.URL, came, open
}

// posts sends n requests at once, each on a connection of its own, and gives
// what came of them.
func posts(t *testing.T, url string, n int) <-chan string {
	t.Helper()
	answers := make(chan string, n)
	for i := range n {
		go func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			res, err := client.Post(fmt.Sprintf("%s/%d", url, i), "text/plain", strings.NewReader("x"))
			if err != nil {
				answers <- err.Error()
				return
			}
			defer res.Body.Close()
			text, err := io.ReadAll(res.Body)
			if err != nil || string(text) != fmt.Sprintf("done /%d", i) {
				answers <- fmt.Sprintf("%s: %q, %v", res.Status, text, err)
				return
			}
			answers <- "done"
		}()
	}
	return answers
}

func TestServeEndsWithFiftyInFlightAndLosesNone(t *testing.T) {
	model, arrived, open := gated(t)
	s := serveProcess(t, model)
	answers := posts(t, s.url, 50)
	for range 50 {
		<-arrived
	}
	s.signal(syscall.SIGTERM)
	s.until("draining")
	open()
	for range 50 {
		if got := <-answers; got != "done" {
			t.Errorf("one of fifty got %s", got)
		}
	}
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
}

func TestServeServesWhatWaitsBeforeItEnds(t *testing.T) {
	model, arrived, open := gated(t)
	s := serveProcess(t, model)
	must(t, os.WriteFile(s.file, []byte(serveFile(model, "1")), 0o644))
	s.until("reloaded")
	answers := posts(t, s.url, 10)
	<-arrived
	waiting := func() int {
		var state struct {
			Classes []struct{ Queued int }
		}
		res, err := http.Get(s.admin + "/api/state")
		must(t, err)
		defer res.Body.Close()
		must(t, json.NewDecoder(res.Body).Decode(&state))
		return state.Classes[0].Queued
	}
	for waiting() < 9 {
	}
	s.signal(syscall.SIGTERM)
	s.until("draining")
	open()
	for range 10 {
		if got := <-answers; got != "done" {
			t.Errorf("one of ten got %s", got)
		}
	}
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
}

func TestServeIsForcedByASecondSignalAndNamesWhatIsLeft(t *testing.T) {
	model, arrived, _ := gated(t)
	s := serveProcess(t, model)
	posts(t, s.url, 1)
	<-arrived
	s.signal(syscall.SIGTERM)
	s.until("draining")
	s.signal(syscall.SIGTERM)
	line := s.until("forced")
	if jobs, _ := line["jobs"].([]any); len(jobs) != 1 || !strings.Contains(jobs[0].(string), "work on model") {
		t.Errorf("it names %v", line["jobs"])
	}
	if code := s.exit(); code != 1 {
		t.Errorf("it ended with %d, want 1", code)
	}
}

// TestServeIsForcedByASecondSignalWhileItFlushes has a collector that takes spans and
// never answers.
func TestServeIsForcedByASecondSignalWhileItFlushes(t *testing.T) {
	model, _, open := gated(t)
	open()
	hole, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer hole.Close()
	called := make(chan struct{})
	go func() {
		for first := true; ; first = false {
			c, err := hole.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			if first {
				close(called)
			}
		}
	}()
	s := serveProcess(t, model, "telemetry: {traces: {exporter: otlp, endpoint: 'http://"+hole.Addr().String()+"'}}")
	<-posts(t, s.url, 1)
	s.signal(syscall.SIGTERM)
	s.until("draining")
	<-called // it flushes
	s.signal(syscall.SIGTERM)
	// The signal has ended it, and not the time that a flush may take.
	if line := s.until("telemetry was lost"); !strings.Contains(fmt.Sprint(line["error"]), "context canceled") {
		t.Errorf("it says %v, want that it was cancelled", line)
	}
	s.exit()
}

func TestServeEndsWhenTheGraceIsOver(t *testing.T) {
	model, arrived, _ := gated(t)
	s := serveProcess(t, model, "drain: {grace: 50ms}")
	posts(t, s.url, 1)
	<-arrived
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 1 {
		t.Errorf("it ended with %d, want 1", code)
	}
}

func TestServeReloads(t *testing.T) {
	model, _, open := gated(t)
	open()
	s := serveProcess(t, model)
	status := func() string {
		res, err := http.Post(s.url+"/0", "text/plain", strings.NewReader("x"))
		must(t, err)
		res.Body.Close()
		return res.Status
	}
	must(t, os.WriteFile(s.file, []byte("routes: [{match: {path: /**}, clas: work, backend: model}]\n"), 0o644))
	if line := s.until("stays as it was"); !strings.Contains(fmt.Sprint(line["error"]), "clas: unknown key") {
		t.Errorf("it says %v", line)
	}
	if got := status(); got != "200 OK" {
		t.Errorf("under the old rules: %s", got)
	}
	must(t, os.WriteFile(s.file, []byte(strings.Replace(serveFile(model, "200"), "/**", "/elsewhere", 1)), 0o644))
	s.until("was reloaded")
	if got := status(); got != "404 Not Found" {
		t.Errorf("under the new rules: %s", got)
	}
	s.signal(syscall.SIGHUP)
	s.until("was reloaded")
	must(t, os.Remove(s.file))
	s.signal(syscall.SIGHUP)
	s.until("stays as it was")
	s.signal(os.Interrupt)
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
}

func TestServeHasItsCardsForItself(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	const model = "http://127.0.0.1:1"
	read := func(more string) string {
		return strings.Replace(serveFile(model, "1"), "source: declared", "source: nvml"+more, 1)
	}
	first := serveProcessAt(t, write(t, read("")))
	refused := func(file string, gpu string) {
		t.Helper()
		text, err := process("serve", "-c", write(t, file)).CombinedOutput()
		want := fmt.Sprintf("gpus.%s: another Anteroom uses this card (PID %d, which holds ", gpu, first.process.Process.Pid)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(text), want) {
			t.Errorf("a second one: got %v: %s, want 1 and %q", err, text, want)
		}
	}
	refused(read(""), "gpu0")
	// A reload takes the lock of a card that it brings, and releases that of one that it takes out.
	must(t, os.WriteFile(first.file, []byte(read(", device: 1")), 0o644))
	first.until("was reloaded")
	second := serveProcessAt(t, write(t, read("")))
	refused(read(", device: 1"), "gpu0")
	must(t, os.WriteFile(first.file, []byte(read("")), 0o644))
	if line := first.until("stays as it was"); !strings.Contains(fmt.Sprint(line["error"]), fmt.Sprintf("PID %d", second.process.Process.Pid)) {
		t.Errorf("a reload to a card of another: %v", line)
	}
	serveProcessAt(t, write(t, read(", device: 1, shared: true")))
	first.signal(os.Interrupt)
	if code := first.exit(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	second.signal(os.Interrupt)
	second.exit()
	serveProcessAt(t, write(t, read("")))
}

func TestServeSaysWhyItDoesNotStart(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	good := write(t, serveFile("http://127.0.0.1:1", "1"))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a port in use":      {[]string{"-c", good, "--listen", taken.Addr().String()}, "address already in use: want another listen"},
		"the admin's port":   {[]string{"-c", good, "--listen", "127.0.0.1:0", "--admin", taken.Addr().String()}, "want another admin.listen"},
		"a file that is not": {[]string{"-c", good + ".none"}, "no such file"},
		"a directory":        {[]string{"-c", t.TempDir()}, "directory"},
		"a wrong file":       {[]string{"-c", write(t, "lisen: x\n")}, "lisen: unknown key"},
		"no file":            {nil, "-c FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := process(append([]string{"serve"}, c.args...)...).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(text), c.want) {
				t.Errorf("got %v: %s, want 1 and %q", err, text, c.want)
			}
		})
	}
}

// A wrong port shows before the first request.
func TestServeNamesABackendThatDoesNotListen(t *testing.T) {
	p := process("serve", "-c", write(t, serveFile("http://127.0.0.1:1", "1")), "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
	logs, err := p.StderrPipe()
	must(t, err)
	must(t, p.Start())
	defer p.Wait()
	defer p.Process.Kill()
	for lines := bufio.NewScanner(logs); lines.Scan(); {
		if strings.Contains(lines.Text(), "a backend does not listen yet") && strings.Contains(lines.Text(), "http://127.0.0.1:1") {
			return
		}
	}
	t.Error("the log does not name it")
}

// Whoever else has the admin port is not shown as if it were the proxy.
func TestCommandsSayThatAnotherServerAnswers(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, "<html>no such page</html>")
	}))
	defer page.Close()
	if code, _, stderr := anteroom("health", "--admin", page.URL); code != 1 || strings.Contains(stderr, "<html>") ||
		!strings.Contains(stderr, page.URL+" answers 404 Not Found, and not as Anteroom does: want --admin") {
		t.Errorf("%d, %s", code, stderr)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSignalsAreTakenBeforeTheLibrariesAreReady: what takes milliseconds of a start
// is their initialisation, and a signal in it must not kill a process that another
// one has just begun to watch.
func TestSignalsAreTakenBeforeTheLibrariesAreReady(t *testing.T) {
	p := process("version")
	p.Env = append(p.Env, "GODEBUG=inittrace=1")
	var trace strings.Builder
	p.Stderr = &trace
	must(t, p.Run())
	at := func(name string) int {
		i := strings.Index(trace.String(), "init github.com/"+name)
		if i < 0 {
			t.Errorf("%s is not initialised: want it in\n%s", name, trace.String())
		}
		return i
	}
	signals := at("anteroom-gpu/anteroom/internal/signals ")
	for _, library := range []string{"labstack/echo/", "prometheus/", "expr-lang/expr/builtin", "anteroom-gpu/anteroom/configs "} {
		if at(library) < signals {
			t.Errorf("%s is initialised before the signals are taken", library)
		}
	}
}

// TestACommandThatServesNothingEndsOfASignal as any process does.
func TestACommandThatServesNothingEndsOfASignal(t *testing.T) {
	p := process("simulate", "-c", write(t, serveFile("http://127.0.0.1:1", "1")), "--trace", "-")
	in, err := p.StdinPipe() // which never ends
	must(t, err)
	must(t, p.Start())
	defer in.Close()
	fmt.Fprintln(in, "at") // it reads
	must(t, p.Process.Signal(os.Interrupt))
	p.Wait()
	if status, ok := p.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGINT {
		t.Errorf("it ended with %v, want by SIGINT", p.ProcessState)
	}
}

// A reader of the log that ends takes nothing along but the lines.
func TestServeGoesOnWhenNobodyReadsItsLog(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	t.Cleanup(model.Close)
	s := &served{t: t, process: process("serve", "-c", write(t, serveFile(model.URL, "200"))), ended: make(chan struct{})}
	close(s.ended)
	log, err := s.process.StderrPipe()
	must(t, err)
	must(t, s.process.Start())
	t.Cleanup(func() { s.process.Process.Kill(); s.process.Wait() })
	line := map[string]any{}
	for text := bufio.NewScanner(log); line["msg"] != "listening" && text.Scan(); {
		must(t, json.Unmarshal(text.Bytes(), &line))
	}
	must(t, log.Close())
	lost := func() bool {
		res, err := http.Post(line["url"].(string)+"/x", "text/plain", strings.NewReader("x"))
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("got %v, %v, want an answer", res, err)
		}
		res.Body.Close()
		res, err = http.Get(line["admin"].(string) + "/metrics")
		must(t, err)
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		must(t, err)
		return !bytes.Contains(text, []byte("\nanteroom_log_lines_dropped_total 0\n"))
	}
	for !lost() { // until the first line has failed to be written
	}
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("it ends with %d, want 0", code)
	}
}
