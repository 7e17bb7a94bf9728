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

// separator stands between the keys of a path inside koanf, so that the names
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
	s, path, pattern := schemaRoot, "", ""
	names := o.known
	var keys []string
	report := func(problem string) (string, any) {
		o.mistakes = append(o.mistakes, Mistake{File: origin, Path: path, Problem: problem})
		return "", nil
	}
	for i, step := range steps {
		var key string
		switch s.kind {
		case section:
			key = strings.ToLower(step)
			path, pattern = join(path, key), join(pattern, key)
			if s.keys[key] == nil {
				return report(s.refused(pattern, key))
			}
			s = s.keys[key]
		case entries:
			found := matching(names, step)
			if len(found) > 1 {
				return report(fmt.Sprintf("%s may be %s: want it in the file", step, strings.Join(found, " or ")))
			}
			key = strings.ToLower(step)
			if len(found) == 1 {
				key = found[0]
			}
			path, pattern = join(path, key), join(pattern, "*")
			if !goodName.MatchString(key) {
				return report("not a name: want letters and digits")
			}
			s = s.elem
		case list:
			path += "." + strings.ToLower(strings.Join(steps[i:], "."))
			return report(fmt.Sprintf("a place in a list (%s) cannot be set here: want the whole list in the file", quote(step)))
		default:
			above := path
			path += "." + strings.ToLower(strings.Join(steps[i:], "."))
			return report("unknown key: want " + above + " alone")
		}
		keys = append(keys, key)
		names, _ = names[key].(map[string]any)
	}
	var value any
	switch {
	case s.kind == leaf:
		if problem := laterValue(pattern, text); problem != "" {
			return report(problem)
		}
		v, err := s.parse(strings.TrimSpace(text))
		if err != nil {
			return report(err.Error())
		}
		value = v
	case s.reads:
		items, err := s.split(text)
		if err != nil {
			return report(err.Error())
		}
		value = items
	case s.kind == list && s.elem.kind == leaf:
		items := []any{}
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			v, err := s.elem.parse(item)
			if err != nil {
				return report(err.Error())
			}
			items = append(items, v)
		}
		value = items
	case s.kind == list:
		return report("a list cannot be set here: want it in the file")
	default:
		return report(fmt.Sprintf("one value cannot stand for %s: want a key below it", s.wants()))
	}
	o.origin[path] = origin
	return strings.Join(keys, separator), value
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
