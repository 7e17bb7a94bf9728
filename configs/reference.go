package configs

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/anteroom-gpu/anteroom/internal/markdown"
)

// key is one key of default.yaml: what stands there and what is said of it.
type key struct {
	name    string
	comment string
	value   *yaml.Node
}

// keysOf are those of a mapping, in the order of the file. A template stands for the
// entries of its section.
func keysOf(n *yaml.Node) (keys []key) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		keys = append(keys, key{n.Content[i].Value, said(n.Content[i].HeadComment), n.Content[i+1]})
	}
	return keys
}

// said is a comment as plain text. Only the last paragraph belongs to the key.
func said(comment string) string {
	paragraphs := strings.Split(comment, "\n\n")
	lines := strings.Split(paragraphs[len(paragraphs)-1], "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(strings.TrimPrefix(lines[i], "#"))
	}
	return strings.TrimSpace(strings.Join(lines, " "))
}

func defaultsRoot() *yaml.Node {
	return (&document{file: "default.yaml", templates: true}).parse("default.yaml", defaultText)
}

// Reference is every key with its default and its meaning, as Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\n" +
		markdown.Wrap("", "", "Every key with its default, from [default.yaml](../configs/default.yaml). [Concepts](concepts.md) explains "+
			"the words. `go test ./configs -run ReferencePage -rewrite` writes this page.") + "\n" +
		markdown.Wrap("", "", "Amounts of memory are written `34GiB`, `512MiB` or `34GB`, durations `90s`, `1m30s` or `500ms`. An unknown key "+
			"is an error. The environment overrides the file (`ANTEROOM_CLASSES__LIGHT__SLOTS=16`), and flags override both. `${NAME}` in "+
			"a value stands for a variable of the environment, `${file:PATH}` for the content of a file, and `$${` for `${` itself. Keys "+
			"at the top that begin with `x-` are your own, for YAML's anchors."))
	for _, k := range keysOf(defaultsRoot()) {
		fmt.Fprintf(&b, "\n## %s\n\n", k.name)
		if k.comment != "" {
			b.WriteString(markdown.Wrap("", "", k.comment) + "\n")
		}
		describeKeys(&b, "", k.name, k.value)
	}
	return b.String()
}

// describeKeys lists what is below a key.
func describeKeys(b *strings.Builder, indent, path string, n *yaml.Node) {
	if n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
		n = n.Content[0]
	}
	if n.Kind != yaml.MappingNode {
		if indent == "" {
			fmt.Fprintf(b, "Default: `%s`\n", written(n))
		}
		return
	}
	for _, k := range keysOf(n) {
		if k.name == template {
			describeKeys(b, indent, path, k.value)
			continue
		}
		below := k.value
		if below.Kind == yaml.SequenceNode && len(below.Content) > 0 {
			below = below.Content[0]
		}
		if below.Kind == yaml.MappingNode && len(below.Content) > 0 {
			b.WriteString(markdown.Wrap(fmt.Sprintf("%s- `%s`: ", indent, k.name), indent+"  ", k.comment))
			describeKeys(b, indent+"  ", path+"."+k.name, k.value)
			continue
		}
		b.WriteString(markdown.Wrap(fmt.Sprintf("%s- `%s` (`%s`): ", indent, k.name, written(k.value)), indent+"  ", k.comment))
	}
}

// written is a default as it is written in a file.
func written(n *yaml.Node) string {
	text, err := yaml.Marshal(&yaml.Node{Kind: n.Kind, Tag: n.Tag, Value: n.Value, Style: n.Style | yaml.FlowStyle})
	if err != nil {
		return n.Value
	}
	return strings.TrimSpace(string(text))
}

// JSONSchema describes the file to editors, in the draft of 2020-12. It has the rules of
// Load, except those that concern several keys.
func JSONSchema() []byte {
	root := schemaRoot.json(defaultsRoot())
	root["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	root["title"] = "Anteroom"
	root["patternProperties"] = map[string]any{"^x-": true}
	text, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic("configs: " + err.Error()) // cannot happen: these are maps of this package
	}
	return append(text, '\n')
}

// json is the JSON schema of what stands here. n is the place in default.yaml; nil:
// there is none.
func (s *schema) json(n *yaml.Node) map[string]any {
	reference := map[string]any{"type": "string", "pattern": `\$\{`}
	switch s.kind {
	case section:
		properties := make(map[string]any)
		comments := make(map[string]key)
		if n != nil && n.Kind == yaml.MappingNode {
			for _, k := range keysOf(n) {
				comments[k.name] = k
			}
		}
		for name, below := range s.keys {
			of := below.json(comments[name].value)
			if text := comments[name].comment; text != "" {
				of["description"] = text
			}
			properties[name] = of
		}
		return map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	case entries:
		return map[string]any{"type": "object", "additionalProperties": s.elem.json(child(n, template)),
			"propertyNames": map[string]any{"pattern": goodName.String()}}
	case table:
		return map[string]any{"type": "object", "additionalProperties": s.elem.json(nil)}
	case list:
		var first *yaml.Node
		if n != nil && n.Kind == yaml.SequenceNode && len(n.Content) > 0 {
			first = n.Content[0]
		}
		items := map[string]any{"type": "array", "items": s.elem.json(first)}
		if s.reads {
			return map[string]any{"anyOf": []any{items, map[string]any{"type": "string"}}}
		}
		return items
	}
	leaf := map[string]any{"type": "string"}
	switch {
	case s.typ == durationType:
		leaf["pattern"] = `^(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+$|^0$|\$\{`
		leaf["type"] = []string{"string", "integer"}
	case s.spread != nil:
		return map[string]any{"anyOf": []any{leaf, map[string]any{"const": 0}, s.spread.json(nil)}}
	case reflect.PointerTo(s.typ).Implements(textType):
		leaf["type"] = []string{"string", "integer"}
	case s.typ.Kind() == reflect.Bool:
		return map[string]any{"anyOf": []any{map[string]any{"type": "boolean"}, reference}}
	case s.typ.Kind() == reflect.Float32, s.typ.Kind() == reflect.Float64:
		return map[string]any{"anyOf": []any{map[string]any{"type": "number"}, reference}}
	case s.typ.Kind() != reflect.String:
		return map[string]any{"anyOf": []any{map[string]any{"type": "integer"}, reference}}
	default:
		leaf["type"] = []string{"string", "number", "boolean"}
	}
	return leaf
}

// child is the value of a key of a mapping; nil: there is none.
func child(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	keys := keysOf(n)
	if i := slices.IndexFunc(keys, func(k key) bool { return k.name == name }); i >= 0 {
		return keys[i].value
	}
	return nil
}
