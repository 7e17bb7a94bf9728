//go:build linux && cgo

package gpu

import (
	"bufio"
	"context"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Each test runs the sensor in a process of its own: a library cannot be
// exchanged in a process that has used it.

// seen is a reading as the sensor's process prints it.
type seen struct {
	GPU, Source, Err string
	Device           string
	Total, Used      admission.Bytes
	Utilization      float64 // -1: not known
	Processes        []admission.Process
	Lost, Ready      bool
	Listed           bool // the processes are known
	Admission        books
	Measured         measured
}

func init() {
	helpers["sensor"] = func(text string) {
		var s setup
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			panic(err)
		}
		s.run()
	}
}

// setup is what a sensor's process is to do.
type setup struct {
	Cards     map[string]Config
	Hints     []Hint
	Admission bool // a controller takes the readings
	Load      bool // light requests come and go there without a pause
	// Impatient makes readings late after a moment. Else they are not on a box
	// that has better things to do either.
	Impatient bool
	// Measure is how many admissions to time, by Callers at once.
	Measure, Callers int
	Every            time.Duration // readings; 0: as often as it can
}

// run watches until its standard input ends. What it says in the log goes to
// standard error.
func (s setup) run() {
	usual = pace{every: time.Millisecond, processes: time.Millisecond, patience: time.Minute, absent: time.Millisecond}
	again = 2 * time.Millisecond
	if s.Impatient {
		usual.patience = 50 * time.Millisecond
	}
	if s.Every > 0 {
		usual.every, usual.absent, again = s.Every, s.Every, s.Every
	}
	hostNamespace, _ = os.Readlink("/proc/self/ns/pid")
	var mu sync.Mutex
	out := gob.NewEncoder(os.Stdout)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	var d *controller
	if s.Admission {
		d = openController(ctx)
		defer d.close()
		if s.Load {
			d.run(ctx)
		}
	}
	sensor := Sensor{Cards: s.Cards, Owners: NewOwners(s.Hints), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	sensor.Watch(ctx, func(r admission.Reading) {
		mu.Lock()
		defer mu.Unlock()
		s := seen{GPU: r.GPU, Device: r.Device, Source: r.Source, Total: r.Total, Used: r.Used, Processes: r.Processes, Lost: r.Lost,
			Listed: r.Processes != nil}
		if s.Utilization = -1; r.Utilization != nil {
			s.Utilization = *r.Utilization
		}
		if r.Err != nil {
			s.Err = r.Err.Error()
		}
		if d != nil {
			s.Admission = d.see(r)
		}
		out.Encode(s)
	}, func() {
		mu.Lock()
		out.Encode(seen{Ready: true})
		mu.Unlock()
		if s.Measure > 0 {
			m := d.measure(ctx, s.Measure, s.Callers)
			mu.Lock()
			defer mu.Unlock()
			out.Encode(seen{Measured: m})
		}
	})
}

// driverLibrary compiles the fake driver and gives the directory it is in.
var driverLibrary = sync.OnceValues(func() (string, error) { return compileDriver() })
var oldDriverLibrary = sync.OnceValues(func() (string, error) { return compileDriver("-DOLD", "-DLISTS=1") })

func compileDriver(flags ...string) (string, error) {
	directory, err := os.MkdirTemp("", "driver")
	if err != nil {
		return "", err
	}
	after = append(after, func() { os.RemoveAll(directory) })
	arguments := append(flags, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,"+library,
		"-o", filepath.Join(directory, library), "testdata/driver.c")
	if out, err := exec.Command("cc", arguments...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w: %s", err, out)
	}
	return directory, nil
}

// sensor is a process that reads the cards of a fake driver.
type sensor struct {
	t        testing.TB
	state    string
	readings *gob.Decoder
	log      *log   // complete after finish
	finish   func() // ends the process
}

// log is what a process wrote to its standard error.
type log struct {
	mu    sync.Mutex
	lines []string
}

func (l *log) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// start starts a sensor of gpu0 with a driver from directory, empty: there is
// none.
func start(t *testing.T, directory string, c Config, state ...string) *sensor {
	t.Helper()
	return startAll(t, directory, setup{Cards: map[string]Config{"gpu0": c}}, state...)
}

func startAll(t testing.TB, directory string, do setup, state ...string) *sensor {
	t.Helper()
	s := &sensor{t: t, state: filepath.Join(t.TempDir(), "state"), log: new(log)}
	s.set(state...)
	text, err := json.Marshal(do)
	must(t, err)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "GPU_TEST_PROCESS=sensor "+string(text), "FAKE_CARDS="+s.state, "LD_LIBRARY_PATH="+directory,
		"GORACE=atexit_sleep_ms=0")
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	notes, err := c.StderrPipe()
	must(t, err)
	must(t, c.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(notes); lines.Scan(); {
			s.log.mu.Lock()
			s.log.lines = append(s.log.lines, lines.Text())
			s.log.mu.Unlock()
		}
	}()
	s.finish = sync.OnceFunc(func() {
		s.set("cards 0") // nothing hangs any more
		in.Close()
		io.Copy(io.Discard, out)
		<-read
		if err := c.Wait(); err != nil {
			t.Errorf("the sensor's process: %v: %s", err, strings.Join(s.log.lines, "\n"))
		}
	})
	t.Cleanup(s.finish)
	s.readings = gob.NewDecoder(out)
	return s
}

// set replaces what the driver says.
func (s *sensor) set(state ...string) {
	s.t.Helper()
	next := s.state + ".next"
	must(s.t, os.WriteFile(next, []byte(strings.Join(state, "\n")+"\n"), 0o644))
	must(s.t, os.Rename(next, s.state))
}

// enough is how many readings to wait for what must come.
const enough = 5000

func (s *sensor) next() seen {
	s.t.Helper()
	var r seen
	if err := s.readings.Decode(&r); err != nil {
		s.t.Fatalf("the readings end: %v", err)
	}
	return r
}

// until reads on to the first reading that is wanted.
func (s *sensor) until(wanted func(seen) bool) seen {
	s.t.Helper()
	var last seen
	for range enough {
		r := s.next()
		if r.Ready {
			continue
		}
		if wanted(r) {
			return r
		}
		last = r
	}
	s.t.Fatalf("it never came; the last one: %+v", last)
	return last
}

func (s *sensor) untilReady() {
	s.t.Helper()
	for range enough {
		if s.next().Ready {
			return
		}
	}
	s.t.Fatal("it is never ready")
}

func (s *sensor) untilError(part string) seen {
	s.t.Helper()
	return s.until(func(r seen) bool { return strings.Contains(r.Err, part) })
}

func (s *sensor) untilUsed(used admission.Bytes) seen {
	s.t.Helper()
	return s.until(func(r seen) bool { return r.Err == "" && r.Used == used })
}

func modern(t testing.TB) string { return compiledFor(t, driverLibrary) }

func compiledFor(t testing.TB, get func() (string, error)) string {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("no C compiler to make a driver with")
	}
	directory, err := get()
	must(t, err)
	return directory
}

var auto = Config{Device: "0", Source: "auto", Unknown: "ledger"}

var gpu0 = map[string]Config{"gpu0": auto}

// card0 is a card of 48 GiB, of which the driver keeps one.
func card0(more ...string) []string {
	return append(slices.Clone(more), "cards 1", "0.uuid GPU-aaaa", "0.name Test 48", "0.total 51539607552", "0.reserved 1073741824",
		"0.used 4294967296")
}
