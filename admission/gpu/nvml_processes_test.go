//go:build linux && cgo

package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

func (s *sensor) untilListed() []admission.Process {
	s.t.Helper()
	list := s.until(func(r seen) bool { return len(r.Processes) > 0 }).Processes
	slices.SortFunc(list, func(a, b admission.Process) int { return a.PID - b.PID })
	return list
}

func TestNamesTheProcessesOnACard(t *testing.T) {
	s := start(t, modern(t), auto, card0("0.compute 10=4096,11=-1,12=1,15=-1", "0.graphics 12=8192,13=1,15=-1,11=7")...)
	want := []admission.Process{{PID: 10, Name: "process-10", Used: 4096}, {PID: 11, Name: "process-11", Used: 7},
		{PID: 12, Name: "process-12", Used: 8192}, {PID: 13, Name: "process-13", Used: 1}, {PID: 15, Name: "process-15", Used: -1}}
	if got := s.untilListed(); !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestProcessesThatTheDriverHidesAreUnknownAndNotNone(t *testing.T) {
	for name, c := range map[string]struct {
		state  []string
		listed bool
	}{
		"there are none":              {nil, true},
		"no permission":               {[]string{"0.compute.code 4", "0.graphics.code 4"}, false},
		"not found":                   {[]string{"0.compute.code 6", "0.graphics.code 6"}, false},
		"no permission for one list":  {[]string{"0.compute.code 4", "0.graphics 13=1"}, false},
		"nor for the other":           {[]string{"0.compute 13=1", "0.graphics.code 4"}, false},
		"neither list is supported":   {[]string{"0.compute.code 3", "0.graphics.code 3"}, false},
		"a card that draws nothing":   {[]string{"0.compute 13=1", "0.graphics.code 3"}, true},
		"a card that cannot be asked": {[]string{"0.compute.code 999"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, modern(t), auto, card0(c.state...)...)
			for range 10 {
				s.untilUsed(4 * admission.GiB) // the totals go on
			}
			for range 10 {
				if r := s.untilUsed(4 * admission.GiB); r.Listed && !c.listed {
					t.Fatalf("got the processes %+v, want nil", r.Processes)
				}
			}
			if c.listed {
				s.until(func(r seen) bool { return r.Listed })
			}
		})
	}
}

func TestDriversThatHaveOtherVersionsOfTheListsAreAskedForThose(t *testing.T) {
	for version := range 3 {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			modern(t)
			directory, err := compileDriver(fmt.Sprintf("-DLISTS=%d", version))
			must(t, err)
			s := start(t, directory, auto, card0("0.compute 10=4096,11=1", "0.graphics 12=8192")...)
			if version == 0 {
				for range 10 {
					if r := s.untilUsed(4 * admission.GiB); r.Listed {
						t.Fatalf("got %+v of a driver that has no lists", r.Processes)
					}
				}
				return
			}
			want := []admission.Process{{PID: 10, Name: "process-10", Used: 4096}, {PID: 11, Name: "process-11", Used: 1},
				{PID: 12, Name: "process-12", Used: 8192}}
			if got := s.untilListed(); !slices.Equal(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestTheKernelNamesWhatTheDriverDoesNot(t *testing.T) {
	self, err := os.ReadFile("/proc/self/comm")
	must(t, err)
	want := []admission.Process{{PID: os.Getpid(), Name: strings.TrimSpace(string(self)), Used: 1}, {PID: 1 << 30, Used: 1}}
	state := fmt.Sprintf("0.compute %d=1,%d=1", os.Getpid(), 1<<30)
	for name, directory := range map[string]string{"refuses": modern(t), "lacks the call": compiledFor(t, oldDriverLibrary)} {
		s := start(t, directory, auto, card0(state, "names 6")...)
		if got := s.untilListed(); !slices.Equal(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestANameIsAskedForOnceAsLongAsItsProcessLives(t *testing.T) {
	calls := filepath.Join(t.TempDir(), "calls")
	s := start(t, modern(t), auto, card0("calls "+calls, fmt.Sprintf("0.compute %d=1", os.Getpid()))...)
	for range 10 {
		s.untilListed()
	}
	s.finish()
	text, err := os.ReadFile(calls)
	must(t, err)
	if names, lists := strings.Count(string(text), "name\n"), strings.Count(string(text), "compute\n"); names != 1 || lists < 10 {
		t.Errorf("the driver was asked for %d names and %d lists, want 1 and 10 or more", names, lists)
	}
}

func TestProcessesComeWithWhoseTheyAre(t *testing.T) {
	flux, _ := begin(t, os.Args[0], engine{Name: "flux", Listen: anyPort, Start: []engine{{Name: "worker"}}})
	do := setup{Cards: gpu0, Hints: []Hint{{Backend: "flux", Replica: 2, Address: flux["flux"].Address}}}
	s := startAll(t, modern(t), do, card0(fmt.Sprintf("0.compute %d=4096,%d=1", flux["worker"].PID, os.Getpid()))...)
	list := s.untilListed()
	slices.SortFunc(list, func(a, b admission.Process) int { return int(b.Used - a.Used) })
	if p := list[0]; p.Backend != "flux" || p.Replica != 2 || p.Used != 4096 {
		t.Errorf("got %+v of the backend's", p)
	}
	if p := list[1]; p.Backend != "" {
		t.Errorf("got %+v of a process that is not ours", p)
	}
}
