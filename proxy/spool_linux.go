package proxy

import (
	"os"

	"golang.org/x/sys/unix"
)

// unnamedFile is a new file in dir that never has a name there: the kernel frees it when
// it is closed, also by the end of a process that is killed. Network file systems, for
// one, have no such files.
func unnamedFile(dir string) (*os.File, error) {
	return os.OpenFile(dir, os.O_RDWR|os.O_EXCL|unix.O_TMPFILE, 0o600)
}
