//go:build peers

package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/wait"
	"github.com/anteroom-gpu/anteroom/simulation"
)

var mixedSpeed = flag.Float64("mixedspeed", 10, "how many times faster the scenes of TestMixed go")

// TestMixed plays the demo's scenes over sockets against a HAProxy with a queue for
// each class and a fixed number of places, and against Anteroom, and prints what
// became of both kinds of work. It fails where Anteroom runs out of memory or loses a
// request; the figures are for people.
func TestMixed(t *testing.T) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		t.Fatal(err)
	}
	scenes := map[string]simulation.Scene{}
	for _, s := range simulation.Scenes() {
		scenes[s.Name] = s
	}
	for _, name := range []string{"steady", "wide_lights"} {
		s := scenes[name]
		fmt.Printf("\n**%s: %s**\n\n", s.Name, s.Says)
		fmt.Println("| in front | lights a minute | their wait, s | heavies done | their wait, s | out of memory |")
		fmt.Println("| --- | --- | --- | --- | --- | --- |")
		for _, slots := range []int{8, 4, 0} {
			front := "Anteroom"
			if slots > 0 {
				front = fmt.Sprintf("HAProxy, 1 + %d places", slots)
			}
			r := playMixed(t, s, slots)
			lights := float64(r.Light.Requests) / s.Length.Minutes()
			fmt.Printf("| %s | %.0f | %.2f | %d | %.1f | %d |\n", front, lights, r.Light.Wait, r.Heavy.Requests, r.Heavy.Wait, r.OutOfMemory)
			if slots == 0 && (r.OutOfMemory > 0 || r.Failed > 0) {
				t.Errorf("%s: %d out of memory, %d failed otherwise", s.Name, r.OutOfMemory, r.Failed)
			}
		}
	}
}

// playMixed plays a scene with a HAProxy of that many places for lights in front, or
// with Anteroom for 0.
func playMixed(t *testing.T, s simulation.Scene, slots int) simulation.Result {
	t.Helper()
	b, err := newBox(t.Context(), simulation.WallClock{}, s, "anteroom", *mixedSpeed)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if slots > 0 {
		b.callers.Base = "http://" + startHAProxy(t, b.at, slots)
	}
	p, err := b.play(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return p.Result
}

// startHAProxy lets one image and that many questions to the engines at once.
func startHAProxy(t *testing.T, engines [2]string, slots int) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	l.Close()
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, fmt.Appendf(nil, `
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout queue 600s
  option http-no-delay
  option abortonclose
frontend all
  bind %s
  use_backend images if { path_beg /v1/images/ }
  default_backend questions
backend images
  server s %s maxconn 1
backend questions
  server s %s maxconn %d
`, address, strings.TrimPrefix(engines[0], "http://"), strings.TrimPrefix(engines[1], "http://"), slots), 0o600); err != nil {
		t.Fatal(err)
	}
	p := exec.Command("haproxy", "-db", "-f", file)
	p.Stderr = os.Stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	wait.Until(t, "HAProxy listens", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}
