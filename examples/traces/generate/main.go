// Command generate writes the example traces. The same flags give the same
// files, byte for byte.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	dir := flag.String("dir", "examples/traces", "write the traces into `DIR`")
	times := flag.Float64("times", 1, "make them `N` times as long")
	flag.Parse()
	for _, t := range traces(*times) {
		if err := save(filepath.Join(*dir, t.name), t); err != nil {
			fmt.Fprintln(os.Stderr, "generate:", err)
			os.Exit(1)
		}
	}
}

// trace is one file. The columns beside at, class and execute are those that
// extra names, out of a row's tenant and route.
type trace struct {
	name  string
	extra string // tenant, route or nothing
	rows  []row
}

type row struct {
	at      float64
	class   string
	execute float64
	extra   string
}

// source is one kind of traffic.
type source struct {
	class    string
	extra    string
	every    float64 // seconds between arrivals, on average
	shortest float64 // seconds of work, evenly spread up to longest
	longest  float64
	from     float64
	until    float64
}

const minute = 60.0

func traces(times float64) []trace {
	images := source{class: "heavy", every: 30, shortest: 17, longest: 20, until: 30 * minute * times}
	questions := source{class: "light", every: 0.125, shortest: 1, longest: 2, until: 30 * minute * times}

	flooding := images
	flooding.until = 10 * minute * times
	flood := questions
	// 40 a second for 1.5 s each: 60 at once, 30 GiB of them.
	flood.every, flood.until = 0.025, 10*minute*times

	few := questions
	few.every = 0.25
	middle := source{class: "middle", every: 20, shortest: 8, longest: 12, until: 30 * minute * times}

	polite := images
	polite.extra, polite.every = "polite", 75
	greedy := images
	// All within a few seconds, and again later.
	greedy.extra, greedy.every, greedy.until = "greedy", 0.1, 5*times
	again := greedy
	again.from, again.until = 15*minute*times, 15*minute*times+2*times

	flux := images
	flux.extra = "images"
	sketches := source{class: "heavy", extra: "sketches", every: 8, shortest: 5, longest: 8, until: 30 * minute * times}
	asked := questions
	asked.extra, asked.every = "questions", 0.5

	return []trace{
		{"mixed.csv", "", draw(1, images, questions)},
		{"flood.csv", "", draw(2, flooding, flood)},
		{"three-classes.csv", "", draw(3, images, middle, few)},
		{"two-tenants.csv", "tenant", draw(4, polite, greedy, again)},
		{"two-gpus.csv", "route", draw(5, flux, sketches, asked)},
	}
}

// draw makes the arrivals of all sources, in order. Each source has a stream of
// random numbers of its own, so that one can be changed and the others stay.
func draw(seed uint64, sources ...source) []row {
	var rows []row
	for i, s := range sources {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		for at := s.from; ; {
			at += r.ExpFloat64() * s.every
			if at >= s.until {
				break
			}
			rows = append(rows, row{at, s.class, s.shortest + r.Float64()*(s.longest-s.shortest), s.extra})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		switch {
		case a.at < b.at:
			return -1
		case a.at > b.at:
			return 1
		}
		return 0
	})
	return rows
}

func save(file string, t trace) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := write(f, t); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func write(to io.Writer, t trace) error {
	w := bufio.NewWriter(to)
	fmt.Fprint(w, "at,class,execute")
	if t.extra != "" {
		fmt.Fprint(w, ",", t.extra)
	}
	fmt.Fprintln(w)
	for _, r := range t.rows {
		fmt.Fprintf(w, "%.2f,%s,%.2f", r.at, r.class, r.execute)
		if t.extra != "" {
			fmt.Fprint(w, ",", r.extra)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}
