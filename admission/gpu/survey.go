package gpu

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// lookWithin is how long a driver may take for one look.
const lookWithin = 3 * time.Second

// Look reads a card once, with its processes, and waits three seconds for the driver at
// the most.
func Look(c Config) (admission.Reading, error) {
	done := make(chan admission.Reading, 1)
	go func() {
		var absent []error
		for _, s := range c.sources() {
			r := admission.Reading{At: time.Now()}
			if r.Err = s.read(&r, true); !errors.Is(r.Err, errAbsent) {
				done <- r
				return
			}
			absent = append(absent, r.Err)
		}
		if len(absent) == 0 {
			absent = append(absent, fmt.Errorf("gpu: source %q is never read", c.Source))
		}
		done <- admission.Reading{At: time.Now(), Err: noCard(absent)}
	}()
	select {
	case r := <-done:
		return r, r.Err
	case <-time.After(lookWithin):
		return admission.Reading{}, fmt.Errorf("gpu: the driver does not answer within %v", lookWithin)
	}
}

// Listening is an address at which a process of this machine takes connections.
type Listening struct {
	At   netip.AddrPort
	PID  int    // 0: it is not known whose it is
	Name string // of its program
}

// Listeners are the addresses of this machine at which connections are taken, by port.
// Whose they are is known of the processes that the caller may look at.
func Listeners() []Listening {
	all := listeners("/proc")
	inodes := make(map[string]bool)
	for _, l := range all {
		inodes[l.inode] = true
	}
	of := holders("/proc", inodes)
	var found []Listening
	for _, l := range all {
		one := Listening{At: l.at}
		if p := of[l.inode]; len(p) > 0 {
			one.PID, one.Name = p[0].PID, p[0].Comm
		}
		found = append(found, one)
	}
	slices.SortFunc(found, func(a, b Listening) int { return int(a.At.Port()) - int(b.At.Port()) })
	return found
}
