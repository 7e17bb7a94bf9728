// Package openapi compares the JSON of the API with docs/openapi.yaml, for tests.
package openapi

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// schema is what is compared of a schema.
type schema struct {
	Ref        string `yaml:"$ref"`
	Type       any
	Enum       []string
	Items      *schema
	OneOf      []*schema `yaml:"oneOf"`
	Values     *schema   `yaml:"additionalProperties"`
	Required   []string
	Properties map[string]*schema
}

// kind is a type in a few words: `State`, `[]GPU`, `integer or null`.
func (s *schema) kind() string {
	switch {
	case s.Ref != "":
		return s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
	case len(s.OneOf) == 2:
		return s.OneOf[0].kind() + " or null"
	case s.Items != nil:
		return "[]" + s.Items.kind()
	case s.Values != nil:
		return "map of " + s.Values.kind()
	}
	if either, ok := s.Type.([]any); ok {
		return either[0].(string) + " or " + either[1].(string)
	}
	kind, _ := s.Type.(string)
	return kind
}

// Compare fails a test where a schema of the file has not just the fields of the type of
// the same name, each with its type. It gives the values that the schema Reason lists.
func Compare(t testing.TB, file string, types map[string]any) (reasons []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var read struct {
		Components struct{ Schemas map[string]*schema }
	}
	if err := yaml.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	names := map[reflect.Type]string{reflect.TypeFor[timeline.TraceID](): "TraceID", reflect.TypeFor[admission.Reason](): "Reason",
		reflect.TypeFor[time.Time](): "string"}
	for name, value := range types {
		names[reflect.TypeOf(value)] = name
	}
	for name, value := range types {
		in := read.Components.Schemas[name]
		if in == nil {
			t.Errorf("%s is not in the file", name)
			continue
		}
		in.compare(t, name, reflect.TypeOf(value), names)
	}
	return read.Components.Schemas["Reason"].Enum
}

// compare compares a schema with a type.
func (s *schema) compare(t testing.TB, name string, of reflect.Type, names map[reflect.Type]string) {
	t.Helper()
	fields, required := map[string]string{}, []string{}
	fieldsOf(of, names, fields, &required)
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		if p := s.Properties[field]; p == nil {
			t.Errorf("%s.%s is not in the file", name, field)
		} else if p.kind() != fields[field] {
			t.Errorf("%s.%s is %s in the file, want %s", name, field, p.kind(), fields[field])
		}
	}
	for field := range s.Properties {
		if fields[field] == "" {
			t.Errorf("%s.%s is in the file, and not in the answers", name, field)
		}
	}
	if got := slices.Sorted(slices.Values(s.Required)); !slices.Equal(got, slices.Sorted(slices.Values(required))) {
		t.Errorf("%s has always %v in the file, want %v", name, got, required)
	}
}

// fieldsOf gives the JSON fields of a type with their kinds, and which are always there.
func fieldsOf(of reflect.Type, names map[reflect.Type]string, fields map[string]string, required *[]string) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous:
			fieldsOf(f.Type, names, fields, required)
			continue
		case name == "-":
			continue
		}
		kind, isOptional := f.Type, strings.Contains(options, "omitempty")
		if isOptional && kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		fields[name] = kindOf(kind, names)
		if !isOptional {
			*required = append(*required, name)
		}
	}
}

func kindOf(of reflect.Type, names map[reflect.Type]string) string {
	if name := names[of]; name != "" {
		return name
	}
	switch of.Kind() {
	case reflect.Pointer:
		return kindOf(of.Elem(), names) + " or null"
	case reflect.Slice:
		return "[]" + kindOf(of.Elem(), names)
	case reflect.Map:
		return "map of " + kindOf(of.Elem(), names)
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "integer"
	}
	return of.String()
}
