package markdown

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWrapsAtTheWidth(t *testing.T) {
	text := strings.Repeat("words of several letters, ", 30) + "and 1. - # last"
	got := Wrap("- ", "  ", text)
	if strings.Join(strings.Fields(got), " ") != "- "+strings.Join(strings.Fields(text), " ") {
		t.Errorf("the words are not those of the text:\n%s", got)
	}
	for i, line := range strings.Split(strings.TrimSuffix(got, "\n"), "\n") {
		if utf8.RuneCountInString(line) > Width || i > 0 && !strings.HasPrefix(line, "  w") && !strings.HasPrefix(line, "  o") &&
			!strings.HasPrefix(line, "  s") && !strings.HasPrefix(line, "  l") {
			t.Errorf("line %d: %q", i, line)
		}
	}
	for _, marker := range []string{"-", "1.", "#", "*"} {
		if got := Wrap("", "", strings.Repeat("x", Width)+" "+marker+" y"); strings.Contains(got, "\n"+marker) {
			t.Errorf("a line begins with %s: %q", marker, got)
		}
	}
}
