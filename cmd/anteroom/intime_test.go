package main

import (
	"sync"
	"testing"
	"time"
)

// inTime plays a story in real time, so many times faster than the box, and again at a
// quarter of that where it came out wrong and the machine did not keep up: where timers
// were late by more than a second of the box. play gives what was wrong.
func inTime(t *testing.T, speed float64, play func(speed float64) (wrong []string)) {
	t.Helper()
	for ; ; speed /= 4 {
		late := lateness()
		wrong := play(speed)
		by := late()
		if len(wrong) > 0 && speed > 1 && by.Seconds()*speed > 1 {
			t.Logf("at %g times the speed timers were late by %v: %q", speed, by, wrong)
			continue
		}
		for _, text := range wrong {
			t.Error(text)
		}
		return
	}
}

// lateness watches timers until the result is called, which says by how much the latest
// was late.
func lateness() func() time.Duration {
	const every = 5 * time.Millisecond
	stop := make(chan struct{})
	var most time.Duration
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			began := time.Now()
			select {
			case <-stop:
				return
			case <-time.After(every):
				most = max(most, time.Since(began)-every)
			}
		}
	})
	return func() time.Duration {
		close(stop)
		watching.Wait()
		return most
	}
}
