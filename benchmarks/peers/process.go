package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server on one core.
type process struct {
	cmd *exec.Cmd
	log string
}

// start runs a command on a core and waits until it accepts connections at address.
func start(core int, dir, name, address string, env []string, args ...string) (*process, error) {
	cmd := exec.Command("taskset", append([]string{"-c", strconv.Itoa(core)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Dir = dir
	p := &process{cmd, filepath.Join(dir, name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// It ends with this program, whatever becomes of that.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			return p, c.Close()
		}
		if time.Now().After(end) || !p.alive() {
			p.stop()
			said, _ := os.ReadFile(p.log)
			return nil, fmt.Errorf("%s does not listen on %s: %v\n%s", name, address, err, said)
		}
	}
}

func (p *process) alive() bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	return err == nil && !bytes.Contains(stat, []byte(") Z "))
}

func (p *process) stop() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// cpu is the processor time that the process has used, with the kernel's for it, by
// the kernel's nanosecond counts of its threads. Time of threads that have ended is
// lost; none of the servers ends threads.
func (p *process) cpu() (sum time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.cmd.Process.Pid))
	for _, t := range threads {
		text, err := os.ReadFile(t)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		ran, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(ran, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}

// memory is what the process has resident, in kilobytes: its program's pages too.
func (p *process) memory() float64 { return p.status("VmRSS:") }

// status is a figure of the kernel's, in kilobytes.
func (p *process) status(name string) float64 {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(status), name)
	n, _ := strconv.ParseFloat(strings.Fields(rest + " 0")[0], 64)
	return n
}

// freePort is a port of loopback on which nothing listens.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}
