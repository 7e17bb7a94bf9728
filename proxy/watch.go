package proxy

import (
	"context"
	"sync/atomic"
	"syscall"
)

// client notices that a client hangs up while its request waits or runs.
//
// net/http does this with a goroutine for each request, which blocks in a read of one byte.
// With a watcher that read returns at once with nothing, and the goroutine ends. So a
// waiting request has only one goroutine, and each request saves a read and two changes of
// a deadline.
type client struct {
	conn    syscall.Conn
	looked  *heads
	number  uint64             // the watcher's
	left    context.CancelFunc // ends the contexts of the connection's requests; set before it is read
	watched atomic.Bool
	sends   bool // the rest of a body, by the word of TLS; set before the connection is closed
	// unread says that nothing reads the connection, because it is watched. over says that
	// its client has hung up, at least in its own direction. Each side sets its own flag
	// before it looks at the other flag, so at least one side sees both.
	unread, over atomic.Bool
}

// isSending says that a request's body was not read to its end.
func (c *client) isSending() bool { return c.sends || c.looked.isInBody() }

// skips says that a read need not be done: net/http reads to notice that the client leaves,
// and the watcher reports that. It never returns true twice without a read in between.
func (c *client) skips(p []byte) bool {
	if c.unread.Swap(false) || len(p) != 1 || !c.watched.Load() || !c.looked.isBetween() {
		return false
	}
	c.unread.Store(true)
	return !c.over.Load() || !c.unread.Swap(false)
}

// hungUp is called by the watcher. If a request was sent before the client hung up and is
// not read yet, it is read first, and its reader sees the end of the connection.
func (c *client) hungUp() {
	c.over.Store(true)
	if c.unread.Load() && isDrained(c.conn) {
		c.left()
	}
}
