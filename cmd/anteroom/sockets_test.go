//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// withSocket starts the command with a socket, as systemd would: the process must
// find its own number in LISTEN_PID.
func withSocket(p *exec.Cmd, socket *os.File) *exec.Cmd {
	with := exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, p.Args...)...)
	with.Env, with.ExtraFiles = p.Env, []*os.File{socket}
	return with
}

// TestARestartWithItsSocketsLosesNothing plays systemd: it holds the listening socket
// and gives it to one process after the other. A client that connects while the first drains
// is served by the second.
func TestARestartWithItsSocketsLosesNothing(t *testing.T) {
	model, arrived, open := gated(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	must(t, err)
	defer socket.Close()
	file := strings.Replace(serveFile(model, "200"), "listen: 127.0.0.1:0", "listen: "+l.Addr().String(), 1)

	at := write(t, file)
	serve := func() *served { return serveCommand(t, at, withSocket(process("serve", "-c", at), socket)) }
	first := serve()
	answers := make(chan string, 2)
	ask := func(path string) {
		// A connection of its own each time, as a new client has.
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := client.Post("http://"+l.Addr().String()+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			answers <- err.Error()
			return
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		answers <- fmt.Sprint(r.StatusCode, " ", string(body))
	}
	go ask("/1")
	<-arrived
	first.signal(syscall.SIGTERM)
	first.until("draining")
	go ask("/2")
	open()
	if got := <-answers; got != "200 done /1" {
		t.Errorf("what ran at the signal: %s", got)
	}
	if code := first.exit(); code != 0 {
		t.Errorf("the first ended with %d", code)
	}
	second := serve()
	if got := <-answers; got != "200 done /2" {
		t.Errorf("what came during the drain: %s", got)
	}
	second.signal(syscall.SIGTERM)
	second.exit()
}

// TestASocketForNoAddressIsAnError: its clients would wait for ever.
func TestASocketForNoAddressIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	must(t, err)
	defer socket.Close()
	p := withSocket(process("serve", "-c", write(t, serveFile("http://127.0.0.1:9", "1"))), socket)
	said, err := p.CombinedOutput()
	if want := l.Addr().String() + ", on which the configuration does not listen"; err == nil || !strings.Contains(string(said), want) {
		t.Errorf("%v, %s: want %q", err, said, want)
	}
}
