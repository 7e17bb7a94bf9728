package configs

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/routing/expression"
)

// work describes the requests that the routes send to a backend, as far as that is known
// before any request.
type work struct {
	smallest, largest admission.Bytes // demands; the smallest is -1 where there are none
	slots             map[string]int  // by class
	most              map[string]admission.Bytes
}

func (c *Config) work(backend string) work {
	w := work{smallest: -1, slots: map[string]int{}, most: map[string]admission.Bytes{}}
	for _, r := range c.Routing.Routes {
		if r.Backend != backend || r.Pass {
			continue
		}
		d := c.demand(r)
		if w.smallest < 0 || d < w.smallest {
			w.smallest = d
		}
		w.largest = max(w.largest, d)
		w.slots[r.Class] = c.Routing.Classes[r.Class].Slots
		w.most[r.Class] = max(w.most[r.Class], d)
	}
	return w
}

// atOnce is the memory that all requests which may run on one server at once take of a GPU
// with room.
func (w work) atOnce(slots int, room admission.Bytes) admission.Bytes {
	var sum admission.Bytes
	for class, vram := range w.most {
		// The comparison divides, because a product of two amounts may overflow.
		n := admission.Bytes(w.slots[class])
		if vram > 0 && n > room/vram {
			sum = room
			break
		}
		sum = min(room, sum+n*vram)
	}
	if slots > 0 && w.largest > 0 && admission.Bytes(slots) <= sum/w.largest {
		sum = min(sum, admission.Bytes(slots)*w.largest)
	}
	return sum
}

// warnOfTwins finds servers that two backends name: their memory is booked twice.
func (c *Config) warnOfTwins(warn func(path, problem string)) {
	first := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		for i, server := range b.Servers() {
			path := "backends." + name + "." + b.KeysOf(i).URL
			if other, taken := first[server.URL]; taken && server.URL != "" {
				warn(path, fmt.Sprintf("%q is the address of %s too, so that its memory is booked twice: want one backend with both routes", server.URL, other))
			} else {
				first[server.URL] = "backends." + name
			}
		}
	}
}

// units are the functions that convert a number to bytes.
var units = regexp.MustCompile(`\b(gib|mib)\s*\(|\d{7,}`)

// warnOfDemands finds requests that count as needing no memory, or almost none. unset are
// the classes without a demand in the file or by a preset; false: the class is not in the
// file.
func (c *Config) warnOfDemands(unset map[string]bool, warn func(path, problem string)) {
	told := make(map[string]bool)
	for i, r := range c.Routing.Routes {
		if r.Pass {
			continue
		}
		if isExpression(r.VRAM) {
			c.warnOfExpression(fmt.Sprintf("routes[%d].vram", i), r, warn)
		}
		if v := c.Routing.Classes[r.Class].VRAM; r.VRAM != "" || v.Amount > 0 || v.Learn || told[r.Class] {
			continue
		}
		inFile, without := unset[r.Class]
		without = without && !c.Routing.Backends[r.Backend].Preallocates()
		path, problem := "classes."+r.Class+".vram", c.noDemand(r.Backend, without)
		if problem == "" {
			continue
		}
		if without && !inFile { // the preset created the class
			path, problem = "backends."+r.Backend+".preset", path+": "+problem
		}
		told[r.Class] = true
		warn(path, problem)
	}
}

// warnOfExpression finds an expression that gives too few bytes, or none for some requests.
func (c *Config) warnOfExpression(path string, r routing.RouteConfig, warn func(path, problem string)) {
	if !units.MatchString(r.VRAM) {
		warn(path, fmt.Sprintf("%q is a number of bytes, and has no gib or mib: want one such as gib(4) * num(body.n, 1)", r.VRAM))
	} else if e, err := expression.Amount(r.VRAM); err == nil && len(e.Unguarded) > 0 {
		key := e.Unguarded[0]
		warn(path, fmt.Sprintf("body.%s is calculated with as it comes: a request without it takes the class's vram, %v: "+
			"want num(body.%s, 1), or another default", key, c.Routing.Classes[r.Class].VRAM.Amount, key))
	}
}

// noDemand describes the problem of a class whose requests need no memory on a backend.
// without says that the class has no vram at all. Empty: nothing is wrong.
func (c *Config) noDemand(backend string, without bool) string {
	for _, server := range c.Routing.Backends[backend].Servers() {
		if server.Resident.Learn {
			continue
		}
		for _, p := range server.Places() {
			switch {
			case p.Resident == 0:
				return fmt.Sprintf("0, so that any number of its requests fits on the card of %s: want an amount, or learn", backend)
			case without:
				return fmt.Sprintf("not set, so that its requests take nothing beside the %v that %s holds: "+
					"want an amount, learn, or 0 where resident is all of it", p.Resident, backend)
			}
		}
	}
	return ""
}

