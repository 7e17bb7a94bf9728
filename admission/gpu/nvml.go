//go:build linux && cgo

package gpu

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/anteroom-gpu/anteroom/admission"
)

// HasNVML says whether this build can read NVIDIA's cards.
const HasNVML = true

// library is what NVIDIA's driver brings; the dynamic linker finds it.
const library = "libnvidia-ml.so.1"

// again is how long a driver that could not be opened, or had to be closed, is
// left alone: opening one can stall for seconds.
var again = 10 * time.Second

// driver is NVIDIA's, opened once for the whole process and kept open. go-nvml
// keeps some of its state in globals, so there cannot be two.
type driver struct {
	lib nvml.Interface

	// using is held for reading by every call, so that the driver is closed
	// only while nobody uses it.
	using sync.RWMutex

	mu         sync.Mutex
	pinned     bool // guarded by mu; the library is in the process for good
	open       bool // guarded by mu
	generation int  // guarded by mu; counts how often it was opened
	triedAt    time.Time
	err        error // guarded by mu; why it is not open
}

var nvidia = sync.OnceValue(func() *driver { return &driver{lib: nvml.New(nvml.WithLibraryPath(library))} })

// start opens the driver if it is not open.
func (d *driver) start() (generation int, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open {
		return d.generation, nil
	}
	if d.err != nil && time.Since(d.triedAt) < again {
		return 0, d.err
	}
	d.err = d.init()
	d.triedAt = time.Now()
	if d.err != nil {
		return 0, d.err
	}
	d.open = true
	d.generation++
	return d.generation, nil
}

