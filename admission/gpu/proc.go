package gpu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// proc is where Linux shows its processes. Elsewhere there is no such
// directory, and so no process.
const proc = "/proc"

// hostNamespace is how Linux calls the PID namespace of the host itself: the
// inode has a fixed number. NVIDIA's driver gives the host's PIDs, which in a
// container are no process's or another's.
var hostNamespace = "pid:[4026531836]"

// seesHost says whether the PIDs below root are the host's.
func seesHost(root string) bool {
	namespace, err := os.Readlink(filepath.Join(root, "self", "ns", "pid"))
	return err == nil && namespace == hostNamespace
}

// process is one that runs.
type process struct {
	pid, parent, group int
	// started tells it from a later one with the same PID, in ticks since the
	// machine's start.
	started uint64
	name    string // of its program, cut after 15 bytes
}

// readProcess reads a process from root, a directory like /proc. It reports
// whether there is one that has not ended.
func readProcess(root string, pid int) (process, bool) {
	text, err := os.ReadFile(filepath.Join(root, strconv.Itoa(pid), "stat"))
	if err != nil {
		return process{}, false
	}
	// pid (name) state parent group ...: a name may hold anything, brackets too.
	_, rest, _ := strings.Cut(string(text), "(")
	end := strings.LastIndex(rest, ")")
	if end < 0 {
		return process{}, false
	}
	fields := strings.Fields(rest[end+1:])
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return process{}, false
	}
	p := process{pid: pid, name: rest[:end]}
	var bad [3]error
	p.parent, bad[0] = strconv.Atoi(fields[1])
	p.group, bad[1] = strconv.Atoi(fields[2])
	p.started, bad[2] = strconv.ParseUint(fields[19], 10, 64)
	return p, bad == [3]error{}
}

// named says whether a process runs a program of that name. The kernel knows a
// name that the process may have given itself, and the file that it runs.
func (p process) named(root, name string) bool {
	if p.name == name || len(p.name) == 15 && strings.HasPrefix(name, p.name) {
		return true
	}
	file, err := os.Readlink(filepath.Join(root, strconv.Itoa(p.pid), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(file, " (deleted)")) == name
}
