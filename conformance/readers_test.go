package conformance

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	mutations = flag.Int("mutations", 4000, "send so many mutated requests in each differential test")
	seed      = flag.Uint64("seed", 1, "of the mutations")
)

// freeAddress is one that nothing listens at.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// start runs a server until the test ends, and waits until it listens.
func start(t *testing.T, address, program string, arguments ...string) {
	t.Helper()
	p := exec.Command(program, arguments...)
	var said bytes.Buffer
	p.Stdout, p.Stderr = &said, &said
	if err := p.Start(); err != nil {
		t.Fatalf("%v: want Debian's nginx-light, python3-uvicorn and python3-httptools", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- p.Wait() }()
	t.Cleanup(func() {
		p.Process.Kill()
		<-ended
	})
	for range 200 {
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v\n%s", program, err, said.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s does not listen at %s\n%s", program, address, said.String())
}

// uvicorn starts testdata/app.py with one of uvicorn's two parsers.
func uvicorn(t *testing.T, parser string) string {
	t.Helper()
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	start(t, address, "/usr/bin/python3", "-m", "uvicorn", "--app-dir", "testdata", "app:app", "--http", parser, "--port", port,
		"--log-level", "critical", "--no-access-log")
	return address
}

// nginx starts nginx with the locations of the rules.
func nginx(t *testing.T) string {
	t.Helper()
	address, directory := freeAddress(t), t.TempDir()
	configuration := strings.NewReplacer("ADDRESS", address, "DIRECTORY", directory).Replace(`
daemon off; master_process off; pid DIRECTORY/pid; error_log /dev/null;
events {}
http {
  access_log off; client_body_temp_path DIRECTORY/a; proxy_temp_path DIRECTORY/b; fastcgi_temp_path DIRECTORY/c;
  uwsgi_temp_path DIRECTORY/d; scgi_temp_path DIRECTORY/e; keepalive_requests 1000000;
  server {
    listen ADDRESS;
    location = /v1/images { return 200 heavy; }
    location /v1/images/ { return 200 heavy; }
    location = /v1/chat { return 200 light; }
    location /v1/chat/ { return 200 light; }
    location = /static { return 200 pass; }
    location /static/ { return 200 pass; }
    location ~ ^/jobs/[^/]+/run/?$ { return 200 heavy; }
    location / { return 200 other; }
  }
}`)
	file := filepath.Join(directory, "nginx.conf")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, address, "/usr/sbin/nginx", "-p", directory, "-c", file)
	return address
}

// goServer has the routes in a http.ServeMux. It reads JSON into a struct, as most
// servers in Go do, and forms as net/http does.
func goServer(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	says := func(what string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, what) }
	}
	for path, what := range map[string]string{
		"/v1/images": "heavy", "/v1/images/": "heavy", "/v1/chat": "light", "/v1/chat/": "light", "/static": "pass", "/static/": "pass",
		"/jobs/{id}/run": "heavy", "/jobs/{id}/run/{$}": "heavy", "/": "other",
	} {
		mux.HandleFunc(path, says(what))
	}
	mux.HandleFunc("POST /model", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, goModel(r)) })
	mux.HandleFunc("POST /json", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var object map[string]any
		model, ok := "!", false
		if json.Unmarshal(body, &object) == nil {
			if model, ok = object["model"].(string); !ok {
				model = "!"
			}
		}
		io.WriteString(w, model)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// goModel is the field `model` of a request to a server in Go; "!": it finds none.
func goModel(r *http.Request) string {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if strings.HasPrefix(kind, "multipart/") || kind == "application/x-www-form-urlencoded" {
		if err := r.ParseMultipartForm(1 << 20); err != nil && err != http.ErrNotMultipart {
			return "!"
		}
		if !r.PostForm.Has("model") {
			return "!"
		}
		return r.PostForm.Get("model")
	}
	var object struct{ Model any }
	if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
		return "!"
	}
	model, ok := object.Model.(string)
	if !ok {
		return "!"
	}
	return model
}

// raw is a connection on which requests are written as they are.
type raw struct {
	address string
	c       net.Conn
	in      *bufio.Reader
}

// send writes a request and gives the answer with its body. The connection is made
// anew where the server closes it.
func (r *raw) send(request string) (*http.Response, string, error) {
	if r.c == nil {
		c, err := net.Dial("tcp", r.address)
		if err != nil {
			return nil, "", err
		}
		r.c, r.in = c, bufio.NewReader(c)
	}
	r.c.SetDeadline(time.Now().Add(30 * time.Second))
	_, wrote := io.WriteString(r.c, request)
	method, _, _ := strings.Cut(request, " ")
	res, err := http.ReadResponse(r.in, &http.Request{Method: method})
	if err != nil {
		r.close()
		return nil, "", fmt.Errorf("%w (%v)", err, wrote)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil || res.Close {
		r.close()
	}
	return res, string(body), err
}

func (r *raw) close() {
	if r.c != nil {
		r.c.Close()
		r.c = nil
	}
}
