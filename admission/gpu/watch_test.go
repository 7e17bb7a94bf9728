package gpu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// script is a source that does what it is told.
type script func(r *admission.Reading) error

func (s script) read(r *admission.Reading, _ bool) error { return s(r) }
func (script) about() string                             { return "a card" }

func TestAHungCallLeavesOneGoroutineAndManyWarnings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		calls := 0
		var got []admission.Reading
		ctx, cancel := context.WithCancel(t.Context())
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
			sources: []source{script(func(r *admission.Reading) error { calls++; <-release; r.Total, r.Used = 2, 1; return nil })},
			observe: func(r admission.Reading) { got = append(got, r) }}
		go w.run(ctx)
		time.Sleep(3*usual.patience + time.Second)
		synctest.Wait()
		if calls != 1 || len(got) != 3 {
			t.Fatalf("%d calls and %d readings, want 1 and 3", calls, len(got))
		}
		for _, r := range got {
			if !errors.Is(r.Err, errLate) || r.Total != 0 {
				t.Errorf("got %+v while it hangs", r)
			}
		}
		close(release)
		synctest.Wait()
		if r := got[len(got)-1]; r.Err != nil || r.Used != 1 {
			t.Errorf("got %+v after it", r)
		}
		cancel()
	})
}

// counting is a source that counts what it is asked.
type counting struct{ readings, lists atomic.Int32 }

func (c *counting) read(r *admission.Reading, processes bool) error {
	c.readings.Add(1)
	if processes {
		c.lists.Add(1)
	}
	return nil
}
func (*counting) about() string { return "a card" }

func TestProcessesAreReadMoreRarelyThanMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(counting)
		ctx, cancel := context.WithCancel(t.Context())
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.DiscardHandler), sources: []source{c},
			observe: func(admission.Reading) {}}
		go w.run(ctx)
		time.Sleep(time.Minute - time.Millisecond)
		cancel()
		synctest.Wait()
		if c.readings.Load() != 120 || c.lists.Load() != 24 {
			t.Errorf("%d readings and %d lists in a minute, want 120 and 24", c.readings.Load(), c.lists.Load())
		}
	})
}

func TestProcessesAreReadWithEveryReadingWhileWorkIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, began := new(counting), time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.DiscardHandler), sources: []source{c},
			observe: func(admission.Reading) {},
			busy:    func(gpu string) bool { return gpu == "gpu0" && time.Since(began) < 30*time.Second }}
		go w.run(ctx)
		time.Sleep(32*time.Second - time.Millisecond)
		if synctest.Wait(); c.readings.Load() != 64 || c.lists.Load() != 64 {
			t.Errorf("%d readings and %d lists in 30 s of work and 2 s after it, want 64 of each", c.readings.Load(), c.lists.Load())
		}
		time.Sleep(10 * time.Second)
		cancel()
		if synctest.Wait(); c.readings.Load() != 84 || c.lists.Load() != 68 {
			t.Errorf("%d readings and %d lists after 10 s without work, want 84 and 68", c.readings.Load(), c.lists.Load())
		}
	})
}

func TestACardIsReadWhenThatIsAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := new(counting)
		ctx, cancel := context.WithCancel(t.Context())
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.DiscardHandler), sources: []source{c},
			observe: func(admission.Reading) {},
			now:     make(chan struct{}, 1)}
		now := make(chan string, 16)
		go w.run(ctx)
		go Sensor{Now: now}.passOn(ctx, map[string]chan struct{}{"gpu0": w.now})
		time.Sleep(usual.every / 2)
		now <- "gpu1" // is no card that is read
		now <- "gpu0"
		time.Sleep(usual.soonest + time.Millisecond)
		if synctest.Wait(); c.readings.Load() != 2 || c.lists.Load() != 2 {
			t.Errorf("%d readings and %d lists, want 2 of each: the first and the one that was asked for", c.readings.Load(), c.lists.Load())
		}
		for range 1000 { // in a second
			select {
			case now <- "gpu0":
			default:
			}
			time.Sleep(time.Millisecond)
		}
		if synctest.Wait(); c.readings.Load() > 22 {
			t.Errorf("%d readings in a second in which a thousand are asked for, want 20", c.readings.Load()-2)
		}
		cancel()
		synctest.Wait()
	})
}

func TestAReadingIsOfTheMomentAtWhichItWasBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got admission.Reading
		began := time.Now()
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.DiscardHandler), observe: func(r admission.Reading) { got = r },
			sources: []source{script(func(r *admission.Reading) error { time.Sleep(time.Second); return nil })}}
		if w.sample(t.Context(), false); !got.At.Equal(began) {
			t.Errorf("it is of %v, and was begun at %v", got.At, began)
		}
	})
}

func TestTheLogSaysWhatLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines strings.Builder
		var err error
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.NewTextHandler(&lines, nil)),
			sources: []source{script(func(r *admission.Reading) error { r.Total = 1; return err })},
			observe: func(admission.Reading) {}}
		readings := func(n int) {
			for range n {
				if !w.sample(ctx, false) {
					t.Fatal("no card")
				}
			}
		}
		readings(5)
		for range 10 { // it flaps
			err = errors.New("a moment")
			readings(steady - 1)
			err = nil
			readings(steady - 1)
		}
		if n := strings.Count(lines.String(), "\n"); n != 1 {
			t.Errorf("the log has %d lines, want one:\n%s", n, lines.String())
		}
		err = errors.New("it lasts")
		readings(10)
		if n := strings.Count(lines.String(), "it lasts"); n != 1 {
			t.Errorf("the log says %d times what lasts, want once:\n%s", n, lines.String())
		}
	})
}

func TestTheFirstSourceThatIsThereIsKept(t *testing.T) {
	present := false
	driver := script(func(r *admission.Reading) error {
		if !present {
			return fmt.Errorf("%w: the driver", errAbsent)
		}
		r.Used = 1
		return nil
	})
	other := script(func(r *admission.Reading) error { return fmt.Errorf("%w: the other", errAbsent) })
	var last admission.Reading
	w := &watcher{pace: usual, gpu: "gpu0", first: func() {}, log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		sources: []source{driver, other}, observe: func(r admission.Reading) { last = r }}
	if w.sample(t.Context(), false) || !strings.Contains(last.Err.Error(), "the driver") {
		t.Errorf("got %+v while neither is there, want what the likelier one says", last)
	}
	present = true
	if !w.sample(t.Context(), false) || last.Used != 1 {
		t.Errorf("got %+v of a driver that came", last)
	}
	present = false
	w.sources[1] = script(func(r *admission.Reading) error { r.Used = 2; return nil })
	w.sample(t.Context(), false)
	if last.Err == nil {
		t.Errorf("got %+v, want no other card in the place of the one that was read", last)
	}
}

func TestCardsThatAreDeclaredAreNotAsked(t *testing.T) {
	ready := false
	Sensor{Cards: map[string]Config{"gpu0": {Source: "declared"}}}.Watch(t.Context(), func(admission.Reading) { t.Error("a reading") },
		func() { ready = true })
	if !ready {
		t.Error("it is not ready")
	}
}

func TestCheckNamesWhatIsWantedInstead(t *testing.T) {
	good := Config{Device: "0", Source: "auto", Unknown: "ledger", Reserve: 1, TrialAfter: time.Second}
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"good":             {func(*Config) {}, ""},
		"a UUID":           {func(c *Config) { c.Device = "GPU-8f6ab-1"; c.Source = "nvml" }, ""},
		"a MIG UUID":       {func(c *Config) { c.Device = "MIG-GPU-8f6ab/1/0" }, ""},
		"AMD by name":      {func(c *Config) { c.Device = "card1"; c.Source = "amdgpu" }, ""},
		"AMD by directory": {func(c *Config) { c.Device = "/tmp/card/card0"; c.Source = "amdgpu" }, ""},
		"no device":        {func(c *Config) { c.Device = "" }, "device: \"\": not a card"},
		"a negative index": {func(c *Config) { c.Device = "-1" }, "device: \"-1\": not a card"},
		"AMD as nvml":      {func(c *Config) { c.Device = "card1"; c.Source = "nvml" }, "nvml knows"},
		"a UUID as amdgpu": {func(c *Config) { c.Device = "GPU-1"; c.Source = "amdgpu" }, "amdgpu knows"},
		"source":           {func(c *Config) { c.Source = "cuda" }, "source: \"cuda\": not known"},
		"memory":           {func(c *Config) { c.Memory = -1 }, "memory: -1"},
		"reserve":          {func(c *Config) { c.Reserve = -1 }, "reserve: -1"},
		"unknown":          {func(c *Config) { c.Unknown = "fail" }, "unknown: \"fail\""},
		"trial after":      {func(c *Config) { c.TrialAfter = 0 }, "trial_after: 0s"},
		"turn":             {func(c *Config) { c.Turn = -1 }, "turn: -1ns"},
		"hold for ever":    {func(c *Config) { c.Source, c.Unknown = "declared", "hold" }, "would hold its work for ever"},
	} {
		bad := good
		c.change(&bad)
		var got []string
		bad.Check(func(path, problem string) { got = append(got, path+": "+problem) })
		switch text := strings.Join(got, "\n"); {
		case c.want == "" && text != "", c.want != "" && (len(got) != 1 || !strings.Contains(text, c.want)):
			t.Errorf("%s: got %q, want %q", name, text, c.want)
		}
	}
}
