package gpu

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// machine is a directory like /proc.
type machine struct {
	t    *testing.T
	root string
}

func newMachine(t *testing.T) machine {
	m := machine{t, t.TempDir()}
	m.link(hostNamespace, "self", "ns", "pid")
	return m
}

func (m machine) link(to string, at ...string) {
	m.t.Helper()
	file := filepath.Join(append([]string{m.root}, at...)...)
	must(m.t, os.MkdirAll(filepath.Dir(file), 0o755))
	os.Remove(file)
	must(m.t, os.Symlink(to, file))
}

// runs adds a process that has the sockets of these inodes open.
func (m machine) runs(pid, parent, group, started int, name string, inodes ...int) {
	m.t.Helper()
	directory := strconv.Itoa(pid)
	write(m.t, filepath.Join(m.root, directory, "stat"),
		fmt.Sprintf("%d (%s) S %d %d %d 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 %d 1024 7%s\n", pid, name, parent, group, group, started,
			strings.Repeat(" 0", 28)))
	for i, inode := range inodes {
		m.link(fmt.Sprintf("socket:[%d]", inode), directory, "fd", strconv.Itoa(3+i))
	}
	m.link("/dev/null", directory, "fd", "0")
}

func (m machine) ends(pid int) { must(m.t, os.RemoveAll(filepath.Join(m.root, strconv.Itoa(pid)))) }

// listens replaces what listens: "127.0.0.1:8001 22455" in the kernel's words.
func (m machine) listens(sockets ...string) {
	m.t.Helper()
	tables := map[string]string{"tcp": "  sl  local_address ...\n", "tcp6": "  sl  local_address ...\n"}
	line := func(address, state, inode string) {
		table := "tcp"
		if len(address) > 16 {
			table = "tcp6"
		}
		tables[table] += fmt.Sprintf("   0: %s 00000000:0000 %s 00000000:00000000 00:00000000 00000000     0        0 %s 1 "+
			"0000000070ec058b 100 0 0 10 0\n", address, state, inode)
	}
	for _, s := range sockets {
		address, inode, _ := strings.Cut(s, " ")
		line(address, "0A", inode)
	}
	for table := range tables {
		line(map[string]string{"tcp": loopback8001, "tcp6": every8001}[table], "01", "999") // connections come last
		write(m.t, filepath.Join(m.root, "net", table), tables[table])
	}
}

// Addresses as a machine of today's byte order prints them.
const (
	loopback8001 = "0100007F:1F41"
	any8001      = "00000000:1F41"
	other8001    = "0200007F:1F41"
	loopback8002 = "0100007F:1F42"
	every8001    = "00000000000000000000000000000000:1F41"
	mapped8001   = "0000000000000000FFFF00000100007F:1F41"
	six8001      = "00000000000000000000000001000000:1F41"
)

func (m machine) owners(hints ...Hint) *Owners {
	o := NewOwners(hints)
	o.root = m.root
	return o
}

// whose says whose the processes are, in their order: "a/0 - b/1".
func whose(o *Owners, pids ...int) string {
	list := make([]admission.Process, len(pids))
	for i, pid := range pids {
		list[i].PID = pid
	}
	o.assign("", list)
	var words []string
	for _, p := range list {
		if p.Backend == "" {
			words = append(words, "-")
		} else {
			words = append(words, fmt.Sprintf("%s/%d", p.Backend, p.Replica))
		}
	}
	return strings.Join(words, " ")
}

