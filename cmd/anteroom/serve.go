package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/internal/signals"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// awaitEvery is the time between two questions to servers that did not answer at the start.
const awaitEvery = 5 * time.Second

// await calls came each time that a server answers which did not answer before. It ends
// when all servers have answered, or with ctx.
func await(ctx context.Context, servers targets, came func()) {
	tick := time.NewTicker(awaitEvery)
	defer tick.Stop()
	missing := slices.DeleteFunc(slices.Clone(servers), func(f found) bool { _, err := backend.Identify(ctx, f.url); return err == nil })
	for len(missing) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		before := len(missing)
		missing = slices.DeleteFunc(missing, func(f found) bool { _, err := backend.Identify(ctx, f.url); return err == nil })
		if len(missing) < before {
			came()
		}
	}
}

// runServe is `anteroom serve`. It returns 0 after a drain that lost nothing, 1 if the
// configuration is refused, a listener cannot be opened, or the drain was cut short.
func runServe(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("serve", "", "Serve as the configuration says. SIGHUP or a changed file reloads it, SIGTERM drains, a second one ends.", stderr)
	options := configFlags(fs)
	var to targets
	fs.Var(&to, "to", "serve the server at `[ENGINE=]URL` without a configuration: what it is is found out; may be given often")
	where := newCardFlags(fs)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	from := options()
	if len(to) > 0 && from.File != "" {
		fmt.Fprintln(stderr, "anteroom serve: --to is for serving without a file: want it without -c")
		return 2
	}
	tuneGC()
	// If the reader of the log ends, the proxy goes on: only the writes fail.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// Signals and changes of the file are watched before anything is read or opened, so
	// that none is missed, and none ends the process in the middle of its start.
	ends, hangups, changes := signals.Ends(), signals.Hangups(), make(chan struct{}, 1)
	watching, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	if from.File != "" {
		configs.Watch(watching, from, func() { changes <- struct{}{} })
	}

	load := func() (*configs.Config, error) { return configs.Load(from) }
	if len(to) > 0 {
		// A server may have started since: it is asked again at each reload.
		load = func() (*configs.Config, error) {
			text, _, err := discover(context.Background(), to, true, where, nil)
			if err != nil {
				return nil, err
			}
			found := from
			found.File, found.Text = "what was found", []byte(text)
			return configs.Load(found)
		}
		go await(watching, to, func() { changes <- struct{}{} })
	}
	cfg, err := load()
	if err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	logs := telemetry.NewLogWriter(stderr)
	defer logs.Close(500 * time.Millisecond)
	s, err := startServer(context.Background(), cfg, logs, nil, 1)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom:", err)
		return 1
	}
	s.reloadFrom(load)
	if !s.serveUntil(ends, hangups, changes) {
		return 1
	}
	unwatch()
	return s.drain(ends)
}

// serveUntil reloads at each hangup and change until a signal of ends comes. It
// reports false where a listener ended before.
func (s *server) serveUntil(ends, hangups <-chan os.Signal, changes <-chan struct{}) bool {
	for {
		select {
		case <-hangups:
			s.Reload() // it logs its refusal
		case <-changes:
			s.Reload() // it logs its refusal
		case err := <-s.served:
			s.log.Error("a listener ended", "error", err)
			s.served <- err
			s.forceStop()
			return false
		case <-ends:
			return true
		}
	}
}

// drain stops the server and returns the exit code. A second signal ends the drain, and the
// sending of the last spans after it.
func (s *server) drain(ends <-chan os.Signal) int {
	atOnce, end := context.WithCancel(context.Background())
	defer end()
	go func() {
		select {
		case <-ends:
			end()
		case <-atOnce.Done():
		}
	}()
	ctx, cancel := context.WithTimeout(atOnce, s.grace())
	defer cancel()
	if s.stopWithin(ctx, atOnce) != nil {
		return 1
	}
	return 0
}
