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
	Total, Used      admission.Bytes
	Processes        []admission.Process
	Lost, Ready      bool
	Listed           bool // the processes are known
}

func TestMain(m *testing.M) {
	if text := os.Getenv("GPU_TEST_CARDS"); text != "" {
		var cards map[string]Config
		if err := json.Unmarshal([]byte(text), &cards); err != nil {
			panic(err)
		}
		printReadings(cards)
		return
	}
	code := m.Run()
	for _, directory := range compiled {
		os.RemoveAll(directory)
	}
	os.Exit(code)
}

var compiled []string // where libraries are

// printReadings watches until its standard input ends. What it says in the log
// goes to standard error.
func printReadings(cards map[string]Config) {
	usual = pace{every: time.Millisecond, processes: time.Millisecond, patience: 50 * time.Millisecond, absent: time.Millisecond}
	again = 2 * time.Millisecond
	var mu sync.Mutex
	out := gob.NewEncoder(os.Stdout)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	Watch(ctx, cards, slog.New(slog.NewTextHandler(os.Stderr, nil)), func(r admission.Reading) {
		mu.Lock()
		defer mu.Unlock()
		s := seen{GPU: r.GPU, Source: r.Source, Total: r.Total, Used: r.Used, Processes: r.Processes, Lost: r.Lost, Listed: r.Processes != nil}
		if r.Err != nil {
			s.Err = r.Err.Error()
		}
		out.Encode(s)
	}, func() {
		mu.Lock()
		defer mu.Unlock()
		out.Encode(seen{Ready: true})
	})
}

// driverLibrary compiles the fake driver and gives the directory it is in.
var driverLibrary = sync.OnceValues(func() (string, error) { return compileDriver() })
var oldDriverLibrary = sync.OnceValues(func() (string, error) { return compileDriver("-DOLD") })

func compileDriver(flags ...string) (string, error) {
	directory, err := os.MkdirTemp("", "driver")
	if err != nil {
		return "", err
	}
	compiled = append(compiled, directory)
	arguments := append(flags, "-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-Wl,-soname,"+library,
		"-o", filepath.Join(directory, library), "testdata/driver.c")
	if out, err := exec.Command("cc", arguments...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w: %s", err, out)
	}
	return directory, nil
}

// sensor is a process that reads the cards of a fake driver.
type sensor struct {
	t        *testing.T
	state    string
	readings *gob.Decoder
	log      *log
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
	return startAll(t, directory, map[string]Config{"gpu0": c}, state...)
}

func startAll(t *testing.T, directory string, cards map[string]Config, state ...string) *sensor {
	t.Helper()
	s := &sensor{t: t, state: filepath.Join(t.TempDir(), "state"), log: new(log)}
	s.set(state...)
	text, err := json.Marshal(cards)
	must(t, err)
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "GPU_TEST_CARDS="+string(text), "FAKE_CARDS="+s.state, "LD_LIBRARY_PATH="+directory, "GORACE=atexit_sleep_ms=0")
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
	t.Cleanup(func() {
		s.set("cards 0") // nothing hangs any more
		in.Close()
		io.Copy(io.Discard, out)
		<-read
		if err := c.Wait(); err != nil {
			t.Errorf("the sensor's process: %v: %s", err, strings.Join(s.log.lines, "\n"))
		}
	})
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

// until reads on to the first reading that is wanted.
func (s *sensor) until(wanted func(seen) bool) seen {
	s.t.Helper()
	var last seen
	for range 20000 {
		var r seen
		if err := s.readings.Decode(&r); err != nil {
			s.t.Fatalf("the readings end: %v; the last one: %+v", err, last)
		}
		if wanted(r) {
			return r
		}
		last = r
	}
	s.t.Fatalf("it never came; the last one: %+v", last)
	return last
}

func (s *sensor) untilError(part string) seen {
	s.t.Helper()
	return s.until(func(r seen) bool { return strings.Contains(r.Err, part) })
}

func (s *sensor) untilUsed(used admission.Bytes) seen {
	s.t.Helper()
	return s.until(func(r seen) bool { return r.Err == "" && !r.Ready && r.Used == used })
}

func modern(t *testing.T) string { return compiledFor(t, driverLibrary) }

