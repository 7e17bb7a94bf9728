package proxy

import (
	"net"
	"sync"
)

// limited is a listener with so many connections open at the most: one more waits
// in the kernel. Its connections are those of the network, with all that they can
// do: netutil's hide CloseWrite, and a tunnel that one side has closed half would
// be torn down.
type limited struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func limit(l net.Listener, connections int) net.Listener {
	return &limited{Listener: l, places: make(chan struct{}, connections), closed: make(chan struct{})}
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
		return nil, err
	}
	leave := sync.OnceFunc(func() { <-l.places })
	switch c := c.(type) {
	case *net.TCPConn:
		return &limitedTCP{c, leave}, nil
	case *net.UnixConn:
		return &limitedUnix{c, leave}, nil
	}
	return &limitedConn{c, leave}, nil
}

func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedTCP struct {
	*net.TCPConn
	leave func()
}

func (c *limitedTCP) Close() error {
	defer c.leave()
	return c.TCPConn.Close()
}

type limitedUnix struct {
	*net.UnixConn
	leave func()
}

func (c *limitedUnix) Close() error {
	defer c.leave()
	return c.UnixConn.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
