package main

import (
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// comparing is a server that knows its configuration alone.
func comparing(t *testing.T) *server {
	t.Helper()
	c, err := configs.Load(configs.Options{File: "../../examples/quickstart/anteroom.yaml"})
	must(t, err)
	return &server{cfg: c}
}

// An image of ten seconds, and five questions of a second that passed it: in one queue each
// would have waited for the image and for the questions before it.
func TestTheHistoryIsComparedWithOneQueue(t *testing.T) {
	began := time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return began.Add(time.Duration(s * float64(time.Second))) }
	h := timeline.History{Since: began, Until: at(20)}
	for i := range 5 {
		asked := float64(i + 1)
		h.Requests = append(h.Requests, timeline.Request{Asked: at(asked), Ended: at(asked + 1.5), Class: "light", Route: "questions",
			Result: "ok", Wait: 0.5, Execute: 1, Priority: 3})
	}
	h.Requests = append(h.Requests,
		timeline.Request{Asked: at(0), Ended: at(10), Class: "heavy", Route: "images", Result: "ok", Execute: 10, Priority: 3},
		timeline.Request{Asked: at(2), Ended: at(3), Class: "light", Route: "questions", Result: "cancelled", Wait: 1, Execute: -1,
			Priority: 3}, // its client left the queue
		timeline.Request{Ended: at(4), Result: "refused", Wait: -1,
			Execute: -1}) // it asked for nothing

	value, err := comparing(t).compare(h)
	must(t, err)
	got := value.(compared)
	light, heavy, queued := got.Recorded["light"], got.Recorded["heavy"], got.FIFO["light"]
	if got.Requests != 7 || light.Started != 5 || light.Mean != 0.5 || heavy.Started != 1 || heavy.Mean != 0 {
		t.Errorf("recorded: %+v", got)
	}
	// They start at 10, 11, 12, 13 and 14, and asked at 1, 2, 3, 4 and 5.
	if queued.Started != 5 || queued.Mean != 9 || queued.Waits[0] != 9 || queued.Waits[quantileSteps] != 9 || got.FIFO["heavy"].Mean != 0 ||
		got.FIFOLasts != 5 {
		t.Errorf("in one queue: %+v", got)
	}

	h.Requests[0].Route, h.Requests[0].Class = "gone", "gone"
	if _, err := comparing(t).compare(h); err == nil {
		t.Error("a class that is not configured any more is compared")
	}
}

func TestNothingIsComparedWithNothing(t *testing.T) {
	if got, err := comparing(t).compare(timeline.History{}); err != nil || got.(compared).Requests != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestADistributionIsToldInSteps(t *testing.T) {
	var waits []time.Duration
	for i := range 101 {
		waits = append(waits, time.Duration(100-i)*time.Second)
	}
	got := distribution(waits)
	if got.Started != 101 || got.Mean < 49.99 || got.Mean > 50.01 || len(got.Waits) != quantileSteps+1 || got.Waits[0] != 0 ||
		got.Waits[25] != 50 || got.Waits[45] != 90 || got.Waits[50] != 100 {
		t.Errorf("got %+v", got)
	}
}
