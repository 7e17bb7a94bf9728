package configs

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is a key for which two configurations have different values.
type Change struct {
	Path string `json:"path"` // of a route, with its name in place of its number
	// Before and After are the values as the file would have them. For an entry that only
	// one of the two has, one value is empty and the other is "added" or "gone". For a
	// secret, both are "(hidden)".
	Before string `json:"before"`
	After  string `json:"after"`
	// For are the routes whose requests the key is about, of both configurations; empty:
	// it is about the whole.
	For []string `json:"for"`
}

// Diff lists the changes from one configuration to another, by path. Values from a preset
// or a default count like values of the file.
func Diff(before, after *Config) []Change {
	was, is := before.leaves(), after.leaves()
	changes := []Change{}
	told := make(map[string]bool) // entries
	paths := slices.Sorted(maps.Keys(was))
	for path := range is {
		if _, both := was[path]; !both {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		old, had := was[path]
		now, has := is[path]
		entry := cmp.Or(old.entry, now.entry)
		c := Change{Path: path, Before: old.shown, After: now.shown, For: concerned(entry, before, after)}
		switch {
		case old.value == now.value && had == has, told[entry]:
			continue
		case had && has && old.shown == now.shown:
			c.Before, c.After = "(hidden)", "(hidden)"
		case entry != "" && !hasEntry(is, entry):
			c.Path, c.Before, c.After, told[entry] = entry, "gone", "", true
		case entry != "" && !hasEntry(was, entry):
			c.Path, c.Before, c.After, told[entry] = entry, "", "added", true
		}
		changes = append(changes, c)
	}
	return changes
}

// leafValue is a value that is no mapping.
type leafValue struct {
	entry        string // the path of the gpu, class, backend, listener or route that it belongs to; empty: none
	value, shown string
}

// leaves are the values of a configuration, by path.
func (c *Config) leaves() map[string]leafValue {
	all := make(map[string]leafValue)
	public := c.Public()
	for key, v := range c.values {
		switch key {
		case "gpus", "classes", "backends", "listeners":
			entries, _ := v.(map[string]any)
			for name, entry := range entries {
				path := join(key, name)
				flatten(all, path, path, entry, public[key].(map[string]any)[name])
			}
		case "routes":
			routes, _ := v.([]any)
			times := make(map[string]int)
			for i, entry := range routes {
				path := "routes[" + c.Routing.Routes[i].Label() + "]"
				if times[path]++; times[path] > 1 {
					path += fmt.Sprintf("#%d", times[path])
				}
				flatten(all, path, path, entry, public[key].([]any)[i])
			}
		default:
			flatten(all, "", key, v, public[key])
		}
	}
	return all
}

func flatten(into map[string]leafValue, entry, path string, v, public any) {
	if below, ok := v.(map[string]any); ok {
		for key, inner := range below {
			flatten(into, entry, join(path, key), inner, public.(map[string]any)[key])
		}
		return
	}
	into[path] = leafValue{entry, fmt.Sprint(v), cmp.Or(fmt.Sprint(public), `""`)}
}

func hasEntry(leaves map[string]leafValue, entry string) bool {
	for _, l := range leaves {
		if l.entry == entry {
			return true
		}
	}
	return false
}

// concerned are the routes of either configuration whose requests an entry affects.
func concerned(entry string, configs ...*Config) []string {
	names := []string{}
	section, name, _ := strings.Cut(entry, ".")
	for _, c := range configs {
		for i := range c.Routing.Routes {
			r := &c.Routing.Routes[i]
			is := false
			switch section {
			case "gpus":
				is = slices.ContainsFunc(c.gpusOf(r.Backend), func(gpu string) bool { return gpu == name })
			case "classes":
				is = r.Class == name
			case "backends":
				is = r.Backend == name || slices.Contains(r.Merge, name)
			case "listeners":
				is = r.Backend == c.Proxy.Listeners[name].Backend
			default:
				named, _, _ := strings.Cut(entry, "]#")
				is = strings.TrimSuffix(named, "]") == "routes["+r.Label()
			}
			if label := r.Label(); is && !slices.Contains(names, label) {
				names = append(names, label)
			}
		}
	}
	return names
}

// gpusOf are the GPUs that a backend's servers are on.
func (c *Config) gpusOf(backend string) (names []string) {
	for _, server := range c.Routing.Backends[backend].Servers() {
		for _, p := range server.Places() {
			names = append(names, p.GPU)
		}
	}
	return names
}
