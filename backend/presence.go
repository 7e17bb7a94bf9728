package backend

import (
	"context"
	"net"
	"sync"
)

// presence is whether a backend's process is there, as far as connections to its port show:
// a refused connection shows that it is not, an accepted one that it is. All requests,
// health checks and calls use the same connections.
type presence struct {
	mu    sync.Mutex
	known bool       // a connection was refused or accepted; guarded by mu
	there bool       // guarded by mu
	told  func(bool) // guarded by mu; nil: nothing is to be told
}

// Presence says what to call when the backend's port refuses a connection, each time, and
// when it accepts one again after that. It is called at once with what is known already.
// Calls do not overlap, and must not call the Server.
func (p *presence) Presence(tell func(there bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = tell
	if p.known {
		tell(p.there)
	}
}

func (p *presence) note(there bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := !p.known || p.there != there
	p.known, p.there = true, there
	if p.told != nil && (changed || !there) {
		p.told(there)
	}
}

type dial = func(ctx context.Context, network, address string) (net.Conn, error)

// noting takes note of whether connections are accepted.
func (p *presence) noting(dial dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		switch {
		case err == nil:
			p.note(true)
		case refused(err):
			p.note(false)
		}
		return c, err
	}
}
