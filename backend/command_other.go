//go:build !unix

package backend

import "os/exec"

// killGroup changes nothing: this system has no process groups, and the command
// alone is killed when its context ends.
func killGroup(*exec.Cmd) {}
