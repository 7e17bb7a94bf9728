// Command path measures what one forwarded request costs the proxy: CPU time,
// allocations, bytes allocated, reads and writes. It compares binaries of
// `anteroom` with each other: all of them run at once, short bursts of requests go
// to each in turn, and the figure is the median of the ratios within a round. Load
// from elsewhere then disturbs all of them alike.
//
//	go run ./benchmarks/path -binaries old/anteroom,bin/anteroom
//
// This process is the clients, the backend and the collector of spans; none of them
// is measured. It reads /proc, so it runs on Linux alone.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// variants are what is switched off; in each of them admission, breaker and metrics
// are on.
var variants = map[string]string{
	"all":      `telemetry: {traces: {exporter: otlp, endpoint: "COLLECTOR", sample: 1.0}}`,
	"no-spans": `telemetry: {traces: {exporter: none}}`,
	"no-log":   `telemetry: {traces: {exporter: otlp, endpoint: "COLLECTOR", sample: 1.0}, log: {level: error}}`,
	"neither":  `telemetry: {traces: {exporter: none}, log: {level: error}}`,
}

// load is what the clients send.
type load struct {
	connections, requests int
	question, reply       int // bytes of bodies
	routes                int
	rules                 string
}

func main() {
	var l load
	binaries := flag.String("binaries", "bin/anteroom", "the binaries to compare, separated by commas; the first is what the others are divided by")
	which := flag.String("variants", "all,no-spans,no-log,neither", "what to switch off")
	rounds := flag.Int("rounds", 8, "how many bursts go to each")
	flag.IntVar(&l.requests, "requests", 3000, "requests in a burst")
	flag.IntVar(&l.connections, "connections", 64, "connections of clients")
	flag.IntVar(&l.question, "question", 1000, "bytes of a request's body")
	flag.IntVar(&l.reply, "reply", 1000, "bytes of an answer's body")
	routes := flag.String("routes", "1", "routes, of which the last one matches; several numbers with commas between them are compared")
	flag.StringVar(&l.rules, "rules", "path", "what routes match by: path, host or body")
	queue := flag.Int("waiting", 0, "measure the memory of so many requests that wait instead, of the first binary")
	lights := flag.Int("beside", 0, "measure light requests beside so many that wait instead, and beside none")
	sizes := flag.String("sizes", "1000,16384,65536,1048576", "bytes of the bodies of those that -waiting measures")
	flag.Parse()
	if *lights > 0 {
		if err := beside(strings.Split(*binaries, ","), *lights, *rounds, l.requests); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if *queue > 0 {
		if err := waiting(strings.Split(*binaries, ",")[0], *queue, strings.Split(*sizes, ",")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(strings.Split(*binaries, ","), strings.Split(*which, ","), strings.Split(*routes, ","), *rounds, l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(binaries, names, routes []string, rounds int, l load) error {
	var worlds []*world
	for _, text := range routes {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("-routes %q: want numbers from 1 on", text)
		}
		l.routes = n
		w, err := newWorld(l)
		if err != nil {
			return err
		}
		worlds = append(worlds, w)
	}
	all, err := startAll(binaries, names, worlds)
	defer func() {
		for _, p := range all {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	for _, p := range all { // to warm them up
		if _, err := p.world.burst(p); err != nil {
			return err
		}
	}
	for round := range rounds {
		order := slices.Clone(all)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, p := range order {
			used, err := p.world.burst(p)
			if err != nil {
				return err
			}
			p.rounds = append(p.rounds, used)
		}
	}
	report(all, binaries, l)
	return nil
}

// startAll starts each binary in each variant before each world. What it has started is
// the caller's to stop, with an error too.
func startAll(binaries, names []string, worlds []*world) (all []*proxy, err error) {
	for _, name := range names {
		more, ok := variants[name]
		if !ok {
			return all, fmt.Errorf("the variant %q is not known: want some of all, no-spans, no-log, neither", name)
		}
		for _, w := range worlds {
			variant := name
			if len(worlds) > 1 {
				variant = fmt.Sprintf("%s, %d routes", name, w.routes)
			}
			for i, binary := range binaries {
				p, err := start(binary, w.configuration(more))
				if err != nil {
					return all, err
				}
				p.world, p.variant, p.index = w, variant, i
				all = append(all, p)
			}
		}
	}
	return all, nil
}

// report prints a row for each binary and variant. Ratios are to the first binary in
// the same variant, and to the same binary in the first variant.
func report(all []*proxy, binaries []string, l load) {
	fmt.Printf("%d connections, %d bytes to and %d bytes from the backend, %d bursts of %d requests each\n\n",
		l.connections, l.question, l.reply, len(all[0].rounds), l.requests)
	fmt.Println("| variant | binary | CPU, µs | ÷ first binary | ÷ first variant | allocations | bytes | reads | writes | " +
		"new connections | spans lost |")
	fmt.Println("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
	for i, p := range all {
		first, full := all[i-p.index], all[p.index]
		fmt.Printf("| %s | %s | %.1f | %.3f | %.3f | %.1f | %.0f | %.2f | %.2f | %.3f | %.3f |\n", p.variant, binaries[p.index],
			median(p.rounds, func(i int) float64 { return p.rounds[i].cpu }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].cpu / first.rounds[i].cpu }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].cpu / full.rounds[i].cpu }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].allocations }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].bytes }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].reads }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].writes }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].connections }),
			median(p.rounds, func(i int) float64 { return p.rounds[i].lost }))
	}
}

func median(rounds []used, of func(i int) float64) float64 {
	values := make([]float64, len(rounds))
	for i := range rounds {
		values[i] = of(i)
	}
	slices.SortFunc(values, cmp.Compare)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
