package simulation

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// diary notes what happens when, in virtual seconds.
type diary struct {
	clock *VirtualClock
	lines []string
}

func (d *diary) note(what string) {
	d.lines = append(d.lines, fmt.Sprintf("%g %s", d.clock.Now().Sub(time.Unix(0, 0)).Seconds(), what))
}

func newDiary() *diary { return &diary{clock: NewVirtualClock()} }

func (d *diary) want(t *testing.T, err error, lines ...string) {
	t.Helper()
	if err != nil || !slices.Equal(d.lines, lines) {
		t.Errorf("got %q, %v, want %q", d.lines, err, lines)
	}
}

func TestVirtualTimePassesWhenEverythingWaits(t *testing.T) {
	d := newDiary()
	ctx := t.Context()
	err := d.clock.Run(func() {
		for _, s := range []int{3, 1, 2, 1} {
			d.clock.Go(func() {
				d.clock.Sleep(ctx, time.Duration(s)*time.Second)
				d.note(fmt.Sprint("slept ", s))
			})
		}
		d.note("begins")
		d.clock.Sleep(ctx, time.Hour)
		d.note("ends")
	})
	d.want(t, err, "0 begins", "1 slept 1", "1 slept 1", "2 slept 2", "3 slept 3", "3600 ends")
}

func TestPlacesAreTakenInOrder(t *testing.T) {
	d := newDiary()
	ctx := t.Context()
	err := d.clock.Run(func() {
		places := make(chan struct{}, 1)
		for i := range 3 {
			d.clock.Go(func() {
				if d.clock.Take(ctx, places) == nil {
					d.note(fmt.Sprint("takes ", i))
					d.clock.Sleep(ctx, time.Second)
					<-places
					// A caller that comes back stands behind those that wait.
					d.clock.Take(ctx, places)
					d.note(fmt.Sprint("again ", i))
					<-places
				}
			})
		}
	})
	d.want(t, err, "0 takes 0", "1 takes 1", "2 takes 2", "3 again 0", "3 again 1", "3 again 2")
}

func TestAVirtualWaitEndsWithWhatItWaitsForOrItsContext(t *testing.T) {
	d := newDiary()
	err := d.clock.Run(func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		d.clock.Go(func() { d.note(fmt.Sprint("done ", d.clock.Wait(ctx, done))) })
		d.clock.Go(func() { d.note(fmt.Sprint("never ", d.clock.Wait(ctx, nil))) })
		d.clock.Go(func() { d.note(fmt.Sprint("no more ", d.clock.SleepUnless(ctx, time.Hour, done))) })
		d.clock.Go(func() { d.note(fmt.Sprint("half ", d.clock.SleepUnless(ctx, time.Second/2, done))) })
		d.clock.Go(func() { d.note(fmt.Sprint("slept ", d.clock.Sleep(ctx, time.Hour))) })
		d.clock.Sleep(t.Context(), time.Second)
		close(done)
		d.clock.Sleep(t.Context(), time.Second)
		cancel()
	})
	d.want(t, err, "0.5 half <nil>", "1 done <nil>", "1 no more <nil>", "2 never context canceled", "2 slept context canceled")
}

func TestAVirtualTimerIsResetAndStopped(t *testing.T) {
	d := newDiary()
	err := d.clock.Run(func() {
		moved := d.clock.AfterFunc(time.Second, func() { d.note("moved") })
		stopped := d.clock.AfterFunc(time.Second, func() { d.note("stopped") })
		d.clock.AfterFunc(time.Hour, func() { d.note("when all tasks have ended") })
		if !moved.Reset(2*time.Second) || !stopped.Stop() || stopped.Stop() {
			t.Error("a timer that is to come says that it is not")
		}
		d.clock.Sleep(t.Context(), 3*time.Second)
		if moved.Reset(time.Second) {
			t.Error("a timer that has fired says that it is to come")
		}
		d.clock.Sleep(t.Context(), 2*time.Second)
	})
	d.want(t, err, "2 moved", "4 moved")
}

func TestTasksThatWaitForEachOtherAreAnError(t *testing.T) {
	clock := NewVirtualClock()
	err := clock.Run(func() {
		ctx, end := context.WithCancel(t.Context())
		clock.AfterFunc(time.Minute, end)
		clock.Wait(ctx, nil)
		ctx, end = context.WithCancel(t.Context())
		t.Cleanup(end)
		clock.Wait(ctx, nil)
	})
	if err == nil || !strings.Contains(err.Error(), "1 tasks wait for each other") {
		t.Errorf("got %v", err)
	}
}

func TestAControllerGoesByAVirtualClock(t *testing.T) {
	d := newDiary()
	err := d.clock.Run(func() {
		c, err := admission.NewController(admission.Config{
			GPUs:    []admission.GPU{{Name: "gpu0", Memory: 10 * admission.GiB}},
			Classes: []admission.Class{{Name: "work", Slots: 1, QueueLimit: 10, QueueTimeout: 10 * time.Second}},
			Backends: []admission.Backend{{Name: "b", ReturnsMemory: true,
				Replicas: []admission.Replica{{Places: []admission.Place{{GPU: "gpu0"}}}}}},
			Clock: d.clock,
		})
		if err != nil {
			t.Error(err)
			return
		}
		for i, runs := range []time.Duration{4 * time.Second, 20 * time.Second, time.Second} {
			d.clock.Go(func() {
				g, err := c.Admit(t.Context(), admission.Request{Class: "work", Backend: "b", VRAM: admission.GiB})
				if err != nil {
					d.note(fmt.Sprint(i, " ", err.(*admission.Rejection).Code))
					return
				}
				d.note(fmt.Sprint(i, " waited ", g.Waited()))
				d.clock.Sleep(t.Context(), runs)
				g.Release(admission.Result{Outcome: admission.Done})
			})
		}
	})
	d.want(t, err, "0 0 waited 0s", "4 1 waited 4s", "10 2 queue_timeout")
}

func TestEnginesOfAllKindsWorkInVirtualTime(t *testing.T) {
	for _, kind := range Kinds() {
		if kind.Name == "gradio" {
			continue // its callers wait on an event stream, outside of the clock
		}
		t.Run(kind.Name, func(t *testing.T) {
			clock := NewVirtualClock()
			card := NewCardAt(clock, 48*admission.GiB)
			engine := NewEngine(kind, card, Options{Clock: clock})
			calls := kindCalls[kind.Name]
			var took time.Duration
			err := clock.Run(func() {
				if err := engine.Load(t.Context()); err != nil {
					t.Error(err)
				}
				begun := clock.Now()
				client := http.Client{Transport: InProcess(engine)}
				r, _ := http.NewRequest(calls.run.method, "http://engine.invalid"+calls.run.path, strings.NewReader(calls.run.body))
				mark(r, calls.run.body)
				res, err := client.Do(r)
				if err != nil || res.StatusCode != http.StatusOK {
					t.Errorf("got %v, %v", res, err)
				}
				took = clock.Now().Sub(begun)
			})
			if err != nil || took < kind.Shortest && kind.Name != "comfyui" {
				t.Errorf("a run takes %v, %v", took, err)
			}
			if err := engine.Close(); err != nil || look(t, card).Used != 0 {
				t.Errorf("%v, %v in use after the end", err, look(t, card).Used)
			}
		})
	}
}
