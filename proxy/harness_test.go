package proxy_test

import (
	"bufio"
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/internal/wait"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// box is a proxy on real sockets in front of one model server.
type box struct {
	t          testing.TB
	setup      proxy.Setup
	controller *admission.Controller
	handler    *proxy.Handler
	server     *proxy.Server
	url        string
	client     *http.Client
	logs       *lines
	told       *telemetry.Telemetry
}

// aBox is a card of 48 GiB with a heavy class that one request fills and a
// light one with eight slots. The backend at the given URL serves everything:
// as `slow` it works on when its caller leaves, as `quick` it does not.
func aBox(url string) proxy.Setup {
	light := routing.ClassConfig{Slots: 8, VRAM: routing.VRAM{Amount: 512 * admission.MiB}, Estimate: time.Second, StrictAfter: 5 * time.Second,
		Queue: routing.QueueConfig{Limit: 1000, Timeout: time.Minute}}
	heavy := routing.ClassConfig{Slots: 1, VRAM: routing.VRAM{Amount: 34 * admission.GiB}, Estimate: 18 * time.Second, StrictAfter: 5 * time.Second,
		Queue: routing.QueueConfig{Limit: 100, Timeout: time.Minute}}
	server := func(cancel string) backend.Config {
		return backend.Config{URL: url, GPU: "gpu0", Protocol: "http", Cancel: cancel, Errors: "auto", ReturnsMemory: true,
			Breaker: backend.BreakerConfig{Failures: 5, Open: 30 * time.Second, WhenOpen: "reject"}}
	}
	route := func(name, path, class, backend string) routing.RouteConfig {
		return routing.RouteConfig{Name: name, Match: routing.MatchConfig{Path: routing.Texts{path}}, Class: class, Backend: backend, Errors: "problem"}
	}
	pass := route("pass", "/pass/**", "", "quick")
	pass.Pass = true
	return proxy.Setup{
		Proxy: proxy.Config{
			Listen: "127.0.0.1:0", Admin: proxy.AdminConfig{Listen: "127.0.0.1:0"}, Mode: "enforce",
			Limits: proxy.LimitsConfig{Header: 64 * admission.KiB, Body: admission.GiB, BodyMemory: admission.MiB, Spool: 10 * admission.GiB,
				ResponseBuffer: 8 * admission.MiB, ReadHeader: 10 * time.Second, BodyIdle: 30 * time.Second, WriteStall: time.Minute,
				Idle: 2 * time.Minute, Connections: 20000, Streams: 100},
			Drain: proxy.DrainConfig{Grace: time.Minute, Queued: "serve"},
		},
		Routing: routing.Config{
			Classes:  map[string]routing.ClassConfig{"light": light, "heavy": heavy},
			Backends: map[string]backend.Config{"quick": server("aborts"), "slow": server("ignored")},
			Routes: []routing.RouteConfig{
				route("heavy", "/heavy", "heavy", "slow"), pass, route("slow", "/slow/**", "light", "slow"), route("light", "/light/**", "light", "quick"),
			},
			Room: map[string]admission.Bytes{"gpu0": 47 * admission.GiB},
		},
	}
}

// controller is the box as admission is told about it.
func controller(s proxy.Setup) admission.Config {
	var c admission.Config
	for name, room := range s.Routing.Room {
		c.GPUs = append(c.GPUs, admission.GPU{Name: name, Memory: room + admission.GiB, Reserve: admission.GiB})
	}
	for name, k := range s.Routing.Classes {
		c.Classes = append(c.Classes, admission.Class{Name: name, Slots: k.Slots, QueueLimit: k.Queue.Limit, QueueBytes: k.Queue.Bytes,
			QueueTimeout: k.Queue.Timeout, Boost: k.Boost, StrictAfter: k.StrictAfter})
	}
	for name, b := range s.Routing.Backends {
		c.Backends = append(c.Backends, admission.Backend{Name: name, Slots: b.Slots, ReturnsMemory: b.ReturnsMemory, LearnsResident: b.Resident.Learn,
			Reclaims: b.Reclaim.Enabled(), Pinned: b.Pinned, MinResidency: b.MinResidency, Replicas: b.Admission()})
	}
	return c
}

// class changes one class of a setup.
func class(s *proxy.Setup, name string, change func(*routing.ClassConfig)) {
	c := s.Routing.Classes[name]
	change(&c)
	s.Routing.Classes = maps.Clone(s.Routing.Classes)
	s.Routing.Classes[name] = c
}

// setBackend changes one backend of a setup.
func setBackend(s *proxy.Setup, name string, change func(*backend.Config)) {
	b := s.Routing.Backends[name]
	change(&b)
	s.Routing.Backends = maps.Clone(s.Routing.Backends)
	s.Routing.Backends[name] = b
}

// open starts a proxy in front of a model server.
func open(t testing.TB, model http.Handler, change ...func(*proxy.Setup)) *box {
	t.Helper()
	server := httptest.NewUnstartedServer(model)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.ErrorLog = quiet
	server.Start()
	t.Cleanup(server.Close)
	return openAt(t, server.URL, change...)
}

// openAt starts a proxy in front of whatever is at the URL.
func openAt(t testing.TB, url string, change ...func(*proxy.Setup)) *box {
	t.Helper()
	return openTraced(t, url, telemetry.TracesConfig{}, change...)
}

func openTraced(t testing.TB, url string, traces telemetry.TracesConfig, change ...func(*proxy.Setup)) *box {
	t.Helper()
	setup := aBox(url)
	for _, c := range change {
		c(&setup)
	}
	setup.Admission = controller(setup)
	b := &box{t: t, setup: setup, logs: new(lines)}
	tel, err := telemetry.Start(context.Background(), telemetry.Config{ServiceName: "test", Traces: traces,
		Metrics: telemetry.MetricsConfig{Prometheus: true}, Log: telemetry.LogConfig{Format: "json", Level: "info"},
		History: telemetry.HistoryConfig{For: 15 * time.Minute, Memory: 32 * admission.MiB}}, "test", b.logs)
	b.told = tel
	if err == nil {
		b.controller, err = admission.NewController(setup.Admission)
	}
	if err == nil {
		b.handler, err = proxy.New(setup, b.controller, tel)
	}
	if err == nil {
		b.server, err = proxy.Listen(setup.Proxy, b.handler, b.admin())
	}
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- b.server.Serve() }()
	b.url = b.server.URL()
	transport := &http.Transport{MaxIdleConnsPerHost: 256}
	b.client = &http.Client{Transport: transport}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		b.server.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		b.handler.Close()
		tel.Shutdown(context.Background())
	})
	return b
}

