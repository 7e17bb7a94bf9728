package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// echoing is a server that sends back each message, with compression and a
// subprotocol where the client offers them.
func echoing(t *testing.T) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, Subprotocols: []string{"echo"},
			CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(32 << 20)
		for {
			kind, message, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// frame is one of a client: masked, with any first byte and any length in it.
func frame(first byte, payload string) string {
	mask := [4]byte{1, 2, 3, 4}
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, mask[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return string(b)
}

const (
	more, text, binaryFrame, closing, ping, pong = 0x0, 0x1, 0x2, 0x8, 0x9, 0xa

	final = 0x80
)

// status is the payload of a close frame.
func status(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// dialogues are what a client sends after its handshake, well-formed and not: what
// Autobahn's test suite has, as far as a server alone decides on it.
func dialogues() map[string]string {
	bye := frame(final|closing, status(1000, ""))
	d := map[string]string{
		"nothing":                     bye,
		"a close without a code":      frame(final|closing, ""),
		"a close of one byte":         frame(final|closing, "x"),
		"a close with a reason":       frame(final|closing, status(1000, "that is all")),
		"a close that is not UTF-8":   frame(final|closing, status(1000, "\xff\xfe")),
		"a close of 126 bytes":        frame(final|closing, status(1000, strings.Repeat("x", 124))),
		"a frame after the close":     bye + frame(final|text, "late"),
		"two fragments":               frame(text, "ab") + frame(final|more, "cd") + bye,
		"many fragments":              frame(text, "") + strings.Repeat(frame(more, "x"), 500) + frame(final|more, "y") + bye,
		"a ping between fragments":    frame(text, "ab") + frame(final|ping, "p") + frame(final|more, "cd") + bye,
		"a pong between fragments":    frame(text, "ab") + frame(final|pong, "p") + frame(final|more, "cd") + bye,
		"a text between fragments":    frame(text, "ab") + frame(final|text, "p") + bye,
		"a continuation of nothing":   frame(final|more, "ab") + bye,
		"a fragmented ping":           frame(ping, "ab") + frame(final|more, "cd") + bye,
		"a ping of 125 bytes":         frame(final|ping, strings.Repeat("p", 125)) + bye,
		"a ping of 126 bytes":         frame(final|ping, strings.Repeat("p", 126)) + bye,
		"a thousand pings":            strings.Repeat(frame(final|ping, "p"), 1000) + bye,
		"a pong that was not asked":   frame(final|pong, "hello") + bye,
		"text that is not UTF-8":      frame(final|text, "\xce\xba\xe1\xbd\xb9\xed\xa0\x80") + bye,
		"UTF-8 across fragments":      frame(text, "\xce") + frame(final|more, "\xba") + bye,
		"a text of a mebibyte":        frame(final|text, strings.Repeat("x", 1<<20)) + bye,
		"binary of 4 MiB":             frame(final|binaryFrame, strings.Repeat("\x00\xff", 2<<20)) + bye,
		"a frame without a mask":      "\x81\x01x" + bye,
		"a length that is too large":  "\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
		"no frame":                    "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"half a frame, then the end":  frame(final|text, "whole")[:5],
		"half a header, then the end": "\x81",
	}
	for bit, name := range map[byte]string{0x40: "1", 0x20: "2", 0x10: "3"} {
		d["reserved bit "+name] = frame(final|text|bit, "x") + bye
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		d[fmt.Sprintf("opcode %d", opcode)] = frame(final|opcode, "x") + bye
	}
	for _, code := range []uint16{0, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1011, 1012, 1015, 1016, 2999, 3000, 4999, 5000, 65535} {
		d[fmt.Sprintf("close code %d", code)] = frame(final|closing, status(code, "x"))
	}
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 65537} {
		d[fmt.Sprintf("a text of %d bytes", n)] = frame(final|text, strings.Repeat("*", n)) + bye
		d[fmt.Sprintf("binary of %d bytes", n)] = frame(final|binaryFrame, strings.Repeat("\xfe", n)) + bye
	}
	return d
}

// talk sends a handshake and a dialogue in pieces and gives all that comes back.
func talk(t *testing.T, address, dialogue string, piece int) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: box\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "+
		"13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: echo, other\r\nOrigin: http://page\r\n\r\n")
	answer := bufio.NewReader(c)
	res, err := http.ReadResponse(answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintln(res.StatusCode, res.Header["Upgrade"], res.Header["Connection"], res.Header["Sec-Websocket-Accept"],
		res.Header["Sec-Websocket-Protocol"], res.Header["Sec-Websocket-Extensions"])
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for rest := dialogue; len(rest) > 0; {
			n := min(piece, len(rest))
			if _, err := io.WriteString(c, rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		c.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(answer)
	c.Close() // a server that has closed reads no more
	<-sent
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("the connection is not closed: got %d bytes", len(back))
	}
	return head + string(back)
}

// TestAWebSocketIsTheSameBehindTheProxy compares every byte that a server sends with
// and without the proxy before it.
func TestAWebSocketIsTheSameBehindTheProxy(t *testing.T) {
	server := echoing(t)
	through := serve(t, server.URL).address
	all := dialogues()
	for name, dialogue := range all {
		for _, piece := range []int{7, 1 << 20} {
			if len(dialogue) > 100<<10 {
				piece = max(piece, 4096)
			}
			// A server that closes before it has read all resets the connection, and what
			// it has sent last may be lost then, with the proxy and without.
			var direct, got string
			for try := 0; try == 0 || got != direct && try < 5; try++ {
				direct, got = talk(t, server.Listener.Addr().String(), dialogue, piece), talk(t, through, dialogue, piece)
			}
			if got != direct {
				t.Errorf("%s, in pieces of %d: got %d bytes, want the server's own %d\ngot  %.200q\nwant %.200q", name, piece, len(got), len(direct), got, direct)
			}
		}
	}
	t.Logf("%d dialogues, each in two sizes of pieces", len(all))
}

// TestWebSocketsOfALibrary echoes through the proxy with a client library, with and
// without compression, many at once.
func TestWebSocketsOfALibrary(t *testing.T) {
	through := serve(t, echoing(t).URL).address
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			mode := []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionContextTakeover,
				websocket.CompressionNoContextTakeover}[i%3]
			c, _, err := websocket.Dial(ctx, "ws://"+through+"/ws", &websocket.DialOptions{CompressionMode: mode, Subprotocols: []string{"echo"}})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(32 << 20)
			if c.Subprotocol() != "echo" {
				t.Errorf("the subprotocol is %q, want echo", c.Subprotocol())
			}
			random := rand.New(rand.NewPCG(uint64(i), 1))
			for range 50 {
				message := bytes.Repeat([]byte{byte(random.IntN(256))}, random.IntN(200_000))
				if err := c.Write(ctx, websocket.MessageBinary, message); err != nil {
					t.Error(err)
					return
				}
				if _, back, err := c.Read(ctx); err != nil || !bytes.Equal(back, message) {
					t.Errorf("got %d bytes, %v, want the %d that were sent", len(back), err, len(message))
					return
				}
			}
			if err := c.Close(websocket.StatusGoingAway, "done"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
