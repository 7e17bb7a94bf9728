package http1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is a connection to the server.
type conn struct {
	net   net.Conn
	cut   func()    // closes it
	used  bool      // it has served a request
	since time.Time // when it became idle

	raw   syscall.RawConn       // nil: it has no socket
	look  func(fd uintptr) bool // at the socket; sets quiet
	quiet bool

	in    *bufio.Reader // while it serves a request
	left  int64         // how much of a head may still be read; of a body: much
	ended bool          // the server has closed its side
}

func newConn(made net.Conn) *conn {
	c := &conn{net: made}
	c.cut = func() { made.Close() }
	if socket, ok := made.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			c.raw, c.look = raw, func(fd uintptr) bool { c.quiet = isQuiet(fd); return true }
		}
	}
	return c
}

// isQuiet says that the server has neither closed a connection that is idle nor sent
// anything. Nobody reads from it meanwhile.
func (c *conn) isQuiet() bool {
	if c.raw != nil && canLook {
		c.quiet = false
		return c.raw.Read(c.look) == nil && c.quiet
	}
	// What is no socket of the kernel's says so to a read that may not wait.
	c.net.SetReadDeadline(time.Unix(1, 0))
	defer c.net.SetReadDeadline(time.Time{})
	n, err := c.net.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// Read is for the buffered reader alone.
func (c *conn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errLongHead
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.net.Read(p)
	c.left -= int64(n)
	c.ended = c.ended || err == io.EOF
	return n, err
}

var errLongHead = errors.New("http1: the head of the answer is too long")

// readers are buffers for what is read.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// open gives the connection a buffer, and release takes it back.
func (c *conn) open() {
	c.in = readers.Get().(*bufio.Reader)
	c.in.Reset(c)
}

func (c *conn) release() {
	if c.in != nil {
		c.in.Reset(nil)
		readers.Put(c.in)
		c.in = nil
	}
}
