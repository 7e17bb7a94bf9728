// Package wait has what tests wait with for other goroutines and other processes.
// Nothing but the timeout of the tests bounds a wait: a machine may be slow.
package wait

import (
	"testing"
	"time"
)

// Until returns once is says so; it asks every millisecond. Where the tests are about
// to time out it fails the test and names what it has waited for.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	var over <-chan time.Time
	if x, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := x.Deadline(); ok {
			over = time.After(time.Until(deadline) - 5*time.Second)
		}
	}
	for tick := time.Tick(time.Millisecond); !is(); {
		select {
		case <-tick:
		case <-over:
			t.Fatalf("the tests are about to time out, and still not: %s", what)
		}
	}
}
