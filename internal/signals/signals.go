// Package signals takes the signals that end or reload a process as early as a
// package of Go can: when it is initialised, before the libraries whose
// initialisation takes milliseconds. It imports none of them, for packages are
// initialised when what they import is, and among those in order of their paths.
package signals

import (
	"os"
	"os/signal"
	"syscall"
)

var (
	ends    = make(chan os.Signal, 2)
	hangups = make(chan os.Signal, 1)
)

func init() {
	signal.Notify(ends, syscall.SIGTERM, os.Interrupt)
	signal.Notify(hangups, syscall.SIGHUP)
}

// Ends has SIGTERM and SIGINT since the process began. A process that takes neither
// these nor Hangups calls Release.
func Ends() <-chan os.Signal { return ends }

// Hangups has SIGHUP since the process began.
func Hangups() <-chan os.Signal { return hangups }

// Release gives the signals back what they do to any process, and does that at once
// where one has come.
func Release() {
	signal.Stop(ends)
	signal.Stop(hangups)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return
	}
	for {
		select {
		case which := <-ends:
			self.Signal(which)
		case which := <-hangups:
			self.Signal(which)
		default:
			return
		}
	}
}