func compiledFor(t *testing.T, get func() (string, error)) string {
	t.Helper()
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("no C compiler to make a driver with")
	}
	directory, err := get()
	must(t, err)
	return directory
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var auto = Config{Device: "0", Source: "auto", Unknown: "ledger"}

// card0 is a card of 48 GiB, of which the driver keeps one.
func card0(more ...string) []string {
	return append(slices.Clone(more), "cards 1", "0.uuid GPU-aaaa", "0.name Test 48", "0.total 51539607552", "0.reserved 1073741824", "0.used 4294967296")
}

func TestWithoutADriverItGoesByTheLedgerAndSaysSoOnce(t *testing.T) {
	s := start(t, "", auto)
	for range 50 {
		if r := s.until(func(r seen) bool { return !r.Ready }); !strings.Contains(r.Err, "no driver of NVIDIA's") || r.Lost {
			t.Fatalf("got %+v", r)
		}
	}
	if n := s.log.count("going by the ledger alone"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
}

func TestIsReadyAfterTheFirstReading(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	if first := s.until(func(seen) bool { return true }); first.Ready || first.Err != "" {
		t.Errorf("got %+v before any reading", first)
	}
	s.until(func(r seen) bool { return r.Ready })
}

func TestReadsTotalAndUsedWithoutWhatTheDriverKeeps(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	r := s.untilUsed(4 * admission.GiB)
	if r.Total != 47*admission.GiB || r.Source != "nvml" || r.GPU != "gpu0" {
		t.Errorf("got %+v, want a total of 47 GiB", r)
	}
}

func TestAnOldDriverCountsItsOwnShareAsUsed(t *testing.T) {
	s := start(t, compiledFor(t, oldDriverLibrary), auto, card0("0.compute 7=1024")...)
	r := s.untilUsed(5 * admission.GiB)
	if r.Total != 48*admission.GiB {
		t.Errorf("got %+v, want a total of 48 GiB", r)
	}
	if !r.Listed || len(r.Processes) != 1 || r.Processes[0].Used != 1024 {
		t.Errorf("got the processes %+v", r.Processes)
	}
}

func TestTakesUpADriverThatComesAndSurvivesOneThatGoes(t *testing.T) {
	s := start(t, modern(t), auto, card0("init 9")...) // the kernel module is not loaded
	s.untilError("modprobe")
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
	s.set(card0("0.memory 1", "init 9")...) // unloaded under our feet
	s.untilError("modprobe")
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestNamesTheCureOfWhatKeepsADriverFromOpening(t *testing.T) {
	for code, cure := range map[int]string{18: "reboot", 4: "/dev/nvidia", 999: "container"} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			s := start(t, modern(t), auto, card0(fmt.Sprintf("init %d", code))...)
			s.untilError(cure)
			s.set(card0()...)
			s.untilUsed(4 * admission.GiB)
		})
	}
}

