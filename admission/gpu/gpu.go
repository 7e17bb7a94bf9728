// Package gpu reads the cards in the background and reports what it saw, one
// way, as admission.Readings. It is the only package that needs cgo, and works
// without it too, for AMD's cards.
//
// What it promises:
//
//   - Nothing waits for a driver. A call that hangs costs one goroutine, and
//     the card counts as unreadable until it returns.
//   - A process starts where there is no driver, no library and no card. A
//     driver that comes, goes or is replaced is noticed without a restart.
//   - A card that could be read once is known by its UUID from then on,
//     whatever the driver's numbering becomes.
//   - Of whatever cannot be read, an error says so, with a cure where one is
//     known. It is never a zero.
//   - A process is a backend's only where /proc shows that it is. The others
//     belong to no backend: their memory is unmanaged.
//   - The log says each change once, however often readings come.
package gpu

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Config is one entry of `gpus`.
type Config struct {
	// Device says which card: an index, a GPU or MIG UUID, and for AMD's cards
	// an index among them, a name such as card1, or a directory like those in
	// /sys/class/drm.
	Device  string          `koanf:"device"`
	Memory  admission.Bytes `koanf:"memory"`
	Reserve admission.Bytes `koanf:"reserve"`
	Source  string          `koanf:"source"`  // auto | nvml | amdgpu | declared
	Unknown string          `koanf:"unknown"` // ledger | hold
	// TrialAfter is how long memory in doubt may block a request before it is put
	// to a trial.
	TrialAfter time.Duration `koanf:"trial_after"`
	// Turn is the longest that a backend keeps the card while a request for another
	// waits that does not fit beside it. Zero: as long as it has work.
	Turn time.Duration `koanf:"turn"`
	// Shared says that another Anteroom may use the card too.
	Shared bool `koanf:"shared"`
}

// Reads says that a sensor reads the card.
func (c Config) Reads() bool { return c.Source != "declared" }

var (
	index    = regexp.MustCompile(`^[0-9]{1,3}$`)
	uuid     = regexp.MustCompile(`^(GPU|MIG)-[0-9A-Za-z/-]+$`)
	drmEntry = regexp.MustCompile(`^card[0-9]{1,3}$`)
)

// Check reports every mistake in the entry: the path of the key below it, and
// what is wrong and wanted.
func (c Config) Check(report func(path, problem string)) {
	ofNVIDIA := index.MatchString(c.Device) || uuid.MatchString(c.Device)
	ofAMD := index.MatchString(c.Device) || drmEntry.MatchString(c.Device) || filepath.IsAbs(c.Device)
	switch c.Source {
	case "auto", "declared":
		if !ofNVIDIA && !ofAMD {
			report("device", fmt.Sprintf("%q: not a card: want an index such as 0, a UUID such as GPU-… or MIG-…, or for AMD card0", c.Device))
		}
	case "nvml":
		if !ofNVIDIA {
			report("device", fmt.Sprintf("%q: not a card that nvml knows: want an index such as 0, or a UUID such as GPU-… or MIG-…", c.Device))
		}
	case "amdgpu":
		if !ofAMD {
			report("device", fmt.Sprintf("%q: not a card that amdgpu knows: want an index such as 0, a name such as card1, "+
				"or a directory like /sys/class/drm/card1", c.Device))
		}
	default:
		report("source", fmt.Sprintf("%q: not known: want auto, nvml, amdgpu or declared", c.Source))
	}
	if c.Memory < 0 {
		report("memory", fmt.Sprintf("%v: too small: want the card's size, or 0 for what the driver says", c.Memory))
	}
	if c.Reserve < 0 {
		report("reserve", fmt.Sprintf("%v: too small: want 0 or more", c.Reserve))
	}
	if c.TrialAfter <= 0 {
		report("trial_after", fmt.Sprintf("%v: too small: want a time such as 10s", c.TrialAfter))
	}
	if c.Turn < 0 {
		report("turn", fmt.Sprintf("%v: too small: want a time such as 30s, or 0s for no turns", c.Turn))
	}
	switch {
	case c.Unknown != "ledger" && c.Unknown != "hold":
		report("unknown", fmt.Sprintf("%q: not known: want ledger or hold", c.Unknown))
	case c.Unknown == "hold" && c.Source == "declared":
		report("unknown", `"hold": a card that is never read would hold its work for ever: want ledger, or another source`)
	}
}

// sources are where a card's readings may come from, the likelier first.
func (c Config) sources() []source {
	switch c.Source {
	case "nvml":
		return []source{newNVML(c.Device)}
	case "amdgpu":
		return []source{&amd{device: c.Device}}
	case "auto":
		if uuid.MatchString(c.Device) {
			return []source{newNVML(c.Device)}
		}
		if strings.HasPrefix(c.Device, "card") || filepath.IsAbs(c.Device) {
			return []source{&amd{device: c.Device}}
		}
		return []source{newNVML(c.Device), &amd{device: c.Device, instead: true}}
	}
	return nil // declared
}
