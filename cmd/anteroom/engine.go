package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// runEngine is `anteroom engine`. It returns 0 after SIGTERM or an interrupt, 1
// where the card or the address cannot be had.
func runEngine(args []string, stdout, stderr io.Writer) int {
	var names []string
	for _, k := range simulation.Kinds() {
		names = append(names, k.Name)
	}
	fs := newFlags("engine", "", "Run one simulated model server on a simulated card.", stderr)
	name := fs.String("kind", "", "`KIND` of model server: "+strings.Join(names, " or "))
	listen := fs.String("listen", "127.0.0.1:0", "`ADDRESS` to listen on; port 0: a free one")
	where := fs.String("card", "48GiB", "a size for a card of its own, or the `DIR` of one that engines share")
	memory := fs.String("memory", "48GiB", "`SIZE` of the card in DIR where it is new")
	speed := fs.Float64("speed", 1, "run `N` times faster than such a server would")
	seed := fs.Uint64("seed", 1, "`N` that the run times are drawn from")
	returns := fs.Bool("returns-memory", false, "give a run's memory back at its end, and do not keep it in the allocator")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	wrong := func(format string, a ...any) int {
		fmt.Fprintf(stderr, "anteroom engine: "+format+"\n", a...)
		return 2
	}
	kind, known := kindNamed(*name)
	size, err := admission.ParseBytes(*memory)
	switch {
	case !known:
		return wrong("--kind %q: want %s", *name, strings.Join(names, " or "))
	case err != nil || size == 0:
		return wrong("--memory %q: want a size such as 48GiB", *memory)
	case !(*speed > 0):
		return wrong("--speed %v: want more than 0", *speed)
	}
	kind.ReturnsMemory = *returns

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
	engine := simulation.NewEngine(kind, card, simulation.Options{Speed: *speed, Seed: *seed})
	defer engine.Close()
	go func() {
		// A card that is full now may have room at the first request.
		if err := engine.Load(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(stderr, "anteroom engine: load the weights:", err)
		}
	}()
	server := &http.Server{Handler: engine, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Fprintf(stdout, "%s on http://%s\n", kind.Name, l.Addr())
	select {
	case err := <-served:
		return fail(err)
	case <-ctx.Done():
	}
	// The runs are cut by Close, so that their callers get an answer.
	engine.Close()
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ending); err != nil {
		return fail(err)
	}
	return 0
}

func kindNamed(name string) (simulation.Kind, bool) {
	for _, k := range simulation.Kinds() {
		if k.Name == name {
			return k, true
		}
	}
	return simulation.Kind{}, false
}

// openCard makes a card of a size, or opens the shared one in a directory.
func openCard(where string, size admission.Bytes) (*simulation.Card, error) {
	if own, err := admission.ParseBytes(where); err == nil && own > 0 {
		return simulation.NewCard(own), nil
	}
	return simulation.OpenCard(where, size)
}
