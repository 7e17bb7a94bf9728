package configs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/anteroom-gpu/anteroom/backend"
)

// fill adds the values that a file leaves out and that follow from the rest of it. It gets
// the values of the file, before defaults are added:
//
//  1. A backend with a preset that names no GPU is on the only GPU.
//  2. It gets the routes of its engine, after those of the file. Their classes are created,
//     or get an estimate if they have none. If several backends list their models at the
//     same path, the lists are merged.
//  3. What it holds is learned, if its cards are read.
//  4. The demand of a class that gives none is learned too.
func fill(values map[string]any) filled {
	routes, _ := values["routes"].([]any)
	f := &filler{values: values, classes: make(map[string]bool), filled: filled{first: len(routes)}}
	names := slices.Sorted(maps.Keys(f.entries("backends")))
	for _, name := range names {
		f.preset(name)
	}
	f.lists()
	for _, name := range names {
		f.free(name, false)
	}
	for _, name := range names {
		f.free(name, true)
	}
	for _, name := range names {
		if b := f.backend(name); text(b, "preset") != "" && b["resident"] == nil && b["replicas"] == nil && f.isRead(name) {
			b["resident"] = "learn" // 3
		}
	}
	f.learnDemands()
	return f.filled
}

// filled is what fill has added.
type filled struct {
	first    int      // of the routes that it made
	made     []string // the key that each of them follows from
	mistakes []Mistake
	unset    map[string]bool // classes without a demand; false: a preset made it
}

// source is the key from which fill made the route of a path; for a route of the file it is
// the path itself.
func (f *filled) source(path string) string {
	var i int
	if n, _ := fmt.Sscanf(path, "routes[%d]", &i); n == 1 && i >= f.first && i < f.first+len(f.made) {
		return f.made[i-f.first]
	}
	return path
}

type filler struct {
	values  map[string]any
	classes map[string]bool // that it made
	filled
}

// backend is the entry of a backend.
func (f *filler) backend(name string) map[string]any {
	b, _ := f.entries("backends")[name].(map[string]any)
	return b
}

// routes are those of a backend's preset.
func (f *filler) routes(name string) []backend.Route {
	return (backend.Config{Preset: text(f.backend(name), "preset")}).Routes()
}

// preset does 1 for a backend, and 2 for its work. For paths that another backend's preset
// has too, the models decide.
func (f *filler) preset(name string) {
	b := f.backend(name)
	_, spread := b["resident"].(map[string]any)
	if gpus := slices.Collect(maps.Keys(f.entries("gpus"))); text(b, "preset") != "" && len(gpus) == 1 && b["gpu"] == nil &&
		b["replicas"] == nil && !spread {
		b["gpu"] = gpus[0] // 1
	}
	for i, route := range f.routes(name) {
		if route.Class == "" {
			continue
		}
		label := name
		if route.Socket {
			label += "-sockets"
		} else if i > 0 {
			label += "-" + route.Class
		}
		class := cmp.Or(text(b, "class"), route.Class)
		if route.Socket {
			f.sockets(name, label, class, route)
			continue
		}
		f.aliases(name, label, class, route)
		f.work(name, label, class, route)
	}
}

// sockets adds a preset's route of sockets, which have their model in the query.
func (f *filler) sockets(name, label, class string, route backend.Route) {
	paths := f.open(name, route.Paths)
	if len(paths) == 0 {
		return
	}
	match := map[string]any{"method": texts(route.Methods), "path": texts(paths)}
	if models := all(f.backend(name)["models"]); len(models) > 0 && f.sharer(name, paths[0]) != "" {
		match["when"] = "query.model in [" + strings.Join(quotedAll(models), ", ") + "]"
	}
	f.class(class, route.Class)
	f.add(name, map[string]any{"name": label, "class": class, "hold_slot": true, "match": match})
}

// work adds a preset's route of requests: the paths that only this backend has, and
// those that it shares, for its own models.
func (f *filler) work(name, label, class string, route backend.Route) {
	var own, shared []string
	for _, path := range f.open(name, route.Paths) {
		if with := f.sharer(name, path); with != "" {
			shared = append(shared, path)
			f.wantModels(name, path, with)
		} else {
			own = append(own, path)
		}
	}
	for _, part := range []struct {
		label  string
		paths  []string
		models any
	}{{label, own, nil}, {label + "-by-model", shared, f.backend(name)["models"]}} {
		if len(part.paths) == 0 {
			continue
		}
		match := map[string]any{"method": texts(route.Methods), "path": texts(part.paths)}
		if part.models != nil {
			match["model"] = part.models
		}
		f.class(class, route.Class)
		f.add(name, map[string]any{"name": part.label, "class": class, "match": match})
	}
}

