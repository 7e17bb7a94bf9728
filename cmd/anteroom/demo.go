package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/anteroom-gpu/anteroom/simulation"
)

// runDemo is `anteroom demo`. It returns 1 if the simulated machine could not be set up, a
// request failed for a reason other than memory, or it was interrupted.
func runDemo(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("demo", "", "Play the same traffic to simulated model servers on a 48 GiB card through one queue, through static slots and "+
		"through Anteroom, and compare. Time is virtual: the figures are exact, and the same on every machine.", stderr)
	overSockets := fs.Bool("real", false, "play it over real sockets, through the proxy that serve runs, in time that passes")
	speed := fs.Float64("speed", 20, "with --real: run `N` times faster than the simulated box")
	asJSON := fs.Bool("json", false, "print the figures as JSON, and write no page unless --html says where")
	page := fs.String("html", "", "write the page with the pictures to `FILE`; without it, to "+pageName+" here")
	open := fs.Bool("open", false, "open the page in the browser")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	d := demo{scenes: simulation.Scenes(), runs: 1, news: stdout}
	if *overSockets {
		// Every figure is the median of three plays, because figures in real time differ
		// from play to play.
		d.runs, d.speed = 3, *speed
	}
	switch {
	case !(*speed > 0):
		fmt.Fprintf(stderr, "anteroom demo: --speed %v: want more than 0\n", *speed)
		return 2
	case !*overSockets && isSet(fs, "speed"):
		fmt.Fprintln(stderr, "anteroom demo: --speed: virtual time has none; want it with --real")
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *asJSON {
		d.news = stderr
	}
	printBox(d.news)
	figures, err := d.run(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom demo:", err)
		return 1
	}
	if *asJSON {
		printJSON(stdout, demoJSON(figures))
	} else {
		for _, s := range d.scenes {
			printScene(stdout, s, figures[s.Name])
		}
		printMeaning(stdout, d.scenes, figures)
	}
	code := 0
	if *page != "" || *open || !*asJSON {
		file, err := writePage(*page, d, figures)
		if err != nil {
			fmt.Fprintln(stderr, "anteroom demo: write the page:", err)
			return 1
		}
		fmt.Fprintf(d.news, "Pictures:  %s\n", file)
		if *open {
			if err := openBrowser(file); err != nil {
				fmt.Fprintf(stderr, "anteroom demo: open the page: %v; open %s by hand\n", err, file)
				code = 1
			}
		}
	}
	if !*asJSON {
		printNext(stdout)
	}
	if printTrouble(stderr, d, figures) {
		code = 1
	}
	return code
}

// arms are the ways to the engines that are compared, as keys in JSON.
var arms = []string{"fifo", "static", "anteroom"}

// demo is the experiment: each scene through each arm.
type demo struct {
	scenes []simulation.Scene
	runs   int       // of each; more than one makes sense in real time alone
	speed  float64   // of real time, over that of the box; 0: time is virtual
	news   io.Writer // progress while it runs
}

// played is the result of one scene through one arm.
type played struct {
	simulation.Result
	seen   []simulation.Outcome // of the first run
	memory []level              // of the first run
	err    error                // of the first request that failed for anything but memory
}

// level is what was in use of a card from a moment on, after the scene's beginning.
type level struct {
	at    time.Duration
	bytes int64
}

// figures are what was played, by scene and arm.
type figures map[string]map[string]played

func (f figures) add(s simulation.Scene, arm string, p played) {
	if f[s.Name] == nil {
		f[s.Name] = make(map[string]played)
	}
	f[s.Name][arm] = p
}

func (d demo) run(ctx context.Context) (figures, error) {
	if d.speed == 0 {
		return d.runVirtual(ctx)
	}
	return d.runReal(ctx)
}

// runVirtual plays one after the other.
func (d demo) runVirtual(ctx context.Context) (figures, error) {
	// Garbage collection would be half of the work of these few seconds.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	all := make(figures)
	for i, s := range d.scenes {
		fmt.Fprintf(d.news, "playing %d of %d, %s:", i+1, len(d.scenes), s.Name)
		for _, arm := range arms {
			fmt.Fprintf(d.news, " %s", arm)
			p, err := playVirtual(ctx, s, arm)
			if ctx.Err() != nil {
				err = errors.New("interrupted")
			}
			if err != nil {
				fmt.Fprintln(d.news)
				return nil, fmt.Errorf("%s, %s: %w", s.Name, arm, err)
			}
			all.add(s, arm, p)
		}
		fmt.Fprintln(d.news)
	}
	return all, nil
}

// playVirtual plays a scene through an arm, all of it in one clock.
func playVirtual(ctx context.Context, s simulation.Scene, arm string) (p played, err error) {
	clock := simulation.NewVirtualClock()
	var b *box
	stuck := clock.Run(func() {
		if b, err = newBox(ctx, clock, s, arm, 0); err == nil {
			p, err = b.play(ctx, s)
			b.quit()
		}
	})
	if stuck != nil {
		return p, stuck
	}
	if b != nil {
		b.close()
	}
	return p, err
}

// stagger is the time between the beginnings of two plays, so that their bursts do not
// always come at the same moment.
const stagger = 250 * time.Millisecond

// runReal plays everything side by side, each play on a card, with engines and on
// ports of its own, and returns the medians by scene and arm.
func (d demo) runReal(ctx context.Context) (figures, error) {
	type play struct {
		scene  simulation.Scene
		arm    string
		box    *box
		played played
		err    error
	}
	var plays []*play
	defer func() {
		var ends sync.WaitGroup
		for _, p := range plays {
			if p.box != nil {
				ends.Go(p.box.close)
			}
		}
		ends.Wait()
	}()
	for range d.runs {
		for _, s := range d.scenes {
			for _, arm := range arms {
				plays = append(plays, &play{scene: s, arm: arm})
			}
		}
	}
	// The addresses of the first plays are printed before anything begins.
	for i, p := range plays {
		if p.box, p.err = newBox(ctx, simulation.WallClock{}, p.scene, p.arm, d.speed); p.err != nil {
			return nil, fmt.Errorf("set up %s, %s: %w", p.scene.Name, p.arm, p.err)
		}
		if p.box.status != "" && i < len(d.scenes)*len(arms) {
			fmt.Fprintf(d.news, "status of %-12s %s\n", p.scene.Name, p.box.status)
		}
	}
	fmt.Fprintf(d.news, "%d scenes, %d arms, %d times, all side by side, %g times faster than the box\n", len(d.scenes), len(arms), d.runs, d.speed)
	begun := time.Now()
	ended := make(chan *play, len(plays))
	for i, p := range plays {
		go func() {
			select {
			case <-time.After(time.Duration(i) * stagger):
				p.played, p.err = p.box.play(ctx, p.scene)
			case <-ctx.Done():
			}
			ended <- p
		}()
	}
	for n := range len(plays) {
		p := <-ended
		if ctx.Err() != nil {
			continue
		}
		fmt.Fprintf(d.news, "%2d of %d done after %3.0f s: %s, %s\n", n+1, len(plays), time.Since(begun).Seconds(), p.scene.Name, p.arm)
	}
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	results := make(map[string][]simulation.Result)
	all := make(figures)
	for _, p := range plays {
		if p.err != nil {
			return nil, fmt.Errorf("%s, %s: %w", p.scene.Name, p.arm, p.err)
		}
		of := p.scene.Name + "/" + p.arm
		results[of] = append(results[of], p.played.Result)
		first, again := all[p.scene.Name][p.arm]
		if !again {
			first = p.played
		}
		first.err = cmp.Or(first.err, p.played.err)
		first.Result = simulation.Median(results[of])
		all.add(p.scene, p.arm, first)
	}
	return all, nil
}
