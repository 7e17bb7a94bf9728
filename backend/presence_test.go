package backend

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestARefusedConnectionSaysThatTheProcessIsGone(t *testing.T) {
	// The server comes back where it was: at a socket of a directory of the test, for a
	// port that it had left could be another process's by then.
	at := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	b, err := New(t.Context(), "flux", Config{URL: "unix:" + at, Protocol: "http", Breaker: BreakerConfig{Failures: 5}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ask := func() { b.Ask(t.Context(), Call{Method: "GET", Target: "/"}, "", nil) }
	ask()
	var told []bool
	b.Presence(func(there bool) { told = append(told, there) })
	ask()
	if err = os.Remove(at); err == nil {
		l, err = net.Listen("unix", at)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	server := &http.Server{Handler: http.NotFoundHandler()}
	go server.Serve(l)
	ask()
	ask()
	server.Close()
	b.transport.Load().CloseIdleConnections()
	ask()
	if want := []bool{false, false, true, false}; !slices.Equal(told, want) {
		t.Errorf("it is told %v, want %v", told, want)
	}
}