func (d *driver) init() error {
	if !d.pinned {
		l := dl.New(library, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
		if err := l.Open(); err != nil {
			return fmt.Errorf("%w: no driver of NVIDIA's: %v", errAbsent, err)
		}
		// A call to a function that a library lacks ends the process.
		if l.Lookup("nvmlInit_v2") != nil && l.Lookup("nvmlInit") != nil {
			l.Close()
			return fmt.Errorf("%w: %s is not NVIDIA's library", errAbsent, library)
		}
		d.pinned = true
	}
	if code := d.lib.Init(); code != nvml.SUCCESS {
		return explain("open the driver", code)
	}
	return nil
}

// restart closes a driver that cannot go on as it is, so that the next call
// opens it anew. Nothing happens while another card is being read.
func (d *driver) restart() {
	if !d.using.TryLock() {
		return
	}
	defer d.using.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.open || time.Since(d.triedAt) < again {
		return
	}
	d.lib.Shutdown()
	d.open, d.triedAt = false, time.Now()
	d.err = nil
}

// has says whether the library has a function. go-nvml reads for it what opening
// the driver writes, which another card's reader may be doing.
func (d *driver) has(function string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lib.Extensions().LookupSymbol(function) == nil
}

// nvidiaCard is a card or a MIG instance of NVIDIA's.
type nvidiaCard struct {
	driver *driver
	device string // as configured

	generation int // of the driver that gave the handle
	handle     nvml.Device
	uuid       string
	name       string
	unified    bool            // it has no memory of its own
	utilized   *float64        // as last asked for; nil: not known
	utilizedAt time.Time       // when it was
	names      map[int]program // of the processes that were last listed, by PID
}

func newNVML(device string) source { return &nvidiaCard{driver: nvidia(), device: device} }

func (c *nvidiaCard) about() string {
	if c.unified {
		return c.name + " " + c.uuid + ", with the system's memory"
	}
	return c.name + " " + c.uuid
}

func (c *nvidiaCard) read(r *admission.Reading, processes bool) error {
	r.Source = "nvml"
	generation, err := c.driver.start()
	if err != nil {
		return err
	}
	code, err := c.ask(r, generation, processes)
	r.Device = c.uuid
	if err == nil {
		return nil
	}
	switch code {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED:
		r.Lost = true
		c.driver.restart()
	case nvml.ERROR_UNINITIALIZED, nvml.ERROR_DRIVER_NOT_LOADED, nvml.ERROR_LIB_RM_VERSION_MISMATCH, nvml.ERROR_UNKNOWN:
		c.driver.restart()
	}
	return err
}

func (c *nvidiaCard) ask(r *admission.Reading, generation int, processes bool) (nvml.Return, error) {
	c.driver.using.RLock()
	defer c.driver.using.RUnlock()
	if c.generation != generation {
		if code, err := c.bind(r); err != nil {
			return code, err
		}
		c.generation = generation
	}
	if code, err := c.memory(r); err != nil {
		return code, err
	}
	if processes {
		r.Processes = c.processes()
	}
	r.Utilization = c.utilization()
	return nvml.SUCCESS, nil
}

// utilizationEvery is how often the driver is asked for it, which has a new figure
// once a second or less often.
const utilizationEvery = time.Second

// utilization is the share of the time in which any kernel ran on the card; nil: the
// driver does not tell, as of MIG instances.
func (c *nvidiaCard) utilization() *float64 {
	if time.Since(c.utilizedAt) < utilizationEvery {
		return c.utilized
	}
	c.utilized, c.utilizedAt = nil, time.Now()
	if c.driver.has("nvmlDeviceGetUtilizationRates") {
		if rates, code := c.handle.GetUtilizationRates(); code == nvml.SUCCESS && rates.Gpu <= 100 {
			share := float64(rates.Gpu) / 100
			c.utilized = &share
		}
	}
	return c.utilized
}

// bind finds the card in a driver that was just opened.
func (c *nvidiaCard) bind(r *admission.Reading) (nvml.Return, error) {
	known := c.uuid
	if n, err := strconv.Atoi(c.device); known == "" && err == nil {
		handle, code := c.driver.lib.DeviceGetHandleByIndex(n)
		if code == nvml.ERROR_INVALID_ARGUMENT {
			count, _ := c.driver.lib.DeviceGetCount()
			return code, fmt.Errorf("there is no card %d: the driver shows %d: want an index below that, or a UUID as `nvidia-smi -L` prints it", n, count)
		}
		if code != nvml.SUCCESS {
			return code, explain("find the card", code)
		}
		c.handle = handle
	} else {
		if known == "" {
			known = c.device
		}
		handle, code := c.driver.lib.DeviceGetHandleByUUID(known)
		if code == nvml.ERROR_NOT_FOUND || code == nvml.ERROR_INVALID_ARGUMENT {
			r.Lost = c.uuid != ""
			return code, fmt.Errorf("the driver does not show %s: want a UUID as `nvidia-smi -L` prints it", known)
		}
		if code != nvml.SUCCESS {
			return code, explain("find the card", code)
		}
		c.handle = handle
	}
	if uuid, code := c.handle.GetUUID(); code == nvml.SUCCESS {
		c.uuid = uuid
	}
	if c.driver.has("nvmlDeviceGetName") {
		c.name, _ = c.handle.GetName()
	}
	return nvml.SUCCESS, nil
}

// memory reads how much there is and how much of it is used, both without what
// the driver keeps for itself. The first version of the call counts that as
// used; drivers before R510 have no other.
func (c *nvidiaCard) memory(r *admission.Reading) (nvml.Return, error) {
	var code nvml.Return
	if c.driver.has("nvmlDeviceGetMemoryInfo_v2") {
		var m nvml.Memory_v2
		if m, code = c.handle.GetMemoryInfo_v2(); code == nvml.SUCCESS {
			r.Total, r.Used = amount(m.Total)-amount(m.Reserved), amount(m.Used)
		}
	} else {
		var m nvml.Memory
		if m, code = c.handle.GetMemoryInfo(); code == nvml.SUCCESS {
			r.Total, r.Used = amount(m.Total), amount(m.Used)
		}
	}
	switch code {
	case nvml.SUCCESS:
		return code, nil
	case nvml.ERROR_NOT_SUPPORTED:
		if c.driver.has("nvmlDeviceGetMigMode") {
			if mode, _, code := c.handle.GetMigMode(); code == nvml.SUCCESS && mode == nvml.DEVICE_MIG_ENABLE {
				return code, errors.New("the card is divided into MIG instances: want the UUID of one as device, as `nvidia-smi -L` prints it")
			}
		}
		// A card without memory of its own uses the system's.
		c.unified = true
		return code, systemMemory(r)
	case nvml.ERROR_NO_PERMISSION:
		return code, fmt.Errorf("%w: a container may see a MIG instance and not its card: want the instance's UUID as device",
			explain("read the memory", code))
	}
	return code, explain("read the memory", code)
}

// amount is a driver's figure. What no card can have, such as the value that
// stands for "not available", becomes what no reading may say.
func amount(n uint64) admission.Bytes {
	if n > 1<<60 {
		return -1
	}
	return admission.Bytes(n)
}

// systemMemory reads the memory that a unified card shares.
func systemMemory(r *admission.Reading) error {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	var total, available admission.Bytes
	for line := range bytes.Lines(text) {
		name, rest, _ := strings.Cut(string(line), ":")
		n, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		switch name {
		case "MemTotal":
			total = admission.Bytes(n) << 10
		case "MemAvailable":
			available = admission.Bytes(n) << 10
		}
	}
	if total <= 0 || available <= 0 {
		return errors.New("/proc/meminfo has no MemTotal and MemAvailable")
	}
	r.Total, r.Used = total, total-available
	return nil
}

// cures are what helped others.
var cures = map[nvml.Return]string{
	nvml.ERROR_DRIVER_NOT_LOADED:       "want the kernel module: `modprobe nvidia`",
	nvml.ERROR_LIB_RM_VERSION_MISMATCH: "the driver was replaced under a running kernel module: want a reboot, or the modules reloaded",
	nvml.ERROR_NO_PERMISSION:           "want access to /dev/nvidia*",
	nvml.ERROR_GPU_IS_LOST:             "it fell off the bus: `dmesg | grep -i xid` says more; a reset or a reboot brings it back",
	nvml.ERROR_RESET_REQUIRED:          "want `nvidia-smi --gpu-reset`",
	nvml.ERROR_UNKNOWN:                 "in a container, `systemctl daemon-reload` on the host can take the devices away: want the container restarted",
}

func explain(what string, code nvml.Return) error {
	err := fmt.Errorf("%s: %s", what, code.String())
	if code == nvml.ERROR_DRIVER_NOT_LOADED || code == nvml.ERROR_LIBRARY_NOT_FOUND {
		err = fmt.Errorf("%w: %w", errAbsent, err)
	}
	if cure := cures[code]; cure != "" {
		err = fmt.Errorf("%w: %s", err, cure)
	}
	return err
}