func quotedAll(texts []string) []string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = strconv.Quote(text)
	}
	return quoted
}

// aliases makes the routes by which the models of a backend have other names. They come
// before those that take every model.
func (f *filler) aliases(name, label, class string, route backend.Route) {
	aliases, _ := f.backend(name)["aliases"].(map[string]any)
	paths := f.open(name, route.Paths)
	if len(paths) == 0 {
		return
	}
	for _, alias := range slices.Sorted(maps.Keys(aliases)) {
		f.class(class, route.Class)
		f.add(name, map[string]any{"name": label + "-as-" + alias, "class": class, "rewrite_model": aliases[alias],
			"match": map[string]any{"method": texts(route.Methods), "path": texts(paths), "model": []any{alias}}})
	}
}

// free makes the route for requests that need no card: for the patterns that match
// everything below the root, or for the other paths, which come before.
func (f *filler) free(name string, all bool) {
	for _, route := range f.routes(name) {
		paths := slices.DeleteFunc(f.open(name, route.Paths), func(path string) bool { return (path == everything) != all })
		if route.Class != "" || len(paths) == 0 {
			continue
		}
		if with := f.sharer(name, everything); all && with != "" {
			f.wrong(name, fmt.Sprintf("all that no other route takes goes to %s too: want a listener of its own for one of them", with))
		}
		label := name + "-free"
		if all {
			label = name + "-rest"
		}
		f.add(name, map[string]any{"name": label, "pass": true, "match": map[string]any{"path": texts(paths)}})
	}
}

// everything is the pattern of all paths.
const everything = "/**"

// open are those of the paths for which the file has no route, on the listener of a
// backend.
func (f *filler) open(name string, paths []string) []string {
	at := f.listener(name)
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool { return f.given(path, at) })
}

// add adds a route that follows from a backend's preset.
func (f *filler) add(backend string, route map[string]any) {
	route["backend"] = backend
	if l := f.listener(backend); l != "" {
		route["listener"] = l
	}
	routes, _ := f.values["routes"].([]any)
	f.values["routes"] = append(routes, route)
	f.made = append(f.made, "backends."+backend+".preset")
}

// wrong notes the first mistake of a backend's preset.
func (f *filler) wrong(backend, problem string) {
	path := "backends." + backend + ".preset"
	if !slices.ContainsFunc(f.mistakes, func(m Mistake) bool { return m.Path == path }) {
		f.mistakes = append(f.mistakes, Mistake{Path: path, Problem: problem})
	}
}

// sharer is another backend of the same listener whose preset has a path too; empty:
// there is none.
func (f *filler) sharer(name, path string) string {
	for _, other := range slices.Sorted(maps.Keys(f.entries("backends"))) {
		if other == name || f.listener(name) != "" || f.listener(other) != "" {
			continue
		}
		for _, route := range f.routes(other) {
			if slices.Contains(route.Paths, path) {
				return other
			}
		}
	}
	return ""
}

// wantModels reports that several backends have a path, and no models decide which one gets
// a request.
func (f *filler) wantModels(name, path, with string) {
	if models, _ := f.backend(name)["models"].([]any); len(models) == 0 {
		f.wrong(name, fmt.Sprintf("%s is a path of %s too: want models for both, listeners of their own, or routes that tell them apart", path, with))
	}
}

