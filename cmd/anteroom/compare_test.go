package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// A request that works for long, and many short ones that come while it does: they passed
// it, and in one queue they would have waited for it.
func TestTheHistoryIsComparedWithOneQueue(t *testing.T) {
	began, release := make(chan struct{}, 1), make(chan struct{})
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/heavy" {
			began <- struct{}{}
			<-release
		}
	}))
	defer backend.Close()
	file := write(t, fmt.Sprintf(`
listen: 127.0.0.1:0
admin: {listen: 127.0.0.1:0}
gpus: {gpu0: {memory: 48GiB, source: declared}}
state: {file: ""}
classes:
  heavy: {slots: 1, vram: 34GiB, estimate: 18s}
  light: {slots: 8, vram: 512MiB, estimate: 1s}
backends: {a: {url: %q, gpu: gpu0, returns_memory: true}}
routes:
  - {match: {path: /heavy}, class: heavy, backend: a}
  - {match: {path: /**}, class: light, backend: a}
`, backend.URL))
	cfg, err := configs.Load(configs.Options{File: file})
	must(t, err)
	s, err := startServer(t.Context(), cfg, io.Discard, func(context.Context, <-chan string, func(admission.Reading)) {}, 1)
	must(t, err)
	t.Cleanup(s.forceStop)
	post := func(path string) {
		res, err := http.Post(s.URL()+path, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	var all sync.WaitGroup
	all.Go(func() { post("/heavy") })
	<-began
	for range 10 {
		post("/light")
	}
	close(release)
	all.Wait()

	var got compared
	c := newClient(s.AdminURL(), "")
	for got.Requests < 11 || got.FIFO["light"].Mean == 0 { // until the end of the heavy one is told
		h := s.telemetry.History.Since(time.Time{}, time.Now())
		value, err := s.compare(h)
		if err != nil {
			t.Fatal(err)
		}
		got = value.(compared)
	}
	light, heavy := got.Recorded["light"], got.Recorded["heavy"]
	if light.Started != 10 || heavy.Started != 1 || got.FIFO["light"].Started != 10 || len(light.Waits) != quantileSteps+1 {
		t.Fatalf("got %+v", got)
	}
	// Each light one had ended when the heavy one, which came first, was let go on.
	if q := got.FIFO["light"]; q.Mean <= light.Mean || q.Waits[0] <= 0 || q.Waits[0] > q.Waits[quantileSteps] {
		t.Errorf("the light ones waited %v s, and %v s in one queue, from %v s on: want that they wait for the heavy one there",
			light.Mean, q.Mean, q.Waits[0])
	}
	var answer compared
	if err := c.get("/api/compare?for=10m", &answer); err != nil || answer.Requests != 11 || answer.FIFO["light"].Mean != got.FIFO["light"].Mean {
		t.Errorf("/api/compare: %v, %+v", err, answer)
	}
}

func TestNothingIsComparedWithNothing(t *testing.T) {
	c, err := configs.Load(configs.Options{File: "../../examples/quickstart/anteroom.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{cfg: c}
	if got, err := s.compare(timeline.History{}); err != nil || got.(compared).Requests != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}
