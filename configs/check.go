package configs

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

// findings collects mistakes and warnings and knows where each key stands.
type findings struct {
	file     *document
	origin   map[string]string // as in overrides
	filled   filled
	mistakes Mistakes
	warnings Mistakes
}

// place is a mistake of the key at path, with the place where the key was set, or of the
// nearest section around it.
func (f *findings) place(path, problem string) Mistake {
	path = f.filled.source(path)
	m := Mistake{File: f.file.file, Path: path, Problem: f.file.hide(problem)}
	if origin := f.origin[path]; origin != "" {
		m.File = origin
		return m
	}
	node, found := f.file.find(path)
	// An entry that only the environment has set has no place in the file.
	for around := parent(path); len(around) > len(found); around = parent(around) {
		for _, set := range slices.Sorted(maps.Keys(f.origin)) {
			if within(set, around) {
				m.File = f.origin[set]
				return m
			}
		}
	}
	if node != nil {
		m.File, m.Line, m.Column = f.file.fileOf(node), node.Line, node.Column
	}
	return m
}

func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

// check asks every section, and then checks what needs several sections.
func (c *Config) check(f *findings) {
	// Values that could not be read are missing, so the checks of the sections would report
	// them wrongly.
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
		f.mistakes = append(f.mistakes, Mistake{Problem: "no configuration: want a file (-c FILE) with gpus and backends, as `anteroom init` writes it"})
		return
	}
	c.Routing.Check(section(""))
	for _, m := range f.filled.mistakes {
		f.mistakes = append(f.mistakes, f.place(m.Path, m.Problem))
	}

	// If a section has reported a mistake already, a second report is not needed.
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
	c.checkAddresses(across)
	c.checkReserved(across)
	c.checkLearn(across)
	c.checkFit(across)
}

// room is the most that can be booked on each GPU whose size is known.
func (c *Config) room() map[string]admission.Bytes {
	room := make(map[string]admission.Bytes)
	for name, g := range c.GPUs {
		if g.Memory > g.Reserve {
			room[name] = max(0, g.Memory-g.Reserve)
		}
	}
	return room
}

// checkCards compares the GPUs with each other, and checks which backends are on them.
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
		c.eachPlace(name, func(path, _ string, p admission.Place) {
			if _, ok := c.GPUs[p.GPU]; ok {
				return
			}
			want := "want a GPU of that name there"
			if len(names) > 0 {
				want = "want one of " + strings.Join(names, ", ")
			}
			report(path, fmt.Sprintf("%q is not in gpus: %s", p.GPU, want))
		})
	}
}

// checkAddresses finds backends whose address is the proxy's own: a request to one would
// wait for itself.
func (c *Config) checkAddresses(report func(path, problem string)) {
	own := map[string]string{"listen": c.Proxy.Listen, "admin.listen": c.Proxy.Admin.Listen}
	for name, l := range c.Proxy.Listeners {
		own["listeners."+name+".listen"] = l.Listen
		if _, exists := c.Routing.Backends[l.Backend]; !exists {
			report("listeners."+name+".backend", fmt.Sprintf("%q: not in backends: want %s", l.Backend,
				strings.Join(slices.Sorted(maps.Keys(c.Routing.Backends)), " or ")))
		}
	}
	for i, r := range c.Routing.Routes {
		if l, exists := c.Proxy.Listeners[r.Listener]; r.Listener != "" && (!exists || l.Backend != r.Backend) {
			report(fmt.Sprintf("routes[%d].listener", i), fmt.Sprintf("%q: not a listener of backend %s: want one of listeners", r.Listener, r.Backend))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		for i, server := range b.Servers() {
			for _, key := range slices.Sorted(maps.Keys(own)) {
				if sameAddress(server.URL, own[key]) {
					report("backends."+name+"."+b.KeysOf(i).URL, fmt.Sprintf("%q is %s, the proxy's own address: want the model server's", server.URL, key))
				}
			}
		}
	}
}

// sameAddress says that a server's url leads to where the proxy listens.
func sameAddress(server, listen string) bool {
	if strings.HasPrefix(server, "unix:") || strings.HasPrefix(listen, "unix:") {
		return server == listen
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	host, port, err := net.SplitHostPort(listen)
	if err != nil || port == "0" || port != cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]) {
		return false
	}
	every := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return host == "" || err == nil && ip.IsUnspecified()
	}
	local := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return host == "localhost" || every(host) || err == nil && ip.IsLoopback()
	}
	return u.Hostname() == host || local(u.Hostname()) && local(host)
}