func TestACardThatIsLostComesBack(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	s.set(card0("0.memory 15")...)
	if r := s.untilError("fell off the bus"); !r.Lost {
		t.Errorf("got %+v, want it lost", r)
	}
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestOneCardsLossLeavesTheOther(t *testing.T) {
	two := func(more ...string) []string {
		return append(card0(more...), "cards 2", "1.uuid GPU-bbbb", "1.name Test 24", "1.total 25769803776", "1.used 1073741824")
	}
	two0 := func(more ...string) []string { return append([]string{"cards 2"}, two(more...)...) }
	s := startAll(t, modern(t), map[string]Config{"gpu0": auto, "gpu1": {Device: "1", Source: "nvml"}}, two0()...)
	s.untilUsed(admission.GiB)
	s.set(two0("0.memory 15")...)
	s.until(func(r seen) bool { return r.GPU == "gpu0" && r.Lost })
	for range 20 {
		if r := s.until(func(r seen) bool { return r.GPU == "gpu1" }); r.Err != "" || r.Used != admission.GiB {
			t.Fatalf("got %+v of the other", r)
		}
	}
}

func TestACardIsKnownByItsUUIDAfterAReorder(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	swapped := []string{"cards 2", "0.uuid GPU-zzzz", "0.total 8589934592", "0.used 7", "1.uuid GPU-aaaa", "1.total 51539607552", "1.used 5368709120"}
	s.set(append(swapped, "0.memory 1")...) // the driver restarts
	s.untilUsed(5 * admission.GiB)
}

func TestASharedMemoryCardReadsTheSystems(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.memory 3")...)
	r := s.until(func(r seen) bool { return r.Total > 0 })
	var line string
	text, err := os.ReadFile("/proc/meminfo")
	must(t, err)
	for l := range strings.Lines(string(text)) {
		if strings.HasPrefix(l, "MemTotal:") {
			line = l
		}
	}
	if want := fmt.Sprintf("%d kB", int64(r.Total)>>10); !strings.Contains(line, want) {
		t.Errorf("got a total of %s, want %s", want, line)
	}
}

func TestADividedCardAsksForAnInstance(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.mig 1", "0.memory 3")...)
	s.untilError("MIG instances")
	s = start(t, modern(t), auto, card0("0.memory 4")...)
	s.untilError("want the instance's UUID")
}

func TestReadsAnInstanceByItsUUID(t *testing.T) {
	s := start(t, modern(t), Config{Device: "MIG-1234", Source: "nvml"},
		"cards 2", "0.uuid GPU-aaaa", "0.memory 3", "0.mig 1", "1.uuid MIG-1234", "1.total 10737418240", "1.used 1073741824", "1.lists 3")
	if r := s.untilUsed(admission.GiB); r.Total != 10*admission.GiB || r.Listed {
		t.Errorf("got %+v", r)
	}
}

func TestAWrongDeviceIsNamedWithItsCure(t *testing.T) {
	s := start(t, modern(t), Config{Device: "3", Source: "nvml"}, card0()...)
	s.untilError("there is no card 3: the driver shows 1")
	s = start(t, modern(t), Config{Device: "GPU-nope", Source: "nvml"}, card0()...)
	s.untilError("does not show GPU-nope")
}

func TestACallThatHangsIsReportedAndItsReturnToo(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	s.set(card0("hang 1")...)
	s.untilError("does not answer")
	s.untilError("does not answer") // again and again, not once
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestADriverThatHangsAtItsOpeningHoldsUpNobody(t *testing.T) {
	s := start(t, modern(t), auto, card0("hang 1")...)
	s.until(func(r seen) bool { return r.Ready })
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestFlappingDoesNotFillTheLog(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	for range 20 {
		s.set(card0("0.memory 999")...)
		s.untilError("container")
		s.set(card0()...)
		s.untilUsed(4 * admission.GiB)
	}
	// A state must have lasted for some readings to be said; at this pace some do.
	if n := s.log.count("msg="); n > 45 {
		t.Errorf("the log has %d lines for 40 changes", n)
	}
}

func TestAbsurdFiguresAreNoFigures(t *testing.T) {
	s := start(t, modern(t), auto, "cards 1", "0.uuid GPU-aaaa", "0.total 18446744073709551615", "0.used 5")
	if r := s.until(func(r seen) bool { return r.GPU != "" }); r.Total > 0 {
		t.Errorf("got %+v, want a total that the desk throws away", r)
	}
}

func TestNamesTheProcessesOnACard(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.compute 10=4096,11=-1,12=1", "0.graphics 12=8192,13=1")...)
	r := s.until(func(r seen) bool { return len(r.Processes) > 0 })
	slices.SortFunc(r.Processes, func(a, b admission.Process) int { return a.PID - b.PID })
	want := []admission.Process{{PID: 10, Name: "process-10", Used: 4096}, {PID: 11, Name: "process-11", Used: -1},
		{PID: 12, Name: "process-12", Used: 8192}, {PID: 13, Name: "process-13", Used: 1}}
	if !slices.Equal(r.Processes, want) {
		t.Errorf("got %+v, want %+v", r.Processes, want)
	}
}

func TestProcessesThatTheDriverHidesAreUnknownAndNotNone(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.lists 3")...)
	if r := s.untilUsed(4 * admission.GiB); r.Listed {
		t.Errorf("got %+v, want nil", r.Processes)
	}
}

func TestALibraryThatIsNotNVIDIAsDoesNotEndTheProcess(t *testing.T) {
	modern(t)
	directory := t.TempDir()
	source := filepath.Join(directory, "empty.c")
	must(t, os.WriteFile(source, []byte("int nothing;\n"), 0o644))
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", filepath.Join(directory, library), source).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v: %s", err, out)
	}
	s := start(t, directory, auto)
	s.untilError("not NVIDIA's library")
}
