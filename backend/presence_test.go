package backend

import (
	"net"
	"net/http"
	"slices"
	"testing"
)

func TestARefusedConnectionSaysThatTheProcessIsGone(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	b, err := New(t.Context(), "flux", Config{URL: "http://" + at, Protocol: "http", Breaker: BreakerConfig{Failures: 5}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ask := func() { b.Ask(t.Context(), Call{Method: "GET", Target: "/"}, "", nil) }
	ask()
	var told []bool
	b.Presence(func(there bool) { told = append(told, there) })
	ask()
	if l, err = net.Listen("tcp", at); err != nil {
		t.Fatal(err)
	}
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
