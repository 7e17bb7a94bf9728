package proxy

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// secured is a listener whose connections have shaken hands for TLS. One that goes on
// with HTTP/1 is a *securedConn, of which the decrypted bytes are looked at as those of
// a plain connection are. One that goes on with HTTP/2, or whose handshake has failed,
// is a *tls.Conn: net/http serves the first, and answers and logs the other.
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

// Accept gives the next connection that has shaken hands: a slow one keeps no other
// from being served.
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

// tell reports whether what was accepted was taken: it is not taken once the listener
// is closed.
func (s *secured) tell(a accepted) bool {
	select {
	case s.ready <- a:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// shake shakes hands and passes the connection on.
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
