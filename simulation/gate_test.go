package simulation

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// held is a server whose answers wait for the test.
type held struct {
	arrived chan chan struct{}
	url     *url.URL
}

func newHeld(t *testing.T) held {
	h := held{arrived: make(chan chan struct{}, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		answer := make(chan struct{})
		h.arrived <- answer
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(server.Close)
	h.url, _ = url.Parse(server.URL)
	return h
}

// gated sends requests through a gate and returns where it listens.
func gated(t *testing.T, gate http.Handler) string {
	server := httptest.NewServer(gate)
	t.Cleanup(server.Close)
	return server.URL
}

func TestASingleQueueLetsOneRequestThroughAtATime(t *testing.T) {
	heavy, light := newHeld(t), newHeld(t)
	base := gated(t, FIFO(WallClock{}, Forward(heavy.url), Forward(light.url)))
	var got []<-chan answered
	got = append(got, begin(t.Context(), base+heavyPath, "{}"))
	first := <-heavy.arrived
	for range 5 {
		got = append(got, begin(t.Context(), base+heavyPath, "{}"), begin(t.Context(), base+lightPath, "{}"))
	}
	next := first
	for i := range got {
		if n := len(heavy.arrived) + len(light.arrived); n != 0 {
			t.Fatalf("%d requests beside the one that runs", n)
		}
		close(next)
		if i == len(got)-1 {
			break
		}
		select {
		case next = <-heavy.arrived:
		case next = <-light.arrived:
		}
	}
	for _, g := range got {
		if a := <-g; a.status != http.StatusOK {
			t.Errorf("got %+v", a)
		}
	}
}

func TestStaticSlotsAreEachLanesOwn(t *testing.T) {
	heavy, light := newHeld(t), newHeld(t)
	base := gated(t, Static(WallClock{}, Forward(heavy.url), Forward(light.url), 1, 2))
	var got []<-chan answered
	for range 3 {
		got = append(got, begin(t.Context(), base+heavyPath, "{}"), begin(t.Context(), base+lightPath, "{}"))
	}
	h, a, b := <-heavy.arrived, <-light.arrived, <-light.arrived
	if n, m := len(heavy.arrived), len(light.arrived); n != 0 || m != 0 {
		t.Errorf("%d heavies and %d lights above the slots", n, m)
	}
	close(a)
	c := <-light.arrived
	close(b)
	close(c)
	close(h)
	close(<-heavy.arrived)
	close(<-heavy.arrived)
	for _, g := range got {
		if a := <-g; a.status != http.StatusOK {
			t.Errorf("got %+v", a)
		}
	}
}

func TestACallerThatLeavesAGateLeavesItsQueue(t *testing.T) {
	light := newHeld(t)
	base := gated(t, FIFO(WallClock{}, Forward(light.url), Forward(light.url)))
	first := begin(t.Context(), base+lightPath, "{}")
	one := <-light.arrived
	ctx, leave := context.WithCancel(t.Context())
	second := begin(ctx, base+lightPath, "{}")
	leave()
	<-second
	third := begin(t.Context(), base+lightPath, "{}")
	close(one)
	<-first
	close(<-light.arrived)
	if a := <-third; a.status != http.StatusOK {
		t.Errorf("got %+v", a)
	}
}
