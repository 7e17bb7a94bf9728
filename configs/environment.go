package configs

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Flag is a command-line flag that overrides one key.
type Flag struct{ Name, Path, Usage string }

// Flags are the keys that people change by hand.
var Flags = []Flag{
	{"listen", "listen", "listen for clients on `ADDRESS`: host:port or unix:/path"},
	{"admin", "admin.listen", "listen for health, metrics and control on `ADDRESS`"},
	{"log-level", "telemetry.log.level", "log from `LEVEL` on: debug, info, warn or error"},
}

const prefix = "ANTEROOM_"

// separator stands between the keys of a path as koanf takes it, so that the names
// of headers may contain dots.
const separator = "\x1f"

// linked matches what Kubernetes sets in every pod beside a service that is
// called anteroom.
var linked = regexp.MustCompile(`^ANTEROOM_([A-Z0-9]+_)*(SERVICE_(HOST|PORT)(_[A-Z0-9]+)*|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// overrides are values from outside the file, one key each.
type overrides struct {
	known    map[string]any    // the values so far, for the names in them
	origin   map[string]string // path → "environment ANTEROOM_X" or "flag --x"
	mistakes Mistakes
}

// environment reads one variable: the key's path in koanf's form and its value;
// an empty path: not ours, or wrong.
func (o *overrides) environment(name, text string) (string, any) {
	key := strings.TrimPrefix(name, prefix)
	if linked.MatchString(name) && !strings.Contains(key, "__") {
		return "", nil
	}
	return o.set("environment "+name, strings.Split(key, "__"), text)
}

// flag reads one flag; path is one of Flags.
func (o *overrides) flag(path, text string) (string, any) {
	origin := "flag --" + path
	for _, f := range Flags {
		if f.Path == path {
			origin = "flag --" + f.Name
		}
	}
	return o.set(origin, strings.Split(path, "."), text)
}

// set finds the key that the steps name and reads the text as its value.
func (o *overrides) set(origin string, steps []string, text string) (string, any) {
	at, problem := o.find(steps)
	var value any
	if problem == "" {
		value, problem = at.value(text)
	}
	if problem != "" {
		o.mistakes = append(o.mistakes, Mistake{File: origin, Path: at.path, Problem: problem})
		return "", nil
	}
	o.origin[at.path] = origin
	return strings.Join(at.keys, separator), value
}

// located is a key of the schema.
type located struct {
	*schema
	path, pattern string // with the names of entries, and with * for each
	keys          []string
}

// find goes down the schema by the steps. A problem is that of the path so far.
func (o *overrides) find(steps []string) (at located, problem string) {
	at.schema = schemaRoot
	names := o.known
	for i, step := range steps {
		key := strings.ToLower(step)
		switch at.kind {
		case section:
			at.path, at.pattern = join(at.path, key), join(at.pattern, key)
			if at.schema.keys[key] == nil {
				return at, at.refused(at.pattern, key)
			}
			at.schema = at.schema.keys[key]
		case entries:
			found := matching(names, step)
			if len(found) > 1 {
				return at, fmt.Sprintf("%s may be %s: want it in the file", step, strings.Join(found, " or "))
			}
			if len(found) == 1 {
				key = found[0]
			}
			at.path, at.pattern = join(at.path, key), join(at.pattern, "*")
			if !goodName.MatchString(key) {
				return at, "not a name: want letters and digits"
			}
			at.schema = at.elem
		case list:
			at.path += "." + strings.ToLower(strings.Join(steps[i:], "."))
			return at, fmt.Sprintf("a place in a list (%s) cannot be set here: want the whole list in the file", quote(step))
		default:
			above := at.path
			at.path += "." + strings.ToLower(strings.Join(steps[i:], "."))
			return at, "unknown key: want " + above + " alone"
		}
		at.keys = append(at.keys, key)
		names, _ = names[key].(map[string]any)
	}
	return at, ""
}

// value reads the text of a key, or says what is wrong with it.
func (at located) value(text string) (value any, problem string) {
	var err error
	switch {
	case at.kind == leaf:
		if problem := laterValue(at.pattern, text); problem != "" {
			return nil, problem
		}
		value, err = at.parse(strings.TrimSpace(text))
	case at.reads:
		value, err = at.split(text)
	case at.kind == list && at.elem.kind == leaf:
		items := []any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			v, err := at.elem.parse(item)
			if err != nil {
				return nil, err.Error()
			}
			items = append(items, v)
		}
		value = items
	case at.kind == list:
		return nil, "a list cannot be set here: want it in the file"
	default:
		return nil, fmt.Sprintf("one value cannot stand for %s: want a key below it", at.wants())
	}
	if err != nil {
		return nil, err.Error()
	}
	return value, ""
}

// matching are the names that a step of a variable's name can mean. Variables
// have neither lower case nor dashes.
func matching(names map[string]any, step string) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name == step {
			return []string{name}
		}
		if strings.EqualFold(strings.ReplaceAll(name, "-", "_"), step) {
			found = append(found, name)
		}
	}
	return found
}
