package proxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// The benchmarks send one small JSON POST through a proxy to a backend on
// loopback and read its small JSON answer, from as many clients as -cpu gives.
// Each operation includes the client's and the backend's own work, so compare
// them with each other and with BenchmarkDirect.

var (
	question = `{"model":"flux","prompt":"` + strings.Repeat("a", 950) + `"}`
	reply    = []byte(`{"data":"` + strings.Repeat("b", 1000) + `"}`)
)

func benchModel(b *testing.B) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Write(reply)
	}))
	b.Cleanup(s.Close)
	return s.URL
}

func post(b *testing.B, url string) {
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	b.ReportAllocs()
	b.SetParallelism(32) // 64 connections on two cores
	before := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			res, err := client.Post(url, "application/json", strings.NewReader(question))
			if err != nil {
				b.Error(err)
				return
			}
			n, err := io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || n != int64(len(reply)) || res.StatusCode != 200 {
				b.Errorf("got %d with %d bytes, %v", res.StatusCode, n, err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	// On a machine that others use too, this is the steadier figure.
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
}

// cpuTime is what the process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// wide lets as many run at once as the benchmark has clients.
func wide(s *proxy.Setup) {
	class(s, "light", func(c *routing.ClassConfig) { c.Slots = 1000; c.VRAM.Amount = 1 << 20 })
}

// BenchmarkProxyTraced exports all three spans of every request by OTLP to a
// collector on loopback that reads and forgets them.
func BenchmarkProxyTraced(b *testing.B) {
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	box := openTraced(b, benchModel(b), telemetry.TracesConfig{Exporter: "otlp", Endpoint: collector.URL, Sample: 1}, wide)
	post(b, box.url+"/light/x")
}

func BenchmarkProxy(b *testing.B) {
	for name, path := range map[string]string{"aborts": "/light/x", "ignored": "/slow/x", "pass": "/pass/x"} {
		b.Run(name, func(b *testing.B) {
			box := openAt(b, benchModel(b), wide)
			post(b, box.url+path)
		})
	}
}

// BenchmarkReverseProxyPlain is httputil.ReverseProxy as it comes, with the
// default transport: what most people would write first.
func BenchmarkReverseProxyPlain(b *testing.B) {
	target, err := url.Parse(benchModel(b))
	if err != nil {
		b.Fatal(err)
	}
	s := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) }})
	b.Cleanup(s.Close)
	post(b, s.URL+"/light/x")
}

// BenchmarkDirect has no proxy at all.
func BenchmarkDirect(b *testing.B) { post(b, benchModel(b)+"/light/x") }
