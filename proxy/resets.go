package proxy

import (
	"context"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A client that opens HTTP/2 streams and resets them at once would start work for each
// stream that is dispatched before its reset is read. So each further request of a peer
// that has just reset streams waits a little, and its reset is read meanwhile, because it
// comes in the same packet. A peer that goes on loses its connection.
const (
	// resetsForgotten is the time in which a peer's resets fade.
	resetsForgotten = 10 * time.Second
	// someResets make a peer wait by resetPause; tooManyResets on one connection
	// cut that.
	someResets    = 10
	tooManyResets = 1000
	resetPause    = 20 * time.Millisecond
	// mostPeers bounds how many are remembered.
	mostPeers = 4096
)

// resets remembers which peers reset streams.
type resets struct {
	mu    sync.Mutex
	peers map[string]tally // guarded by mu
}

// tally is a count that fades.
type tally struct {
	n  float64
	at time.Time
}

func (t tally) now(at time.Time) float64 {
	return t.n * math.Exp(-float64(at.Sub(t.at))/float64(resetsForgotten))
}

// note counts a reset.
func (r *resets) note(peer string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.peers == nil {
		r.peers = make(map[string]tally)
	}
	if len(r.peers) >= mostPeers {
		for other, t := range r.peers {
			if t.now(now) < 1 || len(r.peers) >= mostPeers {
				delete(r.peers, other)
			}
		}
	}
	r.peers[peer] = tally{r.peers[peer].now(now) + 1, now}
}

func (r *resets) count(peer string, now time.Time) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.peers) == 0 {
		return 0
	}
	return r.peers[peer].now(now)
}

// awaitReset waits a little for the reset of a stream, if its peer has reset streams
// before.
func (x *exchange) awaitReset() error {
	if x.in.ProtoMajor < 2 {
		return nil
	}
	if x.resets.count(hostOf(x.in.RemoteAddr), x.began) < someResets {
		return nil
	}
	timer := time.NewTimer(resetPause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-x.in.Context().Done():
		return x.in.Context().Err()
	}
}

// noteReset counts a stream that was reset before any part of its answer was sent.
func (x *exchange) noteReset() {
	if x.in.ProtoMajor < 2 || x.out.bytes > 0 || x.in.Context().Err() == nil {
		return
	}
	x.resets.note(hostOf(x.in.RemoteAddr), time.Now())
	if c, ok := x.in.Context().Value(connectionKey{}).(*connection); ok && c.resets.Add(1) > tooManyResets {
		c.Close()
	}
}

// connection is a connection of a client, over which requests come.
type connection struct {
	net.Conn
	resets atomic.Int64 // of HTTP/2 streams
	heads  *heads       // of HTTP/1 requests; nil: they are not looked at
}

// connectionKey is the key in a request's context for the connection of the request.
type connectionKey struct{}

func withConnection(ctx context.Context, c net.Conn) context.Context {
	connection := &connection{Conn: c}
	if c, ok := c.(interface{ heads() *heads }); ok {
		connection.heads = c.heads()
	}
	if c, ok := c.(interface{ watch(left func()) }); ok {
		var left context.CancelFunc
		ctx, left = context.WithCancel(ctx)
		c.watch(left)
	}
	return context.WithValue(ctx, connectionKey{}, connection)
}

// headsOf are those of the connection that a request came by; nil: they are not looked
// at.
func headsOf(r *http.Request) *heads {
	if c, ok := r.Context().Value(connectionKey{}).(*connection); ok {
		return c.heads
	}
	return nil
}

func hostOf(address string) string {
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
