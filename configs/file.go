package configs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

const (
	// maxFile is larger than any file that a person writes.
	maxFile = 1 << 20
	// maxValues bounds what aliases can make of a small file.
	maxValues = 100_000
	// maxMistakes is more than a person reads.
	maxMistakes = 1000
)

// document is one YAML file as it was read, with the mistakes found in it.
type document struct {
	file      string
	templates bool       // entries may be called "*"
	root      *yaml.Node // the mapping; nil where there is none
	values    map[string]any
	mistakes  Mistakes
	visited   int

	env      []string              // for ${NAME}, as os.Environ gives it
	files    []string              // that were read, or could not be read
	included map[*yaml.Node]string // the file of each node that stands in another one
	written  map[string]string     // path → the text as written, of values with a ${}
	secrets  []string              // what ${} stands for, and what stands there, in turn
}

// readFile reads and parses a file and those that it includes. A value that it cannot
// accept is a mistake of the document, and is left out of the values.
func readFile(o Options) *document {
	d := &document{file: o.File, env: o.Env}
	if o.Text != nil {
		d.root = d.parse(o.File, o.Text)
	} else {
		d.root = d.read(o.File)
	}
	if d.root != nil {
		d.include(o.File, d.root, []string{o.File})
		d.values, _ = d.value(d.root, schemaRoot, "", "").(map[string]any)
	}
	return d
}

// read gives the mapping that a file holds; nil: there is none, which is reported.
func (d *document) read(name string) *yaml.Node {
	d.files = append(d.files, name)
	text, err := contents(name)
	if err != nil {
		d.mistakes = append(d.mistakes, Mistake{File: name, Line: 1, Column: 1, Problem: err.Error()})
		return nil
	}
	return d.parse(name, text)
}

// contents is a configuration file's text.
func contents(name string) ([]byte, error) {
	const want = "want a file with gpus and backends, as `anteroom init` writes it"
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %v: %s", cause(err), want)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, errors.New("is a directory: " + want)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %v: %s", cause(err), want)
	}
	if len(text) > maxFile {
		return nil, errors.New("is larger than 1MiB: want a smaller file")
	}
	return text, nil
}

