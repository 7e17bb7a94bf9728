// Package configs loads the configuration: the embedded defaults, the file,
// the environment and flags, strictly, with every mistake reported at once.
//
//   - Every default is in default.yaml and nowhere else.
//   - A key exists when a section's struct has a field for it.
//   - A configuration that Load returns has no mistake that can be seen
//     without starting.
package configs

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/gpu"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/telemetry"
)

// Config is the whole file, as the sections' owners see it.
type Config struct {
	Proxy     proxy.Config          `koanf:",squash"`
	Routing   routing.Config        `koanf:",squash"`
	GPUs      map[string]gpu.Config `koanf:"gpus"`
	Telemetry telemetry.Config      `koanf:"telemetry"`

	// Include names more files, relative to the one that names them. Their keys count as if
	// they stood in it, and their routes come after its own.
	Include []string `koanf:"include"`

	warnings Mistakes
	values   map[string]any
	written  map[string]string // as in document
}

// Options says where a configuration comes from.
type Options struct {
	File  string            // empty: the defaults, the environment and the flags alone
	Text  []byte            // in place of the file's content; File is then its name in messages
	Env   []string          // as os.Environ gives it
	Flags map[string]string // config path → value, from the command line
}

// Load reads and checks a configuration. Its error is always Mistakes.
func Load(o Options) (*Config, error) {
	file := &document{file: o.File}
	if o.File != "" {
		if file = readFile(o); file.root == nil {
			return nil, file.mistakes
		}
	}
	given := &overrides{known: file.values, origin: make(map[string]string)}
	values, made, filled := merge(o, file, given)
	c := &Config{values: values, written: file.written}
	for path := range given.origin {
		delete(c.written, path)
	}
	if err := made.decode(c.values, c); err != nil {
		return nil, Mistakes{{File: o.File, Problem: err.Error()}}
	}
	for name, b := range c.Routing.Backends {
		c.Routing.Backends[name] = b.Resolve()
	}
	for i := filled.first; i < len(c.Routing.Routes); i++ {
		c.Routing.Routes[i].Derived = true
	}
	found := &findings{file: file, origin: given.origin, filled: filled, mistakes: slices.Concat(file.mistakes, given.mistakes)}
	c.check(found)
	if len(found.mistakes) > 0 {
		found.mistakes.sort()
		return nil, found.mistakes
	}
	c.warn(found)
	found.warnings.sort()
	c.warnings = slices.Compact(found.warnings)
	return c, nil
}

// Warnings are problems that serve accepts and that an operator should know.
func (c *Config) Warnings() Mistakes { return c.warnings }

// template is the name of the entry with the defaults of the other entries of its section.
const template = "*"

//go:embed default.yaml
var defaultText []byte

// readDefaults parses default.yaml anew, so that no two configurations share its maps.
func readDefaults() *document {
	d := &document{file: "default.yaml", templates: true}
	d.root = d.parse(d.file, defaultText)
	d.values, _ = d.value(d.root, schemaRoot, "", "").(map[string]any)
	if len(d.mistakes) > 0 {
		panic("configs: " + d.mistakes.Error())
	}
	return d
}

// merge lays the file over the defaults, the environment over both and the
// flags over all, then completes every entry from its section's template.
func merge(o Options, file *document, given *overrides) (values map[string]any, made *layers, filled filled) {
	values = readDefaults().values
	templates := make(map[string]*start)
	for key, s := range schemaRoot.keys {
		switch {
		case s.kind == entries:
			named, _ := values[key].(map[string]any)
			first, _ := named[template].(map[string]any)
			templates[key] = newStart(s.elem, first)
			values[key] = map[string]any{}
		case s.kind == list && s.elem.kind == section:
			items, _ := values[key].([]any)
			first, _ := items[0].(map[string]any)
			templates[key] = newStart(s.elem, first)
			values[key] = []any{}
		}
	}
	k := koanf.New(separator)
	load := func(p koanf.Provider) {
		if err := k.Load(p, nil); err != nil {
			panic("configs: " + err.Error()) // the providers read from memory
		}
	}
	load(inMemory(values))
	// The overrides are merged into a copy, because the file's values are needed again.
	load(inMemory(clone(file.values)))
	load(env.Provider(separator, env.Opt{Prefix: prefix, TransformFunc: given.environment, EnvironFunc: func() []string { return o.Env }}))
	flags := make(map[string]any)
	for _, path := range slices.Sorted(maps.Keys(o.Flags)) {
		if key, value := given.flag(path, o.Flags[path]); key != "" {
			flags[key] = value
		}
	}
	load(confmap.Provider(flags, separator))
	values = k.Raw()

	filled = fill(values)
	made = &layers{of: make(map[uintptr]layer)}
	for key, from := range templates {
		switch below := values[key].(type) {
		case map[string]any:
			for name, entry := range below {
				below[name] = made.complete(from, entry)
			}
		case []any:
			for i, entry := range below {
				below[i] = made.complete(from, entry)
			}
		}
	}
	return values, made, filled
}

