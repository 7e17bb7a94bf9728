package configs

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

// findings collects mistakes and warnings and knows where each key stands.
type findings struct {
	file     *document
	origin   map[string]string // as in overrides
	mistakes Mistakes
	warnings Mistakes
}

// place is a mistake of the key at path: where the key was set, or the nearest
// thing around it.
func (f *findings) place(path, problem string) Mistake {
	m := Mistake{File: f.file.file, Path: path, Problem: problem}
	if origin := f.origin[path]; origin != "" {
		m.File = origin
		return m
	}
	node, found := f.file.find(path)
	// An entry that only the environment made stands nowhere in the file.
	for around := parent(path); len(around) > len(found); around = parent(around) {
		for _, set := range slices.Sorted(maps.Keys(f.origin)) {
			if within(set, around) {
				m.File = f.origin[set]
				return m
			}
		}
	}
	if node != nil {
		m.Line, m.Column = node.Line, node.Column
	}
	return m
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// check asks every section, then looks at what no section can see alone.
func (c *Config) check(f *findings) {
	// A section cannot judge what was left out because it could not be read.
	unread := slices.Clone(f.mistakes)
	section := func(prefix string) func(path, problem string) {
		return func(path, problem string) {
			m := f.place(prefix+path, problem)
			if len(f.mistakes) <= maxMistakes && !unread.covers(m.Path) && !slices.Contains(f.mistakes, m) {
				f.mistakes = append(f.mistakes, m)
			}
		}
	}
	c.Proxy.Check(section(""))
	c.Telemetry.Check(section("telemetry."))
	for _, name := range slices.Sorted(maps.Keys(c.GPUs)) {
		c.GPUs[name].Check(section("gpus." + name + "."))
	}
	c.Routing.Room = c.room()
	whole := !slices.ContainsFunc(f.file.mistakes, func(m Mistake) bool {
		return slices.Contains([]string{"", "gpus", "classes", "backends", "routes"}, m.Path)
	})
	if !whole {
		return
	}
	if f.file.root == nil && len(c.Routing.Backends) == 0 {
		f.mistakes = append(f.mistakes, Mistake{Problem: "no configuration: want a file (-c FILE) with backends, classes and routes"})
		return
	}
	c.Routing.Check(section(""))

	// Where a section has spoken already, one word is enough.
	across := func(path, problem string) {
		if !f.mistakes.covers(path) {
			f.mistakes = append(f.mistakes, f.place(path, problem))
		}
	}
	if len(c.Routing.Backends) == 0 {
		across("backends", "there are none: want one or more")
	}
	if len(c.Routing.Routes) == 0 {
		across("routes", "there are none: want one or more")
	}
	c.checkCards(across)
	c.checkReserved(across)
	c.checkLearn(across)
	c.checkFit(across)
}

// room is the most that can be booked on each GPU whose size is known.
func (c *Config) room() map[string]admission.Bytes {
	room := make(map[string]admission.Bytes)
	for name, g := range c.GPUs {
		if g.Memory > 0 {
			room[name] = max(0, g.Memory-g.Reserve)
		}
	}
	return room
}

// checkCards looks at the GPUs beside each other, and at who is on them.
func (c *Config) checkCards(report func(path, problem string)) {
	owner := make(map[string]string)
	names := slices.Sorted(maps.Keys(c.GPUs))
	for _, name := range names {
		g := c.GPUs[name]
		if g.Memory > 0 && g.Reserve >= g.Memory {
			report("gpus."+name+".reserve", fmt.Sprintf("%v of %v leaves nothing: want less", g.Reserve, g.Memory))
		}
		if g.Memory == 0 && g.Source == "declared" {
			report("gpus."+name+".memory", "0 while source is declared: want the card's size, such as 24GiB")
		}
		if other, taken := owner[g.Device]; taken {
			report("gpus."+name+".device", fmt.Sprintf("%s is the device of gpus.%s too: want another", g.Device, other))
		} else {
			owner[g.Device] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		if _, ok := c.GPUs[b.GPU]; b.GPU == "" || ok {
			continue
		}
		want := "want a GPU of that name there"
		if len(names) > 0 {
			want = "want one of " + strings.Join(names, ", ")
		}
		report("backends."+name+".gpu", fmt.Sprintf("%q is not in gpus: %s", b.GPU, want))
	}
}

// checkReserved finds slots that are reserved and not there.
func (c *Config) checkReserved(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b, sum := c.Routing.Backends[name], 0
		reserved := c.reserved(name)
		for _, class := range slices.Sorted(maps.Keys(reserved)) {
			sum += reserved[class]
			switch {
			case b.Slots == 0:
				report("classes."+class+".reserved", fmt.Sprintf("%d of the slots of %s, which has no limit of its own: want backends.%s.slots, or none reserved", reserved[class], name, name))
			case sum > b.Slots:
				report("classes."+class+".reserved", fmt.Sprintf("with this %d of the %d slots of %s are reserved: want fewer", sum, b.Slots, name))
			}
		}
	}
}

// checkLearn finds figures that are to be learned where nothing is read.
func (c *Config) checkLearn(report func(path, problem string)) {
	blind := func(backend string) string {
		b := c.Routing.Backends[backend]
		switch g, ok := c.GPUs[b.GPU]; {
		case b.GPU == "":
			return fmt.Sprintf("learn, and %s takes room on no GPU: want its gpu, or an amount", backend)
		case ok && g.Source == "declared":
			return fmt.Sprintf("learn, and %s is never read (source: declared): want an amount, or another source", b.GPU)
		}
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		if problem := blind(name); problem != "" && c.Routing.Backends[name].Resident.Learn {
			report("backends."+name+".resident", problem)
		}
	}
	for i, r := range c.Routing.Routes {
		problem := blind(r.Backend)
		switch {
		case r.Pass || problem == "":
		case strings.TrimSpace(r.VRAM) == "learn":
			report(fmt.Sprintf("routes[%d].vram", i), problem)
		case r.VRAM == "" && c.Routing.Classes[r.Class].VRAM.Learn:
			report("classes."+r.Class+".vram", problem)
		}
	}
}

// demand is what a rule asks for as far as that is known before any request:
// its own amount, else its class's, which also stands in for an expression
// that fails.
func (c *Config) demand(r routing.RouteConfig) admission.Bytes {
	if r.Pass {
		return 0
	}
	if own, err := admission.ParseBytes(r.VRAM); r.VRAM != "" && err == nil {
		return own
	}
	return c.Routing.Classes[r.Class].VRAM.Amount
}

// checkFit finds backends that cannot be loaded at all. What requests need
// beside them, routing knows.
func (c *Config) checkFit(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		if room, known := c.Routing.Room[b.GPU]; known && b.Resident.Amount > room {
			report("backends."+name+".resident", fmt.Sprintf("%v is more than %s can give: want %v or less", b.Resident.Amount, b.GPU, room))
		}
	}
}

