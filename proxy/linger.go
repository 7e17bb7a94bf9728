package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// A connection that is closed while its client still sends is reset by the kernel, and that
// client may lose the answer that it has not read yet (RFC 9112, 9.6). net/http waits half
// a second before it closes, reads nothing in that time, and does not wait for a client
// that has asked for the end of the connection. So the connection is read for a time after
// the answer, as nginx does (lingering_timeout, lingering_time).
const (
	lingerPause = 2 * time.Second // without a byte
	lingerMost  = 30 * time.Second
)

// socket is a connection of which each direction can be ended alone.
type socket interface {
	net.Conn
	CloseWrite() error
}

// end closes a connection: at once, or, where its client may still send, when it has
// sent all or the time for that is over. It does not block. leave is called after that,
// and open counts it until then.
func end(c socket, unfinished bool, open *sync.WaitGroup, leave func()) error {
	if !unfinished {
		defer leave()
		return c.Close()
	}
	open.Go(func() {
		defer leave()
		defer c.Close()
		if c.CloseWrite() != nil {
			return
		}
		buffer := getBuffer(32 << 10)
		defer putBuffer(buffer)
		space := (*buffer)[:cap(*buffer)]
		for now, end := time.Now(), time.Now().Add(lingerMost); now.Before(end); now = time.Now() {
			c.SetReadDeadline(now.Add(lingerPause))
			if _, err := c.Read(space); err != nil {
				return
			}
		}
	})
	return nil
}

// linger waits until nothing of a listener that is closed is open for what clients
// still send, or ctx ends.
func (l *limited) linger(ctx context.Context) {
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.lingering.Wait()
	}()
	select {
	case <-over:
	case <-ctx.Done():
	}
}
