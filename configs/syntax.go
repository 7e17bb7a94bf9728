package configs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntaxError is where a text is no YAML, and why. The parser tells where it gave up;
// what is wrong often stands earlier: a tab, or a brace that is never closed.
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

// unclosed is the brace or bracket that was forgotten: one that is open at the end of
// a line which no comma continues. Zero: there is none.
func unclosed(lines []string) (open byte, line, column int) {
	type brace struct {
		open         byte
		line, column int
	}
	var stack []brace
	quote := byte(0)
	for i, text := range lines {
		end := byte(0) // the last character that is neither blank nor comment
	scan:
		for j := 0; j < len(text); j++ {
			c := text[j]
			starts := j == 0 || strings.IndexByte(" \t,:[{-", text[j-1]) >= 0 // a value may begin here
			switch {
			case quote == '"' && c == '\\':
				j++
			case quote != 0:
				if c == quote {
					quote = 0
				}
			case (c == '\'' || c == '"') && starts:
				quote = c
			case c == '#' && (j == 0 || text[j-1] == ' ' || text[j-1] == '\t'):
				break scan
			case (c == '{' || c == '[') && (starts || len(stack) > 0):
				stack = append(stack, brace{c, i + 1, j + 1})
			case (c == '}' || c == ']') && len(stack) > 0:
				if last := stack[len(stack)-1]; closing[last.open] != c {
					return last.open, last.line, last.column
				}
				stack = stack[:len(stack)-1]
			}
			if c != ' ' && c != '\t' && c != '\r' {
				end = c
			}
		}
		next := ""
		if i+1 < len(lines) {
			next = strings.TrimSpace(lines[i+1])
		}
		if len(stack) > 0 && quote == 0 && end != 0 && strings.IndexByte(",{[:", end) < 0 && !strings.ContainsAny(next[:min(1, len(next))], "}],") {
			last := stack[len(stack)-1]
			return last.open, last.line, last.column
		}
	}
	return 0, 0, 0
}