// lists makes the routes at which the models of several backends are listed.
func (f *filler) lists() {
	with := make(map[string][]any) // path → backends
	for _, name := range slices.Sorted(maps.Keys(f.entries("backends"))) {
		if f.listener(name) != "" {
			continue
		}
		for _, path := range (backend.Config{Preset: text(f.entries("backends")[name], "preset")}).ModelLists() {
			with[path] = append(with[path], name)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(with)) {
		if backends := with[path]; len(backends) > 1 && !f.given(path, "") {
			f.add(backends[0].(string), map[string]any{"name": "models", "pass": true, "merge": backends[1:],
				"match": map[string]any{"method": texts([]string{"GET"}), "path": texts([]string{path})}})
		}
	}
}

// given says that a route of the file matches all requests for a path that come to a
// listener; empty: the main one.
func (f *filler) given(path, listener string) bool {
	routes, _ := f.values["routes"].([]any)
	return slices.ContainsFunc(routes[:len(routes)-len(f.made)], func(r any) bool {
		route, _ := r.(map[string]any)
		at := text(route, "listener")
		if at == "" && listener != "" {
			at = f.listener(text(route, "backend")) // beside the main one
		}
		if at != listener {
			return false
		}
		match, _ := route["match"].(map[string]any)
		for key := range match {
			if key != "path" && key != "method" {
				return false
			}
		}
		if method, limited := match["method"]; limited && !slices.Contains(all(method), "POST") {
			return false
		}
		paths := all(match["path"])
		return len(paths) == 0 || slices.ContainsFunc(paths, func(p string) bool {
			below, open := strings.CutSuffix(p, "/**")
			return p == path || open && (path == below || strings.HasPrefix(path, below+"/"))
		})
	})
}

// listener is the one that is a backend's own; empty: it has none.
func (f *filler) listener(backend string) string {
	for _, name := range slices.Sorted(maps.Keys(f.entries("listeners"))) {
		if text(f.entries("listeners")[name], "backend") == backend {
			return name
		}
	}
	return ""
}

// class creates a class that the file does not have, and gives a class without an estimate
// one.
func (f *filler) class(name, kind string) {
	classes := f.entries("classes")
	if classes == nil {
		classes = make(map[string]any)
		f.values["classes"] = classes
	}
	as := map[string]any{"slots": 8, "estimate": "2s"}
	if kind == backend.Heavy {
		as = map[string]any{"slots": 1, "estimate": "18s"}
	}
	if classes[name] == nil {
		f.classes[name] = true
		classes[name] = as
	} else if class, is := classes[name].(map[string]any); is && class["estimate"] == nil {
		class["estimate"] = as["estimate"]
	}
}

// texts are a list as the file would have it.
func texts(all []string) []any {
	list := make([]any, len(all))
	for i, text := range all {
		list[i] = text
	}
	return list
}

// all are the texts of a value that is one or a list of them.
func all(value any) []string {
	switch v := value.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, item := range v {
			if text, ok := item.(string); ok {
				list = append(list, text)
			}
		}
		return list
	}
	return nil
}

// entries are those of a section, by name.
func (f *filler) entries(section string) map[string]any {
	all, _ := f.values[section].(map[string]any)
	return all
}

// text is a value of an entry; empty: it has none.
func text(entry any, key string) string {
	m, _ := entry.(map[string]any)
	s, _ := m[key].(string)
	return s
}

// learnDemands sets learn for each class without a demand, if all its requests run on cards
// that are read, and on backends for which the file gives no memory either: the resident
// memory of a backend may be all that its requests need.
func (f *filler) learnDemands() {
	learn := make(map[string]bool)
	routes, _ := f.values["routes"].([]any)
	for _, r := range routes {
		route, _ := r.(map[string]any)
		if pass, _ := route["pass"].(bool); pass || text(r, "vram") != "" {
			continue
		}
		class := text(r, "class")
		so, seen := learn[class]
		learn[class] = f.isRead(text(r, "backend")) && (so || !seen)
	}
	f.unset = make(map[string]bool)
	for name, entry := range f.entries("classes") {
		class, _ := entry.(map[string]any)
		_, given := class["vram"]
		if !given && class != nil && learn[name] {
			class["vram"] = "learn"
		} else if !given {
			f.unset[name] = !f.classes[name]
		}
	}
}

// isRead says that all GPUs of a backend are read.
func (f *filler) isRead(backend string) bool {
	b, _ := f.entries("backends")[backend].(map[string]any)
	if r, given := b["resident"]; given && r != "learn" {
		return false
	}
	var gpus []string
	if g := text(b, "gpu"); g != "" {
		gpus = append(gpus, g)
	}
	replicas, _ := b["replicas"].([]any)
	for _, r := range replicas {
		if g := text(r, "gpu"); g != "" {
			gpus = append(gpus, g)
		}
	}
	for _, g := range gpus {
		card, exists := f.entries("gpus")[g]
		if !exists || text(card, "source") == "declared" {
			return false
		}
	}
	return len(gpus) > 0
}