// cause leaves out the operation and the file's name, which the caller tells.
func cause(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// parse gives the mapping that a file's text is; nil: it is none, which is reported.
func (d *document) parse(file string, text []byte) *yaml.Node {
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var first, second yaml.Node
	err := decoder.Decode(&first)
	top := func(line int, problem string) {
		d.mistakes = append(d.mistakes, Mistake{File: file, Line: max(line, 1), Column: 1, Problem: problem})
	}
	syntax := func(err error) {
		line, column, problem := syntaxError(text, err)
		d.mistakes = append(d.mistakes, Mistake{File: file, Line: max(line, 1), Column: column, Problem: problem})
	}
	if err != nil && err != io.EOF {
		syntax(err)
		return nil
	}
	var root *yaml.Node
	if err == nil && len(first.Content) > 0 {
		root = first.Content[0]
	}
	if root == nil || isNull(root) {
		top(1, "the file is empty: want gpus and backends, as `anteroom init` writes them")
		return nil
	}
	if root.Kind != yaml.MappingNode {
		top(root.Line, "the file is not a mapping: want keys with values")
		return nil
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		top(second.Line, "a second document: want one in a file")
	case err != io.EOF:
		syntax(err)
	}
	return root
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// report notes a mistake at a node.
func (d *document) report(n *yaml.Node, path, problem string) {
	switch {
	case len(d.mistakes) == maxMistakes:
		path, problem = "", fmt.Sprintf("more than %d mistakes: the rest is left out", maxMistakes)
	case len(d.mistakes) > maxMistakes:
		return
	}
	d.mistakes = append(d.mistakes, Mistake{File: d.fileOf(n), Line: n.Line, Column: n.Column, Path: path, Problem: d.hide(problem)})
}

// fileOf is the file in which a node stands.
func (d *document) fileOf(n *yaml.Node) string { return cmp.Or(d.included[n], d.file) }

// tooMany counts a key or a value and says whether the file has more than it may have,
// which is reported once.
func (d *document) tooMany(n *yaml.Node) bool {
	d.visited++
	if d.visited == maxValues+1 {
		d.report(n, "", fmt.Sprintf("more than %d values with all aliases written out: want fewer", maxValues))
	}
	return d.visited > maxValues
}

// value reads a node as the schema wants it; nil: there is nothing, or what
// there is has been reported. path is as the user sees it, pattern has * for
// every name of the user's own.
func (d *document) value(n *yaml.Node, s *schema, path, pattern string) any {
	at := n
	n = resolve(n)
	if isNull(n) {
		if s.kind == leaf {
			d.report(at, path, "no value: want "+s.wants())
		}
		return nil
	}
	switch {
	case n.Kind == yaml.ScalarNode && s.kind == leaf:
		return d.scalar(at, n, s, path, pattern)
	case n.Kind == yaml.MappingNode && (s.kind == section || s.kind == entries || s.kind == table):
		return d.mapping(n, s, path, pattern)
	case n.Kind == yaml.MappingNode && s.spread != nil:
		v := d.mapping(n, s.spread, path, pattern)
		if len(v) == 0 && len(n.Content) > 0 {
			return nil // all of it has been reported
		}
		return v
	case n.Kind == yaml.SequenceNode && s.kind == list:
		return d.sequence(n, s, path, pattern)
	case n.Kind == yaml.ScalarNode && s.reads:
		items, err := s.split(n.Value)
		if err != nil {
			d.report(at, path, err.Error())
			return nil
		}
		return items
	}
	d.report(at, path, fmt.Sprintf("%s: want %s", shape(n), s.wants()))
	return nil
}

// shape says what a node is, for messages.
func shape(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	}
	return quote(n.Value)
}

func (d *document) scalar(at, n *yaml.Node, s *schema, path, pattern string) any {
	if problem := laterValue(pattern, n.Value); problem != "" {
		d.report(at, path, problem)
		return nil
	}
	if s.strict() && n.ShortTag() == "!!str" && !strings.Contains(n.Value, "${") {
		d.report(at, path, fmt.Sprintf("%s is text: want %s", quote(n.Value), s.wants()))
		return nil
	}
	text, ok := d.expand(at, n, path)
	if !ok {
		return nil
	}
	v, err := s.parse(text)
	if err != nil {
		d.report(at, path, err.Error())
		return nil
	}
	return v
}

// mapping reads the keys of a section, or the names of entries or a table.
func (d *document) mapping(n *yaml.Node, s *schema, path, pattern string) map[string]any {
	out := make(map[string]any)
	lines := make(map[string]int)
	for key, value := range d.pairs(n, path) {
		name := key.Value
		inner := join(path, name)
		if line, twice := lines[name]; twice {
			d.report(key, inner, fmt.Sprintf("given twice: want it once (it stands on line %d too)", line))
			continue
		}
		lines[name] = key.Line
		if key.Kind != yaml.ScalarNode {
			d.report(key, inner, shape(key)+": want a name")
			continue
		}
		next, innerPattern := s.elem, join(pattern, "*")
		if s.kind == section {
			if path == "" && strings.HasPrefix(name, "x-") {
				continue // the user's own: anchors, notes
			}
			next, innerPattern = s.keys[name], join(pattern, name)
			if next == nil {
				d.report(key, inner, s.refused(innerPattern, name))
				continue
			}
		}
		if s.kind == entries && !goodName.MatchString(name) && !(d.templates && name == template) {
			d.report(key, inner, "not a name: want up to 63 letters, digits, _ and -, beginning with a letter or digit")
		}
		v := d.value(value, next, inner, innerPattern)
		if v == nil && s.kind == entries {
			v = map[string]any{} // the entry exists, so that references to it are no mistakes
		}
		if v != nil {
			out[name] = v
		}
	}
	return out
}

// goodName matches the allowed names of entries. Names are labels of metrics and parts of
// the admin listener's paths.
var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

// pairs gives the keys and values of a mapping, then those that it merges in
// (<<) and does not have itself.
func (d *document) pairs(top *yaml.Node, path string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		own := make(map[string]bool)
		// once yields the pairs of a mapping whose keys are new, and gives what it merges in.
		once := func(n *yaml.Node) (merged []*yaml.Node, more bool) {
			for i := 0; i+1 < len(n.Content); i += 2 {
				key, value := n.Content[i], n.Content[i+1]
				switch {
				case d.tooMany(key):
					return nil, false
				case key.ShortTag() == "!!merge":
					merged = append(merged, value)
				case n == top || !own[key.Value]: // a key that a mapping has twice is for the caller
					own[key.Value] = true
					if !yield(key, value) {
						return nil, false
					}
				}
			}
			return merged, true
		}
		merged, more := once(top)
		// A merged mapping may merge others in turn, even itself.
		seen := map[*yaml.Node]bool{top: true}
		for more && len(merged) > 0 {
			at := merged[0]
			source := resolve(at)
			merged = merged[1:]
			if seen[source] {
				continue
			}
			seen[source] = true
			if d.tooMany(at) {
				return
			}
			var further []*yaml.Node
			switch source.Kind {
			case yaml.SequenceNode:
				merged = append(slices.Clone(source.Content), merged...)
			case yaml.MappingNode:
				further, more = once(source)
				merged = append(merged, further...)
			default:
				d.report(at, join(path, "<<"), shape(source)+": want an alias of keys with values")
			}
		}
	}
}

