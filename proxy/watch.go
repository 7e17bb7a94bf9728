package proxy

import (
	"context"
	"sync/atomic"
	"syscall"
)

// client watches for its hanging up while its request waits or runs.
//
// net/http does so with a goroutine for each request, which reads one byte and waits in
// that. Where a watcher tells of it, that read returns at once with nothing, and the
// goroutine ends: a waiting request has one goroutine then, and a request is spared a
// read and two moves of a deadline.
type client struct {
	conn    syscall.Conn
	looked  *heads
	number  uint64             // the watcher's
	left    context.CancelFunc // ends the contexts of the connection's requests; set before it is read
	watched atomic.Bool
	sends   bool // the rest of a body, by the word of TLS; set before the connection is closed
	// unread says that nothing reads the connection, because it was taken to be
	// watched; over that its client has hung up, in its direction at least. Each side
	// sets its own before it looks at the other, so that one of them sees both.
	unread, over atomic.Bool
}

// isSending says that a request's body was not read to its end.
func (c *client) isSending() bool { return c.sends || c.looked.isInBody() }

// skips says that a read need not be done: it is net/http's for the client's leaving,
// and the watcher will tell of that. It never says so twice without a read in between.
func (c *client) skips(p []byte) bool {
	if c.unread.Swap(false) || len(p) != 1 || !c.watched.Load() || !c.looked.isBetween() {
		return false
	}
	c.unread.Store(true)
	return !c.over.Load() || !c.unread.Swap(false)
}

// hungUp is the watcher's word. What is still to be read of a request that has been
// sent before the hanging up is read first, and what reads it sees the end.
func (c *client) hungUp() {
	c.over.Store(true)
	if c.unread.Load() && isDrained(c.conn) {
		c.left()
	}
}
