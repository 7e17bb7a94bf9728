package proxy_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// TestWithinTLS: HTTP/2 and HTTP/1, an upgraded connection, what is no TLS, what is no
// HTTP, and a client that never shakes hands, which keeps no other from being served.
func TestWithinTLS(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Header.Get("X-Forwarded-Proto"))
			return
		}
		c, brw := upgraded(t, w)
		defer c.Close()
		io.Copy(c, brw)
		io.WriteString(c, "bye")
	}), secureSetup(t))
	silent, err := net.Dial("tcp", strings.TrimPrefix(b.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, two := range []bool{true, false} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: two}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport}
		for range 3 {
			res, err := client.Get(b.url + "/pass/x")
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if want := map[bool]int{true: 2, false: 1}[two]; res.ProtoMajor != want || string(body) != "https" {
				t.Errorf("HTTP/%d answers %s, scheme %q; want HTTP/%d and https", res.ProtoMajor, res.Status, body, want)
			}
		}
	}

	c, r := b.raw("GET /pass/ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %v, %v, want 101", res, err)
	}
	io.WriteString(c, "ping")
	c.(*tls.Conn).CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "pingbye" {
		t.Errorf("after the half-close got %q, %v, want pingbye", rest, err)
	}

	_, r = b.raw("nonsense\r\n\r\n")
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("what is no HTTP: got %v, %v, want 400", res, err)
	}
	eventually(t, "what is no HTTP is counted", func() bool { return b.metric(`anteroom_malformed_total{http_response_status_code="400"`) == "1" })

	plain, err := net.Dial("tcp", strings.TrimPrefix(b.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	io.WriteString(plain, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(plain), nil); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Errorf("what is no TLS: got %v, %v, want 400", res, err)
	}

	// The end of the listener is that of a handshake.
	b.server.Close()
	if _, err := silent.Read(make([]byte, 1)); err == nil {
		t.Error("a connection that has not shaken hands is still open")
	}
}
