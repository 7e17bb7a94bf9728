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

	raw  syscall.RawConn // nil: it has no socket that can be looked at
	look func(fd uintptr) bool
	send struct { // what step does, and its result
		out   []byte // what is written; nil: nothing
		quiet bool   // the server had not closed it, nor sent anything
		begun bool   // out was written
		n     int    // bytes of it
		err   error
	}

	in    *bufio.Reader // while it serves a request
	left  int64         // how much of a head may still be read; of a body: much
	ended bool          // the server has closed its side
}

func newConn(made net.Conn) *conn {
	c := &conn{net: made}
	c.cut = func() { made.Close() }
	if socket, ok := made.(syscall.Conn); ok && canLook {
		if raw, err := socket.SyscallConn(); err == nil {
			c.raw, c.look = raw, c.step
		}
	}
	return c
}

// isQuiet says that the server has neither closed an idle connection nor sent anything on
// it. Nothing may read the connection meanwhile.
func (c *conn) isQuiet() bool {
	if c.raw != nil {
		c.send.out, c.send.quiet, c.send.begun = nil, false, false
		return c.raw.Read(c.look) == nil && c.send.quiet
	}
	// A connection without a socket is checked by a read with a deadline in the past.
	c.net.SetReadDeadline(time.Unix(1, 0))
	defer c.net.SetReadDeadline(time.Time{})
	n, err := c.net.Read(make([]byte, 1))
	return n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
}

// write sends what fits into the socket's buffer, and waits until the server sends
// something or closes the connection. isClosed says that the server had closed a used
// connection before; then nothing was sent. Other errors of the wait are returned by the
// read that follows.
//
// The wait begins before anything is sent, and ends with the next event of the socket. So
// an answer that comes at once is not missed, no read finds nothing, and no buffer is held
// while the server works.
func (c *conn) write(out []byte) (n int, isClosed bool, err error) {
	if c.raw == nil {
		if c.used && !c.isQuiet() {
			return 0, true, nil
		}
		n, err = c.net.Write(out)
		return n, false, err
	}
	s := &c.send
	s.out, s.quiet, s.begun, s.n, s.err = out, false, false, 0, nil
	err = c.raw.Read(c.look)
	s.out = nil
	switch {
	case !s.begun && err == nil:
		return 0, true, nil
	case !s.begun:
		return 0, false, err
	case s.err == nil && s.n < len(out): // the socket's buffer was full
		n, err = c.net.Write(out[s.n:])
		return s.n + n, false, err
	}
	return s.n, false, s.err
}

// step is called with the socket when a wait begins and after each event. It says that
// the wait is over.
func (c *conn) step(fd uintptr) (isOver bool) {
	s := &c.send
	if s.begun {
		return true
	}
	s.quiet = isQuiet(fd)
	if s.out == nil || c.used && !s.quiet {
		return true
	}
	s.begun = true
	s.n, s.err = write(fd, s.out)
	return s.err != nil || s.n < len(s.out) || !s.quiet
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

// readers is a pool of read buffers.
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
