// Package conformance holds the proxy against protocols' own test suites and other
// implementations: those of grpc-go, h2spec, a WebSocket library, nginx and uvicorn.
// It is a module of its own, so that what it needs is not among what the proxy needs,
// and runs the binary that ANTEROOM names. See `make conformance`.
package conformance

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// proxy is a process of the binary.
type proxy struct {
	address string // of its public listener
}

// serve starts the binary in front of a backend, with more keys of it, until the test
// ends. Each request is of a class.
func serve(t *testing.T, url string, more ...string) *proxy {
	t.Helper()
	backend := strings.Join(append([]string{fmt.Sprintf("url: %q", url), "gpu: gpu0"}, more...), ", ")
	return serveFile(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: ""}
state: {file: ""}
gpus: {gpu0: {memory: 24GiB, source: declared}}
classes: {work: {slots: 100, vram: 64MiB, estimate: 1s, queue: {limit: 1000}}}
backends: {model: {%s}}
routes: [{match: {path: /**}, class: work, backend: model}]
`, backend))
}

func serveFile(t *testing.T, configuration string) *proxy {
	t.Helper()
	binary := os.Getenv("ANTEROOM")
	if binary == "" {
		t.Fatal("ANTEROOM is empty: want the path of the binary to test, as make conformance sets it")
	}
	directory := t.TempDir()
	file := filepath.Join(directory, "anteroom.yaml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	p := exec.Command(binary, "serve", "-c", file)
	p.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+directory) // its cards are no other test's
	log, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Signal(os.Interrupt)
		p.Wait()
	})
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg, URL string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && strings.Contains(line.Msg, "listening") {
			go func() {
				for lines.Scan() { // or the process would wait for its log to be read
				}
			}()
			return &proxy{strings.TrimPrefix(line.URL, "http://")}
		}
	}
	t.Fatalf("it ended before it listened: %s", lines.Text())
	return nil
}
