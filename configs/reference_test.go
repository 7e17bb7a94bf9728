package configs

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// docs/configuration.md is what the defaults say.
func TestReferencePageIsCurrent(t *testing.T) {
	const page = "../docs/configuration.md"
	got := Reference()
	if *rewrite {
		if err := os.WriteFile(page, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what default.yaml says: want go test ./configs -run ReferencePage -rewrite", page)
	}
	for _, line := range []string{"## classes", "- `strict_after` (`5s`): How long", "  - `limit` (`100`): How many requests.",
		"- `preset` (`\"\"`): The engine"} {
		if !strings.Contains(got, line) {
			t.Errorf("it does not say %q", line)
		}
	}
}

// Every key that Load knows is in the schema with its meaning, and no other.
func TestTheSchemaForEditors(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(JSONSchema(), &root); err != nil {
		t.Fatal(err)
	}
	at := func(steps ...string) map[string]any {
		n := root
		for _, step := range steps {
			next, ok := n[step].(map[string]any)
			if !ok {
				t.Fatalf("%v: no %s in %v", steps, step, n)
			}
			n = next
		}
		return n
	}
	if n := at("properties", "classes", "additionalProperties", "properties", "slots"); n["description"] == "" || n["anyOf"] == nil {
		t.Errorf("slots: %v", n)
	}
	if n := at("properties", "routes", "items", "properties", "match", "properties", "method"); n["anyOf"] == nil {
		t.Errorf("method: %v", n)
	}
	if root["additionalProperties"] != false || at("properties", "classes", "additionalProperties")["additionalProperties"] != false {
		t.Error("it lets unknown keys pass")
	}
	var walk func(path string, s *schema, n map[string]any)
	walk = func(path string, s *schema, n map[string]any) {
		if s.kind != section {
			return
		}
		properties, _ := n["properties"].(map[string]any)
		for name, below := range s.keys {
			of, ok := properties[name].(map[string]any)
			if !ok || of["description"] == nil {
				t.Errorf("%s.%s is not described", path, name)
				continue
			}
			walk(path+"."+name, below, of)
		}
	}
	walk("", schemaRoot, root)
}
