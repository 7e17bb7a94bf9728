package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The benchmarks put a proxy in a process of its own between this process,
// which is 64 clients, and a third, which is the backend. Each operation is a
// POST of 1 KB of JSON answered by 1 KB of JSON. cpu-µs/op is what the proxy's
// process used, which other work on the machine disturbs least.
//
//	go test -run '^$' -bench Serve -benchtime 20000x -count 6 ./cmd/anteroom

var (
	benchQuestion = `{"model":"flux","prompt":"` + strings.Repeat("a", 950) + `"}`
	benchReply    = `{"data":"` + strings.Repeat("b", 1000) + `"}`
)

// BenchmarkServe is `anteroom serve` with admission, breaker, metrics and log;
// traced, it also exports every span to a collector on loopback.
func BenchmarkServe(b *testing.B) {
	for _, name := range []string{"traced", "untraced"} {
		b.Run(name, func(b *testing.B) {
			traces := "{exporter: none}"
			if name == "traced" {
				collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
				b.Cleanup(collector.Close)
				traces = fmt.Sprintf("{exporter: otlp, endpoint: %q, sample: 1.0}", collector.URL)
			}
			file := serveFile(helperProcess(b, "backend"), "1000", "telemetry: {traces: "+traces+"}")
			p := process("serve", "-c", write(b, file))
			l := startBench(b, p)
			for line := bufio.NewScanner(l); line.Scan(); {
				if _, rest, found := strings.Cut(line.Text(), `"msg":"listening","url":"`); found {
					go io.Copy(io.Discard, l)
					at, _, _ := strings.Cut(rest, `"`)
					load(b, at, p.Process.Pid)
					return
				}
			}
			b.Fatal("it does not listen")
		})
	}
}

// BenchmarkServePlain is httputil.ReverseProxy as it comes, with the default
// transport: what most people would write first.
func BenchmarkServePlain(b *testing.B) {
	b.Setenv("BENCH_TARGET", helperProcess(b, "backend"))
	at, pid := helper(b, "plain")
	load(b, at, pid)
}

func load(b *testing.B, url string, pid int) {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	b.SetParallelism(32) // 64 connections on two cores
	before := used(b, pid)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := client.Post(url+"/x", "application/json", strings.NewReader(benchQuestion))
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || int(n) != len(benchReply) || res.StatusCode != 200 {
				b.Errorf("got %d with %d bytes, %v", res.StatusCode, n, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric((used(b, pid)-before)*1e6/float64(b.N), "cpu-µs/op")
}

// used is the processor time of a process, in seconds: fields 14 and 15 of its
// stat, in hundredths.
func used(b *testing.B, pid int) float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("no /proc to read a process's time from")
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.ParseFloat(fields[11], 64)
	system, _ := strconv.ParseFloat(fields[12], 64)
	return (user + system) / 100
}

func helperProcess(b *testing.B, role string) string {
	at, _ := helper(b, role)
	return at
}

// helper starts this binary in a role of serveRole and gives its address.
func helper(b *testing.B, role string) (url string, pid int) {
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), "BENCH_ROLE="+role)
	out, err := p.StdoutPipe()
	must(b, err)
	must(b, p.Start())
	b.Cleanup(func() { p.Process.Kill(); p.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	must(b, err)
	return strings.TrimSpace(line), p.Process.Pid
}

func startBench(b *testing.B, p *exec.Cmd) io.Reader {
	out, err := p.StderrPipe()
	must(b, err)
	must(b, p.Start())
	b.Cleanup(func() { p.Process.Signal(syscall.SIGTERM); p.Wait() })
	return out
}

// serveRole is the other processes of the benchmarks.
func serveRole(role string) {
	var handler http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, benchReply)
	})
	if role == "plain" {
		target, err := url.Parse(os.Getenv("BENCH_TARGET"))
		if err != nil {
			panic(err)
		}
		handler = &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s\n", l.Addr())
	panic(http.Serve(l, handler))
}
