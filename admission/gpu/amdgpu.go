package gpu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
)

// drm is where Linux shows the cards. The amdgpu driver adds two files with
// bytes to each of its own:
// https://docs.kernel.org/gpu/amdgpu/driver-misc.html#mem-info-vram-total
var drm = "/sys/class/drm"

const (
	vramTotal = "device/mem_info_vram_total"
	vramUsed  = "device/mem_info_vram_used"
	// The share of the time in which it computes, in percent:
	// https://docs.kernel.org/gpu/amdgpu/thermal.html#gpu-busy-percent
	busyPercent = "device/gpu_busy_percent"
)

// pci is where Linux shows what is plugged in, whatever drives it.
var pci = "/sys/bus/pci/devices"

// amd is a card of AMD's.
type amd struct {
	device string
	// instead says that AMD was not asked for by name. The processor's own
	// graphics must not pass for a card of NVIDIA's whose driver is missing.
	instead   bool
	directory string // found; the kernel numbers cards anew at each start only
}

func (a *amd) about() string { return a.directory }

func (a *amd) read(r *admission.Reading, _ bool) error {
	r.Source = "amdgpu"
	if a.directory == "" {
		if a.instead && hasNVIDIA() {
			return fmt.Errorf("%w: the card is NVIDIA's", errAbsent)
		}
		directory, err := findAMD(a.device)
		if err != nil {
			return err
		}
		a.directory = directory
	}
	// The card's address on its bus tells it from others, whatever it is called.
	if at, err := filepath.EvalSymlinks(filepath.Join(a.directory, "device")); err == nil && strings.Contains(filepath.Base(at), ":") {
		r.Device = filepath.Base(at)
	}
	var err error
	if r.Total, err = readBytes(filepath.Join(a.directory, vramTotal)); err == nil {
		r.Used, err = readBytes(filepath.Join(a.directory, vramUsed))
	}
	if percent, err := readBytes(filepath.Join(a.directory, busyPercent)); err == nil && percent >= 0 && percent <= 100 {
		share := float64(percent) / 100
		r.Utilization = &share
	}
	if errors.Is(err, fs.ErrNotExist) {
		r.Lost = true
		return fmt.Errorf("the card is gone: %s does not exist any more", a.directory)
	}
	return err
}

// hasNVIDIA says whether a display adapter of NVIDIA's is plugged in.
func hasNVIDIA() bool {
	vendors, _ := filepath.Glob(filepath.Join(pci, "*", "vendor"))
	for _, file := range vendors {
		vendor, _ := os.ReadFile(file)
		class, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "class"))
		if strings.HasPrefix(string(vendor), "0x10de") && strings.HasPrefix(string(class), "0x03") {
			return true
		}
	}
	return false
}

// findAMD gives the directory of the card that a configuration names.
func findAMD(device string) (string, error) {
	has := func(directory string) bool {
		_, err := os.Stat(filepath.Join(directory, vramTotal))
		return err == nil
	}
	n, err := strconv.Atoi(device)
	if err != nil {
		if !filepath.IsAbs(device) {
			device = filepath.Join(drm, device)
		}
		if !has(device) {
			return "", fmt.Errorf("%w: %s has no %s", errAbsent, device, vramTotal)
		}
		return device, nil
	}
	entries, err := os.ReadDir(drm)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var cards []int
	for _, e := range entries {
		number, err := strconv.Atoi(strings.TrimPrefix(e.Name(), "card"))
		if drmEntry.MatchString(e.Name()) && err == nil && has(filepath.Join(drm, e.Name())) {
			cards = append(cards, number)
		}
	}
	slices.Sort(cards)
	if n >= len(cards) {
		return "", fmt.Errorf("%w: %s shows %d cards of AMD's", errAbsent, drm, len(cards))
	}
	return filepath.Join(drm, "card"+strconv.Itoa(cards[n])), nil
}

func readBytes(file string) (admission.Bytes, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: want a number of bytes: %w", file, err)
	}
	return admission.Bytes(n), nil
}
