//go:build e2e

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestADeadCollectorCostsNothing sends the same traffic through a proxy that traces
// nothing and through ones whose collector is dead in each way, all at once and in
// turns, and prints what came of it: make e2e-telemetry. That an exit is not held up is
// shown under a clock of its own, in telemetry: TestShutdownEndsByItsDeadline.
func TestADeadCollectorCostsNothing(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-time.After(5 * time.Millisecond) // a fast model
		io.WriteString(w, "done")
	}))
	t.Cleanup(model.Close)
	accepting := func(each func(net.Conn)) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				each(c)
			}
		}()
		return l.Addr().String()
	}
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	refused.Close()
	var held []net.Conn
	kinds := []string{"off", "refused", "black hole", "reset"}
	collectors := map[string]string{"refused": refused.Addr().String(), "black hole": accepting(func(c net.Conn) { held = append(held, c) }),
		"reset": accepting(func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() })}
	proxies := map[string]*served{}
	for _, kind := range kinds {
		traces := "telemetry: {history: {for: 0s}, log: {level: warn}, traces: {exporter: none}}"
		if at := collectors[kind]; at != "" {
			traces = "telemetry: {history: {for: 0s}, log: {level: warn}, traces: {exporter: otlp, endpoint: 'http://" + at + "'}}"
		}
		// The line that says where it listens is of the level info.
		s := serveProcess(t, model.URL, strings.Replace(traces, "level: warn", "level: info", 1))
		proxies[kind] = s
		go func() {
			for range s.lines {
			}
		}()
	}
	const rounds, each = 40, 100
	took, before := map[string][]time.Duration{}, map[string]int{}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	for round := range rounds {
		if round == rounds/2 {
			for _, kind := range kinds {
				before[kind] = residentKiB(t, proxies[kind].process.Process.Pid)
			}
		}
		for i := range kinds {
			kind := kinds[(i+round)%len(kinds)]
			for range each {
				began := time.Now()
				res, err := client.Post(proxies[kind].url+"/x", "text/plain", strings.NewReader("x"))
				must(t, err)
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				took[kind] = append(took[kind], time.Since(began))
			}
		}
	}
	median := func(kind string) time.Duration {
		slices.Sort(took[kind])
		return took[kind][len(took[kind])/2]
	}
	off := median("off")
	for _, kind := range kinds {
		s := proxies[kind]
		after := residentKiB(t, s.process.Process.Pid)
		began := time.Now()
		s.signal(syscall.SIGTERM)
		s.process.Wait()
		exit := time.Since(began)
		if p := median(kind); float64(p) > 1.05*float64(off) {
			t.Errorf("%s: the median is %v, want %v and 5 %% more at the most", kind, p, off)
		}
		t.Logf("%-10s median %v (%+.1f %%), memory %d KiB and %d KiB after %d more requests, exit after %v", kind, median(kind).Round(time.Microsecond),
			100*(float64(median(kind))/float64(off)-1), before[kind], after, rounds/2*each, exit.Round(time.Millisecond))
	}
	for _, c := range held {
		c.Close()
	}
}

// residentKiB is what a process holds in memory.
func residentKiB(t *testing.T, pid int) (kib int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			fmt.Sscan(rest, &kib)
		}
	}
	return kib
}