func (d *document) sequence(n *yaml.Node, s *schema, path, pattern string) any {
	out := []any{}
	for i, item := range n.Content {
		if d.tooMany(item) {
			break
		}
		inner := fmt.Sprintf("%s[%d]", path, i)
		v := d.value(item, s.elem, inner, pattern+"[]")
		if v == nil {
			if s.elem.kind == leaf {
				continue
			}
			if target := resolve(item); isNull(target) {
				d.report(item, inner, "no value: want "+s.elem.wants())
			}
			v = map[string]any{} // the other entries keep their places
		}
		out = append(out, v)
	}
	return out
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// join is a path and one more key. A key that would spoil a line is quoted.
func join(path, key string) string {
	if !isPlain(key) {
		key = quote(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// isPlain says that a key can stand in a path as it is.
func isPlain(key string) bool {
	odd := func(c rune) bool { return !unicode.IsPrint(c) || unicode.IsMark(c) }
	return key != "" && utf8.RuneCountInString(key) <= 100 && !strings.ContainsFunc(key, odd)
}

// find is the place of a path in the document: of its value if it has one, else of the
// nearest section around it. It reports the path that it found.
func (d *document) find(path string) (node *yaml.Node, found string) {
	if d.root == nil {
		return nil, ""
	}
	n, rest, at := d.root, path, d.root
	for rest != "" {
		n = resolve(n)
		key, value, used := step(n, rest)
		if value == nil {
			break
		}
		at, n = key, value
		if resolve(value).Kind == yaml.ScalarNode && !isNull(resolve(value)) {
			at = value
		}
		rest = strings.TrimPrefix(rest[used:], ".")
	}
	return at, strings.TrimRight(strings.TrimSuffix(path, rest), ".")
}

// step goes one key or one place of a list down. The names of headers may contain dots, so
// the longest matching key is taken.
func step(n *yaml.Node, rest string) (key, value *yaml.Node, used int) {
	switch n.Kind {
	case yaml.SequenceNode:
		inside, _, ok := strings.Cut(strings.TrimPrefix(rest, "["), "]")
		i, err := strconv.Atoi(inside)
		if ok && err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i], len(inside) + 2
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if name := n.Content[i].Value; len(name) > used && within(rest, name) {
				key, value, used = n.Content[i], n.Content[i+1], len(name)
			}
		}
	}
	return key, value, used
}
