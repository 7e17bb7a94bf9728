//go:build unix

package backend

import (
	"os"
	"os/exec"
	"syscall"
)

// killGroup makes a command that has not started yet the head of a process group,
// all of which is killed when the command's context ends.
func killGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if err == syscall.ESRCH {
			return os.ErrProcessDone
		}
		return err
	}
}
