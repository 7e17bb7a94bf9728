//go:build linux && cgo

package gpu

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestWithoutADriverItGoesByTheLedgerAndSaysSoOnce(t *testing.T) {
	s := start(t, "", auto)
	for range 50 {
		if r := s.until(func(seen) bool { return true }); !strings.Contains(r.Err, "no driver of NVIDIA's") || r.Lost {
			t.Fatalf("got %+v", r)
		}
	}
	if n := s.log.count("going by the ledger alone"); n != 1 {
		t.Errorf("the log says it %d times, want once", n)
	}
}

func TestIsReadyAfterTheFirstReading(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	if first := s.next(); first.Ready || first.Err != "" {
		t.Fatalf("got %+v before any reading", first)
	}
	s.untilReady()
}

func TestReadsTotalAndUsedWithoutWhatTheDriverKeeps(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	r := s.untilUsed(4 * admission.GiB)
	if r.Total != 47*admission.GiB || r.Source != "nvml" || r.GPU != "gpu0" {
		t.Errorf("got %+v, want a total of 47 GiB", r)
	}
}

func TestReadsTheShareOfTimeInWhichACardComputes(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.busy 37")...)
	if r := s.untilUsed(4 * admission.GiB); r.Utilization != 0.37 {
		t.Errorf("got %v, want 0.37", r.Utilization)
	}
	s = start(t, modern(t), auto, card0()...)
	if r := s.untilUsed(4 * admission.GiB); r.Utilization != -1 {
		t.Errorf("got %v of a card that does not tell, want that it is not known", r.Utilization)
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

func TestADriverThatIsReplacedUnderOurFeetIsNamedAndTakenUp(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	s.set(card0("0.memory 18", "init 18")...)
	s.untilError("want a reboot")
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestInsufficientPermissionIsInTheLogWithItsCure(t *testing.T) {
	for state, cure := range map[string]string{"init 4": "want access to /dev/nvidia*", "0.memory 4": "want the instance's UUID as device",
		"0.handle 4": "want access to /dev/nvidia*"} {
		s := start(t, modern(t), auto, card0(state)...)
		for range 20 {
			s.untilError(cure)
		}
		s.finish()
		if n := s.log.count(cure); n != 1 {
			t.Errorf("%s: the log says %q %d times, want once", state, cure, n)
		}
	}
}

func TestACardThatIsLostComesBack(t *testing.T) {
	s := start(t, modern(t), auto, card0()...)
	s.untilUsed(4 * admission.GiB)
	for code, cure := range map[int]string{15: "fell off the bus", 16: "--gpu-reset"} {
		s.set(card0(fmt.Sprintf("0.memory %d", code))...)
		if r := s.untilError(cure); !r.Lost {
			t.Errorf("got %+v, want it lost", r)
		}
		s.set(card0()...)
		s.untilUsed(4 * admission.GiB)
	}
}

func TestOneCardsLossLeavesTheOther(t *testing.T) {
	two := func(more ...string) []string {
		return append(card0(more...), "cards 2", "1.uuid GPU-bbbb", "1.name Test 24", "1.total 25769803776", "1.used 1073741824")
	}
	two0 := func(more ...string) []string { return append([]string{"cards 2"}, two(more...)...) }
	s := startAll(t, modern(t), setup{Cards: map[string]Config{"gpu0": auto, "gpu1": {Device: "1", Source: "nvml"}}}, two0()...)
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
	if r := s.untilUsed(5 * admission.GiB); r.Device != "GPU-aaaa" {
		t.Errorf("the device is %q", r.Device)
	}
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

func TestNoOtherErrorReadsTheSystems(t *testing.T) {
	for _, code := range []int{1, 4, 9, 15, 16, 18, 999} {
		s := start(t, modern(t), auto, card0(fmt.Sprintf("0.memory %d", code))...)
		for range 20 {
			if r := s.until(func(seen) bool { return true }); r.Err == "" || r.Total != 0 || r.Used != 0 {
				t.Fatalf("%d: got %+v, want an error and no figures", code, r)
			}
		}
		s.finish()
	}
}

func TestAnOldDriverOfASharedMemoryCardIsNotAskedForWhatItLacks(t *testing.T) {
	s := start(t, compiledFor(t, oldDriverLibrary), auto, card0("0.memory 3")...)
	s.until(func(r seen) bool { return r.Total > 0 })
}

func TestADividedCardAsksForAnInstance(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.mig 1", "0.memory 3")...)
	s.untilError("MIG instances")
	s = start(t, modern(t), auto, card0("0.memory 4")...)
	s.untilError("want the instance's UUID")
}

func TestReadsAnInstanceByItsUUID(t *testing.T) {
	s := start(t, modern(t), Config{Device: "MIG-1234", Source: "nvml"},
		"cards 2", "0.uuid GPU-aaaa", "0.memory 3", "0.mig 1", "1.uuid MIG-1234", "1.total 10737418240", "1.used 1073741824",
		"1.compute.code 3", "1.graphics.code 3")
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
	s := startAll(t, modern(t), setup{Cards: gpu0, Impatient: true}, card0()...)
	s.untilUsed(4 * admission.GiB)
	s.set(card0("hang 1")...)
	s.untilError("does not answer")
	s.untilError("does not answer") // again and again, not once
	s.set(card0()...)
	s.untilUsed(4 * admission.GiB)
}

func TestADriverThatHangsAtItsOpeningHoldsUpNobody(t *testing.T) {
	s := startAll(t, modern(t), setup{Cards: gpu0, Impatient: true}, card0("hang 1")...)
	s.untilReady()
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
