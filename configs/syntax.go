package configs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxError is where a text is no YAML, and why. The parser reports where it stopped. The
// mistake is often earlier: a tab, or a brace that is never closed.
func syntaxError(text []byte, err error) (line, column int, problem string) {
	parts := yamlLine.FindStringSubmatch(err.Error())
	if parts == nil {
		parts = []string{"", "", err.Error()}
	}
	line, _ = strconv.Atoi(parts[1])
	lines := strings.Split(string(text), "\n")
	if strings.Contains(parts[2], "cannot start any token") {
		for i := range lines {
			// The parser counts from 0 or from 1, by the kind of its error.
			indent := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " \t"))]
			if tab := strings.IndexByte(indent, '\t'); tab >= 0 && i+1 >= line {
				return i + 1, tab + 1, "the line is indented with a tab: want spaces"
			}
		}
	}
	if open, at, column := unclosed(lines); open != 0 && strings.Contains(parts[2], "did not find expected") {
		return at, column, fmt.Sprintf("not YAML: the %q that stands here is never closed: want %q", string(open), string(closing[open]))
	}
	return line, 1, "not YAML: " + parts[2]
}

var closing = map[byte]byte{'{': '}', '[': ']'}

// unclosed is the brace or bracket that was probably not closed: one that is open at the
// end of a line without a comma. Zero: there is none.
func unclosed(lines []string) (open byte, line, column int) {
	var b braces
	for i, text := range lines {
		end, closed := b.scan(i+1, text)
		next := ""
		if i+1 < len(lines) {
			next = strings.TrimSpace(lines[i+1])
		}
		ends := b.quote == 0 && end != 0 && strings.IndexByte(",{[:", end) < 0 && !strings.ContainsAny(next[:min(1, len(next))], "}],")
		if len(b.stack) > 0 && (!closed || ends) {
			last := b.stack[len(b.stack)-1]
			return last.open, last.line, last.column
		}
	}
	return 0, 0, 0
}

// braces are those that are open, and the quote that is: 0: none is.
type braces struct {
	stack []brace
	quote byte
}

type brace struct {
	open         byte
	line, column int
}

// scan reads one line and gives its last character that is neither blank nor comment.
// It reports false where the last brace is closed by one of the other kind.
func (b *braces) scan(line int, text string) (end byte, closed bool) {
	for j := 0; j < len(text); j++ {
		c := text[j]
		starts := j == 0 || strings.IndexByte(" \t,:[{-", text[j-1]) >= 0 // a value may begin here
		switch {
		case b.quote == '"' && c == '\\':
			j++
		case b.quote != 0:
			if c == b.quote {
				b.quote = 0
			}
		case (c == '\'' || c == '"') && starts:
			b.quote = c
		case c == '#' && (j == 0 || text[j-1] == ' ' || text[j-1] == '\t'):
			return end, true
		case (c == '{' || c == '[') && (starts || len(b.stack) > 0):
			b.stack = append(b.stack, brace{c, line, j + 1})
		case (c == '}' || c == ']') && len(b.stack) > 0:
			if closing[b.stack[len(b.stack)-1].open] != c {
				return end, false
			}
			b.stack = b.stack[:len(b.stack)-1]
		}
		if c != ' ' && c != '\t' && c != '\r' {
			end = c
		}
	}
	return end, true
}
