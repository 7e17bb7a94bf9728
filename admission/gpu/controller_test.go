//go:build linux && cgo

package gpu

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// controller is one in the sensor's process. A heavy request runs all the time, and
// another waits for its room.
type controller struct {
	*admission.Controller
	held   *admission.Grant
	cancel context.CancelFunc
	load   sync.WaitGroup
}

// books are the controller's after a reading.
type books struct {
	Booked          admission.Bytes
	Observed        admission.Bytes // in use, by the last good reading
	Available       admission.Bytes
	Bad             bool // the last reading was none
	Granted, Failed uint64
	Heavy, Waiting  int
}

const heavyTakes = 34 * admission.GiB

// openController opens a controller and gives it the heavy ones.
func openController(ctx context.Context) *controller {
	everywhere := []admission.Replica{{Places: []admission.Place{{GPU: "gpu0"}}}}
	c, err := admission.NewController(admission.Config{
		GPUs: []admission.GPU{{Name: "gpu0", Memory: 47 * admission.GiB}},
		Classes: []admission.Class{
			{Name: "heavy", Slots: 2, QueueLimit: 10, StrictAfter: time.Hour},
			{Name: "light", Slots: 8, QueueLimit: 10, StrictAfter: time.Hour},
		},
		Backends: []admission.Backend{{Name: "flux", ReturnsMemory: true, Replicas: everywhere}, {Name: "vqa", Replicas: everywhere}},
	})
	if err != nil {
		panic(err)
	}
	d := &controller{Controller: c}
	ctx, d.cancel = context.WithCancel(ctx)
	read := func(used admission.Bytes) {
		d.Observe(admission.Reading{GPU: "gpu0", At: time.Now(), Total: 47 * admission.GiB, Used: used, Source: "nvml"})
	}
	read(0) // the card is empty when the heavy one starts, and it is seen to take its memory
	heavy := admission.Request{Class: "heavy", Backend: "flux", VRAM: heavyTakes, Estimate: admission.Estimate{P50: time.Hour, P95: time.Hour}}
	if d.held, err = d.Admit(ctx, heavy); err != nil {
		panic(err)
	}
	d.admitLight(ctx) // no engine loads from here on
	read(heavyTakes)
	d.load.Go(func() { d.Admit(ctx, heavy) })
	for len(d.Queue(1)) == 0 {
		runtime.Gosched()
	}
	return d
}

func (d *controller) admitLight(ctx context.Context) {
	if g, err := d.Admit(ctx, admission.Request{Class: "light", Backend: "vqa", VRAM: admission.GiB / 2}); err == nil {
		g.Release(admission.Result{})
	}
}

// run admits light requests until the controller closes.
func (d *controller) run(ctx context.Context) {
	for range 2 {
		d.load.Go(func() {
			for ctx.Err() == nil {
				d.admitLight(ctx)
			}
		})
	}
}

func (d *controller) close() {
	d.cancel()
	d.load.Wait()
	d.held.Release(admission.Result{})
}

// see takes a reading and describes the books.
func (d *controller) see(r admission.Reading) (b books) {
	d.Observe(r)
	s := d.Snapshot()
	g := s.GPUs[0]
	b.Booked, b.Observed, b.Available, b.Bad = g.Booked, g.Observed, g.Available, g.Err != ""
	for _, c := range s.Classes {
		switch b.Failed += c.Refused; c.Name {
		case "heavy":
			b.Heavy, b.Waiting = c.Running, c.Queued
		case "light":
			b.Granted = c.Granted
		}
	}
	return b
}

// measured is how long admissions took.
type measured struct {
	Mean, P50, P99, P999 time.Duration
	Readings, Failed     int // meanwhile
}

// measure times n admissions by some callers at once.
func (d *controller) measure(ctx context.Context, n, callers int) measured {
	took := make([][]time.Duration, callers)
	var all sync.WaitGroup
	for i := range took {
		took[i] = make([]time.Duration, n/callers+1)
		all.Go(func() {
			for j := range took[i] {
				began := time.Now()
				d.admitLight(ctx)
				took[i][j] = time.Since(began)
			}
		})
	}
	all.Wait()
	times := slices.Concat(took...)
	slices.Sort(times)
	at := func(part float64) time.Duration { return times[int(part*float64(len(times)-1))] }
	var sum time.Duration
	for _, t := range times {
		sum += t
	}
	return measured{Mean: sum / time.Duration(len(times)), P50: at(0.5), P99: at(0.99), P999: at(0.999)}
}

// shared is a card of 47 GiB of which the controller's heavy request holds 34, and
// others some more.
func shared(others int, more ...string) []string {
	return append(slices.Clone(more), "cards 1", "0.uuid GPU-aaaa", "0.total 50465865728", fmt.Sprintf("0.used %d", int64(34+others)<<30))
}

