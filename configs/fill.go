package configs

// fill completes what a file leaves open and what follows from the rest of it. The
// values are those that were given, before any default is laid under them.
func fill(values map[string]any) {
	f := &filler{values: values}
	f.learnDemands()
}

type filler struct{ values map[string]any }

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

// learnDemands has the demand of each class learned for which none is given, where all
// its requests run on cards that are read, and on backends of which the file says
// nothing else either: what one holds anyway may be all that its requests need.
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
	for name, entry := range f.entries("classes") {
		class, _ := entry.(map[string]any)
		if _, given := class["vram"]; !given && class != nil && learn[name] {
			class["vram"] = "learn"
		}
	}
}

// isRead says that a backend is on GPUs alone whose memory is read.
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
