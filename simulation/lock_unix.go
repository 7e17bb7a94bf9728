//go:build unix

package simulation

import (
	"os"
	"syscall"
)

// lock waits for the lock of a file, which no other open file then has; tryLock
// does not wait. The lock ends with unlock, or when the file is closed.
func lock(f *os.File) error    { return flock(f, syscall.LOCK_EX) }
func tryLock(f *os.File) error { return flock(f, syscall.LOCK_EX|syscall.LOCK_NB) }
func unlock(f *os.File) error  { return flock(f, syscall.LOCK_UN) }

// lockedElsewhere says that another open file has the lock. Several may ask at once:
// what they take for it until they close the file is a shared lock.
func lockedElsewhere(f *os.File) bool { return flock(f, syscall.LOCK_SH|syscall.LOCK_NB) != nil }

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
}
