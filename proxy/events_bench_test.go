//go:build unix

package proxy_test

import (
	"bytes"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// BenchmarkEventToThreeViewers is what a request costs that three open pages are told of,
// in processor time: keeping it, encoding it, sending it three times over loopback, and
// reading it there. cpu-ns/op counts; the time of the wall has pauses in it.
func BenchmarkEventToThreeViewers(b *testing.B) {
	const viewers, batch = 3, 100 // a batch is what comes between two pauses on a busy box
	box := open(b, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	seen, last := make(chan struct{}, viewers), []byte("the-last-one")
	for range viewers {
		res, err := box.client.Get(box.server.AdminURL() + "/api/events")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { res.Body.Close() })
		go func() {
			// What is read is looked at in pieces, with the end of the piece before.
			buffer, kept := make([]byte, 64<<10), 0
			for {
				n, err := res.Body.Read(buffer[kept:])
				if err != nil {
					return
				}
				if bytes.Contains(buffer[:kept+n], last) {
					seen <- struct{}{}
					kept = 0
					continue
				}
				kept = copy(buffer, buffer[max(0, kept+n-len(last)+1):kept+n])
			}
		}()
	}
	event := timeline.Request{At: time.Now(), Asked: time.Now(), Route: "images", Class: "heavy", Backend: "flux", Method: "POST",
		Path:   "/v1/images/generations",
		Status: 200, Result: "ok", Grant: 1234, VRAM: 12 << 30, Wait: 1.25, Execute: 18.123456, First: 18.1, Total: 19.4, In: 1234, Out: 345678,
		Trace: timeline.TraceID{1, 2, 3}}
	began := spent()
	for n := 0; n < b.N; n += batch {
		for i := range min(batch, b.N-n) {
			e := event
			if e.Ended = time.Now(); i == min(batch, b.N-n)-1 {
				e.Model = string(last)
			}
			box.told.History.AddRequest(e)
		}
		for range viewers {
			<-seen
		}
	}
	b.ReportMetric(float64(spent()-began)/float64(b.N), "cpu-ns/op")
}

// spent is the processor time of this process.
func spent() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
