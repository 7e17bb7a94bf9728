package proxy

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// sockets are those that the process was started with, as systemd does for a socket
// unit, and that no listener has taken yet.
type sockets struct{ inherited []net.Listener }

// listen takes the socket of an address, or opens one.
func (s *sockets) listen(address string) (l net.Listener, inherited bool, err error) {
	for i, l := range s.inherited {
		if isAt(l.Addr(), address) {
			s.inherited = slices.Delete(s.inherited, i, i+1)
			return l, true, nil
		}
	}
	l, err = listen(address)
	return l, false, err
}

// left returns an error if a socket was not taken: a client that connects to it would wait
// for ever.
func (s *sockets) left() (err error) {
	for _, l := range s.inherited {
		name := l.Addr().String()
		if l.Addr().Network() == "unix" {
			name = "unix:" + name
		}
		err = errors.Join(err, fmt.Errorf("the process was started with a socket for %s, on which the configuration does not listen: "+
			"want listen, listeners.NAME.listen or admin.listen to be %[1]s, or no such socket", name))
		l.Close()
	}
	return err
}

// isAt says whether a socket is that of an address of a configuration. All of a
// machine's addresses are the same, whether they are written as none, 0.0.0.0 or ::.
func isAt(socket net.Addr, address string) bool {
	switch socket := socket.(type) {
	case *net.UnixAddr:
		return "unix:"+socket.Name == address
	case *net.TCPAddr:
		if strings.HasPrefix(address, "unix:") {
			return false
		}
		want, err := net.ResolveTCPAddr("tcp", address)
		if err != nil || want.Port != socket.Port {
			return false
		}
		any := func(ip net.IP) bool { return len(ip) == 0 || ip.IsUnspecified() }
		return any(want.IP) && any(socket.IP) || want.IP.Equal(socket.IP)
	}
	return false
}

// listen opens host:port or unix:/path. A socket file that nothing listens on
// is left over from a process that died, and is replaced.
func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		return net.Listen("tcp", address)
	}
	listener, err := net.Listen("unix", path)
	if err == nil {
		return listener, nil
	}
	if c, dialErr := net.DialTimeout("unix", path, time.Second); dialErr == nil {
		c.Close()
		return nil, err
	}
	if info, statErr := os.Lstat(path); statErr != nil || info.Mode()&os.ModeSocket == 0 {
		return nil, err
	}
	if err := os.Remove(path); err != nil {
		return nil, err
	}
	return net.Listen("unix", path)
}
