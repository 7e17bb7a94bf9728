package style

import (
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

// mostLines is how long a function may be that is no test.
const mostLines = 80

// longer are functions that may be longer, with the reason.
var longer = map[string]string{
	"admission/backfill.go: heads": "82 lines: one pass over the queues, whose steps share what they have seen",
}

func TestFunctionsAreShort(t *testing.T) {
	files := token.NewFileSet()
	read := 0
	for file, text := range tree(t) {
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(files, file, text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			read++
			lines := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1
			if lines > mostLines && longer[file+": "+f.Name.Name] == "" {
				t.Errorf("%s: %s has %d lines, want %d at the most", files.Position(f.Pos()), f.Name.Name, lines, mostLines)
			}
		}
	}
	if read < 1000 {
		t.Errorf("%d functions were read, want those of the whole tree", read)
	}
}
