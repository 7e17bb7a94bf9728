package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/gpu"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// server is a running proxy: controller, sensor, listeners, telemetry.
type server struct {
	log        *slog.Logger
	telemetry  *telemetry.Telemetry
	controller *admission.Controller
	handler    *proxy.Handler
	proxy      *proxy.Server
	served     chan error // the result of Serve
	owners     *gpu.Owners
	locks      gpu.Locks   // guarded by mu, once it serves
	now        chan string // asks for a reading of a GPU at once
	state      *stateFile

	// read observes one simulated card repeatedly until its context ends; nil: the real
	// cards are read.
	read  func(ctx context.Context, now <-chan string, observe func(admission.Reading))
	speed float64 // of the time that admission goes by; 1 but for a simulated box

	mu      sync.Mutex
	cfg     *configs.Config                 // guarded by mu; in force
	load    func() (*configs.Config, error) // guarded by mu; nil: there is nothing to reload from
	stop    context.CancelFunc              // guarded by mu; ends the reading of the cards
	reading chan struct{}                   // guarded by mu; closed when it has ended
}

// startServer opens the listeners that cfg names and serves on them at once. A
// read that is not nil takes the place of the GPU sensor. Log lines go to
// logs. The caller ends it by Stop.
func startServer(ctx context.Context, cfg *configs.Config, logs io.Writer,
	read func(ctx context.Context, now <-chan string, observe func(admission.Reading)), speed float64) (*server, error) {
	t, err := telemetry.Start(ctx, cfg.Telemetry, buildVersion(), logs)
	if err != nil {
		return nil, err
	}
	s := &server{log: t.Log(), telemetry: t, cfg: cfg, read: read, speed: speed, served: make(chan error, 1),
		locks: gpu.Locks{Log: t.Log()}, now: make(chan string, 16)}
	if err := s.open(cfg); err != nil {
		s.locks.Release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
		defer cancel()
		return nil, errors.Join(err, t.Shutdown(ctx))
	}
	t.Observe(telemetry.Sources{Admission: s.controller.Snapshot, Breakers: s.handler.Breakers, Memory: s.handler.RouteMemory})
	go func() { s.served <- s.proxy.Serve() }()
	s.log.Info("listening", append([]any{"url", s.URL(), "admin", s.AdminURL(), "version", buildVersion(), "mode", cfg.Proxy.Mode},
		listeners(cfg)...)...)
	if err := cfg.Proxy.Limits.CheckSpool(); err != nil {
		s.log.Error("large bodies are refused", "error", err.Error())
	}
	for _, warning := range cfg.Warnings() {
		s.log.Warn("configuration", "warning", warning.String())
	}
	go s.tellAbsent(cfg.Routing.Backends)
	return s, nil
}

// tellAbsent logs the backends at whose address nothing listens. They may start later. If
// the address is wrong, the log shows that before the first request.
func (s *server) tellAbsent(backends map[string]backend.Config) {
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		for _, one := range backends[name].Servers() {
			u, err := url.Parse(one.URL)
			if err != nil {
				continue
			}
			network, address := "tcp", u.Host
			if u.Scheme == "unix" {
				network, address = "unix", u.Path
			} else if u.Port() == "" {
				address = net.JoinHostPort(u.Hostname(), u.Scheme)
			}
			connection, err := net.DialTimeout(network, address, time.Second)
			if err != nil {
				s.log.Info("a backend does not listen yet", "backend", name, "url", one.URL, "error", err.Error())
				continue
			}
			connection.Close()
		}
	}
}

// open locks the cards, makes the controller, gives it what an earlier process learned,
// opens the listeners and reads the cards, so that the first request is decided by what is
// on the card.
func (s *server) open(cfg *configs.Config) (err error) {
	if s.read == nil {
		if err := s.locks.Take(cfg.GPUs); err != nil {
			return err
		}
	}
	controller := cfg.Admission()
	controller.Speed = s.speed
	if s.controller, err = admission.NewController(controller); err != nil {
		return err
	}
	s.controller.ReadNow(s.readNow)
	s.controller.Warn(s.warn)
	if s.handler, err = proxy.New(setup(cfg), s.controller, s.telemetry); err != nil {
		return err
	}
	s.state = newStateFile(cfg.Proxy.State.File, s.log)
	s.handler.Recall(s.state.read(), time.Now())
	operate := admin.New(cfg.Proxy.Admin, admin.Process{Proxy: s.handler, Controller: s.controller, Telemetry: s.telemetry, Reload: s.Reload,
		Config: s.public, Version: buildVersion(), Compare: s.compare})
	inherited, err := inheritedSockets()
	if err != nil {
		s.handler.Close()
		return err
	}
	if s.proxy, err = proxy.Listen(cfg.Proxy, s.handler, operate, inherited...); err != nil {
		s.handler.Close()
		return err
	}
	s.owners = gpu.NewOwners(cfg.Owners())
	s.watchCards(cfg.GPUs)
	s.handler.Inspect()
	s.state.keep(s.handler.Memory)
	return nil
}