// inMemory is a provider of values that the caller gives away. confmap's provider copies
// its values, which for a thousand routes costs as much as reading them.
type inMemory map[string]any

func (m inMemory) Read() (map[string]any, error) { return m, nil }
func (m inMemory) ReadBytes() ([]byte, error)    { return nil, errors.ErrUnsupported }

// clone is a deep copy: it shares no mappings and no lists with the original.
func clone(from map[string]any) map[string]any {
	to := make(map[string]any, len(from))
	for key, value := range from {
		to[key] = cloneValue(value)
	}
	return to
}

func cloneValue(value any) any {
	switch v := value.(type) {
	case map[string]any:
		return clone(v)
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = cloneValue(v[i])
		}
		return list
	}
	return value
}

// Admission is the configuration of the admission controller, in the order of the
// names.
func (c *Config) Admission() admission.Config {
	controller := admission.Config{Tenants: admission.Tenants{QueueLimit: c.Proxy.Tenants.QueueLimit}}
	if len(c.Proxy.Tenants.Weights) > 0 {
		controller.Tenants.Weights = c.Proxy.Tenants.Weights
	}
	for _, name := range slices.Sorted(maps.Keys(c.GPUs)) {
		g := c.GPUs[name]
		controller.GPUs = append(controller.GPUs, admission.GPU{Name: name, Device: g.Device, Memory: g.Memory, Reserve: g.Reserve,
			Reads: g.Reads(), Hold: g.Unknown == "hold", TrialAfter: g.TrialAfter, Turn: g.Turn})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Classes)) {
		k := c.Routing.Classes[name]
		controller.Classes = append(controller.Classes, admission.Class{
			Name: name, Slots: k.Slots,
			QueueLimit: k.Queue.Limit, QueueBytes: k.Queue.Bytes, QueueTimeout: k.Queue.Timeout,
			Boost: k.Boost, StrictAfter: k.StrictAfter,
		})
	}
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		b := c.Routing.Backends[name]
		controller.Backends = append(controller.Backends, admission.Backend{
			Name: name, Slots: b.Slots, ReturnsMemory: b.ReturnsMemory, LearnsResident: b.Resident.Learn,
			Reclaims: b.Reclaim.Enabled(), Pinned: b.Pinned, MinResidency: b.MinResidency,
			Replicas: b.Admission(), Reserved: c.reserved(name),
		})
	}
	return controller
}

// Owners are the hints that say which processes on a card belong to which backend.
func (c *Config) Owners() []gpu.Hint {
	var hints []gpu.Hint
	for _, name := range slices.Sorted(maps.Keys(c.Routing.Backends)) {
		for i, server := range c.Routing.Backends[name].Servers() {
			hint := gpu.Hint{Backend: name, Replica: i, PID: server.Process.PID, Name: server.Process.Name}
			for _, p := range server.Places() {
				hint.GPUs = append(hint.GPUs, p.GPU)
			}
			if u, err := url.Parse(server.URL); err == nil && u.Hostname() != "" {
				hint.Address = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"https": "443"}[u.Scheme], "80"))
			}
			hints = append(hints, hint)
		}
	}
	return hints
}

// reserved are the slots of a backend that its classes have for themselves.
func (c *Config) reserved(backend string) map[string]int {
	var slots map[string]int
	for _, r := range c.Routing.Routes {
		if n := c.Routing.Classes[r.Class].Reserved; r.Backend == backend && !r.Pass && n > 0 {
			if slots == nil {
				slots = make(map[string]int)
			}
			slots[r.Class] = n
		}
	}
	return slots
}

// Public is the configuration in force, ready for JSON, without secrets: it shows only
// whether a token is set, addresses have no passwords, and references to the environment or
// to a file are shown as they are written.
func (c *Config) Public() map[string]any {
	shown := clone(c.values)
	if admin, ok := shown["admin"].(map[string]any); ok {
		for _, key := range [...]string{"token", "read_token"} {
			if admin[key] != "" {
				admin[key] = "(set)"
			}
		}
	}
	return c.redact("", shown).(map[string]any)
}

// redact hides what is secret in the value at a path and everywhere below.
func (c *Config) redact(path string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, below := range v {
			v[key] = c.redact(join(path, key), below)
		}
	case []any:
		for i, below := range v {
			v[i] = c.redact(fmt.Sprintf("%s[%d]", path, i), below)
		}
	case string:
		if written, ok := c.written[path]; ok && v != "(set)" {
			return written
		}
		if u, err := url.Parse(v); err == nil && u.User != nil {
			return u.Redacted()
		}
	}
	return v
}