// isExpression says that a route's vram is neither left out, nor learned, nor an amount.
func isExpression(vram string) bool {
	if vram == "" || vram == "learn" {
		return false
	}
	_, err := admission.ParseBytes(vram)
	return err != nil
}

// warnOfIdlers finds replicas that are too small for every request of their backend.
func (c *Config) warnOfIdlers(warn func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b, w := c.Routing.Backends[name], c.work(name)
		for i, server := range b.Servers() {
			for _, p := range server.Places() {
				room, known := c.Routing.Room[p.GPU]
				if left := max(0, room-p.Resident); known && w.smallest > left {
					warn("backends."+name+"."+b.KeysOf(i).URL, fmt.Sprintf("none of its requests fits: the smallest takes %v, and %s has %v beside "+
						"the %v that it holds: "+
						"want it on a larger GPU, or left out", w.smallest, p.GPU, left, p.Resident))
					break
				}
			}
		}
	}
}

// retains is what a backend's servers retain of a GPU once they have worked, where
// their allocators keep the memory of everything that may run at once.
func (c *Config) retains(backend, gpu string) admission.Bytes {
	b, room := c.Routing.Backends[backend], c.Routing.Room[gpu]
	var took, sum admission.Bytes
	if !b.ReturnsMemory {
		took = c.work(backend).atOnce(b.Slots, room)
	}
	for _, server := range b.Servers() {
		for _, p := range server.Places() {
			if p.GPU == gpu {
				sum = min(room, sum+min(room, p.Resident)+took)
			}
		}
	}
	return sum
}

// warnOfStalls finds backends that retain so much memory that the requests of
// another one then fit on none of its servers.
func (c *Config) warnOfStalls(warn func(path, problem string)) {
	names := slices.Sorted(maps.Keys(c.Routing.Backends))
	for _, holder := range names {
		if k := c.Routing.Backends[holder]; k.Reclaim.Enabled() && !k.Pinned {
			continue
		}
		for _, waiter := range names {
			if waiter == holder {
				continue
			}
			if s, stalls := c.stall(holder, waiter); stalls {
				cure := "a reclaim"
				if c.Routing.Backends[holder].Reclaim.Enabled() {
					cure = "pinned: false"
				}
				warn("backends."+holder, fmt.Sprintf("retains up to %v of %s once it has worked, and %s needs %v of the %v there: %s then waits %s: "+
					"want returns_memory: true where the engine gives memory back, %s, or smaller demands", s.retained, s.gpu, waiter, s.need, s.room,
					waiter, c.timeouts(waiter), cure))
			}
		}
	}
}

// warnOfReclaims finds unloads that free nothing, and unloads after which no call wakes the
// backend.
func (c *Config) warnOfReclaims(warn func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		if !b.Reclaim.Enabled() {
			continue
		}
		placed := false
		for _, server := range b.Servers() {
			placed = placed || len(server.Places()) > 0
		}
		if !placed {
			warn("backends."+name+".reclaim", "it is on no GPU, so that an unload frees nothing: want its gpu, or no reclaim")
		}
		if len(b.Reclaim.Stop) > 0 && len(b.Reclaim.Start) == 0 {
			warn("backends."+name+".reclaim.stop", "no command starts it again: want a start command and a probe beside it")
		}
	}
}

// stall is a GPU on which the memory that one backend retains blocks another.
type stall struct {
	gpu                  string
	retained, need, room admission.Bytes
}

// stall says whether what holder retains blocks every server of waiter, and gives
// the GPU that blocks the first of them.
func (c *Config) stall(holder, waiter string) (first stall, stalls bool) {
	w := c.work(waiter)
	for _, server := range c.Routing.Backends[waiter].Servers() {
		barred := false
		for _, p := range server.Places() {
			room, known := c.Routing.Room[p.GPU]
			s := stall{p.GPU, c.retains(holder, p.GPU), p.Resident + w.largest, room}
			if !known || s.retained == 0 || s.need == 0 || s.retained+s.need <= room {
				continue
			}
			if first.gpu == "" {
				first = s
			}
			barred = true
			break
		}
		if !barred {
			return stall{}, false
		}
	}
	return first, true
}
