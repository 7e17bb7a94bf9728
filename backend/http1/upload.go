package http1

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// upload sends a request's body while its answer is read, in a goroutine of its own,
// because the server may answer before it has read the body. The goroutine ends with the
// body, or when a write to the closed connection fails.
type upload struct {
	proceed chan bool             // whether the body is sent that the server is asked for; has room for one
	done    chan struct{}         // is closed when nothing more is written
	failed  error                 // when done
	broken  atomic.Pointer[error] // why the body could not be read; nil: it could
	sent    atomic.Int64          // bytes
}

// blocks are buffers for bodies.
var blocks = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// send writes the request and closes its body.
func (u *upload) send(x *exchange, c *conn, head *[]byte, more time.Duration) {
	defer close(u.done)
	_, err := u.Write(c, *head)
	if cap(*head) <= mostAtOnce {
		heads.Put(head)
	}
	if err == nil && x.expects && !u.isAwaited(more) {
		closeBody(x.req)
		return
	}
	if err == nil && x.req.Body != nil {
		err = u.sendBody(x, c)
	}
	closeBody(x.req)
	if u.failed = err; u.broken.Load() != nil {
		c.net.Close() // the answer belongs to a request that was not sent to its end
	}
}

func (u *upload) Write(c *conn, p []byte) (int, error) {
	n, err := c.net.Write(p)
	u.sent.Add(int64(n))
	return n, err
}

// isAwaited waits until the server asks for the body, answers, or a time has passed. It
// says whether the body is sent.
func (u *upload) isAwaited(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case ok := <-u.proceed:
		return ok
	case <-timer.C:
		return true
	}
}

// settle decides whether a body that waits for 100 Continue is sent.
func (u *upload) settle(send bool) {
	if u == nil {
		return
	}
	select {
	case u.proceed <- send:
	default:
	}
}

// cannotRead keeps the error of reading the body.
func (u *upload) cannotRead(err error) error {
	u.broken.Store(&err)
	return err
}

func (u *upload) sendBody(x *exchange, c *conn) error {
	if file, ok := x.req.Body.(*os.File); ok && !x.chunked && x.length > 0 {
		if to, ok := c.net.(io.ReaderFrom); ok { // the kernel copies
			n, err := to.ReadFrom(&io.LimitedReader{R: file, N: x.length})
			u.sent.Add(n)
			if err == nil && n < x.length {
				err = u.cannotRead(fmt.Errorf("http1: the body ended after %d bytes of %d: %w", n, x.length, io.ErrUnexpectedEOF))
			}
			return err
		}
	}
	if body, ok := x.req.Body.(io.WriterTo); ok && !x.chunked && x.length > 0 {
		return u.sendWhole(body, x, c)
	}
	pooled := blocks.Get().(*[]byte)
	defer blocks.Put(pooled)
	block := *pooled
	const before, behind = 10, 2 // the size of a chunk and the ends of its lines
	sum := int64(0)
	for {
		n, err := x.req.Body.Read(block[before : len(block)-behind])
		sum += int64(n)
		if x.length >= 0 && sum > x.length {
			return u.cannotRead(fmt.Errorf("http1: the body is longer than the request's ContentLength of %d", x.length))
		}
		if n > 0 {
			part := block[before : before+n]
			if x.chunked {
				part = framed(block, before, n)
			}
			if _, err := u.Write(c, part); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF && x.length > sum:
			return u.cannotRead(fmt.Errorf("http1: the body ended after %d bytes of %d: %w", sum, x.length, io.ErrUnexpectedEOF))
		case err == io.EOF && x.chunked:
			end := append(appendHeaders(append(block[:0], "0\r\n"...), x.req.Trailer), "\r\n"...)
			_, err = u.Write(c, end)
			return err
		case err == io.EOF:
			return nil
		case err != nil:
			return u.cannotRead(err)
		}
	}
}

// sendWhole sends a body that has a WriteTo method, without copying it.
func (u *upload) sendWhole(body io.WriterTo, x *exchange, c *conn) error {
	w := &counted{upload: u, conn: c, left: x.length}
	n, err := body.WriteTo(w)
	switch {
	case w.failed != nil:
		return w.failed
	case w.tooLong:
		return u.cannotRead(fmt.Errorf("http1: the body is longer than the request's ContentLength of %d", x.length))
	case err != nil:
		return u.cannotRead(err)
	case n < x.length:
		return u.cannotRead(fmt.Errorf("http1: the body ended after %d bytes of %d: %w", n, x.length, io.ErrUnexpectedEOF))
	}
	return nil
}

// counted is a connection that accepts a body of a given number of bytes.
type counted struct {
	upload  *upload
	conn    *conn
	left    int64
	tooLong bool
	failed  error // by the connection
}

func (w *counted) Write(p []byte) (n int, err error) {
	if w.tooLong = w.tooLong || int64(len(p)) > w.left; w.tooLong {
		return 0, io.ErrShortWrite
	}
	n, err = w.upload.Write(w.conn, p)
	w.left -= int64(n)
	w.failed = err
	return n, err
}

// framed turns the n bytes after the first ones of a block into a chunk.
func framed(block []byte, before, n int) []byte {
	var size [16]byte
	line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
	from := before - len(line)
	copy(block[from:], line)
	copy(block[before+n:], "\r\n")
	return block[from : before+n+2]
}
