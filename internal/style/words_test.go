// Package style has the tests of how the whole tree is written: its words, the
// length of its functions and of its lines.
package style

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// project is the whole tree.
var project = os.DirFS("../..")

// retired are the words that docs/concepts.md has another word for. They are found
// inside a name too: in snake_case, in camelCase, and in a test's sentence.
var retired = regexp.MustCompile(`\bstances?\b|Stance|_stance|` +
	`(?i:kept_?by\b|footprint|at_rest|unclaimed|disputed|strangers|outsider|unravel|\blet go\b|letgo|hardened|harden_?after|dearest)|` +
	`\b[Dd]esks?\b|[a-z]Desk`)

// stems are what they have in lower case. Few lines have one, and only those are
// matched.
var stems = []string{"stance", "kept", "footprint", "at_rest", "unclaimed", "disputed", "strangers", "outsider", "unravel", "let", "harden",
	"dearest", "desk"}

// retiredIn is the first retired word in a text; empty: it has none.
func retiredIn(text string) string {
	lower := strings.ToLower(text)
	if !slices.ContainsFunc(stems, func(stem string) bool { return strings.Contains(lower, stem) }) {
		return ""
	}
	return retired.FindString(text)
}

// exempt may have them: the table of removed names with its test, and the history.
var exempt = []string{"configs/removed.go", "configs/testdata/removed.yaml", "configs/testdata/removed.want", "CHANGELOG.md"}

func TestRetiredWordsAreGone(t *testing.T) {
	read := 0
	for file, text := range tree(t) {
		if slices.Contains(exempt, file) || file == "internal/style/words_test.go" {
			continue
		}
		read++
		if word := retiredIn(file); word != "" {
			t.Errorf("%s: the name has %q, which is retired: see docs/concepts.md for the word that is used", file, word)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if word := retiredIn(line); word != "" {
				t.Errorf("%s:%d: %q is retired: see docs/concepts.md for the word that is used", file, i+1, word)
			}
		}
	}
	if read < 500 {
		t.Errorf("%d files were read, want the whole tree", read)
	}
}

func TestARetiredWordIsFoundInANameToo(t *testing.T) {
	for _, text := range []string{"its stance", "replicaStance", "kept_by", "KeptBy", "Footprint", "at_rest", "unclaimed", "Disputed",
		"TestStrangersStayOut", "outsiders", "unravelled", "is let go of", "LetGo", "hardened", "hardenAfter", "harden_after", "the dearest", "a desk",
		"theDesk"} {
		if retiredIn(text) == "" {
			t.Errorf("%q is not found", text)
		}
	}
	for _, text := range []string{"an instance", "MIGInstance", "distance", "kept by the allocator", "let a gopher in", "desktop"} {
		if word := retiredIn(text); word != "" {
			t.Errorf("%q is found in %q", word, text)
		}
	}
}

// tree is the text of each file of the project, by its path from the root.
func tree(t *testing.T) func(yield func(string, []byte) bool) {
	return func(yield func(string, []byte) bool) {
		err := fs.WalkDir(project, ".", func(file string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && (entry.Name() == ".git" || entry.Name() == "node_modules" || file == "bin" || file == "dist"):
				return fs.SkipDir
			case !entry.Type().IsRegular():
				return nil
			}
			text, err := fs.ReadFile(project, file)
			if err == nil && !bytes.ContainsRune(text, 0) && !yield(filepath.ToSlash(file), text) {
				return fs.SkipAll
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}
