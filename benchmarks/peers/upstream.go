package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// upstream is the server behind the proxies. It reads and writes sockets itself, so
// that it is never what limits a proxy: net/http alone takes as long as HAProxy.
//
//	/json   1 KB of JSON at once
//	/down   mb megabytes
//	/up     reads the body
//	/hold   answers when /release has been called
//	/events n server-sent events, every ms milliseconds, each with the time
//	/heavy  takes ms milliseconds; /gaps tells the time between an end and the next start
type upstream struct {
	mu      sync.Mutex
	held    chan struct{} // guarded by mu; closed by /release
	holding int           // guarded by mu; requests in /hold
	ended   time.Time     // guarded by mu; the last /heavy; zero: none, or one runs
	gaps    []float64     // guarded by mu; milliseconds
}

const kilobyte = 1024

var answer = func() []byte {
	body := `{"text":"` + strings.Repeat("a", kilobyte-11) + `"}`
	return []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
}()

func serveUpstream(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	u := &upstream{held: make(chan struct{})}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			for r := bufio.NewReaderSize(c, 4*kilobyte); u.one(r, c) == nil; {
			}
		}()
	}
}

// head is what the upstream needs to know of a request.
type head struct {
	path    string
	query   url.Values
	length  int64
	chunked bool
	expect  bool
}

func readHead(r *bufio.Reader) (h head, err error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return h, err
	}
	parts := bytes.SplitN(line, []byte(" "), 3)
	if len(parts) != 3 {
		return h, fmt.Errorf("not a request line: %q", line)
	}
	path, query, has := strings.Cut(string(parts[1]), "?")
	h.path = strings.TrimPrefix(path, "/queue")
	if has {
		h.query, _ = url.ParseQuery(query)
	}
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return h, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			return h, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch len(name) {
		case len("content-length"):
			if bytes.EqualFold(name, []byte("content-length")) {
				h.length, err = strconv.ParseInt(string(value), 10, 64)
			}
		case len("transfer-encoding"):
			if bytes.EqualFold(name, []byte("transfer-encoding")) {
				h.chunked = true
			}
		case len("expect"):
			h.expect = h.expect || bytes.EqualFold(name, []byte("expect"))
		}
		if err != nil {
			return h, err
		}
	}
}

func (u *upstream) one(r *bufio.Reader, c net.Conn) error {
	h, err := readHead(r)
	if err != nil {
		return err
	}
	if h.expect {
		io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	var body io.Reader = io.LimitReader(r, h.length)
	if h.chunked {
		body = httputil.NewChunkedReader(r) // r is a *bufio.Reader: it reads nothing ahead
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return err
	}
	for more := h.chunked; more; { // trailers, and the empty line
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		more = len(bytes.TrimRight(line, "\r\n")) > 0
	}
	number := func(name string) int {
		n, _ := strconv.Atoi(h.query.Get(name))
		return n
	}
	switch h.path {
	case "/json":
		_, err = c.Write(answer)
	case "/down":
		err = down(c, number("mb"))
	case "/events":
		err = events(c, number("n"), time.Duration(number("ms"))*time.Millisecond)
	case "/hold":
		u.hold()
		_, err = c.Write(answer)
	case "/release":
		u.mu.Lock()
		close(u.held)
		u.held = make(chan struct{})
		u.mu.Unlock()
		_, err = c.Write(answer)
	case "/holding":
		u.mu.Lock()
		n := u.holding
		u.mu.Unlock()
		err = say(c, n)
	case "/heavy":
		u.heavy(time.Duration(number("ms")) * time.Millisecond)
		_, err = c.Write(answer)
	case "/gaps":
		u.mu.Lock()
		gaps := slices.Clone(u.gaps)
		u.gaps, u.ended = nil, time.Time{}
		u.mu.Unlock()
		err = say(c, gaps)
	default: // /up, and what a proxy asks of itself
		_, err = c.Write(answer)
	}
	return err
}

func say(c net.Conn, v any) error {
	body, _ := json.Marshal(v)
	_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	return err
}

func down(c net.Conn, megabytes int) error {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", megabytes*kilobyte*kilobyte)
	part := make([]byte, 64*kilobyte)
	for range megabytes * 16 {
		if _, err := c.Write(part); err != nil {
			return err
		}
	}
	return nil
}

func events(c net.Conn, n int, every time.Duration) error {
	io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range n {
		event := "data: " + strconv.FormatInt(time.Now().UnixNano(), 10) + "\n\n"
		if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(event), event); err != nil {
			return err
		}
		<-tick.C
	}
	_, err := io.WriteString(c, "0\r\n\r\n")
	return err
}

func (u *upstream) hold() {
	u.mu.Lock()
	held := u.held
	u.holding++
	u.mu.Unlock()
	<-held
	u.mu.Lock()
	u.holding--
	u.mu.Unlock()
}

func (u *upstream) heavy(takes time.Duration) {
	u.mu.Lock()
	if !u.ended.IsZero() {
		u.gaps = append(u.gaps, float64(time.Since(u.ended))/float64(time.Millisecond))
	}
	u.ended = time.Time{}
	u.mu.Unlock()
	time.Sleep(takes)
	u.mu.Lock()
	u.ended = time.Now()
	u.mu.Unlock()
}

// serveSink takes spans and metrics over gRPC and HTTP and forgets them.
func serveSink(address string) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{Addr: address, Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Trailer", "Grpc-Status")
			w.Write(make([]byte, 5)) // an empty message
			w.Header().Set("Grpc-Status", "0")
		}
	})}
	return s.ListenAndServe()
}
