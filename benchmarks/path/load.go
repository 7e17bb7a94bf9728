package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// world is what stands around the proxies.
type world struct {
	load
	backend, collector string
	request            []byte
	accepted           atomic.Int64  // connections by the backend
	held               chan struct{} // the backend answers when it is closed; nil: at once
}

func newWorld(l load) (*world, error) {
	w := &world{load: l}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w.backend = "http://" + listener.Addr().String()
	go w.serveBackend(listener)
	if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	w.collector = "http://" + listener.Addr().String()
	go http.Serve(listener, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))

	start, end := fmt.Sprintf(`{"model":"m%d","prompt":"`, l.routes), `"}`
	body := start + strings.Repeat("a", max(0, l.question-len(start)-len(end))) + end
	host, path := "box", "/v1/work"
	switch l.rules {
	case "path":
		path += strconv.Itoa(l.routes)
	case "host":
		host += strconv.Itoa(l.routes)
	case "body":
	default:
		return nil, fmt.Errorf("-rules %q is not known: want path, host or body", l.rules)
	}
	w.request = fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: path\r\nAccept: */*\r\n"+
		"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		path, host, len(body), body)
	return w, nil
}

// configuration is a file with as many routes as are asked for, of which the last
// one is the requests'.
func (w *world) configuration(more string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `
listen: LISTEN
admin: {listen: ADMIN}
state: {file: ""}
gpus: {gpu0: {memory: 48GiB, source: declared}}
classes: {work: {slots: 20000, vram: 1MiB, estimate: 1s, queue: {limit: 20000}}}
backends: {model: {url: %q, gpu: gpu0, returns_memory: true}}
%s
routes:
`, w.backend, strings.ReplaceAll(more, "COLLECTOR", w.collector))
	for i := 1; i <= w.routes; i++ {
		match := map[string]string{
			"path": fmt.Sprintf("{path: /v1/work%d}", i),
			"host": fmt.Sprintf("{path: /v1/work, host: box%d}", i),
			"body": fmt.Sprintf("{path: /v1/work, model: m%d}", i),
		}[w.rules]
		fmt.Fprintf(&b, "  - {name: r%d, match: %s, class: work, backend: model}\n", i, match)
	}
	return b.String()
}

// serveBackend answers every request on every connection with the same bytes.
func (w *world) serveBackend(l net.Listener) {
	reply := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", w.reply, strings.Repeat("b", w.reply))
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		w.accepted.Add(1)
		go func() {
			defer c.Close()
			in := bufio.NewReader(c)
			for {
				first, err := readMessage(in)
				if err != nil {
					return
				}
				if w.held != nil && !strings.Contains(first, lightPath) {
					<-w.held
				}
				if _, err := c.Write(reply); err != nil {
					return
				}
			}
		}()
	}
}

var lengthHeader = []byte("content-length:")

// readMessage reads a request or an answer that has a length, and gives its first
// line.
func readMessage(in *bufio.Reader) (first string, err error) {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return first, err
		}
		if first == "" {
			first = string(line)
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			break
		}
		if len(line) > len(lengthHeader) && bytes.EqualFold(line[:len(lengthHeader)], lengthHeader) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(lengthHeader):]))); err != nil {
				return first, err
			}
		}
	}
	_, err = in.Discard(length)
	return first, err
}

// burst sends requests over connections of its own and gives what each cost.
func (w *world) burst(p *proxy) (used, error) {
	var left atomic.Int64
	left.Store(int64(w.requests))
	failed := make(chan error, w.connections)
	var all sync.WaitGroup
	connections := make([]net.Conn, w.connections)
	for i := range connections {
		c, err := net.Dial("tcp", p.url)
		if err != nil {
			return used{}, err
		}
		defer c.Close()
		connections[i] = c
	}
	accepted := w.accepted.Load()
	before, err := p.counters()
	if err != nil {
		return used{}, err
	}
	for _, c := range connections {
		all.Go(func() {
			in := bufio.NewReader(c)
			for left.Add(-1) >= 0 {
				if _, err := c.Write(w.request); err != nil {
					failed <- err
					return
				}
				if first, err := readMessage(in); err != nil || !strings.Contains(first, " 200 ") {
					failed <- errors.Join(fmt.Errorf("the answer begins with %q", first), err)
					return
				}
			}
		})
	}
	all.Wait()
	select {
	case err := <-failed:
		return used{}, err
	default:
	}
	after, err := p.counters()
	used := after.since(before, w.requests)
	used.connections = float64(w.accepted.Load()-accepted) / float64(w.requests)
	return used, err
}
