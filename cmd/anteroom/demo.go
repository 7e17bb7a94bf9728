package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/anteroom-gpu/anteroom/simulation"
)

// runDemo is `anteroom demo`. It returns 1 where the box could not be set up, a
// request failed for anything but memory, or it was interrupted.
func runDemo(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("demo", "", "Play the same traffic to simulated model servers on a 48 GiB card through one queue, through static slots and through Anteroom, and compare.", stderr)
	speed := fs.Float64("speed", 20, "run `N` times faster than the simulated box")
	asJSON := fs.Bool("json", false, "print the figures as JSON")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	if !(*speed > 0) {
		fmt.Fprintf(stderr, "anteroom demo: --speed %v: want more than 0\n", *speed)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := demo{scenes: simulation.Scenes(), runs: 3, speed: *speed, news: stdout}
	if *asJSON {
		d.news = stderr
	}
	figures, err := d.run(ctx)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom demo:", err)
		return 1
	}
	if *asJSON {
		printJSON(stdout, demoJSON(figures))
		return 0
	}
	for _, s := range d.scenes {
		printScene(stdout, s, figures[s.Name])
	}
	return 0
}

// arms are the ways to the engines that are compared, as keys in JSON.
var arms = []string{"fifo", "static", "anteroom"}

// demo is the experiment: each scene through each arm, several times.
type demo struct {
	scenes []simulation.Scene
	runs   int
	speed  float64
	news   io.Writer // what people may want to know while it runs
}

// stagger is how far the beginnings of the plays are apart, so that the bursts
// of one do not always fall on those of another.
const stagger = 250 * time.Millisecond

// run plays everything side by side, each play on a card, with engines and on
// ports of its own, and returns the medians by scene and arm.
func (d demo) run(ctx context.Context) (map[string]map[string]simulation.Result, error) {
	type play struct {
		scene  simulation.Scene
		arm    string
		box    *box
		result simulation.Result
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
	// The addresses of the first plays are told before anything begins.
	for i, p := range plays {
		if p.box, p.err = newBox(ctx, p.scene, p.arm, d.speed); p.err != nil {
			return nil, fmt.Errorf("set up %s, %s: %w", p.scene.Name, p.arm, p.err)
		}
		if p.box.status != "" && i < len(d.scenes)*len(arms) {
			fmt.Fprintf(d.news, "status of %-12s %s\n", p.scene.Name, p.box.status)
		}
	}
	fmt.Fprintf(d.news, "%d scenes, %d arms, %d times, all side by side, %g times faster than the box\n", len(d.scenes), len(arms), d.runs, d.speed)
	var all sync.WaitGroup
	for i, p := range plays {
		all.Go(func() {
			select {
			case <-time.After(time.Duration(i) * stagger):
				p.result, p.err = p.box.play(ctx, p.scene)
			case <-ctx.Done():
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, errors.New("interrupted")
	}
	results := make(map[string]map[string][]simulation.Result)
	figures := make(map[string]map[string]simulation.Result)
	for _, p := range plays {
		if p.err != nil {
			return nil, fmt.Errorf("%s, %s: %w", p.scene.Name, p.arm, p.err)
		}
		if results[p.scene.Name] == nil {
			results[p.scene.Name] = make(map[string][]simulation.Result)
			figures[p.scene.Name] = make(map[string]simulation.Result)
		}
		of := append(results[p.scene.Name][p.arm], p.result)
		results[p.scene.Name][p.arm] = of
		figures[p.scene.Name][p.arm] = simulation.Median(of)
	}
	return figures, nil
}
