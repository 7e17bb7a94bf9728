package configs

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
)

// schema describes the value that one place of the file may have. It is derived from the
// structs of the sections: a key exists when a section has a field for it.
type schema struct {
	kind kind
	typ  reflect.Type
	keys map[string]*schema // of a section
	elem *schema            // of entries, a list or a table
	// spread is the table that may stand in a leaf's place; nil: none may.
	spread *schema

	reads bool // a list that may be given as one text, which its type parses
}

type kind int

const (
	leaf    kind = iota // one value
	section             // a fixed set of keys
	entries             // sections by a name of the user's own
	table               // values by a name of the user's own
	list                // values or sections in order
)

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	residentType = reflect.TypeFor[backend.Resident]()
)

// schemaRoot is the schema of the whole file.
var schemaRoot = schemaOf(reflect.TypeFor[Config]())

func schemaOf(t reflect.Type) *schema {
	readsText := reflect.PointerTo(t).Implements(textType)
	switch {
	case t.Kind() == reflect.Slice && readsText:
		return &schema{kind: list, typ: t, elem: schemaOf(t.Elem()), reads: true}
	case t == residentType:
		return &schema{typ: t, spread: schemaOf(reflect.TypeOf(backend.Resident{}.PerGPU))}
	case t == durationType || readsText:
		return &schema{typ: t}
	case t.Kind() == reflect.Struct:
		s := &schema{kind: section, typ: t, keys: map[string]*schema{}}
		s.addFields(t)
		return s
	case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return &schema{kind: entries, typ: t, elem: schemaOf(t.Elem())}
	case t.Kind() == reflect.Map:
		return &schema{kind: table, typ: t, elem: schemaOf(t.Elem())}
	case t.Kind() == reflect.Slice:
		return &schema{kind: list, typ: t, elem: schemaOf(t.Elem())}
	}
	return &schema{typ: t}
}

func (s *schema) addFields(t reflect.Type) {
	for field := range t.Fields() {
		name, option, _ := strings.Cut(field.Tag.Get("koanf"), ",")
		switch {
		case option == "squash":
			s.addFields(field.Type)
		case name != "" && name != "-":
			s.keys[name] = schemaOf(field.Type)
		}
	}
}

// wants says which value is wanted here, for messages.
func (s *schema) wants() string {
	switch s.kind {
	case section:
		switch {
		case s.keys["preset"] != nil:
			return "keys with values, such as {preset: comfyui}"
		case s.keys["url"] != nil:
			return "keys with values, such as {url: http://127.0.0.1:8001}"
		case s.keys["path"] != nil && s.keys["every"] != nil:
			return "keys with values, such as {path: /health}"
		case s.keys["limit"] != nil:
			return "keys with values, such as {limit: 100}"
		}
		return "keys with values"
	case entries:
		return "names with keys below them"
	case table:
		return "names with values"
	case list:
		if s.elem.kind == section {
			return "a list"
		}
		if s.reads {
			return "text, or a list such as [a, b]"
		}
		return "a list such as [a, b]"
	}
	switch {
	case s.typ == durationType:
		return "a duration such as 30s, 500ms or 1m30s"
	case s.spread != nil:
		return "an amount such as 20GiB, one for each GPU such as {gpu0: 20GiB, gpu1: 20GiB}, or learn"
	case reflect.PointerTo(s.typ).Implements(textType):
		return "an amount such as 34GiB or 512MiB"
	}
	switch s.typ.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	case reflect.Float32, reflect.Float64:
		return "a number"
	}
	return "a whole number"
}

// parse reads a leaf's text. What it returns is either what a field can hold
// or a text that reads itself.
func (s *schema) parse(text string) (any, error) {
	wrong := func() error { return fmt.Errorf("%s: want %s", quote(text), s.wants()) }
	if s.typ == durationType {
		if _, err := time.ParseDuration(text); err != nil {
			if _, bare := strconv.ParseFloat(text, 64); bare == nil {
				return nil, fmt.Errorf("%s has no unit: want %ss, or another unit of ms, s, m or h", text, text)
			}
			return nil, wrong()
		}
		return text, nil
	}
	if v, ok := reflect.New(s.typ).Interface().(encoding.TextUnmarshaler); ok {
		if err := v.UnmarshalText([]byte(text)); err != nil {
			return nil, err
		}
		return text, nil
	}
	switch s.typ.Kind() {
	case reflect.String:
		return text, nil
	case reflect.Bool:
		if text != "true" && text != "false" {
			return nil, wrong()
		}
		return text == "true", nil
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, wrong()
		}
		return f, nil
	}
	n, err := strconv.ParseInt(text, 10, s.typ.Bits())
	if err != nil {
		return nil, wrong()
	}
	return int(n), nil
}

// split reads a list from one text, as its type does.
func (s *schema) split(text string) ([]any, error) {
	v := reflect.New(s.typ)
	if err := v.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)); err != nil {
		return nil, fmt.Errorf("%s: %w", quote(text), err)
	}
	items := []any{}
	for i := range v.Elem().Len() {
		items = append(items, v.Elem().Index(i).Interface())
	}
	return items, nil
}

// quote shows a value of the user's, not more of it than a line takes.
func quote(text string) string {
	const most = 60
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return strconv.Quote(text)
}

// unknown is the problem of a key that a section does not have.
func (s *schema) unknown(key string) string {
	best := Nearest(key, s.names())
	if best != "" {
		return fmt.Sprintf("unknown key: want %s", best)
	}
	for _, outer := range s.names() {
		if inner := s.keys[outer]; inner.kind == section && inner.keys[key] != nil {
			return fmt.Sprintf("unknown key: want %s.%s", outer, key)
		}
	}
	return "unknown key: want one of " + strings.Join(s.names(), ", ")
}

// Nearest is the name that was probably meant by an unknown word; empty: no name is
// similar.
func Nearest(word string, names []string) string {
	best, distance := "", 1+len(word)/3
	for _, known := range names {
		if len(word) > 2*len(known) {
			continue
		}
		if d := edits(word, known); d <= distance && (best == "" || d < distance) {
			best, distance = known, d
		}
	}
	return best
}

func (s *schema) names() []string {
	var names []string
	for name := range s.keys {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// edits is how many letters must be added, dropped, exchanged or swapped with
// their neighbour to turn a into b.
func edits(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+b2i(a[i-1] != b[j-1]))
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

// strict says that a YAML text ("8") is no value of this leaf: an
// author who quoted it meant something else.
func (s *schema) strict() bool {
	return s.typ != durationType && !reflect.PointerTo(s.typ).Implements(textType) && s.typ.Kind() != reflect.String
}
