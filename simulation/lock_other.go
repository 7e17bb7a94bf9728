//go:build !unix

package simulation

import (
	"errors"
	"os"
)

// errNoLocks is why processes cannot share a simulated card here.
var errNoLocks = errors.New("this system has no locks of files, which processes that share a card need: want Linux, macOS or BSD, or one process")

func lock(*os.File) error    { return errNoLocks }
func tryLock(*os.File) error { return errNoLocks }
func unlock(*os.File) error  { return errNoLocks }

func lockedElsewhere(*os.File) bool { return false }
