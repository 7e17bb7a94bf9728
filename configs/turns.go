package configs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Turn is what a backend's requests wait for on a GPU where other backends do not
// fit beside it, and can be unloaded.
type Turn struct {
	GPU, Backend string
	Turn         time.Duration // of each of the others
	Others       []string      // in order of their names
	// Moving is the time to unload all of the others, and to load all that are loaded
	// meanwhile: the backend itself, and the others but the first.
	Moving time.Duration
}

// Bound is the longest that the backend's queue head waits for the others, where the
// longest run of each of them is known.
func (t Turn) Bound(longest func(backend string) time.Duration) time.Duration {
	sum := t.Moving
	for _, other := range t.Others {
		sum += t.Turn + longest(other)
	}
	return sum
}

// Turns are the backends that take turns, by GPU and name. A demand that only an
// expression tells counts as its class's.
func (c *Config) Turns() []Turn {
	var all []Turn
	for _, gpu := range slices.Sorted(maps.Keys(c.GPUs)) {
		room, known := c.Routing.Room[gpu]
		if !known || c.GPUs[gpu].Turn == 0 {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
			resident, there := c.residentOn(name, gpu)
			need := resident + c.work(name).largest
			if !there || need == 0 {
				continue
			}
			t := Turn{GPU: gpu, Backend: name, Turn: c.GPUs[gpu].Turn, Moving: admission.LoadTime(resident)}
			for _, other := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
				held, there := c.residentOn(other, gpu)
				if b := c.Routing.Backends[other]; other == name || !there || !b.Reclaim.Enabled() || b.Pinned || c.retains(other, gpu)+need <= room {
					continue
				}
				if t.Moving += admission.UnloadTime; len(t.Others) > 0 {
					t.Moving += admission.LoadTime(held)
				}
				t.Others = append(t.Others, other)
			}
			if len(t.Others) > 0 {
				all = append(all, t)
			}
		}
	}
	return all
}

// residentOn is what a backend's largest server holds of a GPU while it is loaded.
func (c *Config) residentOn(backend, gpu string) (resident admission.Bytes, there bool) {
	for _, server := range c.Routing.Backends[backend].Servers() {
		for _, p := range server.Places() {
			if p.GPU == gpu {
				resident, there = max(resident, p.Resident), true
			}
		}
	}
	return resident, there
}

// Longest is the estimate of a backend's longest work.
func (c *Config) Longest(backend string) time.Duration {
	longest := time.Duration(0)
	for _, r := range c.Routing.Routes {
		if r.Backend == backend && !r.Pass {
			longest = max(longest, c.Routing.Classes[r.Class].Estimate)
		}
	}
	return longest
}

// warnOfSets finds backends of which no one alone, but several together retain so much
// memory that the requests of another one then fit on none of its servers.
func (c *Config) warnOfSets(warn func(path, problem string)) {
	names := slices.Sorted(maps.Keys(c.Routing.Backends))
	stays := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		b := c.Routing.Backends[name]
		return b.Reclaim.Enabled() && !b.Pinned
	})
	for _, waiter := range names {
		alone := slices.ContainsFunc(stays, func(holder string) bool {
			_, stalls := c.stall(holder, waiter)
			return holder != waiter && stalls
		})
		if alone {
			continue
		}
		if set, first, stalls := c.stallOfSet(stays, waiter); stalls {
			warn("backends."+waiter, fmt.Sprintf("needs %v of the %v of %s, and %s retain up to %v there together once they have worked, "+
				"and are never unloaded: its requests then wait %s: "+
				"want returns_memory: true where an engine gives memory back, a reclaim that is not pinned for one of them, or smaller demands",
				first.need, first.room, first.gpu, listed(set), first.retained, c.timeouts(waiter)))
		}
	}
}

// stallOfSet says whether backends that are never unloaded together retain so much memory
// that every server of waiter is blocked. It returns the smallest such set, on the GPU that
// blocks the first server.
func (c *Config) stallOfSet(stays []string, waiter string) (set []string, first stall, stalls bool) {
	w := c.work(waiter)
	for _, server := range c.Routing.Backends[waiter].Servers() {
		barred := false
		for _, p := range server.Places() {
			room, known := c.Routing.Room[p.GPU]
			s := stall{gpu: p.GPU, need: p.Resident + w.largest, room: room}
			if !known || s.need == 0 || w.smallest < 0 {
				continue
			}
			largest := slices.Clone(stays)
			slices.SortStableFunc(largest, func(a, b string) int { return cmp.Compare(c.retains(b, p.GPU), c.retains(a, p.GPU)) })
			var some []string
			for _, holder := range largest {
				if n := c.retains(holder, p.GPU); holder != waiter && n > 0 && s.retained+s.need <= room {
					s.retained, some = s.retained+n, append(some, holder)
				}
			}
			if s.retained > 0 && s.retained+s.need > room {
				if barred = true; set == nil {
					set, first = some, s
				}
				break
			}
		}
		if !barred {
			return nil, stall{}, false
		}
	}
	return set, first, set != nil
}

// timeouts says how long the requests of a backend may wait.
func (c *Config) timeouts(backend string) string {
	var all []string
	for _, r := range c.Routing.Routes {
		if r.Backend != backend || r.Pass {
			continue
		}
		text := "for ever"
		if d := c.Routing.Classes[r.Class].Queue.Timeout; d > 0 {
			text = fmt.Sprintf("until queue.timeout (%v)", d)
		}
		if !slices.Contains(all, text) {
			all = append(all, text)
		}
	}
	return strings.Join(all, " or ")
}

func listed(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
}
