package style

import (
	"go/scanner"
	"go/token"
	"strings"
	"testing"
	"unicode/utf8"
)

// mostCharacters is how long a line of Go may be. What stands in back quotes does not
// count: it is recorded text, or a pattern, that cannot be broken.
const mostCharacters = 150

func TestLinesAreShort(t *testing.T) {
	read := 0
	for file, text := range tree(t) {
		if !strings.HasSuffix(file, ".go") {
			continue
		}
		quoted := inBackQuotes(file, text)
		for i, line := range strings.Split(string(text), "\n") {
			read++
			if length := utf8.RuneCountInString(line); length-quoted[i+1] > mostCharacters {
				t.Errorf("%s:%d: the line has %d characters, want %d at the most", file, i+1, length, mostCharacters)
			}
		}
	}
	if read < 50_000 {
		t.Errorf("%d lines were read, want those of the whole tree", read)
	}
}

// inBackQuotes is how many characters of each line of a file stand in back quotes.
func inBackQuotes(file string, text []byte) map[int]int {
	files, quoted := token.NewFileSet(), make(map[int]int)
	var s scanner.Scanner
	s.Init(files.AddFile(file, -1, len(text)), text, nil, 0)
	for {
		pos, kind, literal := s.Scan()
		if kind == token.EOF {
			return quoted
		}
		if kind == token.STRING && literal[0] == '`' {
			for i, line := range strings.Split(literal, "\n") {
				quoted[files.Position(pos).Line+i] += utf8.RuneCountInString(line)
			}
		}
	}
}
