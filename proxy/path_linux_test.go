package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/telemetry"
)

// TestWhatARequestCosts guards the path of a request with everything on: what it
// allocates, and how often something is written to a connection. The client and the
// backend of this process allocate nothing, and write once each.
func TestWhatARequestCosts(t *testing.T) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	t.Cleanup(collector.Close)
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(reply), reply)
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go answerAll(c, answer)
		}
	}()
	b := openTraced(t, "http://"+backend.Addr().String(), telemetry.TracesConfig{Exporter: "otlp", Endpoint: collector.URL, Sample: 1}, wide)
	c, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	request := fmt.Appendf(nil, "POST /light/x HTTP/1.1\r\nHost: box\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		len(question), question)
	in := bufio.NewReader(c)
	one := func() {
		c.Write(request)
		if err := message(in); err != nil {
			t.Fatal(err)
		}
	}
	for range 200 {
		one() // pools are filled, and connections made
	}
	const requests = 1000
	before := written(t)
	allocations := testing.AllocsPerRun(requests, one)
	writes := float64(written(t)-before) / requests
	// 118 are usual, and 129 with the race detector, whose pools lose a part.
	if allocations > 145 {
		t.Errorf("a request makes %.0f allocations, want at most 145", allocations)
	}
	// Here, to the backend, there and back; a head that is sent by itself would be one more.
	if writes > 4.6 {
		t.Errorf("a request makes %.2f writes in this process, want at most 4.6", writes)
	}
}

// answerAll answers each request on a connection.
func answerAll(c net.Conn, answer []byte) {
	in := bufio.NewReader(c)
	for message(in) == nil {
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// message reads a request or an answer that has a length.
func message(in *bufio.Reader) error {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			_, err = in.Discard(length)
			return err
		}
		if name := "content-length: "; len(line) > len(name) && strings.EqualFold(string(line[:len(name)]), name) {
			length = 0
			for _, digit := range line[len(name) : len(line)-2] {
				length = length*10 + int(digit-'0')
			}
		}
	}
}

// written is how often this process has called write.
func written(t *testing.T) (calls int64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "syscw: ")
	if _, err := fmt.Sscan(rest, &calls); err != nil {
		t.Fatal(err)
	}
	return calls
}
