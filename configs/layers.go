package configs

import (
	"fmt"
	"maps"
	"reflect"

	"github.com/go-viper/mapstructure/v2"
)

// start has the defaults of the entries of a section.
type start struct {
	values map[string]any
	lists  map[string]*start // what the entries of its lists begin with, which are empty in values
}

// newStart takes the values of a template, in which each list of sections has one entry.
func newStart(s *schema, values map[string]any) *start {
	t := &start{values: values, lists: make(map[string]*start)}
	for key, below := range s.keys {
		if below.kind == list && below.elem.kind == section {
			items, _ := values[key].([]any)
			first, _ := items[0].(map[string]any)
			t.lists[key] = newStart(below.elem, first)
			values[key] = []any{}
		}
	}
	return t
}

// layers remember which values of an entry are defaults. With hundreds of routes, most
// values are defaults, and those are decoded only once.
type layers struct {
	of map[uintptr]layer // by the mapping
}

// layer is a mapping in two parts: the defaults, and the values that replace some of them.
type layer struct{ below, changes map[string]any }

// complete adds to an entry the defaults of its start for the keys that it leaves out. The
// entry shares these values with start.
func (l *layers) complete(from *start, entry any) map[string]any {
	own, _ := entry.(map[string]any)
	own = maps.Clone(own)
	for key, first := range from.lists {
		if _, given := own[key]; !given {
			continue
		}
		items := []any{}
		list, _ := own[key].([]any)
		for _, item := range list {
			items = append(items, l.complete(first, item))
		}
		own[key] = items
	}
	return l.over(from.values, own)
}

// over merges a mapping's own values over the defaults.
func (l *layers) over(below, own map[string]any) map[string]any {
	whole, changes := maps.Clone(below), make(map[string]any, len(own))
	for key, value := range own {
		under, isMap := whole[key].(map[string]any)
		if v, ok := value.(map[string]any); ok && isMap {
			value = l.over(under, v)
		}
		whole[key], changes[key] = value, value
	}
	l.of[reflect.ValueOf(whole).Pointer()] = layer{below, changes}
	return whole
}

// decode makes structs of the values.
func (l *layers) decode(values map[string]any, c *Config) error {
	type source struct {
		values uintptr
		to     reflect.Type
	}
	known := make(map[source]reflect.Value)
	plain := mapstructure.ComposeDecodeHookFunc(mapstructure.StringToTimeDurationHookFunc(), spreadResident, mapstructure.TextUnmarshallerHookFunc())
	decode := func(to, from any, hook mapstructure.DecodeHookFunc) error {
		// The values replace what is there already.
		d, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: to, TagName: "koanf", ErrorUnused: true, ZeroFields: true, DecodeHook: hook})
		if err != nil {
			return err
		}
		return d.Decode(from)
	}
	var hook mapstructure.DecodeHookFunc
	layered := func(from, to reflect.Value) (any, error) {
		if from.Kind() != reflect.Map || to.Kind() != reflect.Struct {
			return from.Interface(), nil
		}
		made, ok := l.of[from.Pointer()]
		if !ok {
			return from.Interface(), nil
		}
		below := source{reflect.ValueOf(made.below).Pointer(), to.Type()}
		if !known[below].IsValid() {
			v := reflect.New(to.Type())
			if err := decode(v.Interface(), made.below, hook); err != nil {
				return nil, err
			}
			known[below] = v.Elem()
		}
		v := reflect.New(to.Type()).Elem()
		v.Set(known[below])
		for key, value := range made.changes {
			field := fieldOf(v, key)
			switch given := reflect.ValueOf(value); {
			case !field.IsValid():
				return nil, fmt.Errorf("unknown key %s", key)
			case given.IsValid() && given.Type() == field.Type() && given.Kind() != reflect.Map:
				field.Set(given)
			default:
				if err := decode(field.Addr().Interface(), value, hook); err != nil {
					return nil, err
				}
			}
		}
		return v.Interface(), nil
	}
	hook = mapstructure.ComposeDecodeHookFunc(layered, plain)
	return decode(c, values, hook)
}

// spreadResident makes a mapping of GPUs to amounts what a struct can hold.
func spreadResident(from, to reflect.Type, data any) (any, error) {
	if to == residentType && from.Kind() == reflect.Map {
		return map[string]any{"PerGPU": data}, nil
	}
	return data, nil
}

// fieldOf is the field of a section's struct for a key; not valid: there is none.
func fieldOf(of reflect.Value, key string) reflect.Value {
	for i := range of.NumField() {
		if of.Type().Field(i).Tag.Get("koanf") == key {
			return of.Field(i)
		}
	}
	return reflect.Value{}
}
