package body

import (
	"slices"
	"strings"
	"unicode"
)

// Names are the keys of bodies that the rules look at. A nil *Names is of rules
// that look at everything and at no key in particular.
type Names struct {
	root  spellings // right in the body
	below spellings // anywhere deeper
	whole bool      // some rule looks at more than these
	// without are keys deeper than the root that are passed over.
	without []string
	// locate is the key right in the body whose value's place is to be found; empty: none.
	locate string
}

// Add adds the keys that an expression looks at: those right in the body, those
// deeper in it, and whether it looks at more than these.
func (n *Names) Add(root, below []string, whole bool) {
	for _, name := range root {
		n.root.add(name)
	}
	for _, name := range below {
		n.below.add(name)
	}
	n.whole = n.whole || whole
}

// longest is the most that is kept of a text. Where something is left out, so are
// texts that no rule could look at: they must not take the room of others.
func (n *Names) longest(left int) int {
	if n != nil && len(n.without) > 0 {
		return min(left, 64<<10)
	}
	return left
}

// passes says that a key deeper than the root is passed over.
func (n *Names) passes(key string) bool { return n != nil && slices.Contains(n.without, key) }

// all says that every key right in a body counts.
func (n *Names) all() bool { return n == nil || n.whole }

// known are the keys right in a body that some server takes a key for.
func (n *Names) known(key string) []string {
	if n == nil || len(n.root) == 0 {
		return nil
	}
	return n.root[fold(key)]
}

// spellings are names as the rules write them, by what encoding/json makes of
// a key that a struct has no exact field for.
type spellings map[string][]string

func (n *Names) at(depth int) spellings {
	switch {
	case n == nil:
		return nil
	case depth == 0:
		return n.root
	}
	return n.below
}

func (s *spellings) add(name string) {
	if *s == nil {
		*s = make(spellings)
	}
	if key := fold(name); !slices.Contains((*s)[key], name) {
		(*s)[key] = append((*s)[key], name)
	}
}

// check refuses a key that some server takes for one that the rules look at
// and that the rules do not, and two that one server takes for the same.
func (s spellings) check(key string, object map[string]any) error {
	known, ok := s[fold(key)]
	if !ok {
		return nil
	}
	if !slices.Contains(known, key) {
		return errCase
	}
	for _, other := range known {
		if _, twice := object[other]; twice {
			return errDuplicate
		}
	}
	return nil
}

// fold gives keys that encoding/json does not tell apart the same text.
func fold(key string) string {
	for i := range len(key) {
		if c := key[i]; 'A' <= c && c <= 'Z' || c >= 0x80 {
			return strings.Map(least, key)
		}
	}
	return key
}

// least is the same letter for a letter in all its cases: of ASCII the lower
// one, where there is one.
func least(r rune) rune {
	first := r
	for other := unicode.SimpleFold(r); other != r; other = unicode.SimpleFold(other) {
		first = min(first, other)
	}
	if 'A' <= first && first <= 'Z' {
		first += 'a' - 'A'
	}
	return first
}
