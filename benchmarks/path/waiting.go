package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// waiting lets so many requests queue behind one that does not end, and prints what
// each of them takes: of the process, of Go's heap and of the stacks of goroutines.
func waiting(binary string, requests int, sizes []string) error {
	fmt.Printf("%d requests wait\n\n", requests)
	fmt.Println("| body, bytes | resident, KB each | heap in use, KB each | stacks, KB each |")
	fmt.Println("| --- | --- | --- | --- |")
	for _, text := range sizes {
		size, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("-sizes: %w", err)
		}
		w, err := newWorld(load{connections: requests, question: size, reply: 100, routes: 1, rules: "path"})
		if err != nil {
			return err
		}
		w.held = make(chan struct{})
		configuration := strings.Replace(w.configuration(variants["all"]), "slots: 20000", "slots: 1", 1)
		configuration = strings.ReplaceAll(configuration, "limit: 20000", "limit: 100000, bytes: 100GiB") + "limits: {connections: 100000}\n"
		p, err := start(binary, configuration)
		if err != nil {
			return err
		}
		err = w.wait(p, requests)
		close(w.held)
		p.stop()
		if err != nil {
			return err
		}
	}
	return nil
}

// wait sends the requests and prints a row when all of them wait.
func (w *world) wait(p *proxy, requests int) error {
	before, err := p.memory()
	if err != nil {
		return err
	}
	for i := range requests + 1 { // one runs
		c, err := dial(p.url, i)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write(w.request); err != nil {
			return err
		}
	}
	if err := p.untilWaiting(requests); err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // what the collector of garbage gives back goes to the system
	after, err := p.memory()
	if err != nil {
		return err
	}
	each := func(name string) float64 { return (after[name] - before[name]) / 1024 / float64(requests) }
	fmt.Printf("| %d | %.1f | %.1f | %.1f |\n", w.question, each("resident"), each("go_memstats_heap_inuse_bytes"),
		each("go_memstats_stack_inuse_bytes"))
	return nil
}

// dial opens the connection of a number. An address has 28,000 ports for one server, so
// that some of them share one.
func dial(address string, number int) (net.Conn, error) {
	from := &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+number/20000))}
	return (&net.Dialer{LocalAddr: from}).Dial("tcp", address)
}

// untilWaiting waits for so many requests to wait.
func (p *proxy) untilWaiting(requests int) error {
	for tries := 0; ; tries++ {
		now, err := p.memory()
		if err != nil {
			return err
		}
		if int(now["anteroom_queue_length"]) == requests {
			return nil
		}
		if tries == 600 {
			return fmt.Errorf("%v requests wait after a minute, want %d", now["anteroom_queue_length"], requests)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// memory is what the process takes, and what it says of itself.
func (p *proxy) memory() (map[string]float64, error) {
	res, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	found := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		name, _, _ = strings.Cut(name, "{")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			found[name] += n
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	found["resident"] = kb * 1024
	return found, err
}
