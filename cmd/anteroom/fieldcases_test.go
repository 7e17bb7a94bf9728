package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/wait"
)

// The field cases are what people who run gateways in front of model servers have
// reported, each as a small set-up of its own: fake engines on sockets, and the
// binary that ANTEROOM names before them, in a process of its own. `make
// fieldcases` builds that and runs them all. What a case stands for is tried
// closely in the tests of proxy and routing; here it is the whole that must hold.

// site is one set-up.
type site struct {
	t     *testing.T
	proxy string // host:port
	admin string
	done  chan error
	p     *exec.Cmd
	log   *record
}

// record is a log that may be read while it grows.
type record struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// setUp starts the binary with a file of testdata/fieldcases, in which @NAME@
// stands for an engine.
func setUp(t *testing.T, file string, engines map[string]http.HandlerFunc, env ...string) *site {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "fieldcases", file))
	must(t, err)
	config := string(text)
	for name, handler := range engines {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		server := &http.Server{Handler: handler}
		go server.Serve(l)
		t.Cleanup(func() { server.Close() })
		config = strings.ReplaceAll(config, "@"+name+"@", "http://"+l.Addr().String())
	}
	return start(t, config, env...)
}

func start(t *testing.T, config string, env ...string) *site {
	t.Helper()
	s := &site{t: t, log: &record{}, done: make(chan error, 1)}
	file := filepath.Join(t.TempDir(), "anteroom.yaml")
	must(t, os.WriteFile(file, []byte("listen: 127.0.0.1:0\nadmin: {listen: 127.0.0.1:0}\nstate: {file: \"\"}\n"+config), 0o644))
	s.p = exec.Command(os.Getenv("ANTEROOM"), "serve", "-c", file)
	s.p.Env = append(os.Environ(), env...)
	out, err := s.p.StderrPipe()
	must(t, err)
	must(t, s.p.Start())
	lines := bufio.NewReader(out)
	for s.proxy == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("it did not start: %s%s", s.log, line)
		}
		io.WriteString(s.log, line)
		var l struct{ Msg, URL, Admin string }
		if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "listening" {
			s.proxy, s.admin = strings.TrimPrefix(l.URL, "http://"), l.Admin
		}
	}
	go func() {
		io.Copy(s.log, lines)
		s.done <- s.p.Wait()
	}()
	t.Cleanup(func() {
		s.p.Process.Kill()
		if t.Failed() {
			t.Logf("the log:\n%s", s.log)
		}
	})
	return s
}

// post sends a body and gives the answer's status, headers and body.
func (s *site) post(path, body string, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	return s.send("POST", path, body, headers...)
}

func (s *site) send(method, path, body string, headers ...string) (int, http.Header, string) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.proxy+path, strings.NewReader(body))
	must(s.t, err)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	must(s.t, err)
	defer res.Body.Close()
	all, _ := io.ReadAll(res.Body)
	return res.StatusCode, res.Header, string(all)
}

// raw opens a connection and writes a request by hand.
func (s *site) raw(request string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.proxy)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, request)
	must(s.t, err)
	return c
}

// soon waits for what another process brings about.
func (s *site) soon(what string, is func() bool) {
	s.t.Helper()
	wait.Until(s.t, what, is)
}

// answers is an engine that tells what it was sent.
func answers(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %s %d", r.Method, r.RequestURI, len(body))
}

// TestFieldCases is run by `make fieldcases`.
func TestFieldCases(t *testing.T) {
	if os.Getenv("ANTEROOM") == "" {
		t.Skip("ANTEROOM names no binary: make fieldcases builds one")
	}
	for name, run := range fieldCases {
		t.Run(name, run)
	}
}

