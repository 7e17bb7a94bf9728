//go:build terminal

package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/wait"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// Top in a terminal, which is tmux's, before a proxy with two simulated engines:
// go test -tags terminal -run InATerminal ./cmd/anteroom. It needs tmux.

// terminal is a program in a window of a tmux of its own.
type terminal struct {
	t      *testing.T
	socket string
}

// inTerminal starts anteroom there.
func inTerminal(t *testing.T, width, height int, environment string, args ...string) *terminal {
	t.Helper()
	x := &terminal{t, fmt.Sprintf("anteroom-%d-%s", os.Getpid(), t.Name())}
	command := fmt.Sprintf("exec env RUN_THE_COMMAND=1 GORACE=atexit_sleep_ms=0 TZ=UTC %s %s %s", environment, os.Args[0], strings.Join(args, " "))
	x.tmux("-f", "/dev/null", "new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), command)
	t.Cleanup(func() { exec.Command("tmux", "-L", x.socket, "kill-server").Run() })
	x.tmux("set-option", "-g", "window-size", "manual")
	x.tmux("set-option", "-g", "remain-on-exit", "on")
	return x
}

func (x *terminal) tmux(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-L", x.socket}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %s: %v: %s (it is Debian's package tmux)", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (x *terminal) screen() string { return x.tmux("capture-pane", "-p") }

func (x *terminal) press(keys ...string) { x.tmux(append([]string{"send-keys"}, keys...)...) }

// until waits for a text on the screen, and gives the screen.
func (x *terminal) until(pattern string) (screen string) {
	x.t.Helper()
	re := regexp.MustCompile(pattern)
	wait.Until(x.t, "the screen shows "+pattern, func() bool {
		screen = x.screen()
		return re.MatchString(screen)
	})
	return screen
}

// untilDead waits for the program's end.
func (x *terminal) untilDead() {
	x.t.Helper()
	wait.Until(x.t, "the program in the terminal has ended", func() bool {
		return strings.TrimSpace(x.tmux("display-message", "-p", "#{pane_dead}")) == "1"
	})
}

const topFile = `
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0, token: secret}
state: {file: ""}
gpus: {gpu0: {memory: 48GiB, source: declared}}
classes:
  heavy: {slots: 1, vram: 30GiB, estimate: 1m, queue: {timeout: 30m}}
  light: {slots: 8, vram: 512MiB, estimate: 2m, queue: {timeout: 30m}}
backends:
  flux: {url: "%s", gpu: gpu0, returns_memory: true}
  vqa: {url: "%s", gpu: gpu0, returns_memory: true}
routes:
  - {match: {path: /v1/images/generations}, class: heavy, backend: flux}
  - {match: {path: /v1/vqa}, class: light, backend: vqa}
`

// asks sends a request and gives what came of it.
func asks(url, body string, came chan<- string) {
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		came <- err.Error()
		return
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(res.Body)
	came <- res.Status + " " + string(text)
}

func TestTopInATerminal(t *testing.T) {
	s := serveProcessAt(t, write(t, fmt.Sprintf(topFile, engineProcess(t, "flux", "0.02"), engineProcess(t, "vqa", "0.02"))))
	client := newClient(s.admin, "secret")
	heavy := make(chan string, 8)
	for range 4 {
		go asks(s.url+"/v1/images/generations", `{"prompt": "a cat"}`, heavy)
	}
	for range 2 {
		go asks(s.url+"/v1/vqa", `{"prompt": "a cat?"}`, make(chan string, 1))
	}
	state := func() (state admin.State) {
		must(t, client.get("/api/state", &state))
		return state
	}
	wait.Until(t, "three run and three wait", func() bool { return len(state().Running) >= 3 && state().Classes[0].Queued >= 3 })
	queued := func() (q admin.Queue) {
		must(t, client.get("/api/queue", &q))
		return q
	}

	x := inTerminal(t, 80, 24, "ANTEROOM_ADMIN__TOKEN=secret NO_COLOR=1", "top", "--admin", s.admin)
	x.until(`enforce  running 3  waiting 3 +live`)
	first := queued().Waiting[0]
	x.until(fmt.Sprintf(`> %d +heavy +0 +flux .*(class_slots|resources)`, first.ID)) // who waits, and why
	x.until(`gpu0 +\[#+\.+-?\] +31GiB +16GiB  flux 30GiB, vqa 1GiB`)                 // whose memory it is
	x.until(`class heavy|grant \d+`)                                                 // the detail
	if coded := x.tmux("capture-pane", "-p", "-e"); regexp.MustCompile(`\x1b\[(3[0-7]|9[0-7]|38;)`).MatchString(coded) {
		t.Errorf("with NO_COLOR there are colours: %q", coded)
	}

	// It sorts.
	x.press("s")
	x.until(`4 WAITING▼`)
	x.until(fmt.Sprintf(`> %d `, queued().Waiting[2].ID))
	x.press("S")
	x.until(fmt.Sprintf(`4 WAITING▲[^>]*> %d `, first.ID))

	// It pauses: a key, a reason, and enter.
	x.press("p")
	x.until(`Pause class heavy\? enter does`)
	if state().Classes[0].Paused {
		t.Error("the class is paused before it is confirmed")
	}
	x.press("-l", "tonight")
	x.press("Enter")
	line := s.until("an operator acted")
	if line["action"] != "pause" || line["class"] != "heavy" || line["reason"] != "tonight" || line["by"] != operator() {
		t.Errorf("the log has %v", line)
	}
	x.until(`done: pause class heavy`)
	x.until(`heavy +1 +1 +3 .*paused`)
	if !state().Classes[0].Paused {
		t.Error("the class is not paused")
	}

	// It cancels the one that is selected.
	x.press("c")
	x.until(fmt.Sprintf(`Cancel request %d of class heavy`, first.ID))
	x.press("Enter")
	if got := <-heavy; !strings.Contains(got, "cancelled_by_operator") {
		t.Errorf("the cancelled one got %s", got)
	}
	x.until(`waiting 2 `)
	x.until(`6 ENDED▼[^/]*cancelled_by_operator +503`)

	// What is shown is what the API says, at both sizes.
	x.tmux("resize-window", "-x", "200", "-y", "60")
	x.until(`TENANT +VRAM +WAITED`)
	now := state()
	screen := x.until(fmt.Sprintf(`running %d  waiting %d `, now.Classes[0].Running+now.Classes[1].Running, now.Classes[0].Queued+now.Classes[1].Queued))
	for _, c := range now.Classes {
		if row := regexp.MustCompile(fmt.Sprintf(`(?m)^  %s +%d +%d +%d +%d +\S+ +%d +%d +%s`, c.Name, c.Running, c.Slots, c.Queued,
			c.QueueLimit, c.Granted, c.Refused,
			words(when(c.Paused, "paused")))); !row.MatchString(screen) {
			t.Errorf("no %s on\n%s", row, screen)
		}
	}
	for _, g := range now.GPUs {
		if row := regexp.MustCompile(fmt.Sprintf(`(?m)^  %s .* %s +%s +%s `, g.Name, bytesOf(g.Booked+g.Unmanaged+g.Unattributed),
			bytesOf(g.Available), bytesOf(g.Capacity))); !row.MatchString(screen) {
			t.Errorf("no %s on\n%s", row, screen)
		}
	}
	for _, b := range now.Backends {
		booked, retained := holds(b, 0)
		if row := regexp.MustCompile(fmt.Sprintf(`(?m)^  %s +%s +%d +%s +%s +%s +%d`, b.Name, b.Replicas[0].Residency, b.Running,
			b.Replicas[0].Breaker, bytesOf(booked),
			bytesOf(retained), b.Replicas[0].Swaps)); !row.MatchString(screen) {
			t.Errorf("no %s on\n%s", row, screen)
		}
	}
	for _, r := range now.Running {
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^  %d +%s +%s +%s `, r.ID, r.Class, r.Backend, bytesOf(r.VRAM))).MatchString(screen) {
			t.Errorf("no grant %d on\n%s", r.ID, screen)
		}
	}

	// It says when the proxy is gone, and leaves the terminal as it was.
	must(t, s.process.Process.Kill())
	x.until(`DISCONNECTED for \d`)
	x.press("q")
	x.untilDead()
	if strings.Contains(x.screen(), "WAITING") {
		t.Errorf("it leaves its screen behind: %s", x.screen())
	}
}

// TestTopInATerminalHasColours where they are not unwanted.
func TestTopInATerminalHasColours(t *testing.T) {
	model, arrived, open := gated(t)
	defer open()
	s := serveProcess(t, model)
	posts(t, s.url, 1)
	<-arrived
	must(t, newClient(s.admin, "").post("/api/classes/work/pause", ""))
	x := inTerminal(t, 80, 24, "NO_COLOR= TERM=tmux-256color", "top", "--admin", s.admin)
	x.until(`work .* paused`)
	coloured := regexp.MustCompile(`\x1b\[(33|38;5;94)m(\x1b\[49m)?[^\x1b]*work`)
	wait.Until(t, "a paused class has a colour", func() bool { return coloured.MatchString(x.tmux("capture-pane", "-p", "-e")) })
	x.press("C-c")
	x.untilDead()
}
