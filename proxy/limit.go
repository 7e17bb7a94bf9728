package proxy

import (
	"bytes"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
)

// limited is a listener with a bounded number of open connections: further ones wait in the
// kernel. Its connections have all methods of network connections. Those of
// netutil.LimitListener hide CloseWrite, so a tunnel that one side has half closed would be
// closed as a whole.
type limited struct {
	net.Listener
	plain  bool // its connections are without TLS, so their bytes can be looked at
	places chan struct{}
	closed chan struct{}
	once   sync.Once
	left   atomic.Bool // see leave
	// malformed is called for each malformed request, which net/http has answered itself.
	malformed func(status int, client string)
	watcher   *watcher       // nil: net/http watches
	lingering sync.WaitGroup // of connections that are closed but for what their clients still send
}

func limit(l net.Listener, connections int, plain bool, malformed func(status int, client string)) *limited {
	limited := &limited{Listener: l, plain: plain, places: make(chan struct{}, connections), closed: make(chan struct{}), malformed: malformed}
	if plain {
		limited.watcher = newWatcher()
	}
	return limited
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		if l.left.Load() {
			<-l.closed
			return nil, net.ErrClosed
		}
		return nil, err
	}
	leave := sync.OnceFunc(func() { <-l.places })
	var looked *heads
	if l.plain {
		looked = new(heads)
	}
	switch c := c.(type) {
	case *net.TCPConn:
		return &limitedTCP{limitedSocket{c, leave, l, client{conn: c, looked: looked}}, tcpSocket{c}}, nil
	case *net.UnixConn:
		return &limitedUnix{limitedSocket{c, leave, l, client{conn: c, looked: looked}}, unixSocket{c}}, nil
	}
	return &limitedConn{c, leave, looked}, nil
}

// read reads from a connection and gives the bytes to looked.
func read(c io.Reader, looked *heads, p []byte) (int, error) {
	n, err := c.Read(p)
	if looked != nil && n > 0 {
		looked.see(p[:n])
	}
	return n, err
}

// leave closes the socket: no more connections are accepted. Accept returns only when the
// listener is closed, so that its http.Server goes on.
func (l *limited) leave() {
	l.left.Store(true)
	l.Listener.Close()
}

func (l *limited) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.watcher.leave()
	})
	if l.left.Load() {
		return nil
	}
	return l.Listener.Close()
}

// parserAnswer is how net/http's parser ends the header of an answer of its own; it
// asks no handler and has no other hook. Answers of handlers have a Date.
var parserAnswer = []byte("\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n")

// lookAtAnswer tells malformed of an answer that net/http's parser writes itself.
func lookAtAnswer(p []byte, c net.Conn, malformed func(status int, client string)) {
	const line = len("HTTP/1.1 431 ")
	if len(p) < line || p[9] != '4' && p[9] != '5' || !bytes.HasPrefix(p, []byte("HTTP/1.1 ")) {
		return
	}
	if end := bytes.Index(p, parserAnswer); end < 0 || bytes.Contains(p[:end], []byte("\r\n")) {
		return
	}
	if status, err := strconv.Atoi(string(p[9:12])); err == nil {
		malformed(status, c.RemoteAddr().String())
	}
}

// look does the same for connections without TLS.
func (l *limited) look(p []byte, c net.Conn) {
	if l.plain {
		lookAtAnswer(p, c, l.malformed)
	}
}

// limitedSocket is what limitedTCP and limitedUnix have in common. They embed their
// connections one level deeper than it, so that its methods hide those of the connections.
type limitedSocket struct {
	socket interface {
		socket
		syscall.Conn
	}
	leave  func()
	from   *limited
	client client // looks at nothing where it is not plain
}

type (
	tcpSocket  struct{ *net.TCPConn }
	unixSocket struct{ *net.UnixConn }
	limitedTCP struct {
		limitedSocket
		tcpSocket
	}
	limitedUnix struct {
		limitedSocket
		unixSocket
	}
)

func (c *limitedSocket) Read(p []byte) (int, error) {
	if c.client.skips(p) {
		return 0, nil
	}
	return read(c.socket, c.client.looked, p)
}

// WriteTo is how a tunnel reads.
func (c *limitedSocket) WriteTo(w io.Writer) (int64, error) {
	c.client.unread.Store(false)
	return io.Copy(w, c.socket)
}

func (c *limitedSocket) heads() *heads { return c.client.looked }
func (c *limitedSocket) sends()        { c.client.sends = true }

func (c *limitedSocket) watch(left func()) {
	c.client.left = left
	c.from.watcher.watch(&c.client)
}

func (c *limitedSocket) Write(p []byte) (int, error) {
	c.from.look(p, c.socket)
	return c.socket.Write(p)
}

func (c *limitedSocket) Close() error {
	c.from.watcher.forget(&c.client)
	return end(c.socket, c.client.isSending(), &c.from.lingering, c.leave)
}

type limitedConn struct {
	net.Conn
	leave  func()
	looked *heads // nil: at nothing
}

func (c *limitedConn) Read(p []byte) (int, error) { return read(c.Conn, c.looked, p) }
func (c *limitedConn) heads() *heads              { return c.looked }

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