// warn finds what serve accepts and an operator should know.
func (c *Config) warn(f *findings) {
	warn := func(path, problem string) { f.warnings = append(f.warnings, f.place(path, problem)) }
	classes, backends, gpus := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range c.Routing.Routes {
		b := c.Routing.Backends[r.Backend]
		backends[r.Backend], gpus[b.GPU] = true, true
		if r.Pass {
			continue
		}
		classes[r.Class] = true
		if b.GPU == "" && c.demand(r) > 0 {
			warn("backends."+r.Backend+".gpu", "none, so that the vram of its requests is booked nowhere: want a name in gpus")
		}
	}
	unused := func(section string, names []string, used map[string]bool, want string) {
		slices.Sort(names)
		for _, name := range names {
			if !used[name] {
				warn(section+"."+name, "nothing uses it: want "+want+", or leave it out")
			}
		}
	}
	unused("classes", slices.Collect(maps.Keys(c.Routing.Classes)), classes, "a route of that class")
	unused("backends", slices.Collect(maps.Keys(c.Routing.Backends)), backends, "a route to it")
	unused("gpus", slices.Collect(maps.Keys(c.GPUs)), gpus, "a backend on it")
	for _, name := range slices.Sorted(maps.Keys(c.GPUs)) {
		if c.GPUs[name].Memory == 0 {
			warn("gpus."+name+".memory", "not set: while the driver cannot be read the GPU gives no room: want the card's size, such as 24GiB")
		}
	}
	c.warnOfStalls(warn)
}

// claim is what a backend comes to take of its GPU: for its largest request
// alone, and at most, with everything running that may run at once.
type claim struct{ once, most admission.Bytes }

func (c *Config) claim(backend string) claim {
	b := c.Routing.Backends[backend]
	var largest, sum admission.Bytes
	slots := make(map[string]admission.Bytes) // the largest demand by class
	for _, r := range c.Routing.Routes {
		if r.Backend == backend {
			slots[r.Class] = max(slots[r.Class], c.demand(r))
			largest = max(largest, c.demand(r))
		}
	}
	for class, vram := range slots {
		// Compared by dividing: a product of any two amounts may overflow.
		n := admission.Bytes(c.Routing.Classes[class].Slots)
		room := c.Routing.Room[b.GPU]
		if vram > 0 && n > room/vram {
			sum = room
			break
		}
		sum = min(room, sum+n*vram)
	}
	if b.Slots > 0 && largest > 0 && admission.Bytes(b.Slots) <= sum/largest {
		sum = min(sum, admission.Bytes(b.Slots)*largest)
	}
	return claim{b.Resident.Amount + largest, min(b.Resident.Amount+sum, c.Routing.Room[b.GPU])}
}

// warnOfStalls finds backends that keep so much of what they took that another
// one on the same GPU then finds no room, for as long as they keep it.
func (c *Config) warnOfStalls(warn func(path, problem string)) {
	names := slices.Sorted(maps.Keys(c.Routing.Backends))
	for _, keeper := range names {
		k := c.Routing.Backends[keeper]
		room, known := c.Routing.Room[k.GPU]
		if k.Reclaim.Enabled() && !k.Pinned || !known {
			continue
		}
		most := c.claim(keeper).most
		if k.ReturnsMemory {
			most = k.Resident.Amount
		}
		for _, waiter := range names {
			w := c.Routing.Backends[waiter]
			if waiter == keeper || w.GPU != k.GPU {
				continue
			}
			kept, need := most, c.claim(waiter).once
			if kept+need > room && need > 0 {
				warn("backends."+keeper, fmt.Sprintf("keeps up to %v of %s once it has worked, and %s needs %v of the %v there: %s would wait for as long as %s keeps it: "+
					"want returns_memory: true where the engine gives memory back, a reclaim that makes it, or smaller demands", kept, k.GPU, waiter, need, room, waiter, keeper))
			}
		}
	}
}
