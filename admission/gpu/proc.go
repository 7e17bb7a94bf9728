package gpu

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/prometheus/procfs"
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

// process is one that runs. Its PID and Starttime tell it from a later one with the same PID.
type process procfs.ProcStat

// readProcess reads a process from root, a directory like /proc. It reports
// whether there is one that has not ended.
func readProcess(root string, pid int) (process, bool) {
	fs, err := procfs.NewFS(root)
	if err != nil {
		return process{}, false
	}
	of, err := fs.Proc(pid)
	if err != nil {
		return process{}, false
	}
	p, err := of.Stat()
	return process(p), err == nil && p.State != "Z" && p.State != "X"
}

// named says whether a process runs a program of that name. The kernel knows a
// name that the process may have given itself, and the file that it runs.
func (p process) named(root, name string) bool {
	if p.Comm == name || len(p.Comm) == 15 && strings.HasPrefix(name, p.Comm) { // it is cut after 15 bytes
		return true
	}
	file, err := os.Readlink(filepath.Join(root, strconv.Itoa(p.PID), "exe"))
	return err == nil && filepath.Base(strings.TrimSuffix(file, " (deleted)")) == name
}
