package backend

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	// connectTime is how long making a connection may take.
	connectTime = 5 * time.Second
	// tryTime is how long one try at it may. A server whose queue of new connections
	// is full drops the first packet, and the kernel sends the third only after three
	// seconds.
	tryTime = 1500 * time.Millisecond
	// tryAgain is the pause before a socket file is tried again whose server does not
	// accept yet.
	tryAgain = 10 * time.Millisecond
	// mostDials is how many connections are being made at a time: fewer than the
	// shortest queue that servers commonly listen with (128), so that thousands of
	// requests at once do not overflow it.
	mostDials = 64
)

// patient tries until a connection is made, an error other than a timeout comes, or
// connectTime has passed. It returns the error of the last try.
func patient(dial dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		for {
			try, end := context.WithTimeout(ctx, tryTime)
			c, err := dial(try, network, address)
			end()
			if err == nil || ctx.Err() != nil {
				return c, err
			}
			pause := time.Duration(0)
			if errors.Is(err, syscall.EAGAIN) {
				pause = tryAgain
			} else if failure, ok := errors.AsType[net.Error](err); !ok || !failure.Timeout() {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(pause):
			}
		}
	}
}

// gate lets at most as many requests through as there are connections, and mostDials more:
// http.Transport begins a dial for each request that finds no idle connection, and goes on
// with the dial when the request has got another connection. The wait at the gate does not
// count as a failure of the backend. A nil gate is always open.
type gate struct {
	mu      sync.Mutex
	open    int       // connections; guarded by mu
	made    uint64    // how many were made so far; guarded by mu
	inside  int       // requests that have or want one; guarded by mu
	waiting list.List // of chan struct{}, each closed when its turn has come; guarded by mu
}

// counting counts the connections that a dialer makes.
func (g *gate) counting(dial dial) dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		g.change(1, 0)
		gone := sync.OnceFunc(func() { g.change(-1, 0) })
		switch c := c.(type) {
		case *net.TCPConn:
			return &countedTCP{c, gone}, nil
		case *net.UnixConn:
			return &countedUnix{c, gone}, nil
		}
		return &countedConn{c, gone}, nil
	}
}

// Connections that report their end keep all other methods.
type (
	countedTCP struct {
		*net.TCPConn
		gone func()
	}
	countedUnix struct {
		*net.UnixConn
		gone func()
	}
	countedConn struct {
		net.Conn
		gone func()
	}
)

func (c *countedTCP) Close() error  { c.gone(); return c.TCPConn.Close() }
func (c *countedUnix) Close() error { c.gone(); return c.UnixConn.Close() }
func (c *countedConn) Close() error { c.gone(); return c.Conn.Close() }

// enter waits until the request may pass; leave ends that. It fails with ctx, and with
// ErrUnreachable if no connection was made for connectTime: then the requests before it are
// about to fail too.
func (g *gate) enter(ctx context.Context) error {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	if g.waiting.Len() == 0 && g.inside < g.open+mostDials {
		g.inside++
		g.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	place, made := g.waiting.PushBack(turn), g.made
	g.mu.Unlock()
	timer := time.NewTimer(connectTime)
	defer timer.Stop()
	for {
		err := error(nil)
		select {
		case <-turn:
			return nil
		case <-ctx.Done():
			err = context.Cause(ctx)
		case <-timer.C:
			timer.Reset(connectTime)
		}
		g.mu.Lock()
		if err == nil && g.made == made {
			err = fmt.Errorf("%w: no connection came about for %v", ErrUnreachable, connectTime)
		}
		made = g.made
		if err != nil {
			select {
			case <-turn: // the turn came in the same moment
				g.mu.Unlock()
				g.leave()
			default:
				g.waiting.Remove(place)
				g.mu.Unlock()
			}
			return err
		}
		g.mu.Unlock()
	}
}

func (g *gate) leave() {
	if g != nil {
		g.change(0, -1)
	}
}

// change changes the counts, and lets waiting requests through.
func (g *gate) change(open, inside int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open += open
	g.made += uint64(max(0, open))
	g.inside += inside
	for first := g.waiting.Front(); first != nil && g.inside < g.open+mostDials; first = g.waiting.Front() {
		g.inside++
		close(g.waiting.Remove(first).(chan struct{}))
	}
}