// admin is the handler of the admin listener.
func (b *box) admin() http.Handler {
	return admin.New(b.setup.Proxy.Admin, admin.Process{Proxy: b.handler, Controller: b.controller, Telemetry: b.told,
		Reload: func() error { return nil }, Config: func() any { return "config" }})
}

// do sends a request and gives the answer with its whole body.
func (b *box) do(method, path, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	res, err := b.client.Do(b.request(context.Background(), method, path, body, headers...))
	if err != nil {
		b.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return res, string(all)
}

func (b *box) request(ctx context.Context, method, path, body string, headers ...string) *http.Request {
	b.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header[headers[i]] = append(r.Header[headers[i]], headers[i+1])
	}
	return r
}

// running is how many requests hold a grant, waiting how many wait for one.
func (b *box) running() (n int) {
	for _, c := range b.controller.Snapshot().Classes {
		n += c.Running
	}
	return n
}

func (b *box) waiting() (n int) {
	for _, c := range b.controller.Snapshot().Classes {
		n += c.Queued
	}
	return n
}

// eventually waits for what other goroutines bring about: nothing signals what the
// other end of a real socket does.
var eventually = wait.Until

// unhurried plays what a timer of the proxy ends, with a limit that is short, and again
// with ones that are longer, until the rest of the story is told within it: play says
// whether it was.
func unhurried(t *testing.T, play func(t *testing.T, limit time.Duration) bool) {
	t.Helper()
	for limit := 20 * time.Millisecond; !play(t, limit); limit *= 4 {
		t.Logf("this machine does not come as far in %v", limit)
	}
}

// model is a model server whose requests are held until they are let through.
type model struct {
	arrived chan *http.Request
	let     chan struct{}
	now     atomic.Int32 // being worked on
	most    atomic.Int32 // at once, ever
	total   atomic.Int32
	over    <-chan struct{} // the test is
}

func newModel(t testing.TB) *model {
	return &model{arrived: make(chan *http.Request, 1000), let: make(chan struct{}), over: t.Context().Done()}
}

// ServeHTTP works until it is let through, whether or not the caller is there.
func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, r.Body)
	m.total.Add(1)
	n := m.now.Add(1)
	for most := m.most.Load(); n > most && !m.most.CompareAndSwap(most, n); most = m.most.Load() {
	}
	m.arrived <- r
	select {
	case <-m.let:
	case <-m.over:
	}
	m.now.Add(-1)
	io.WriteString(w, "done")
}

// upgraded takes a connection over for a WebSocket, as the client has asked.
func upgraded(t testing.TB, w http.ResponseWriter) (net.Conn, *bufio.ReadWriter) {
	c, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		t.Error(err)
		panic(http.ErrAbortHandler)
	}
	io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	return c, brw
}

// reached says that a request has arrived which nothing has taken from arrived.
func (m *model) reached() bool {
	select {
	case <-m.arrived:
		return true
	default:
		return false
	}
}

// newListener listens on an address that a process has just left.
func newListener(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	for i := 0; err != nil && i < 100; i++ {
		<-time.After(10 * time.Millisecond)
		l, err = net.Listen("tcp", address)
	}
	return l, err
}