// eachPlace yields every GPU of each of a backend's servers, with the key that names the
// GPU and the key that says what the server holds there.
func (c *Config) eachPlace(backend string, do func(path, resident string, p admission.Place)) {
	b := c.Routing.Backends[backend]
	for i, server := range b.Servers() {
		for _, p := range server.Places() {
			path, resident := b.KeysOf(i).Place(server, p.GPU)
			do("backends."+backend+"."+path, "backends."+backend+"."+resident, p)
		}
	}
}

// checkReserved finds more reserved slots than a backend has.
func (c *Config) checkReserved(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b, sum := c.Routing.Backends[name], 0
		reserved := c.reserved(name)
		for _, class := range slices.Sorted(maps.Keys(reserved)) {
			sum += reserved[class]
			switch {
			case b.Slots == 0:
				report("classes."+class+".reserved", fmt.Sprintf("%d of the slots of %s, which has no limit of its own: want "+
					"backends.%s.slots, or none reserved", reserved[class], name, name))
			case sum > b.Slots:
				report("classes."+class+".reserved", fmt.Sprintf("with this %d of the %d slots of %s are reserved: want fewer", sum, b.Slots, name))
			}
		}
	}
}

// checkLearn finds figures to be learned on cards that are never read.
func (c *Config) checkLearn(report func(path, problem string)) {
	blind := func(backend string) string {
		for _, server := range c.Routing.Backends[backend].Servers() {
			places := server.Places()
			if len(places) == 0 {
				return fmt.Sprintf("learn, and %s takes room on no GPU: want its gpu, or an amount", backend)
			}
			for _, p := range places {
				if g, ok := c.GPUs[p.GPU]; ok && g.Source == "declared" {
					return fmt.Sprintf("learn, and %s is never read (source: declared): want an amount, or another source", p.GPU)
				}
			}
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

// demand is the demand of a rule, as far as it is known before any request: the rule's own
// amount, else its class's, which is also used if an expression fails.
func (c *Config) demand(r routing.RouteConfig) admission.Bytes {
	if r.Pass {
		return 0
	}
	if own, err := admission.ParseBytes(r.VRAM); r.VRAM != "" && err == nil {
		return own
	}
	return c.Routing.Classes[r.Class].VRAM.Amount
}

// checkFit finds backends that cannot be loaded at all. Package routing checks the demand
// of requests.
func (c *Config) checkFit(report func(path, problem string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		c.eachPlace(name, func(_, path string, p admission.Place) {
			if room, known := c.Routing.Room[p.GPU]; known && p.Resident > room {
				report(path, fmt.Sprintf("%v is more than %s can give: want %v or less", p.Resident, p.GPU, room))
			}
		})
	}
}

// warn finds problems that serve accepts and that an operator should know.
func (c *Config) warn(f *findings) {
	warn := func(path, problem string) { f.warnings = append(f.warnings, f.place(path, problem)) }
	classes, backends, gpus := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, r := range c.Routing.Routes {
		backends[r.Backend] = true
		b := c.Routing.Backends[r.Backend]
		for i, server := range b.Servers() {
			for _, p := range server.Places() {
				gpus[p.GPU] = true
			}
			if len(server.Places()) == 0 && c.demand(r) > 0 {
				warn("backends."+r.Backend+"."+b.KeysOf(i).GPU, "none, so that the vram of its requests is booked nowhere: want a name in gpus")
			}
		}
		if !r.Pass {
			classes[r.Class] = true
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
	c.warnOfTwins(warn)
	c.warnOfDemands(f.filled.unset, warn)
	c.warnOfIdlers(warn)
	c.warnOfStalls(warn)
	c.warnOfSets(warn)
	c.warnOfReclaims(warn)
}
