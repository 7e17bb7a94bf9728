package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/internal/signals"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// runServe is `anteroom serve`. It returns 0 after a drain that lost nothing,
// 1 where the configuration is refused, a listener cannot be opened, or the end
// was forced.
func runServe(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("serve", "", "Serve as the configuration says. SIGHUP or a changed file reloads it, SIGTERM drains, a second one ends.", stderr)
	options := configFlags(fs)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	from := options()
	tuneGC()
	// Signals and changes are taken before anything is read or open, so that
	// none of them falls between or ends a half start.
	ends, hangups, changes := signals.Ends(), signals.Hangups(), make(chan struct{}, 1)
	watching, unwatch := context.WithCancel(context.Background())
	defer unwatch()
	if from.File != "" {
		configs.Watch(watching, from, func() { changes <- struct{}{} })
	}

	cfg, err := configs.Load(from)
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
	s.reloadFrom(func() (*configs.Config, error) { return configs.Load(from) })
	for serving := true; serving; {
		select {
		case <-hangups:
			s.Reload() // it logs its refusal
		case <-changes:
			s.Reload() // likewise
		case err := <-s.served:
			s.log.Error("a listener ended", "error", err)
			s.served <- err
			s.forceStop()
			return 1
		case <-ends:
			serving = false
		}
	}
	unwatch()
	// A second signal ends the drain, and the flush after it.
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
