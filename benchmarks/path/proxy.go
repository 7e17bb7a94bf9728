package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proxy is one running `anteroom serve`.
type proxy struct {
	world   *world
	variant string
	index   int // of its binary
	rounds  []used

	command    *exec.Cmd
	folder     string
	url, admin string
}

// used is what requests cost, of each. CPU is in microseconds.
type used struct {
	cpu, allocations, bytes, reads, writes, lost float64
	connections                                  float64 // to the backend
}

// start runs a binary with a configuration, in which LISTEN and ADMIN stand for
// addresses, until it listens there.
func start(binary, configuration string) (*proxy, error) {
	folder, err := os.MkdirTemp("", "anteroom-path-*")
	if err != nil {
		return nil, err
	}
	p := &proxy{folder: folder}
	if p.url, err = free(); err != nil {
		return nil, err
	}
	if p.admin, err = free(); err != nil {
		return nil, err
	}
	file := filepath.Join(folder, "anteroom.yaml")
	configuration = strings.NewReplacer("LISTEN", p.url, "ADMIN", p.admin).Replace(configuration)
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		return nil, err
	}
	var logs bytes.Buffer // of a start that fails; later lines go to a pipe that is read
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.command = exec.Command(binary, "serve", "-c", file)
	p.command.Stderr = write
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	write.Close()
	go func() {
		io.CopyN(&logs, read, 4<<10)
		io.Copy(io.Discard, read)
	}()
	for range 300 {
		if c, err := net.Dial("tcp", p.url); err == nil {
			c.Close()
			return p, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.stop()
	return nil, fmt.Errorf("%s does not listen after 30 s: %s", binary, logs.Bytes())
}

// free is an address on which nothing listens.
func free() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (p *proxy) stop() {
	p.command.Process.Signal(syscall.SIGTERM)
	p.command.Wait()
	os.RemoveAll(p.folder)
}

// counters are what it has used so far.
func (p *proxy) counters() (used, error) {
	u, err := p.metrics()
	if err != nil {
		return u, err
	}
	if u.cpu, err = p.cpu(); err != nil {
		return u, err
	}
	u.reads, u.writes, err = p.calls()
	return u, err
}

// cpu is its processor time in microseconds. The kernel counts it by the nanosecond
// for each thread that lives.
func (p *proxy) cpu() (sum float64, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.command.Process.Pid))
	if err != nil || len(threads) == 0 {
		return 0, fmt.Errorf("no threads of process %d are in /proc", p.command.Process.Pid)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, err := strconv.ParseFloat(first, 64)
		if err != nil {
			return 0, err
		}
		sum += ns / 1000
	}
	return sum, nil
}

// calls are its calls of read and write.
func (p *proxy) calls() (reads, writes float64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.command.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscanf(strings.Join(strings.Fields(string(text)), " "), "rchar: %f wchar: %f syscr: %f syscw: %f", new(float64),
		new(float64), &reads, &writes)
	return reads, writes, err
}

// metrics reads what the Go runtime and the proxy say of themselves.
func (p *proxy) metrics() (u used, err error) {
	res, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return u, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		to := map[string]*float64{"go_memstats_mallocs_total": &u.allocations, "go_memstats_alloc_bytes_total": &u.bytes,
			"anteroom_spans_dropped_total": &u.lost}[name]
		if to == nil {
			continue
		}
		if *to, err = strconv.ParseFloat(value, 64); err != nil {
			return u, err
		}
	}
	return u, nil
}

// since is what was used between two looks, of each of n requests.
func (u used) since(before used, n int) used {
	each := func(now, then float64) float64 { return (now - then) / float64(n) }
	return used{cpu: each(u.cpu, before.cpu), allocations: each(u.allocations, before.allocations), bytes: each(u.bytes, before.bytes),
		reads: each(u.reads, before.reads), writes: each(u.writes, before.writes), lost: each(u.lost, before.lost)}
}