func TestWhoIsBehindAnAddress(t *testing.T) {
	if littleEndian := parsed(loopback8001) == "127.0.0.1:8001"; !littleEndian {
		t.Skip("the tables are of another byte order")
	}
	for name, c := range map[string]struct {
		address string
		sockets []string
		want    string // whose 21 and 22 are
	}{
		"the very address":               {"127.0.0.1:8001", []string{loopback8001 + " 1"}, "a/0 -"},
		"none":                           {"127.0.0.1:8001", nil, "- -"},
		"another port":                   {"127.0.0.1:8001", []string{loopback8002 + " 1"}, "- -"},
		"another address":                {"127.0.0.1:8001", []string{other8001 + " 1"}, "- -"},
		"every address":                  {"127.0.0.1:8001", []string{any8001 + " 1"}, "a/0 -"},
		"every address of both families": {"127.0.0.1:8001", []string{every8001 + " 1"}, "a/0 -"},
		"version 4 in version 6":         {"127.0.0.1:8001", []string{mapped8001 + " 1"}, "a/0 -"},
		"the very one before every":      {"127.0.0.1:8001", []string{any8001 + " 1", loopback8001 + " 2"}, "- a/0"},
		"version 6":                      {"[::1]:8001", []string{six8001 + " 1", any8001 + " 2"}, "a/0 -"},
		"version 6 is not version 4":     {"[::1]:8001", []string{any8001 + " 1"}, "- -"},
		"localhost is both":              {"localhost:8001", []string{loopback8001 + " 1", six8001 + " 2"}, "a/0 a/0"},
		"two that share a port":          {"127.0.0.1:8001", []string{loopback8001 + " 1", loopback8001 + " 2"}, "a/0 a/0"},
		"no port":                        {"127.0.0.1", []string{loopback8001 + " 1"}, "- -"},
		"a socket file":                  {"", []string{loopback8001 + " 1"}, "- -"},
	} {
		m := newMachine(t)
		m.listens(c.sockets...)
		m.runs(21, 1, 21, 100, "one", 1)
		m.runs(22, 1, 22, 100, "two", 2)
		m.runs(23, 1, 23, 100, "client", 999)
		if got := whose(m.owners(Hint{Backend: "a", Address: c.address}), 21, 22, 23); got != c.want+" -" {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func parsed(text string) string {
	at, _ := parseAddress(text)
	return at.String()
}

func TestOddEntriesAreSkipped(t *testing.T) {
	for _, text := range []string{"", "0100007F", "0100007F:", "0100007F:11F41", "007F:1F41", "zzzzzzzz:1F41"} {
		if at, ok := parseAddress(text); ok {
			t.Errorf("%q: got %v", text, at)
		}
	}
	m := newMachine(t)
	m.runs(5, 1, 5, 7, "a) S 9 (b")
	if p, ok := readProcess(m.root, 5); !ok || p.PID != 5 || p.PPID != 1 || p.PGRP != 5 || p.Starttime != 7 || p.Comm != "a) S 9 (b" {
		t.Errorf("got %+v, %v", p, ok)
	}
	for name, text := range map[string]string{"empty": "", "cut": "5 (a) S 1 5", "no name": "5 a S 1",
		"a zombie":  "5 (a) Z 1 5 5 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 7 1 7" + strings.Repeat(" 0", 28),
		"no number": "5 (a) S x 5 5 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 7 1 7" + strings.Repeat(" 0", 28)} {
		write(t, filepath.Join(m.root, "5", "stat"), text)
		if p, ok := readProcess(m.root, 5); ok {
			t.Errorf("%s: got %+v", name, p)
		}
	}
}

func TestWhatWouldBelongToTwoBelongsToNone(t *testing.T) {
	m := newMachine(t)
	m.listens(loopback8001+" 1", loopback8002+" 2")
	m.runs(20, 1, 20, 100, "supervisor")
	m.runs(21, 20, 20, 101, "python3", 1)
	m.runs(22, 20, 20, 101, "python3", 2)
	m.runs(31, 21, 20, 102, "python3")
	m.runs(40, 1, 40, 103, "python3")
	a, b := Hint{Backend: "a", Address: "127.0.0.1:8001", Name: "python3"}, Hint{Backend: "a", Replica: 1, Address: "127.0.0.1:8002", Name: "python3"}
	// The supervisor started both; what only bears the name of both may be either's.
	if got := whose(m.owners(a, b), 20, 21, 22, 31, 40); got != "- a/0 a/1 a/0 -" {
		t.Errorf("got %s", got)
	}
	same := b
	same.Address = a.Address
	if got := whose(m.owners(a, same), 21, 31); got != "- -" {
		t.Errorf("two replicas behind one address: got %s", got)
	}
	if got := whose(m.owners(Hint{Backend: "a", PID: 21}, Hint{Backend: "b", PID: 20}), 20, 21, 22, 31); got != "b/0 a/0 b/0 a/0" {
		t.Errorf("one below the other: got %s, want the nearest", got)
	}
}

func TestAProcessThatOpensSocketsForAllBelongsToNone(t *testing.T) {
	m := newMachine(t)
	m.listens(loopback8001 + " 1")
	m.runs(1, 0, 1, 1, "init", 1)
	m.runs(9, 1, 9, 2, "systemd", 1)
	m.runs(21, 9, 21, 100, "flux", 1)
	m.runs(22, 9, 22, 100, "other")
	m.runs(23, 1, 23, 100, "other")
	if got := whose(m.owners(Hint{Backend: "a", Address: "127.0.0.1:8001"}), 1, 9, 21, 22, 23); got != "- - a/0 - -" {
		t.Errorf("got %s", got)
	}
}

func TestAPIDThatIsAnotherProcesssNowSaysNothing(t *testing.T) {
	m := newMachine(t)
	m.runs(21, 1, 21, 100, "flux")
	o := m.owners(Hint{Backend: "a", PID: 21})
	if got := whose(o, 21); got != "a/0" {
		t.Errorf("got %s", got)
	}
	m.runs(21, 1, 21, 200, "other")
	m.runs(22, 21, 21, 150, "orphan") // older than what has its parent's PID
	if got := whose(o, 21, 22); got != "- -" {
		t.Errorf("got %s of one with the same PID", got)
	}
	o.Set([]Hint{{Backend: "a", PID: 21}})
	if got := whose(o, 21, 22); got != "a/0 -" {
		t.Errorf("got %s after it was set anew", got)
	}
}

func TestAListenerThatIsNotOnTheCardHoldsNothingThere(t *testing.T) {
	m := newMachine(t)
	m.listens(loopback8001+" 1", loopback8002+" 2")
	m.runs(20, 1, 20, 50, "supervisor")
	m.runs(21, 20, 21, 100, "flux", 1)
	m.runs(22, 20, 22, 100, "vqa", 2)
	m.runs(31, 22, 22, 110, "worker")
	m.runs(40, 1, 40, 90, "Xorg")
	m.runs(41, 1, 41, 120, "python3")
	here := []string{"gpu0"}
	o := m.owners(Hint{Backend: "flux", Address: "127.0.0.1:8001", GPUs: here}, Hint{Backend: "vqa", Replica: 1, Address: "127.0.0.1:8002", GPUs: here})
	used := func(pids ...int) []admission.Process {
		list := []admission.Process{}
		for _, pid := range pids {
			list = append(list, admission.Process{PID: pid, Used: admission.GiB})
		}
		return list
	}
	for name, c := range map[string]struct {
		gpu  string
		list []admission.Process
		want string
	}{
		"nothing is on the card":              {"gpu0", used(), "flux/0 21 0B, vqa/1 22 0B"},
		"its worker is":                       {"gpu0", used(31), "vqa/1 31 1GiB, flux/0 21 0B"},
		"an older process is, of no backend":  {"gpu0", used(40), "/0 40 1GiB, flux/0 21 0B, vqa/1 22 0B"},
		"a younger one may hold its memory":   {"gpu0", used(41), "/0 41 1GiB"},
		"so may one that is not seen":         {"gpu0", used(77), "/0 77 1GiB"},
		"so may one that started it":          {"gpu0", used(20), "/0 20 1GiB"},
		"the backends are not on this card":   {"gpu1", used(), ""},
		"the driver does not list the card's": {"gpu0", nil, ""},
	} {
		all, problem := o.assign(c.gpu, c.list)
		var got []string
		for _, p := range all {
			got = append(got, fmt.Sprintf("%s/%d %d %v", p.Backend, p.Replica, p.PID, p.Used))
		}
		if text := strings.Join(got, ", "); text != c.want || problem != "" || (all == nil) != (c.list == nil) {
			t.Errorf("%s: got %q, %q, want %q", name, text, problem, c.want)
		}
	}
}

func TestTheDriversNameWillDo(t *testing.T) {
	m := newMachine(t)
	m.runs(21, 1, 21, 100, "python3")
	m.runs(22, 21, 21, 101, "python3")
	list := []admission.Process{{PID: 21, Name: "/opt/flux/bin/flux"}, {PID: 22, Name: "flux-2"}}
	m.owners(Hint{Backend: "a", Name: "flux"}).assign("", list)
	if list[0].Backend != "a" || list[1].Backend != "" {
		t.Errorf("got %+v", list)
	}
}

func TestAncestorsEnd(t *testing.T) {
	m := newMachine(t)
	m.listens(loopback8001 + " 1")
	m.runs(21, 22, 21, 100, "a", 1) // each the other's parent, as no kernel says
	m.runs(22, 21, 21, 100, "b")
	if got := whose(m.owners(Hint{Backend: "a", Address: "127.0.0.1:8001"}), 21, 22); got != "a/0 a/0" {
		t.Errorf("got %s", got)
	}
}

func TestInAContainerNothingIsKnownAndItIsSaidOnce(t *testing.T) {
	m := newMachine(t)
	m.link("pid:[4026532281]", "self", "ns", "pid")
	m.runs(21, 1, 21, 100, "flux")
	o := m.owners(Hint{Backend: "a", PID: 21, Name: "flux"})
	list := []admission.Process{{PID: 21}}
	if _, problem := o.assign("", list); !strings.Contains(problem, "--pid host") || list[0].Backend != "" {
		t.Errorf("got %q and %+v", problem, list)
	}
	if _, problem := o.assign("", list); problem != "" {
		t.Errorf("it says so again: %q", problem)
	}
	if _, problem := m.owners().assign("", list); problem != "" {
		t.Errorf("without hints: %q", problem)
	}
	var none *Owners
	if _, problem := none.assign("", list); problem != "" || list[0].Backend != "" {
		t.Errorf("without owners: %q and %+v", problem, list)
	}
}

func TestAListenerThatCannotBeSeenIsNamedWithTheCure(t *testing.T) {
	m := newMachine(t)
	synctest.Test(t, func(t *testing.T) {
		m.listens(loopback8001 + " 1")
		m.runs(21, 1, 21, 100, "flux") // its files are not shown
		o := m.owners(Hint{Backend: "a", Address: "127.0.0.1:8001"})
		list := []admission.Process{{PID: 21}}
		if _, problem := o.assign("", list); !strings.Contains(problem, "which process listens on 127.0.0.1:8001 for a: want") {
			t.Errorf("got %q", problem)
		}
		m.runs(21, 1, 21, 100, "flux", 1)
		time.Sleep(lookAgain - time.Second)
		if o.assign("", list); list[0].Backend != "" {
			t.Errorf("all files of all processes were looked at again after less than %v", lookAgain)
		}
		time.Sleep(lookEvery)
		if o.assign("", list); list[0].Backend != "a" {
			t.Errorf("it was not looked at again after %v", lookAgain)
		}
		for _, h := range []Hint{{Name: "other"}, {PID: 7}} { // there is another way to tell
			h.Backend, h.Address = "a", "127.0.0.1:8001"
			m.ends(21)
			if _, problem := m.owners(h).assign("", list); problem != "" {
				t.Errorf("%+v: got %q", h, problem)
			}
		}
	})
}

func TestASocketThatChangesHandsIsFollowedAtOnce(t *testing.T) {
	m := newMachine(t)
	synctest.Test(t, func(t *testing.T) {
		m.listens(loopback8001 + " 1")
		m.runs(21, 1, 21, 100, "starter", 1)
		m.runs(22, 1, 22, 100, "worker", 1)
		o := m.owners(Hint{Backend: "a", Address: "127.0.0.1:8001"})
		if got := whose(o, 21, 22); got != "a/0 a/0" {
			t.Errorf("got %s", got)
		}
		m.ends(22)
		m.runs(22, 1, 22, 105, "another with its PID")
		if got := whose(o, 21, 22); got != "a/0 -" {
			t.Errorf("got %s after one of them ended", got)
		}
		m.ends(21)
		m.runs(23, 1, 23, 110, "next", 1)
		if got := whose(o, 21, 22, 23); got != "- - a/0" {
			t.Errorf("got %s after they ended", got)
		}
		// A listener where there was none is seen after a moment.
		o.Set([]Hint{{Backend: "b", Address: "127.0.0.1:8002"}})
		m.runs(24, 1, 24, 120, "late", 2)
		if got := whose(o, 24); got != "-" {
			t.Errorf("got %s", got)
		}
		m.listens(loopback8002 + " 2")
		time.Sleep(lookEvery)
		if got := whose(o, 24); got != "b/0" {
			t.Errorf("got %s of one that listens now", got)
		}
	})
}
