package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// unhealthyAfter is how many checks in a row must fail: a single one may fail because the
// server is busy.
const unhealthyAfter = 2

// checkHealth asks the backend's health path until ctx ends, first at once. A
// single good answer makes it healthy again.
func (b *Server) checkHealth(ctx context.Context) {
	tick := time.NewTicker(b.Config.Health.Every)
	defer tick.Stop()
	failed := 0
	for {
		if err := b.probe(ctx); ctx.Err() != nil {
			return
		} else if err == nil {
			failed = 0
			b.setHealthy(true)
		} else if errors.Is(err, context.DeadlineExceeded) && b.breaker.busy() {
			// The engine works in the thread that would answer.
		} else if errors.Is(err, ErrShort) {
			// The check was not sent, so it says nothing about the server.
		} else if failed++; failed >= unhealthyAfter {
			b.setHealthy(false)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// probe asks the health path once.
func (b *Server) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, min(b.Config.Health.Every, mostProbe))
	defer cancel()
	answer, _, err := b.send(ctx, Call{Method: http.MethodGet, Target: b.Config.Health.Path, repeat: true}, "", nil, mostAnswer)
	switch {
	case answer == nil:
		return err
	case answer.StatusCode >= 400:
		return fmt.Errorf("backend: health check of %s: %s", b.Name, answer.Status)
	}
	return nil
}

// setHealthy opens the breaker after a failed check and closes it after a good one.
func (b *Server) setHealthy(healthy bool) {
	if !b.unhealthy.CompareAndSwap(healthy, !healthy) {
		return
	}
	change, why := b.breaker.trip, "health checks failed"
	if healthy {
		change, why = b.breaker.shut, "a health check was answered"
	}
	if !change(why) {
		b.announce()
	}
}

// alive asks whether the backend is there: by its health path where it has one,
// else by a connection that stays open.
func (b *Server) alive(ctx context.Context) error {
	if b.Config.Health.Path != "" {
		err := b.probe(ctx)
		if err == nil {
			b.setHealthy(true)
		}
		return err
	}
	port := b.base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[b.base.Scheme]
	}
	c, err := b.transport.Load().DialContext(ctx, "tcp", net.JoinHostPort(b.base.Hostname(), port))
	if err != nil {
		return err
	}
	defer c.Close()
	// A process that ends may accept connections for a moment longer, and closes them.
	c.SetReadDeadline(time.Now().Add(aliveFor))
	var one [1]byte
	if _, err := c.Read(one[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %s: a connection was closed at once: %v", ErrUnreachable, b.Name, err)
	}
	return nil
}

// aliveFor is how long a connection must stay open to show that a server is there.
const aliveFor = 50 * time.Millisecond