// reads says that a reading of the heavy request and others was the last good
// one, and that nothing that is in use is given out.
func (b books) reads(others int) bool {
	used := heavyTakes + admission.Bytes(others)*admission.GiB
	return b.Observed == used && b.Available <= 47*admission.GiB-used
}

// untilOthers reads on to a good reading after which others are taken to hold
// some GiB.
func (s *sensor) untilOthers(others int) {
	s.t.Helper()
	s.until(func(r seen) bool {
		return r.Err == "" && !r.Admission.Bad && r.Admission.reads(others)
	})
}

func TestTheLedgerGoesOnWithoutTheDriverAndIsTakenUpAgain(t *testing.T) {
	s := startAll(t, modern(t), setup{Cards: gpu0, Admission: true, Load: true, Impatient: true}, shared(4)...)
	s.untilOthers(4)
	others := 4
	for _, outage := range []struct {
		state []string
		says  string
	}{
		{[]string{"0.memory 9", "init 9"}, "modprobe"}, // the kernel's module is gone
		{[]string{"hang 1"}, "does not answer"},
		{[]string{"0.memory 18", "init 18"}, "reboot"},
		{[]string{"0.memory 999", "init 999"}, "container"},
	} {
		s.set(shared(others, outage.state...)...)
		from := s.untilError(outage.says).Admission.Granted
		// It admits as before, by the books and what was last read.
		s.until(func(r seen) bool {
			b, failed := r.Admission, r.Err != "" // one that was under way may still be good
			if b.Booked < heavyTakes || b.Heavy != 1 || b.Waiting != 1 || b.Failed != 0 || !b.reads(others) || b.Bad != failed {
				t.Fatalf("%s: the books say %+v", outage.says, b)
			}
			return failed && b.Granted >= from+1000
		})
		others++
		s.set(shared(others)...)
		s.untilOthers(others)
	}
}

func TestAbsurdFiguresChangeNothing(t *testing.T) {
	s := startAll(t, modern(t), setup{Cards: gpu0, Admission: true}, shared(4)...)
	s.untilOthers(4)
	for name, state := range map[string][]string{
		"not available":            {"0.total 18446744073709551615"},
		"nothing at all":           {"0.total 0", "0.used 0"},
		"use is not available":     {"0.used 18446744073709551615"},
		"more used than there is":  {"0.used 99999999999"},
		"more reserved than there": {"0.reserved 50465865729"},
		"more than any card has":   {"0.total 4611686018427387904"},
	} {
		s.set(shared(4, state...)...)
		for range 20 {
			s.until(func(r seen) bool {
				if !r.Admission.reads(4) {
					t.Fatalf("%s: %+v", name, r)
				}
				return r.Admission.Bad
			})
		}
		s.set(shared(4)...)
		s.untilOthers(4)
	}
}

// BenchmarkAdmission is an admission and its release while the driver works,
// and while it goes, hangs, breaks and comes back every 10 ms. Cards are read a
// hundred times as often as usual.
func BenchmarkAdmission(b *testing.B) {
	well := shared(4)
	for _, callers := range []int{1, 4} {
		for _, driver := range []struct {
			name   string
			states [][]string
		}{
			{"works", nil},
			{"flips", [][]string{well, shared(4, "0.memory 9", "init 9"), well, shared(4, "hang 1"), well, shared(4, "0.memory 999", "init 18")}},
		} {
			b.Run(fmt.Sprintf("callers=%d/driver=%s", callers, driver.name), func(b *testing.B) {
				do := setup{Cards: gpu0, Admission: true, Measure: b.N, Callers: callers, Impatient: true, Every: 5 * time.Millisecond}
				s := startAll(b, modern(b), do, well...)
				m := s.measure(driver.states)
				b.ReportMetric(float64(m.Mean), "ns/op")
				b.ReportMetric(float64(m.P50), "p50-ns")
				b.ReportMetric(float64(m.P99), "p99-ns")
				b.ReportMetric(float64(m.P999), "p99.9-ns")
				b.ReportMetric(float64(m.Readings), "readings")
				b.ReportMetric(float64(m.Failed), "failed")
			})
		}
	}
}

// measure waits for what the sensor's process measures, while the driver goes
// from state to state.
func (s *sensor) measure(states [][]string) measured {
	done := make(chan measured)
	go func() {
		defer close(done)
		readings, failed := 0, 0
		for {
			var r seen
			if err := s.readings.Decode(&r); err != nil {
				s.t.Error(err)
				return
			}
			if r.Measured.Mean > 0 {
				r.Measured.Readings, r.Measured.Failed = readings, failed
				done <- r.Measured
				return
			}
			if readings++; r.Err != "" {
				failed++
			}
		}
	}()
	flip := time.NewTicker(10 * time.Millisecond)
	defer flip.Stop()
	for i := 0; ; i++ {
		select {
		case m := <-done:
			return m
		case <-flip.C:
			if states != nil {
				s.set(states[i%len(states)]...)
			}
		}
	}
}
