package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// lightPath is a request's that need not wait, whatever else does.
const lightPath = "/v1/light"

// beside measures light requests beside so many that wait, and beside none: both
// proxies of each binary run at once, and short bursts go to each in turn.
func beside(binaries []string, waiting, rounds, requests int) error {
	w, err := newWorld(load{connections: 16, question: 1000, reply: 1000, routes: 1, rules: "path"})
	if err != nil {
		return err
	}
	w.held = make(chan struct{})
	defer close(w.held)
	configuration := strings.Replace(w.configuration(variants["all"]), "slots: 20000", "slots: 1", 1)
	configuration = strings.Replace(configuration, "limit: 20000}}}", "limit: 100000}}, light: {slots: 1000, vram: 1MiB, estimate: 1s}}", 1) +
		"  - {name: light, match: {path: " + lightPath + "}, class: light, backend: model}\nlimits: {connections: 100000}\n"
	light := []byte(strings.Replace(string(w.request), "/v1/work1", lightPath, 1))
	var all []*proxy
	defer func() {
		for _, p := range all {
			p.stop()
		}
	}()
	for _, binary := range binaries {
		for _, n := range []int{0, waiting} {
			p, err := start(binary, configuration)
			if err != nil {
				return err
			}
			p.variant = fmt.Sprintf("%s, %d wait", binary, n)
			all = append(all, p)
			queued, err := w.enqueue(p, n)
			defer func() {
				for _, c := range queued {
					c.Close()
				}
			}()
			if err != nil {
				return err
			}
		}
	}
	took := make([][2][]float64, len(all)) // p50 and p99 of each burst, in ms
	cpu := make([][]float64, len(all))
	for range rounds {
		for i, p := range all {
			times, used, err := timed(p, light, w.connections, requests)
			if err != nil {
				return err
			}
			cpu[i] = append(cpu[i], used)
			for q, share := range []float64{0.5, 0.99} {
				took[i][q] = append(took[i][q], times[int(share*float64(len(times)-1))])
			}
		}
	}
	fmt.Printf("%d bursts of %d light requests, 1,000 a second\n\n", rounds, requests)
	fmt.Println("| binary | p50, ms | p99, ms | p99 ÷ that beside none | CPU, µs |")
	fmt.Println("| --- | --- | --- | --- | --- |")
	for i, p := range all {
		var ratios []float64
		for round, p99 := range took[i][1] {
			ratios = append(ratios, p99/took[i-i%2][1][round])
		}
		fmt.Printf("| %s | %.2f | %.2f | %.2f | %.1f |\n", p.variant, middle(took[i][0]), middle(took[i][1]), middle(ratios), middle(cpu[i]))
	}
	return nil
}

// middle is the median.
func middle(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// enqueue lets n requests wait behind one that runs.
func (w *world) enqueue(p *proxy, n int) (all []net.Conn, err error) {
	if n == 0 {
		return nil, nil
	}
	for i := range n + 1 {
		c, err := dial(p.url, i)
		if err != nil {
			return all, err
		}
		all = append(all, c)
		if _, err := c.Write(w.request); err != nil {
			return all, err
		}
	}
	return all, p.untilWaiting(n)
}

// paced sends a request each millisecond over some connections in turn, and gives how
// long each took, in milliseconds, the quickest first.
func paced(address string, request []byte, connections, requests int) ([]float64, error) {
	var mu sync.Mutex
	var took []float64
	var failed error
	var all sync.WaitGroup
	began := time.Now()
	for i := range connections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		all.Go(func() {
			in := bufio.NewReader(c)
			for n := i; n < requests; n += connections {
				time.Sleep(time.Until(began.Add(time.Duration(n) * time.Millisecond)))
				sent := time.Now()
				_, err := c.Write(request)
				first := ""
				if err == nil {
					first, err = readMessage(in)
				}
				mu.Lock()
				took = append(took, float64(time.Since(sent))/float64(time.Millisecond))
				if err != nil || !strings.Contains(first, " 200 ") {
					failed = errors.Join(fmt.Errorf("the answer begins with %q", first), err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	slices.Sort(took)
	return took, failed
}

// timed sends a burst: how long each request took, sorted, in ms, and the processor time
// of one in µs.
func timed(p *proxy, request []byte, connections, requests int) (times []float64, cpu float64, err error) {
	before, err := p.cpu()
	if err != nil {
		return nil, 0, err
	}
	if times, err = paced(p.url, request, connections, requests); err != nil {
		return nil, 0, err
	}
	after, err := p.cpu()
	return times, (after - before) / float64(requests), err
}
