package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"slices"
	"sync"
	"time"
)

// measure is one thing that is measured of each proxy.
type measure struct {
	name    string
	figures []string
	// queued: only proxies that can queue.
	queued bool
	// fresh: each time a process that has done nothing yet.
	fresh bool
	// warm is a path that is asked for a second before the first round.
	warm string
	// leaves says of which proxy it says nothing; nil: of none.
	leaves func(peer) bool
	run    func(b *bench, p *process, address string) ([]float64, error)
}

const (
	held      = 2000 // requests that wait at once
	heldBig   = 200  // with bodies of 1 MB
	perSteady = 1000
)

var measures = []measure{
	{
		name: "As fast as it can: 64 connections, 1 KB of JSON each way", warm: "/json",
		figures: []string{"CPU per request, µs", "requests/s on one core"}, run: throughput(64),
	},
	{
		name: "Many connections: 1,000 active", warm: "/json",
		figures: []string{"CPU per request, µs", "requests/s on one core"}, run: throughput(1000),
	},
	{
		name: "Many connections: 9,000 active", warm: "/json",
		figures: []string{"CPU per request, µs", "requests/s on one core"}, run: throughput(9000),
	},
	{
		name: "1,000 requests a second", warm: "/json",
		figures: []string{"added p50, µs", "added p99, µs", "added p99.9, µs"}, run: latency,
	},
	{
		name: "Memory of a request that waits in the queue", queued: true, fresh: true,
		figures: []string{"KB with a body of 1 KB"}, run: waiting(kilobyte, held),
	},
	{
		name: "Memory of a request that waits in the queue, 64 KB", queued: true, fresh: true,
		figures: []string{"KB with a body of 64 KB"}, run: waiting(64*kilobyte, held),
	},
	{
		name: "Memory of a request that waits in the queue, 1 MB", queued: true, fresh: true,
		figures: []string{"KB with a body of 1 MB"}, run: waiting(kilobyte*kilobyte, heldBig),
	},
	{
		name: "Memory of a request that the backend has", fresh: true,
		figures: []string{"KB"}, run: forwarded,
	},
	{
		name: "Bodies", warm: "/json",
		figures: []string{"CPU per MB down, ms", "CPU per MB up, ms"}, run: bodies,
	},
	{
		name: "50 streams of events, 50 events a second each", warm: "/json",
		figures: []string{"CPU per event, µs", "lag p50, ms", "first byte p50, ms"}, run: eventStreams,
	},
	{
		name: "One at a time: between the end of one and the start of the next", queued: true, warm: "/json",
		figures: []string{"ms"}, run: gaps,
	},
	{
		name: "Start", fresh: true,
		figures: []string{"CPU until it listens, ms", "memory at rest, MB", "of which its own, without files, MB"}, run: atRest,
	},
}

func throughput(connections int) func(b *bench, p *process, address string) ([]float64, error) {
	return func(b *bench, p *process, address string) ([]float64, error) {
		before := p.cpu()
		// Longer with many, which are opened within this time.
		requests, rate, err := b.wrk(address, "/json", connections, b.seconds+time.Duration(connections/1000)*time.Second)
		if err != nil {
			return nil, err
		}
		if requests == 0 {
			b.note("of %d connections none was answered", connections)
			return []float64{math.NaN(), math.NaN()}, nil
		}
		return []float64{microseconds(p.cpu()-before) / requests, rate}, nil
	}
}

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// latency is what the proxy adds to the upstream, asked directly just before.
func latency(b *bench, _ *process, address string) ([]float64, error) {
	direct, err := steady(b.upstream, perSteady, b.seconds)
	if err != nil {
		return nil, err
	}
	through, err := steady(address, perSteady, b.seconds)
	var added []float64
	for _, q := range []float64{0.5, 0.99, 0.999} {
		added = append(added, quantile(through, q)-quantile(direct, q))
	}
	return added, err
}

// waiting is the growth of the process by n requests behind one that runs.
func waiting(size, n int) func(b *bench, p *process, address string) ([]float64, error) {
	return func(b *bench, p *process, address string) ([]float64, error) {
		return b.growth(p, address, "/queue/hold", make([]byte, size), n, 1)
	}
}

func forwarded(b *bench, p *process, address string) ([]float64, error) {
	return b.growth(p, address, "/hold", json1KB(), held, held)
}

func (b *bench) growth(p *process, address, path string, body []byte, n, at int) ([]float64, error) {
	for range 100 { // what the first requests make is made
		if _, err := ask(address, "/json"); err != nil {
			return nil, err
		}
	}
	before := p.memory()
	var grown float64
	err := b.hold(address, path, body, n, at, func() { grown = p.memory() - before })
	p.stop() // what waits ends with it
	if err == nil {
		_, err = ask(b.upstream, "/release")
	}
	if err == nil {
		err = b.until(func() (bool, error) {
			said, err := ask(b.upstream, "/holding")
			return string(said) == "0", err
		})
	}
	return []float64{grown / float64(n)}, err
}

func bodies(b *bench, p *process, address string) ([]float64, error) {
	const megabytes, times = 16, 8
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := bufio.NewReaderSize(c, 64*kilobyte)
	var figures []float64
	for _, request := range [][]byte{
		post(fmt.Sprintf("/down?mb=%d", megabytes), []byte("{}")),
		post("/up", make([]byte, megabytes*kilobyte*kilobyte)),
	} {
		before := p.cpu()
		for range times {
			if _, err := c.Write(request); err != nil {
				return nil, err
			}
			if _, err := read(r); err != nil {
				return nil, err
			}
		}
		figures = append(figures, milliseconds(p.cpu()-before)/(megabytes*times))
	}
	return figures, nil
}

func eventStreams(b *bench, p *process, address string) ([]float64, error) {
	const n, every = 50, 20 * time.Millisecond
	events := int(b.seconds / every)
	before := p.cpu()
	lags, first, err := streams(address, n, events, every)
	return []float64{microseconds(p.cpu()-before) / float64(n*events), quantile(lags, 0.5), quantile(first, 0.5)}, err
}

func gaps(b *bench, _ *process, address string) ([]float64, error) {
	const callers, each, path = 8, 12, "/queue/heavy?ms=10"
	if _, err := ask(b.upstream, "/gaps"); err != nil {
		return nil, err
	}
	var all sync.WaitGroup
	failures := make(chan error, callers)
	for range callers {
		all.Go(func() {
			failures <- func() error {
				c, err := net.Dial("tcp", address)
				if err != nil {
					return err
				}
				defer c.Close()
				r := bufio.NewReader(c)
				for range each {
					if _, err := c.Write(post(path, json1KB())); err != nil {
						return err
					}
					if _, err := read(r); err != nil {
						return err
					}
				}
				return nil
			}()
		})
	}
	all.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return nil, err
		}
	}
	said, err := ask(b.upstream, "/gaps")
	if err != nil {
		return nil, err
	}
	var seen []float64
	if err := json.Unmarshal(said, &seen); err != nil {
		return nil, err
	}
	slices.Sort(seen)
	return []float64{quantile(seen, 0.5)}, nil
}

func atRest(_ *bench, p *process, address string) ([]float64, error) {
	started := milliseconds(p.cpu())
	if _, err := ask(address, "/json"); err != nil {
		return nil, err
	}
	time.Sleep(time.Second)
	return []float64{started, p.memory() / kilobyte, p.status("RssAnon:") / kilobyte}, nil
}