var fieldCases = map[string]func(t *testing.T){
	"a workflow at a time, whatever protocol its client offers": func(t *testing.T) {
		var drawing, most, next atomic.Int32
		var done sync.Map
		s := setUp(t, "comfyui.yaml", map[string]http.HandlerFunc{"comfyui": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			id, asked := strings.CutPrefix(r.URL.Path, "/history/")
			switch {
			case r.URL.Path == "/prompt":
				id := fmt.Sprint("p", next.Add(1))
				if n := drawing.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.AfterFunc(100*time.Millisecond, func() { drawing.Add(-1); done.Store(id, true) })
				fmt.Fprintf(w, `{"prompt_id":%q}`, id)
			case asked:
				if _, ok := done.Load(id); ok {
					fmt.Fprintf(w, `{%q:{"status":{"status_str":"success","completed":true}}}`, id)
				} else {
					io.WriteString(w, "{}")
				}
			default:
				io.WriteString(w, "{}")
			}
		}})
		for range 4 {
			s.raw("POST /prompt HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: " +
				"AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Length: 2\r\n\r\n{}")
		}
		s.soon("all four are drawn", func() bool { return next.Load() == 4 && drawing.Load() == 0 })
		if most.Load() != 1 {
			t.Errorf("%d at once in a class of one", most.Load())
		}
	},
	"two models on one path are never taken for each other": func(t *testing.T) {
		tell := func(name string) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body); io.WriteString(w, name) }
		}
		s := setUp(t, "two-models.yaml", map[string]http.HandlerFunc{"painter": tell("painter"), "reader": tell("reader")})
		picture := strings.Repeat("QUJD", 400<<10)
		for name, c := range map[string]struct {
			body    string
			headers []string
			want    string
		}{
			"a picture":             {`{"model":"reader","image":"` + picture + `"}`, nil, "reader"},
			"a picture first":       {`{"image":"` + picture + `","model":"reader"}`, nil, "reader"},
			"a picture to draw":     {`{"image":"` + picture + `","model":"painter"}`, nil, "painter"},
			"curl -d":               {`{"model":"reader","q":"R&D; you"}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, "reader"},
			"a page without a type": {`{"model":"reader"}`, []string{"Content-Type", "text/plain;charset=UTF-8"}, "reader"},
			"NaN":                   {`{"model":"reader","p":NaN}`, nil, "reader"},
			"a form": {"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a; b.mp3\"\r\n\r\n" + picture +
				"\r\n--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nreader\r\n" +
				"--b\r\nContent-Disposition: form-data; name=\"g[]\"\r\n\r\na\r\n--b\r\nContent-Disposition: form-data; " +
				"name=\"g[]\"\r\n\r\nb\r\n--b--\r\n", []string{"Content-Type", "multipart/form-data; boundary=b"}, "reader"},
			"two models": {`{"model":"reader","model":"painter"}`, nil, "ambiguous_body"},
			"cut":        {`{"model":"reader"`, nil, "ambiguous_body"},
			"packed":     {"\x1f\x8b", []string{"Content-Encoding", "gzip"}, "ambiguous_body"},
		} {
			if _, _, got := s.post("/v1/x", c.body, c.headers...); !strings.Contains(got, c.want) {
				t.Errorf("%s: got %.200s, want %s", name, got, c.want)
			}
		}
	},
	"paths arrive as they were sent": func(t *testing.T) {
		s := setUp(t, "one-engine.yaml", map[string]http.HandlerFunc{"engine": answers})
		for _, target := range []string{"/api/userdata/workflows%2Fa.json", "/file=https://host/a.png", "/v1/models/org%2Fname", "//a"} {
			c := s.raw("GET " + target + " HTTP/1.1\r\nHost: x\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			must(t, err)
			if body, _ := io.ReadAll(res.Body); string(body) != "GET "+target+" 0" {
				t.Errorf("%s arrived as %s", target, body)
			}
		}
	},
	"what needs no card does not wait for it, nor a stop for it": func(t *testing.T) {
		let, arrived := make(chan struct{}), make(chan struct{}, 10)
		s := setUp(t, "one-engine.yaml", map[string]http.HandlerFunc{"engine": func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == "POST":
				io.Copy(io.Discard, r.Body)
				arrived <- struct{}{}
				<-let
			case r.URL.Path == "/events":
				w.Header().Set("Content-Type", "text/event-stream")
				for r.Context().Err() == nil {
					io.WriteString(w, "data: x\n\n")
					w.(http.Flusher).Flush()
					<-time.After(10 * time.Millisecond)
				}
			}
		}})
		work := make(chan int, 1)
		go func() {
			status, _, _ := s.post("/v1/x", "{}")
			work <- status
		}()
		<-arrived
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "DELETE"} {
			if status, _, body := s.send(method, "/v1/models", ""); status != 200 {
				t.Errorf("%s beside work that fills the card: %d %s", method, status, body)
			}
		}
		for range 3 {
			stream := s.raw("GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
			if _, err := bufio.NewReader(stream).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		close(let)
		if status := <-work; status != 200 {
			t.Errorf("the work got %d", status)
		}
		must(t, s.p.Process.Signal(syscall.SIGTERM))
		if err := <-s.done; err != nil {
			t.Errorf("with three pages open it ends with %v", err)
		}
	},
	"one client's bad input closes nothing": func(t *testing.T) {
		s := setUp(t, "one-engine.yaml", map[string]http.HandlerFunc{"engine": func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if string(body) == "bad" {
				w.WriteHeader(500)
			}
		}})
		for range 30 {
			s.post("/v1/x", "bad")
		}
		if status, _, body := s.post("/v1/x", "good"); status != 200 {
			t.Errorf("the next one got %d %s", status, body)
		}
	},
	"a backend that is back is served at once": func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		address := l.Addr().String()
		l.Close()
		text, err := os.ReadFile("testdata/fieldcases/one-engine.yaml")
		must(t, err)
		s := start(t, strings.ReplaceAll(string(text), "@engine@", "http://"+address))
		s.soon("it is refused", func() bool {
			status, _, body := s.post("/v1/x", "{}")
			return status == 503 && strings.Contains(body, "backend_unavailable")
		})
		// A connection to elsewhere may have been given the port meanwhile.
		s.soon("the port is free", func() bool { l, err = net.Listen("tcp", address); return err == nil })
		server := &http.Server{Handler: http.HandlerFunc(answers)}
		go server.Serve(l)
		defer server.Close()
		s.soon("it is served", func() bool { status, _, _ := s.post("/v1/x", "{}"); return status == 200 })
	},
	"an SDK that is told so runs nothing twice": func(t *testing.T) {
		var runs atomic.Int32
		s := setUp(t, "short.yaml", map[string]http.HandlerFunc{"engine": func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			runs.Add(1)
			<-time.After(time.Second)
		}})
		for range 3 { // as an SDK does
			status, header, _ := s.post("/v1/images/generations", "{}")
			if status < 500 || header.Get("X-Should-Retry") == "false" {
				break
			}
		}
		if n := runs.Load(); n != 1 {
			t.Errorf("it ran %d times", n)
		}
	},
	"a page reads why it is refused": func(t *testing.T) {
		s := setUp(t, "browser.yaml", map[string]http.HandlerFunc{"engine": answers})
		for path, want := range map[string]int{"/nowhere": 404, "/v1/large": 422} {
			status, header, body := s.post(path, "{}", "Origin", "http://localhost:3000")
			if status != want || header.Get("Access-Control-Allow-Origin") != "http://localhost:3000" {
				t.Errorf("%s: got %d %v %s, want %d", path, status, header, body, want)
			}
			status, _, _ = s.send("OPTIONS", path, "", "Origin", "http://localhost:3000", "Access-Control-Request-Method", "POST")
			if status/100 != 2 {
				t.Errorf("%s: the preflight got %d", path, status)
			}
		}
	},
	"no place for files": func(t *testing.T) {
		s := setUp(t, "one-engine.yaml", map[string]http.HandlerFunc{"engine": answers}, "TMPDIR=/proc/none")
		if !strings.Contains(s.log.String(), `"level":"ERROR"`) {
			s.soon("it is told at the start", func() bool { return strings.Contains(s.log.String(), `"level":"ERROR"`) })
		}
		if status, _, body := s.post("/v1/x", strings.Repeat("x", 2<<20)); status != 503 || !strings.Contains(body, "spool_unavailable") {
			t.Errorf("got %d %s", status, body)
		}
		res, err := http.Get(s.admin + "/readyz")
		must(t, err)
		res.Body.Close()
		if res.StatusCode != 503 {
			t.Errorf("/readyz is %d", res.StatusCode)
		}
	},
	"an engine's calls go to no other engine": func(t *testing.T) {
		var freed atomic.Bool
		watch := func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" && r.URL.Path == "/free" {
				freed.Store(true)
			}
			io.WriteString(w, "{}")
		}
		s := setUp(t, "controls.yaml", map[string]http.HandlerFunc{"comfyui": watch, "other": watch})
		for _, path := range []string{"/free", "/free/", "/%66ree", "//free", "/x/..%2ffree"} {
			if status, _, body := s.post(path, "{}"); status != 403 && status != 400 {
				t.Errorf("POST %s: got %d %s", path, status, body)
			}
		}
		if freed.Load() {
			t.Error("an engine was told to free its memory")
		}
	},
	"an engine that is put to sleep by another hand is woken": func(t *testing.T) {
		var asleep atomic.Bool
		s := setUp(t, "vllm.yaml", map[string]http.HandlerFunc{"vllm": func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/is_sleeping":
				fmt.Fprintf(w, `{"is_sleeping":%v}`, asleep.Load())
			case "/wake_up":
				asleep.Store(false)
			case "/health":
			default:
				if asleep.Load() {
					w.WriteHeader(500)
				}
			}
		}})
		s.post("/v1/x", "{}")
		asleep.Store(true)
		s.soon("it is served again", func() bool { status, _, _ := s.post("/v1/x", "{}"); return status == 200 })
		if asleep.Load() {
			t.Error("it was not woken")
		}
	},
}
