//go:build unix

package proxy

import (
	"os"
	"syscall"
)

// again is a second handle of an open file, which is closed by itself.
func again(file *os.File) (*os.File, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, failed := -1, error(nil)
	err = raw.Control(func(of uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if fd, failed = syscall.Dup(int(of)); failed == nil {
			syscall.CloseOnExec(fd)
		}
	})
	if err != nil || failed != nil {
		return nil, os.NewSyscallError("dup", failed)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}
