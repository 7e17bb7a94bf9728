package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// runEngine is `anteroom engine`. It returns 0 after SIGTERM or an interrupt, and 1 if the
// card or the address cannot be opened. A trap that kills the engine ends the process with
// 1.
func runEngine(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("engine", "", "Run one simulated model server on a simulated card. --list says which there are.", stderr)
	var e engineFlags
	e.add(fs)
	listen := fs.String("listen", "127.0.0.1:0", "`ADDRESS` to listen on; port 0: a free one")
	where := fs.String("card", "48GiB", "a size for a card of its own, or the `DIR` of one that engines share")
	memory := fs.String("memory", "48GiB", "`SIZE` of the card in DIR where it is new")
	speed := fs.Float64("speed", 1, "run `N` times faster than such a server would")
	seed := fs.Uint64("seed", 1, "`N` that the run times are drawn from")
	contention := fs.Bool("contention", false, "share the card's processor by time slices with the other engines that have this flag, "+
		"as real cards do; run times are those that a run has alone")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	if e.list {
		listKinds(stdout)
		return 0
	}
	wrong := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "anteroom engine: "+format+"\n", a...)
		return 2
	}
	kind, err := e.kind()
	if err != nil {
		return wrong("%v", err)
	}
	size, err := admission.ParseBytes(*memory)
	switch {
	case err != nil || size == 0:
		return wrong("--memory %q: want a size such as 48GiB", *memory)
	case !(*speed > 0):
		return wrong("--speed %v: want more than 0", *speed)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fail := func(err error) int {
		fmt.Fprintln(stderr, "anteroom engine:", err)
		return 1
	}
	card, err := openCard(*where, size)
	if err != nil {
		return fail(err)
	}
	defer card.Close()
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return fail(err)
	}
	engine := simulation.NewEngine(kind, card, simulation.Options{
		Speed: *speed, Seed: *seed, Traps: e.traps, Contention: *contention,
		Exit: func() {
			fmt.Fprintln(stderr, "anteroom engine: killed by a trap")
			os.Exit(1)
		},
	})
	defer engine.Close()
	go func() {
		// A card that is full now may have room at the first request.
		if err := engine.Load(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "anteroom engine: load the weights:", err)
		}
	}()
	fmt.Fprintf(stdout, "%s on http://%s\n", kind.Name, l.Addr())
	printRoutes(stdout, engine.Routes(), "  ")
	if err := serveEngine(ctx, l, engine); err != nil {
		return fail(err)
	}
	return 0
}

// serveEngine serves an engine until the context ends, and closes it.
func serveEngine(ctx context.Context, l net.Listener, engine *simulation.Engine) error {
	server := &http.Server{Handler: engine, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	// The runs are cut by Close, so that their callers get an answer.
	engine.Close()
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return server.Shutdown(ending)
}

// openCard makes a card of a size, or opens the shared one in a directory.
func openCard(where string, size admission.Bytes) (*simulation.Card, error) {
	if own, err := admission.ParseBytes(where); err == nil && own > 0 {
		return simulation.NewCard(own), nil
	} else if _, bare := strconv.ParseFloat(where, 64); bare == nil {
		return nil, fmt.Errorf("--card: %w", cmp.Or(err, errors.New("0 is no size: want one such as 48GiB")))
	}
	return simulation.OpenCard(where, size)
}
