package configs

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxIncludes bounds the number of included files.
const maxIncludes = 100

// include reads the files that a mapping names and adds their keys to the root, as if
// they stood there. within are the files that led here.
func (d *document) include(file string, from *yaml.Node, within []string) {
	for i := 0; i+1 < len(from.Content); i += 2 {
		if from.Content[i].Value != "include" {
			continue
		}
		names := resolve(from.Content[i+1])
		if names.Kind != yaml.SequenceNode {
			return // the schema says so
		}
		for j, item := range names.Content {
			path, n := fmt.Sprintf("include[%d]", j), resolve(item)
			if n.Kind != yaml.ScalarNode || n.Value == "" {
				continue
			}
			name := n.Value
			if !filepath.IsAbs(name) {
				name = filepath.Join(filepath.Dir(file), name)
			}
			switch {
			case slices.Contains(within, name):
				d.report(item, path, "includes itself: "+strings.Join(append(slices.Clone(within), name), " → ")+": want each file once")
			case slices.Contains(d.files, name):
				d.report(item, path, fmt.Sprintf("%s is included already: want it once", quote(n.Value)))
			case len(d.files) >= maxIncludes:
				d.report(item, path, fmt.Sprintf("more than %d files: want fewer", maxIncludes))
			default:
				root := d.read(name)
				if root == nil {
					continue
				}
				d.claim(root, name)
				d.add(d.root, root, "")
				d.include(name, root, append(slices.Clone(within), name))
			}
		}
	}
}

// claim notes the file in which a node and all nodes below it stand.
func (d *document) claim(n *yaml.Node, file string) {
	if d.included == nil {
		d.included = make(map[*yaml.Node]string)
	}
	d.included[n] = file
	for _, below := range n.Content {
		d.claim(below, file)
	}
}

// add puts the keys of one mapping into another. Mappings of the same key become one,
// and so do the lists of routes; any other key may be given once.
func (d *document) add(to, from *yaml.Node, path string) {
	for i := 0; i+1 < len(from.Content); i += 2 {
		key, value := from.Content[i], from.Content[i+1]
		if path == "" && key.Value == "include" {
			continue
		}
		there := -1
		for j := 0; j+1 < len(to.Content); j += 2 {
			if to.Content[j].Value == key.Value {
				there = j
			}
		}
		inner := join(path, key.Value)
		switch {
		case there < 0:
			to.Content = append(to.Content, key, value)
			continue
		case path == "" && strings.HasPrefix(key.Value, "x-"):
			continue
		}
		old := resolve(to.Content[there+1])
		switch value := resolve(value); {
		case old.Kind == yaml.MappingNode && value.Kind == yaml.MappingNode:
			d.add(old, value, inner)
		case inner == "routes" && old.Kind == yaml.SequenceNode && value.Kind == yaml.SequenceNode:
			old.Content = append(old.Content, value.Content...)
		default:
			at := to.Content[there]
			d.report(key, inner, fmt.Sprintf("given twice: want it once (it stands in %s on line %d too)", d.fileOf(at), at.Line))
		}
	}
}
