package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWhatTheExamplesSayWorks runs the sh blocks of the examples that bring their own
// engines, line by line. What goes on, an engine or the proxy, stays for what follows;
// ports are free ones, the card is a directory of the test's, and engines run twenty
// times as fast.
func TestWhatTheExamplesSayWorks(t *testing.T) {
	for _, name := range []string{"quickstart", "one-card-three-engines"} {
		t.Run(name, func(t *testing.T) {
			x := &example{t: t, folder: t.TempDir()}
			x.places = []string{"/tmp/anteroom-card", filepath.Join(x.folder, "card")}
			ran := 0
			for _, b := range blocks(t, filepath.Join("../../examples", name, "README.md")) {
				if b.kind != "sh" {
					othersOnly(t, b)
					continue
				}
				at := slices.Index(strings.Fields(b.text), "serve")
				if at < 0 {
					x.shell(b)
					ran++
					continue
				}
				for line := range strings.Lines(b.text) {
					x.start(b, strings.Fields(line))
				}
			}
			if ran == 0 {
				t.Error("it asks for nothing")
			}
		})
	}
}

// example is a running one.
type example struct {
	t      *testing.T
	folder string
	places []string // what its page says, and what it is here, in turn
	admin  string
}

// start runs a command that goes on, and returns when it listens.
func (x *example) start(b block, command []string) {
	x.t.Helper()
	if command[0] != "bin/anteroom" {
		x.t.Fatalf("%s: %q: want bin/anteroom", b.at, command)
	}
	args := command[1:]
	here := strings.NewReplacer(x.places...)
	for i := range args {
		args[i] = here.Replace(args[i])
	}
	listens := regexp.MustCompile(` on http://([0-9.:]+)$`)
	if args[0] == "serve" {
		listens = listening
		at := slices.Index(args, "-c") + 1
		text, err := os.ReadFile(filepath.Join("../..", args[at]))
		if err != nil {
			x.t.Fatal(err)
		}
		args[at] = filepath.Join(x.folder, "anteroom.yaml")
		if err := os.WriteFile(args[at], []byte(here.Replace(string(text))), 0o644); err != nil {
			x.t.Fatal(err)
		}
		args = append(args, "--listen", "127.0.0.1:0")
	} else {
		at := slices.Index(args, "--listen") + 1
		defer func(said string) { x.places = append(x.places, said, args[at]) }(args[at])
		args[at] = "127.0.0.1:0"
		args = append(args, "--speed", "20")
	}
	p := process(args...)
	p.Env, p.Dir = append(p.Env, "ANTEROOM_ADMIN__LISTEN=127.0.0.1:0"), x.folder
	said, err := p.StderrPipe()
	if args[0] != "serve" {
		said, err = p.StdoutPipe()
	}
	if err != nil {
		x.t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	lines := bufio.NewScanner(said)
	for lines.Scan() {
		if at := listens.FindStringSubmatch(lines.Text()); at != nil {
			if args[0] == "serve" {
				x.places = append(x.places, "127.0.0.1:8080", at[1], "127.0.0.1:9090", at[2])
				x.admin = at[2]
			} else {
				args[slices.Index(args, "--listen")+1] = at[1]
			}
			go func() {
				for lines.Scan() {
				}
			}()
			return
		}
	}
	x.t.Fatalf("%s: %q does not listen", b.at, command)
}

// shell runs what asks them. An answer that is an error fails the test.
func (x *example) shell(b block) {
	x.t.Helper()
	bin := filepath.Join(x.folder, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		x.t.Fatal(err)
	}
	script := "#!/bin/sh\nexport RUN_THE_COMMAND=1\nc=$1; shift\nexec '" + os.Args[0] + "' \"$c\" --admin 'http://" + x.admin + "' \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "anteroom"), []byte(script), 0o755); err != nil {
		x.t.Fatal(err)
	}
	text := strings.ReplaceAll(strings.NewReplacer(x.places...).Replace(b.text), "curl ", "curl -sS --fail-with-body ")
	shell := exec.Command("sh", "-euc", text+"wait\n")
	shell.Dir, shell.Env = x.folder, append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	out, err := shell.CombinedOutput()
	if err != nil {
		x.t.Errorf("%s: %v\n%s", b.at, err, out)
	}
	x.t.Logf("%s\n%s", text, out)
}
