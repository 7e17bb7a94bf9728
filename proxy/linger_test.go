package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// A client that sends its whole body before it reads gets the answer that was given
// after the head: it is not reset on the way.
func TestTheAnswerToARefusedUploadIsRead(t *testing.T) {
	const size = 32 << 20 // more than the buffers of two sockets
	listeners := map[string]func(*proxy.Setup){
		"plain": func(*proxy.Setup) {},
		"unix":  func(s *proxy.Setup) { s.Proxy.Listen = "unix:" + filepath.Join(t.TempDir(), "socket") },
		"TLS":   secureSetup(t),
	}
	for name, listener := range listeners {
		for what, head := range map[string]string{
			"announced":                 fmt.Sprintf("Content-Length: %d\r\n\r\n", size),
			"in a chunk":                fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n", size),
			"by one that asks to close": fmt.Sprintf("Connection: close\r\nContent-Length: %d\r\n\r\n", size),
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				b := open(t, newModel(t), listener, func(s *proxy.Setup) { s.Proxy.Limits.Body = 1 << 20 })
				c, r := b.raw("POST /heavy HTTP/1.1\r\nHost: a\r\n" + head)
				if _, err := c.Write(bytes.Repeat([]byte("x"), size)); err != nil {
					t.Errorf("the upload: %v", err)
				}
				res, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(res.Body); res.StatusCode != http.StatusRequestEntityTooLarge || len(body) == 0 || err != nil {
					t.Errorf("got %d %s, %v", res.StatusCode, body, err)
				}
			})
		}
	}
}
