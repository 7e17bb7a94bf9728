package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// secured is a listener whose connections have done the TLS handshake. A connection with
// HTTP/1 is a *securedConn, whose decrypted bytes are looked at like those of a plain
// connection. A connection with HTTP/2, or with a failed handshake, is a *tls.Conn:
// net/http serves the former, and answers and logs the latter.
type secured struct {
	net.Listener
	config   *tls.Config
	patience time.Duration // for a handshake
	// malformed is as that of limited.
	malformed func(status int, client string)

	begin  sync.Once
	ready  chan accepted // connections, and what the listener's own Accept says
	ctx    context.Context
	cancel context.CancelFunc // ends handshakes
}

type accepted struct {
	net.Conn
	err error
}

func secure(l net.Listener, certificate tls.Certificate, patience time.Duration, malformed func(status int, client string)) net.Listener {
	s := &secured{Listener: l, patience: patience, malformed: malformed, ready: make(chan accepted),
		config: &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2", "http/1.1"}}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Accept returns the next connection that has done the handshake. A slow handshake delays
// no other connection.
func (s *secured) Accept() (net.Conn, error) {
	s.begin.Do(func() { go s.accept() })
	select {
	case a := <-s.ready:
		return a.Conn, a.err
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// accept takes connections until the listener is closed. After another error it goes
// on when that has been told.
func (s *secured) accept() {
	for {
		c, err := s.Listener.Accept()
		if err == nil {
			go s.shake(c)
		} else if !s.tell(accepted{err: err}) {
			return
		}
	}
}

// tell reports whether the accepted connection was taken. Once the listener is closed, it
// is not taken.
func (s *secured) tell(a accepted) bool {
	select {
	case s.ready <- a:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// shake does the handshake and passes the connection on.
func (s *secured) shake(raw net.Conn) {
	c := tls.Server(raw, s.config)
	var out net.Conn = c
	c.SetDeadline(time.Now().Add(s.patience))
	if err := c.HandshakeContext(s.ctx); err == nil && c.ConnectionState().NegotiatedProtocol != "h2" {
		out = &securedConn{Conn: c, looked: new(heads), malformed: s.malformed}
	}
	c.SetDeadline(time.Time{})
	if !s.tell(accepted{Conn: out}) {
		c.Close()
	}
}

func (s *secured) Close() error {
	s.cancel()
	return s.Listener.Close()
}

// securedConn is a TLS connection with HTTP/1 on it.
type securedConn struct {
	*tls.Conn
	looked    *heads
	malformed func(status int, client string)
}

func (c *securedConn) Read(p []byte) (int, error) { return read(c.Conn, c.looked, p) }
func (c *securedConn) heads() *heads              { return c.looked }

func (c *securedConn) Close() error {
	if below, ok := c.NetConn().(interface{ sends() }); ok && c.looked.isInBody() {
		below.sends()
	}
	return c.Conn.Close()
}

func (c *securedConn) Write(p []byte) (int, error) {
	lookAtAnswer(p, c, c.malformed)
	return c.Conn.Write(p)
}
