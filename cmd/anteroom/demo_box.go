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

// box is one simulated machine: a card, its two engines, and what stands in
// front of them, each on a loopback port of its own.
type box struct {
	speed   float64
	card    *simulation.Card
	engines []*simulation.Engine
	front   string // where clients connect
	status  string // of the proxy; empty: there is none
	ends    []func()
}

// newBox sets a box up, with the weights loaded.
func newBox(ctx context.Context, s simulation.Scene, arm string, speed float64) (b *box, err error) {
	b = &box{speed: speed, card: simulation.NewCard(48 * admission.GiB)}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	// The image server moves its weights off the card between runs, and both
	// return what a run took. Else the gates, which know nothing of memory, would
	// leave it to whoever was last, and the comparison would be of caches.
	flux, vqa := simulation.Flux(), simulation.VQA()
	flux.Weights, flux.PerRun = 0, flux.Weights+flux.PerRun
	vqa.PerRun = s.LightMemory
	var addresses []*url.URL
	for i, kind := range []simulation.Kind{flux, vqa} {
		kind.ReturnsMemory = true
		e := simulation.NewEngine(kind, b.card, simulation.Options{Speed: speed, Seed: uint64(i), Contention: s.Contention})
		b.engines = append(b.engines, e)
		b.ends = append(b.ends, func() { e.Close() })
		if err := e.Load(ctx); err != nil {
			return b, err
		}
		u, err := b.listen(e)
		if err != nil {
			return b, err
		}
		addresses = append(addresses, u)
	}
	heavy, light := addresses[0], addresses[1]
	var gate http.Handler
	switch arm {
	case "fifo":
		gate = simulation.FIFO(heavy, light)
	case "static":
		gate = simulation.Static(heavy, light, 1, s.StaticSlots)
	default:
		return b, b.anteroom(ctx, s, heavy, light)
	}
	u, err := b.listen(gate)
	if err == nil {
		b.front = u.String()
	}
	return b, err
}

// listen serves on a free loopback port.
func (b *box) listen(h http.Handler) (*url.URL, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: h}
	go server.Serve(l)
	b.ends = append(b.ends, func() { server.Close() })
	return &url.URL{Scheme: "http", Host: l.Addr().String()}, nil
}

// demoConfig is what a user of such a box would write, in the box's time.
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

// anteroom puts the real proxy in front of the engines, with a configuration
// from a file and the simulated card in place of the driver.
func (b *box) anteroom(ctx context.Context, s simulation.Scene, heavy, light *url.URL) error {
	file, err := os.CreateTemp("", "anteroom-demo-*.yaml")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	fast := func(d time.Duration) time.Duration { return time.Duration(float64(d) / b.speed) }
	vram := (s.LightMemory + 64*admission.MiB - 1) / (64 * admission.MiB) * (64 * admission.MiB)
	_, err = fmt.Fprintf(file, demoConfig, 18*time.Second, 5*time.Second, s.LightSlots, vram, 1500*time.Millisecond, heavy, light)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	cfg, err := configs.Load(configs.Options{File: file.Name()})
	if err != nil {
		return err
	}
	server, err := startServer(ctx, cfg, io.Discard, func(ctx context.Context, now <-chan string, observe func(admission.Reading)) {
		b.card.Watch(ctx, "gpu0", fast(time.Second), now, observe)
	}, b.speed)
	if err != nil {
		return err
	}
	b.ends = append(b.ends, func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		server.Stop(ctx)
	})
	b.front, b.status = server.URL(), server.AdminURL()+"/api/state"
	return nil
}

// play sends the scene's traffic and sums up what clients and the card saw.
func (b *box) play(ctx context.Context, s simulation.Scene) (simulation.Result, error) {
	seen := simulation.Play(ctx, b.front, s, b.speed)
	outOfMemory := 0
	for _, e := range b.engines {
		outOfMemory += e.OutOfMemory()
	}
	memory, err := b.card.Memory()
	if err != nil {
		return simulation.Result{}, err
	}
	// An engine that ran out of memory is a figure, anything else would make the
	// means those of the lucky.
	for _, o := range seen {
		if o.Status != http.StatusOK && o.Status != http.StatusInternalServerError {
			return simulation.Result{}, fmt.Errorf("a request failed: %w", o.Err)
		}
	}
	return simulation.Summarize(s, seen, memory, outOfMemory), nil
}

// close ends what newBox began, the last first. Later calls do nothing.
func (b *box) close() {
	for i := len(b.ends) - 1; i >= 0; i-- {
		b.ends[i]()
	}
	b.ends = nil
}