// inheritedSockets are the sockets that the process was started with, by systemd or another
// supervisor that follows sd_listen_fds(3). Child processes do not get them.
func inheritedSockets() ([]net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("the sockets of LISTEN_FDS: %w", err)
	}
	if i := slices.Index(listeners, nil); i >= 0 {
		return nil, fmt.Errorf("file descriptor %d, of LISTEN_FDS, is no stream socket that listens: want ListenStream= in the socket unit", 3+i)
	}
	return listeners, nil
}

func setup(cfg *configs.Config) proxy.Setup {
	return proxy.Setup{Proxy: cfg.Proxy, Routing: cfg.Routing, Admission: cfg.Admission()}
}

// watchCards begins to read the cards, or begins anew, and returns when each card has been
// read once. The caller holds mu, or no other goroutine uses s.
func (s *server) watchCards(cards map[string]gpu.Config) {
	s.endReading()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	s.stop, s.reading = cancel, ended
	ready := make(chan struct{})
	go func() {
		defer close(ended)
		if s.read != nil {
			first := sync.OnceFunc(func() { close(ready) })
			defer first() // the sensor may end without a reading
			s.read(ctx, s.now, func(r admission.Reading) {
				s.controller.Observe(r)
				first()
			})
			return
		}
		gpu.Sensor{Cards: cards, Owners: s.owners, Busy: s.controller.Busy, Measuring: s.controller.Measuring, Now: s.now, Log: s.log}.
			Watch(ctx, s.controller.Observe, func() { close(ready) })
	}()
	<-ready
}

// readNow asks for a reading of a GPU at once. It returns at once.
func (s *server) readNow(gpu string) {
	select {
	case s.now <- gpu:
	default: // a reading has been asked for already
	}
}

// warn logs a request for which nothing that Anteroom does will free enough memory. It
// returns at once, even if the log is slow.
func (s *server) warn(w admission.Waiter) {
	go s.log.Warn("a request waits for memory that nothing of Anteroom's will free", "grant", w.ID,
		"trace_id", telemetry.RequestOf(w.Origin).SpanContext().TraceID().String(), "class", w.Class, "backend", w.Backend,
		"waits_for", w.Resource, "needs", admission.Bytes(w.Need).String(), "free", admission.Bytes(w.Free).String(), "because", w.Detail)
}

// endReading ends the reading of the cards. A driver call that hangs is not waited
// for.
func (s *server) endReading() {
	if s.stop == nil {
		return
	}
	s.stop()
	select {
	case <-s.reading:
	case <-time.After(time.Second):
	}
}

// URL is where clients reach the proxy; AdminURL where operators do, empty
// where there is no admin listener.
func (s *server) URL() string      { return s.proxy.URL() }
func (s *server) AdminURL() string { return s.proxy.AdminURL() }

func (s *server) public() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Public()
}

// reloadFrom says where Reload gets a configuration from.
func (s *server) reloadFrom(load func() (*configs.Config, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load = load
}

// Reload reads the configuration again and puts its rules and limits in place;
// what runs and what waits stays. Where it is refused nothing changes.
func (s *server) Reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.load == nil {
		return errors.New("there is no file to read again")
	}
	cfg, err := s.load()
	if err == nil && s.read == nil {
		err = s.locks.Take(cfg.GPUs)
	}
	if err == nil {
		err = s.handler.Reload(setup(cfg))
		if s.read == nil {
			if err == nil {
				s.locks.Keep(cfg.GPUs)
			} else {
				s.locks.Keep(s.cfg.GPUs)
			}
		}
	}
	s.telemetry.Reloaded(err == nil)
	if err != nil {
		s.log.Error("the configuration stays as it was", "error", err.Error())
		return err
	}
	old := s.cfg
	s.cfg = cfg
	s.owners.Set(cfg.Owners())
	if !reflect.DeepEqual(old.GPUs, cfg.GPUs) {
		s.watchCards(cfg.GPUs)
	}
	if later := needRestart(old, cfg); len(later) > 0 {
		s.log.Warn("the configuration was reloaded, but for what takes a restart", "keys", strings.Join(later, " "))
	} else {
		s.log.Info("the configuration was reloaded")
	}
	return nil
}

