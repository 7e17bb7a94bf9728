package configs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Mistake is one thing that is wrong with a configuration, or a warning.
type Mistake struct {
	// File is where it stands: a file's name, "environment ANTEROOM_X" or
	// "flag --listen". Line and Column begin at 1 and are 0 where there are none.
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	// Path is the key, such as routes[2].match.path; empty: the whole file.
	Path string `json:"path"`
	// Problem says what is wrong and what is wanted.
	Problem string `json:"problem"`
}

// String is `file:line:column: path: what is wrong: what is wanted`.
func (m Mistake) String() string {
	var b strings.Builder
	if m.File != "" {
		b.WriteString(m.File)
		if m.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", m.Line, m.Column)
		}
		b.WriteString(": ")
	}
	if m.Path != "" {
		b.WriteString(m.Path + ": ")
	}
	b.WriteString(m.Problem)
	return b.String()
}

// Mistakes is the error of Load: everything that is wrong, in the order of the
// file; what the environment and flags brought comes after.
type Mistakes []Mistake

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

func (m Mistakes) sort() {
	slices.SortStableFunc(m, func(a, b Mistake) int {
		return cmp.Or(
			cmp.Compare(b2i(a.Line == 0), b2i(b.Line == 0)),
			strings.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column),
			strings.Compare(a.Path, b.Path),
		)
	})
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// covers says that there is a mistake at path or at something that contains
// it, so that another one there would only be a consequence.
func (m Mistakes) covers(path string) bool {
	return slices.ContainsFunc(m, func(x Mistake) bool { return within(path, x.Path) })
}

// within says that path is outer or lies below it. Nothing lies below the
// empty path.
func within(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && outer != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}
