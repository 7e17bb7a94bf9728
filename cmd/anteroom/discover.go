package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/gpu"
	"github.com/anteroom-gpu/anteroom/backend"
)

// wellKnown are the ports at which engines listen unless they are told otherwise.
var wellKnown = []uint16{1234, 3000, 5000, 7860, 7861, 7997, 8000, 8001, 8002, 8003, 8080, 8081, 8188, 8189, 8880, 9000, 11434, 30000}

// targets are addresses of servers, each with its engine where that is said:
// [ENGINE=]URL.
type targets []found

func (t *targets) String() string { return "" }

func (t *targets) Set(text string) error {
	f := found{url: text, told: true}
	if engine, address, ok := strings.Cut(text, "="); ok && !strings.Contains(engine, "/") {
		if !slices.Contains(backend.Engines(), engine) {
			return fmt.Errorf("%q is no engine: want one of %s", engine, strings.Join(backend.Engines(), ", "))
		}
		f.url, f.Engine, f.Because = address, engine, "--to says so"
	}
	if u, err := url.Parse(f.url); err != nil || u.Host == "" && u.Scheme != "unix" {
		return fmt.Errorf("%q: want a server's address such as http://127.0.0.1:8188", f.url)
	}
	*t = append(*t, f)
	return nil
}

// found is a server and what is known of it.
type found struct {
	backend.Identity
	url  string
	told bool   // --to names it
	name string // in backends; empty: it is none
	pid  int    // of its process; 0: not known
	card int    // that its process is on, among those found; -1: not known
	held admission.Bytes
	err  error // why it is not known
}

// cardFlags describe the card if it cannot be read.
type cardFlags struct {
	source, device, memory *string
}

func newCardFlags(fs *flag.FlagSet) cardFlags {
	return cardFlags{
		source: fs.String("source", "auto", "read the card by `SOURCE`: auto, nvml, amdgpu or declared"),
		device: fs.String("device", "", "use the card `DEVICE` alone: an index, a UUID, or for AMD a name or directory; empty: all there are"),
		memory: fs.String("memory", "", "the card's `SIZE`, such as 24GiB; needed where it cannot be read"),
	}
}

// card is a GPU that was found.
type card struct {
	gpu.Config
	reading admission.Reading
	given   bool // described by the flags, and not read
}

// cards looks for the cards. It fails if there is none and no size is given.
func (c cardFlags) cards() ([]card, error) {
	var size admission.Bytes
	if *c.memory != "" {
		var err error
		if size, err = admission.ParseBytes(*c.memory); err != nil || size == 0 {
			return nil, fmt.Errorf("--memory %q: want the card's size, such as 24GiB", *c.memory)
		}
	}
	devices := []string{*c.device}
	if *c.device == "" {
		devices = nil
		for i := range 16 {
			devices = append(devices, strconv.Itoa(i))
		}
	}
	var all []card
	var problem error
	for _, device := range devices {
		config := gpu.Config{Source: *c.source, Device: device, Memory: size}
		r, err := admission.Reading{}, errors.New("it is declared")
		if *c.source != "declared" {
			r, err = gpu.Look(config)
		}
		if err != nil {
			problem = cmp.Or(problem, err)
			break
		}
		all = append(all, card{Config: config, reading: r})
	}
	if len(all) > 0 {
		return all, nil
	}
	if size == 0 {
		return nil, fmt.Errorf("no card can be read (%v): want its size by --memory, such as --memory 24GiB", problem)
	}
	config := gpu.Config{Source: "declared", Device: cmp.Or(*c.device, "0"), Memory: size}
	return []card{{Config: config, given: true}}, nil
}

// candidates are the servers of this machine that may be engines: those that listen on
// a well-known port, and the processes on a card that listen on any.
func candidates(cards []card) []found {
	onCard := make(map[int]bool)
	for _, c := range cards {
		for _, p := range c.reading.Processes {
			onCard[p.PID] = true
		}
	}
	var all []found
	for _, l := range gpu.Listeners() {
		local := l.At.Addr().IsLoopback() || l.At.Addr().IsUnspecified()
		if !local || !slices.Contains(wellKnown, l.At.Port()) && !onCard[l.PID] {
			continue
		}
		host := "127.0.0.1"
		if l.At.Addr().Is6() && l.At.Addr().IsLoopback() {
			host = "::1"
		}
		f := found{url: "http://" + net.JoinHostPort(host, strconv.Itoa(int(l.At.Port()))), pid: l.PID}
		if !slices.ContainsFunc(all, func(x found) bool { return x.url == f.url }) {
			all = append(all, f)
		}
	}
	return all
}

// identify asks each server which engine it is. It gives names to the servers with a known
// engine, and to the others that are model servers too.
func identify(ctx context.Context, all []found, cards []card) []found {
	var asking sync.WaitGroup
	for i := range all {
		f := &all[i]
		asking.Go(func() {
			id, err := backend.Identify(ctx, f.url)
			switch {
			case err != nil:
				f.err = err
			case f.Engine == "":
				f.Identity = id
			default:
				f.Models = id.Models
			}
		})
	}
	asking.Wait()
	used := make(map[string]bool)
	for i := range all {
		f := &all[i]
		f.card = -1
		for n, c := range cards {
			for _, p := range c.reading.Processes {
				if f.pid != 0 && p.PID == f.pid {
					f.card, f.held = n, f.held+max(0, p.Used)
				}
			}
		}
		kind := f.Engine
		if kind == "" {
			// A server on a well-known port may be anything. A server on the card, or named
			// by --to, is a model server.
			if f.err != nil || !f.told && f.held == 0 {
				continue
			}
			kind = "server"
		}
		f.name = kind
		for n := 2; used[f.name]; n++ {
			f.name = fmt.Sprintf("%s-%d", kind, n)
		}
		used[f.name] = true
	}
	return all
}
