package proxy

import (
	"net"
	"os"
	"sync"
	"syscall"
)

// watcher notices clients that hang up while nothing reads their connections. It is an
// epoll instance beside the runtime's own, edge-triggered and for hang-ups alone: a
// connection costs one call, and a request none. It ends with the last connection when
// its listener is closed.
type watcher struct {
	file *os.File // the epoll instance
	fd   int      // file's, while open > 0

	mu      sync.Mutex
	clients map[uint64]*client // guarded by mu; by the number that the kernel keeps
	last    uint64             // guarded by mu; the highest number given
	open    int                // guarded by mu; connections, and one for the listener
}

// newWatcher begins to watch; nil: it cannot, and net/http does so with a goroutine for
// each request.
func newWatcher() *watcher {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil
	}
	syscall.SetNonblock(fd, true) // the runtime's poller waits for it, and no thread does
	w := &watcher{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, clients: make(map[uint64]*client), open: 1}
	raw, err := w.file.SyscallConn()
	if err != nil {
		w.file.Close()
		return nil
	}
	go w.run(raw)
	return w
}

// run takes the events until the last connection is closed.
func (w *watcher) run(raw syscall.RawConn) {
	var events [64]syscall.EpollEvent
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := syscall.EpollWait(int(fd), events[:], 0)
			if err == syscall.EINTR {
				continue
			}
			if n <= 0 {
				return false // until there are more
			}
			for _, e := range events[:n] {
				w.mu.Lock()
				c := w.clients[uint64(uint32(e.Fd))|uint64(uint32(e.Pad))<<32]
				w.mu.Unlock()
				if c != nil {
					c.hungUp()
				}
			}
		}
	})
}

// edgeTriggered is EPOLLET, which syscall has as a negative number.
const edgeTriggered = 1 << 31

// watch begins to watch a connection. It is called once, before the connection is read.
func (w *watcher) watch(c *client) {
	if w == nil {
		return
	}
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last++
	number := w.last
	raw.Control(func(fd uintptr) {
		err = syscall.EpollCtl(w.fd, syscall.EPOLL_CTL_ADD, int(fd),
			&syscall.EpollEvent{Events: syscall.EPOLLRDHUP | edgeTriggered, Fd: int32(number), Pad: int32(number >> 32)})
	})
	if err != nil {
		return
	}
	w.open++
	w.clients[number], c.number = c, number
	c.watched.Store(true)
}

// forget ends what watch began. The kernel forgets a connection that is closed.
func (w *watcher) forget(c *client) {
	if w == nil || !c.watched.Swap(false) {
		return
	}
	w.mu.Lock()
	delete(w.clients, c.number)
	w.mu.Unlock()
	w.leave()
}

// leave is called when a connection is closed, and when the listener is.
func (w *watcher) leave() {
	if w == nil {
		return
	}
	w.mu.Lock()
	w.open--
	over := w.open == 0
	w.mu.Unlock()
	if over {
		w.file.Close()
	}
}

// isDrained says that nothing more can be read from a connection.
func isDrained(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	drained := true
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		drained = n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return drained || err != nil
}

var _ syscall.Conn = (*net.TCPConn)(nil)
