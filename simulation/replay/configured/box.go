// Package configured makes the box that a trace is played against of a configuration, so
// that replay itself knows the rules of admission alone.
package configured

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
)

// Box is the box that a configuration describes, as serve would see it. The
// file is what runs and mistakes call it.
func Box(file string, c *configs.Config) (*replay.Box, configs.Mistakes) {
	var mistakes configs.Mistakes
	tenants := c.Proxy.Tenants
	box := &replay.Box{Name: file, Admission: c.Admission(), Fair: tenants.Header != "" || len(tenants.Keys) > 0, Urgency: proxy.Urgency,
		Learn: true, Readings: replay.SensorReadings, Wakes: map[string]bool{}}
	for _, t := range c.Turns() {
		box.Turns = append(box.Turns, replay.Turn{GPU: t.GPU, Backend: t.Backend, Bound: t.Bound})
	}
	for i := range box.Admission.GPUs {
		g := &box.Admission.GPUs[i]
		// There is no unmanaged memory in virtual time, and no driver that fails.
		g.Hold = false
		if g.Memory == 0 {
			mistakes = append(mistakes, configs.Mistake{File: file, Path: "gpus." + g.Name + ".memory",
				Problem: "0: says that the driver knows it, and none is asked here: want the card's size, such as 48GiB"})
		}
	}
	if c.Proxy.Mode == "observe" {
		box.Unplayed = append(box.Unplayed, "mode: observe: it is played as enforce")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		box.Wakes[name] = b.Reclaim.MustWake()
		if b.Resident.Learn {
			box.Unplayed = append(box.Unplayed, fmt.Sprintf("backend %s: resident: learn: nothing is measured here, so it is 0", name))
		}
	}
	for i, r := range c.Routing.Routes {
		if r.Pass {
			continue
		}
		class := c.Routing.Classes[r.Class]
		// What an expression would say of a body, the trace says in its own
		// column; without one the class's demand stands, as in serve.
		vram := class.VRAM.Amount
		if own, err := admission.ParseBytes(r.VRAM); err == nil {
			vram = own
		}
		name := cmp.Or(r.Name, fmt.Sprintf("routes[%d]", i))
		if r.VRAM == "learn" || r.VRAM == "" && class.VRAM.Learn {
			box.Unplayed = append(box.Unplayed,
				fmt.Sprintf("route %s: vram: learn: nothing is measured here, so %v are booked where the trace says nothing", name, vram))
		}
		box.Routes = append(box.Routes, replay.Route{
			Name: name, Class: r.Class, Backend: r.Backend, VRAM: vram,
			Estimate:         admission.Estimate{P50: class.Estimate, P95: class.Estimate},
			ExecutionTimeout: class.ExecutionTimeout,
			Aborts:           c.Routing.Backends[r.Backend].Cancel == "aborts",
		})
	}
	return box, mistakes
}
