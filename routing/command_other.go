//go:build !unix

package routing

import "os/exec"

// killGroup changes nothing: this system has no process groups, and the command
// alone is killed when its context ends.
func killGroup(*exec.Cmd) {}