// needRestart names the keys that differ and take effect only when the listeners open.
func needRestart(old, next *configs.Config) (keys []string) {
	type fixed struct {
		key       string
		was, will any
	}
	a, b := old.Proxy, next.Proxy
	for _, f := range []fixed{
		{"listen", a.Listen, b.Listen}, {"listeners", a.Listeners, b.Listeners}, {"tls", a.TLS, b.TLS}, {"admin", a.Admin, b.Admin},
		{"limits.header", a.Limits.Header, b.Limits.Header}, {"limits.read_header", a.Limits.ReadHeader, b.Limits.ReadHeader},
		{"limits.idle", a.Limits.Idle, b.Limits.Idle}, {"limits.connections", a.Limits.Connections, b.Limits.Connections},
		{"limits.streams", a.Limits.Streams, b.Limits.Streams}, {"telemetry", old.Telemetry, next.Telemetry}, {"state", a.State, b.State},
	} {
		if !reflect.DeepEqual(f.was, f.will) {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// flushTime is how long telemetry may take to send its last data. A collector that is gone
// must not delay the exit by more than three seconds in all.
const flushTime = 2500 * time.Millisecond

// Stop drains: new requests are refused, waiting requests are served or refused as
// drain.queued says, running requests end by themselves. If ctx ends before, the rest is
// cut, and named in the log and the error.
func (s *server) Stop(ctx context.Context) error {
	return s.stopWithin(ctx, context.WithoutCancel(ctx))
}

// stopWithin is Stop with a limit for the steps after the drain: they are given up when all
// ends.
func (s *server) stopWithin(ctx, all context.Context) error {
	s.mu.Lock()
	drain := s.cfg.Proxy.Drain
	s.load = nil
	s.mu.Unlock()
	until := time.Now().Add(drain.Grace)
	if deadline, ok := ctx.Deadline(); ok {
		until = deadline
	}
	s.proxy.Leave()
	s.handler.Drain(until)
	s.log.Info("draining", "until", until)

	err := s.controller.Drain(ctx, drain.Queued == "serve")
	left := s.unfinished()
	if shutdown := s.proxy.Shutdown(ctx); err == nil && shutdown != nil {
		err = fmt.Errorf("answers were still being sent: %w", shutdown)
	}
	if err != nil && len(left) > 0 {
		err = fmt.Errorf("%d jobs were left: %s: %w", len(left), strings.Join(left, "; "), err)
	}
	if err != nil {
		s.log.Error("the end was forced", "error", err.Error(), "jobs", left)
	}
	<-s.served
	s.state.close()
	s.handler.Close()
	flush, cancel := context.WithTimeout(all, flushTime)
	defer cancel()
	if e := s.telemetry.Shutdown(flush); e != nil {
		s.log.Warn("telemetry was lost at the end", "error", e.Error())
	}
	s.mu.Lock()
	s.endReading()
	s.locks.Release()
	s.mu.Unlock()
	return err
}

// unfinished names the work that runs or waits.
func (s *server) unfinished() (jobs []string) {
	for _, r := range s.controller.Running() {
		jobs = append(jobs, fmt.Sprintf("#%d %s on %s, running for %v", r.ID, r.Class, r.Backend, r.Elapsed.Round(time.Millisecond)))
	}
	for _, w := range s.controller.Queue(100) {
		jobs = append(jobs, fmt.Sprintf("#%d %s for %s, waiting for %v", w.ID, w.Class, w.Backend, w.Waited.Round(time.Millisecond)))
	}
	return jobs
}

// grace is how long a drain may take.
func (s *server) grace() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg.Proxy.Drain.Grace
}

// forceStop ends without a drain.
func (s *server) forceStop() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Stop(ctx)
}

// listeners are the addresses of the listeners that backends have of their own, for the
// log; none: there are none.
func listeners(cfg *configs.Config) []any {
	if len(cfg.Proxy.Listeners) == 0 {
		return nil
	}
	all := make(map[string]string)
	for name, l := range cfg.Proxy.Listeners {
		all[name] = l.Listen
	}
	return []any{"listeners", all}
}
