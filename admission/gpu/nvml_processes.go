//go:build linux && cgo

package gpu

import (
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/anteroom-gpu/anteroom/admission"
)

// program is what a process is called. The PID may be another one's by the
// time of the next list, so it comes with when the process was started.
type program struct {
	started uint64
	name    string
}

// processes are those that hold memory on the card; nil: the driver does not
// say. Their PIDs are the host's, which a container may not know.
func (c *nvidiaCard) processes() []admission.Process {
	at := make(map[uint32]int)
	list := []admission.Process{}
	known := false
	for _, kind := range []struct {
		call string
		get  func() ([]nvml.ProcessInfo, nvml.Return)
	}{
		{"nvmlDeviceGetComputeRunningProcesses", c.handle.GetComputeRunningProcesses},
		{"nvmlDeviceGetGraphicsRunningProcesses", c.handle.GetGraphicsRunningProcesses},
		{"nvmlDeviceGetMPSComputeRunningProcesses", c.handle.GetMPSComputeRunningProcesses},
	} {
		if !c.driver.has(kind.call) && !c.driver.has(kind.call+"_v2") && !c.driver.has(kind.call+"_v3") {
			continue
		}
		found, code := kind.get()
		switch code {
		case nvml.SUCCESS:
			known = true
		case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND:
			continue // the card does not draw, or does not share
		default:
			return nil // those that are missing would seem to have gone
		}
		for _, p := range found {
			used := amount(p.UsedGpuMemory)
			// A process that computes and draws is in both lists, with all it has.
			if i, ok := at[p.Pid]; ok {
				list[i].Used = max(list[i].Used, used)
				continue
			}
			at[p.Pid] = len(list)
			list = append(list, admission.Process{PID: int(p.Pid), Used: used})
		}
	}
	if !known {
		return nil
	}
	c.nameAll(list)
	return list
}

// nameAll puts in what the processes are called.
func (c *nvidiaCard) nameAll(list []admission.Process) {
	names := make(map[int]program)
	ours := seesHost(proc)
	for i := range list {
		p := &list[i]
		var running process
		alive := false
		if ours {
			running, alive = readProcess(proc, p.PID)
		}
		if last, ok := c.names[p.PID]; ok && alive && last.started == running.Starttime {
			p.Name = last.name
		} else {
			p.Name = c.driver.nameOf(p.PID)
			if p.Name == "" {
				p.Name = running.Comm
			}
		}
		if alive && p.Name != "" {
			names[p.PID] = program{running.Starttime, p.Name}
		}
	}
	c.names = names
}

func (d *driver) nameOf(pid int) string {
	if !d.has("nvmlSystemGetProcessName") {
		return ""
	}
	name, code := d.lib.SystemGetProcessName(pid)
	if code != nvml.SUCCESS {
		return ""
	}
	return name
}
