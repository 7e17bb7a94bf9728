package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// overH2C makes both backends speak HTTP/2.
func overH2C(s *proxy.Setup) {
	for name := range s.Routing.Backends {
		setBackend(s, name, func(c *backend.Config) { c.Protocol = "h2c" })
	}
}

func TestACallThatStreamsBothWays(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		http.NewResponseController(w).Flush() // the client talks when it has the headers
		buffer := make([]byte, 100)
		for {
			n, err := r.Body.Read(buffer)
			if n > 0 {
				fmt.Fprintf(w, "[%s]", buffer[:n])
				http.NewResponseController(w).Flush()
			}
			if err != nil {
				break
			}
		}
		w.Header().Set("Grpc-Status", "5")
		w.Header().Set("Grpc-Message", "no such thing "+r.Header.Get("Te")+r.Proto)
	}), overH2C)
	for _, path := range []string{"/light/pkg.Service/Call", "/slow/pkg.Service/Call", "/pass/pkg.Service/Call"} {
		in, out := io.Pipe()
		r := b.request(t.Context(), "POST", path, "", "Content-Type", "application/grpc", "Te", "trailers")
		r.Body, r.ContentLength = in, -1
		res, err := h2c(t).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		for _, message := range []string{"one", "two"} {
			io.WriteString(out, message)
			got := make([]byte, len(message)+2)
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "["+message+"]" {
				t.Fatalf("%s: got %q, %v, want [%s] before the next is sent", path, got, err, message)
			}
		}
		out.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Errorf("%s: at the end %q, %v", path, rest, err)
		}
		if res.Trailer.Get("Grpc-Status") != "5" || res.Trailer.Get("Grpc-Message") != "no such thing trailersHTTP/2.0" {
			t.Errorf("%s: the status came as %v", path, res.Trailer)
		}
		eventually(t, "the grant is back", func() bool { return b.running() == 0 })
	}
}

func TestAStatusWithoutAMessagePasses(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "7")
	}), overH2C)
	client := h2c(t)
	for i := range 200 {
		r := b.request(t.Context(), "POST", "/light/pkg.Service/Call", "\x00\x00\x00\x00\x00", "Content-Type", "application/grpc+proto", "Te", "trailers")
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if got := res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"); got != "7" {
			t.Fatalf("call %d: the status came as %q, want 7; headers %v", i, got, res.Header)
		}
	}
}

func TestARefusedCallGetsItsStatus(t *testing.T) {
	m := newModel(t)
	b := open(t, m, overH2C, func(s *proxy.Setup) { class(s, "heavy", func(c *routing.ClassConfig) { c.VRAM.Amount *= 3 }) })
	r := b.request(t.Context(), "POST", "/heavy", "", "Content-Type", "application/grpc", "Te", "trailers")
	res, err := h2c(t).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get("Grpc-Status") != "9" || !strings.Contains(res.Header.Get("Grpc-Message"), "never_fits") {
		t.Errorf("got %d %v, want status 9 for what never fits", res.StatusCode, res.Header)
	}
}

func TestAStreamThatIsResetIsNotServed(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	client := h2c(t)
	go client.Do(b.request(t.Context(), "POST", "/heavy", "{}"))
	<-m.arrived
	ctx, cancel := context.WithCancel(t.Context())
	for range 50 {
		go client.Do(b.request(ctx, "POST", "/heavy", "{}"))
	}
	eventually(t, "they wait", func() bool { return b.waiting() == 50 })
	cancel()
	eventually(t, "no request waits", func() bool { return b.waiting() == 0 })
	close(m.let)
	eventually(t, "the first is done", func() bool { return b.running() == 0 })
	if got := m.total.Load(); got != 1 {
		t.Errorf("the backend got %d requests, want 1", got)
	}
}

// TestStreamsThatAreResetAtOnceStartFewJobs sends 5,000 of them.
func TestStreamsThatAreResetAtOnceStartFewJobs(t *testing.T) {
	var started atomic.Int32
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		started.Add(1)
	}))
	client := h2c(t)
	var senders sync.WaitGroup
	for range 50 {
		senders.Go(func() {
			for range 100 {
				ctx, reset := context.WithCancel(t.Context())
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: reset})
				r := b.request(ctx, "POST", "/light/x", "")
				r.Body, r.ContentLength = http.NoBody, 0
				if res, err := client.Do(r); err == nil {
					res.Body.Close()
				}
				reset()
			}
		})
	}
	senders.Wait()
	eventually(t, "nothing runs", func() bool { return b.running() == 0 && b.waiting() == 0 })
	if n := started.Load(); n > 100 {
		t.Errorf("%d of 5,000 were started, want 100 at the most", n)
	}
	// The next one, which is meant, is served all the same.
	res, err := h2c(t).Do(b.request(t.Context(), "POST", "/light/x", "{}"))
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("got %v, %v", res, err)
	}
	res.Body.Close()
}
