package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// box is one simulated machine: a card, its two engines, and the proxy or gate in front of
// them. In real time each has a loopback port of its own; in virtual time they call each
// other.
type box struct {
	clock   simulation.Clock
	speed   float64 // of real time; 0: the clock is virtual
	card    *simulation.Card
	engines []*simulation.Engine
	at      [2]string // the addresses of the engines
	callers simulation.Callers
	status  string // address of the proxy's; empty: there is none
	quit    func() // stops the goroutines that do not end by themselves
	ends    []func()
}

const demoMemory = 48 * admission.GiB

// newBox sets a box up, with the weights loaded.
func newBox(ctx context.Context, clock simulation.Clock, s simulation.Scene, arm string, speed float64) (b *box, err error) {
	b = &box{clock: clock, speed: speed, card: simulation.NewCardAt(clock, demoMemory), quit: func() {}}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	// The image server moves its weights off the card between runs, and both return what a
	// run took. Otherwise the engine that ran last would keep the memory behind the gates,
	// which know nothing of memory, and the demo would compare caches.
	flux, vqa := simulation.Flux(), simulation.VQA()
	flux.Weights, flux.PerRun = 0, flux.Weights+flux.PerRun
	vqa.PerRun = s.LightMemory
	var to [2]http.Handler
	for i, kind := range []simulation.Kind{flux, vqa} {
		kind.ReturnsMemory = true
		e := simulation.NewEngine(kind, b.card, simulation.Options{Speed: speed, Seed: uint64(i), Clock: clock, Contention: s.Contention})
		b.engines = append(b.engines, e)
		b.ends = append(b.ends, func() { e.Close() })
		if err := e.Load(ctx); err != nil {
			return b, err
		}
		if b.at[i], to[i], err = b.serve(e); err != nil {
			return b, err
		}
	}
	b.callers = simulation.Callers{Clock: clock, Speed: speed}
	switch arm {
	case "fifo":
		err = b.putInFront(simulation.FIFO(clock, to[0], to[1]))
	case "static":
		err = b.putInFront(simulation.Static(clock, to[0], to[1], 1, s.StaticSlots))
	default:
		err = b.anteroom(ctx, s, to)
	}
	return b, err
}

// virtual says that the box has no sockets.
func (b *box) virtual() bool { return b.speed == 0 }

// serve makes a server reachable. It returns the server's address, and a handler that
// forwards requests to it.
func (b *box) serve(h http.Handler) (address string, to http.Handler, err error) {
	if b.virtual() {
		return fmt.Sprintf("http://engine%d.invalid", len(b.engines)), h, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	b.ends = append(b.ends, func() { server.Close() })
	u := &url.URL{Scheme: "http", Host: l.Addr().String()}
	return u.String(), simulation.Forward(u), nil
}

// putInFront makes h the handler that callers reach.
func (b *box) putInFront(h http.Handler) (err error) {
	if b.callers.Base, _, err = b.serve(h); b.virtual() {
		b.callers.Transport = simulation.InProcess(h)
	}
	return err
}

// demoConfig is the configuration that a user of such a machine would write, in the
// machine's time.
const demoConfig = `
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
gpus:
  gpu0: {memory: 48GiB, reserve: 1GiB}
classes:
  heavy: {slots: 1, vram: 34GiB, estimate: %[1]s, strict_after: %[2]s}
  light: {slots: %[3]d, vram: %[4]s, estimate: %[5]s, strict_after: %[2]s, queue: {limit: 1000}}
backends:
  flux: {url: "%[6]s", gpu: gpu0, returns_memory: true}
  vqa: {url: "%[7]s", gpu: gpu0, resident: 512MiB, returns_memory: true, cancel: aborts}
routes:
  - {name: images, match: {method: POST, path: /v1/images/generations}, class: heavy, backend: flux}
  - {name: questions, match: {method: POST, path: /v1/vqa}, class: light, backend: vqa}
telemetry: {traces: {exporter: none}}
state: {file: ""}
`

// loadDemoConfig reads a scene's configuration as serve would, from a file.
func loadDemoConfig(s simulation.Scene, at [2]string) (*configs.Config, error) {
	file, err := os.CreateTemp("", "anteroom-demo-*.yaml")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	vram := (s.LightMemory + 64*admission.MiB - 1) / (64 * admission.MiB) * (64 * admission.MiB)
	_, err = fmt.Fprintf(file, demoConfig, 18*time.Second, 5*time.Second, s.LightSlots, vram, 1500*time.Millisecond, at[0], at[1])
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return configs.Load(configs.Options{File: file.Name()})
}

// readEvery is how often a card is read, in the box's time.
const readEvery = time.Second

// anteroom puts Anteroom in front of the engines, with the simulated card in
// place of the driver: in real time the proxy that serve runs.
func (b *box) anteroom(ctx context.Context, s simulation.Scene, to [2]http.Handler) error {
	cfg, err := loadDemoConfig(s, b.at)
	if err != nil {
		return err
	}
	if b.virtual() {
		ctx, b.quit = context.WithCancel(ctx)
		front, err := newFront(ctx, b.clock, b.card, cfg, map[string]http.Handler{"flux": to[0], "vqa": to[1]})
		if err != nil {
			return err
		}
		return b.putInFront(front)
	}
	server, err := startServer(ctx, cfg, io.Discard, func(ctx context.Context, now <-chan string, observe func(admission.Reading)) {
		b.card.Watch(ctx, "gpu0", time.Duration(float64(readEvery)/b.speed), now, observe)
	}, b.speed)
	if err != nil {
		return err
	}
	b.ends = append(b.ends, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Stop(ctx)
	})
	b.callers.Base, b.status = server.URL(), server.AdminURL()+"/"
	return nil
}

// play sends the scene's traffic and sums up what clients and the card saw.
func (b *box) play(ctx context.Context, s simulation.Scene) (p played, err error) {
	begun := b.clock.Now()
	p.seen = b.callers.Play(ctx, s)
	outOfMemory := 0
	for _, e := range b.engines {
		outOfMemory += e.OutOfMemory()
	}
	memory, err := b.card.Memory()
	if err != nil {
		return p, err
	}
	for _, o := range p.seen {
		// An out-of-memory answer counts in the figures and is no failure of the demo.
		if o.Status != http.StatusOK && o.Status != http.StatusInternalServerError && p.err == nil {
			p.err = o.Err
		}
	}
	for _, l := range b.card.Samples() {
		p.memory = append(p.memory, level{time.Duration(float64(l.At.Sub(begun)) * max(b.speed, 1)), int64(l.Used)})
	}
	p.Result = simulation.Summarize(s, p.seen, memory, outOfMemory)
	return p, nil
}

// close ends what newBox began, the last first. Later calls do nothing. A virtual
// clock must have ended.
func (b *box) close() {
	b.quit()
	for i := len(b.ends) - 1; i >= 0; i-- {
		b.ends[i]()
	}
	b.ends = nil
}
