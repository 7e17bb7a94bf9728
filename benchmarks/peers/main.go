// Command peers measures Anteroom beside the proxies that it is compared with, on
// this machine and in one run, and prints tables of medians for docs/performance.md.
//
//	make bench-peers
//
// Each proxy has one core; the server behind it and the load have another. The proxies
// take turns, A B C A B C, so that what the machine does meanwhile meets all of them.
// It starts processes on loopback alone, ends those, and takes less than 15 minutes.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	proxyCore = 0
	loadCore  = 1
)

type bench struct {
	self, anteroom, caddy string
	dir                   string
	upstream, sink        string
	rounds                int
	seconds               time.Duration
	only                  string
	notes                 []string
	asked                 string // the proxy and the measure that notes are of
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "upstream":
			return serveUpstream(os.Args[2])
		case "sink":
			return serveSink(os.Args[2])
		case "plain":
			return servePlain(os.Args[2], os.Args[3])
		}
	}
	b := &bench{anteroom: os.Getenv("ANTEROOM"), caddy: os.Getenv("CADDY")}
	flag.IntVar(&b.rounds, "rounds", 3, "measure each proxy `N` times; the median counts")
	flag.DurationVar(&b.seconds, "for", 2*time.Second, "measure for `DURATION` each time")
	flag.StringVar(&b.only, "only", "", "only measures whose name contains `TEXT`")
	flag.Parse()
	if b.anteroom == "" {
		return fmt.Errorf("ANTEROOM must name the program to measure")
	}
	if runtime.NumCPU() < 2 {
		return fmt.Errorf("two cores are needed: one for the proxy, one for the load")
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "benchmarks"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.RemoveAll(b.dir)
		os.Exit(1) // the kernel ends what was started
	}()
	// This program is the load, or starts it.
	if said, err := exec.Command("taskset", "-a", "-cp", fmt.Sprint(loadCore), fmt.Sprint(os.Getpid())).CombinedOutput(); err != nil {
		return fmt.Errorf("taskset: %w\n%s", err, said)
	}
	for _, s := range []struct {
		role    string
		address *string
	}{{"upstream", &b.upstream}, {"sink", &b.sink}} {
		if *s.address, err = freePort(); err != nil {
			return err
		}
		p, err := start(loadCore, b.dir, s.role, *s.address, nil, b.self, s.role, *s.address)
		if err != nil {
			return err
		}
		defer p.stop()
	}
	list, missing := b.peers()
	if len(missing) > 0 {
		fmt.Printf("Not installed and therefore left out: %s.\n\n", strings.Join(missing, ", "))
	}
	for _, m := range measures {
		if !strings.Contains(m.name, b.only) {
			continue
		}
		if err := b.measure(m, list); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	for _, n := range b.notes {
		fmt.Println("-", n)
	}
	return nil
}

func (b *bench) note(format string, args ...any) {
	if n := b.asked + ": " + fmt.Sprintf(format, args...); !slices.Contains(b.notes, n) {
		b.notes = append(b.notes, n)
	}
}

// running starts a peer with a folder of its own.
func (b *bench) running(p peer) (*process, string, error) {
	address, err := freePort()
	if err != nil {
		return nil, "", err
	}
	dir, err := b.scratch(p.name + filepath.Ext(address))
	if err != nil {
		return nil, "", err
	}
	process, err := p.begin(b, dir, address)
	return process, address, err
}

// row is a proxy in the table of one measure.
type row struct {
	peer
	process *process // nil: a new one is started for each round
	address string
	seen    [][]float64 // by figure
}

// measure prints the table of one measure: a row for each proxy, each figure the
// median of the rounds, with half the distance between the lowest and the highest.
func (b *bench) measure(m measure, list []peer) error {
	var rows []*row
	for _, p := range list {
		if m.queued && !p.queues || m.leaves != nil && m.leaves(p) {
			continue
		}
		r := &row{peer: p, seen: make([][]float64, len(m.figures))}
		if !m.fresh {
			var err error
			if r.process, r.address, err = b.running(p); err != nil {
				return err
			}
			defer r.process.stop()
			if m.warm != "" {
				if _, _, err := b.wrk(r.address, m.warm, 64, time.Second); err != nil {
					return err
				}
			}
		}
		rows = append(rows, r)
	}
	for range b.rounds {
		for _, r := range rows {
			if err := b.round(m, r); err != nil {
				return err
			}
		}
	}
	b.print(m, rows)
	return nil
}

// round measures a proxy once more.
func (b *bench) round(m measure, r *row) error {
	process, address := r.process, r.address
	if process == nil {
		var err error
		if process, address, err = b.running(r.peer); err != nil {
			return err
		}
		defer process.stop()
	}
	b.asked = r.name + ", " + m.name
	figures, err := m.run(b, process, address)
	if err != nil {
		return fmt.Errorf("%s: %w", r.name, err)
	}
	for i, f := range figures {
		r.seen[i] = append(r.seen[i], f)
	}
	return nil
}

// print prints the table. The first row is what the others are compared with.
func (b *bench) print(m measure, rows []*row) {
	fmt.Printf("**%s**\n\n| proxy |", m.name)
	for _, f := range m.figures {
		fmt.Printf(" %s | ÷ HAProxy's |", f)
	}
	fmt.Print("\n| --- |", strings.Repeat(" --- | --- |", len(m.figures)), "\n")
	for _, r := range rows {
		fmt.Printf("| %s |", r.name)
		for i := range m.figures {
			ratios := make([]float64, b.rounds)
			for k := range ratios {
				ratios[k] = r.seen[i][k] / rows[0].seen[i][k]
			}
			fmt.Printf(" %s ± %s | %.2f |", short(median(r.seen[i])), short((slices.Max(r.seen[i])-slices.Min(r.seen[i]))/2), median(ratios))
		}
		fmt.Println()
	}
	fmt.Println()
}

func median(of []float64) float64 { return quantile(slices.Sorted(slices.Values(of)), 0.5) }

// quantile is that of sorted figures; 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// short is a figure with three digits that say something.
func short(f float64) string {
	switch {
	case math.IsNaN(f):
		return "–"
	case f >= 100 || f == 0:
		return fmt.Sprintf("%.0f", f)
	case f >= 10:
		return fmt.Sprintf("%.1f", f)
	default:
		return fmt.Sprintf("%.2f", f)
	}
}
