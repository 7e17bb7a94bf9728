package admission

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// nothing imports packages that declare nothing: what is looked at is this module's.
type nothing struct{}

func (nothing) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// A type has one job: its fields are written in the file that declares it, and in one
// more. The Scheduler is what knows all others, and grows first.
func TestAFieldIsWrittenInTwoFilesAtMost(t *testing.T) {
	for _, dir := range []string{".", "queue", "residency", "history"} {
		files, where := token.NewFileSet(), map[string]map[string]bool{}
		var parsed []*ast.File
		names, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(files, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			parsed = append(parsed, f)
		}
		info := &types.Info{Selections: map[*ast.SelectorExpr]*types.Selection{}}
		conf := types.Config{Importer: nothing{}, Error: func(error) {}}
		_, _ = conf.Check(dir, files, parsed, info) // what is imported has no types here
		for _, f := range parsed {
			ast.Inspect(f, func(n ast.Node) bool {
				for _, e := range written(n) {
					s := info.Selections[e]
					if s == nil || s.Kind() != types.FieldVal {
						continue
					}
					of := s.Recv()
					if p, ok := of.(*types.Pointer); ok {
						of = p.Elem()
					}
					field := fmt.Sprint(types.TypeString(of, func(*types.Package) string { return "" }), ".", e.Sel.Name)
					if where[field] == nil {
						where[field] = map[string]bool{}
					}
					where[field][filepath.Base(files.Position(e.Pos()).Filename)] = true
				}
				return true
			})
		}
		if len(where) < 10 {
			t.Errorf("%s: %d fields are written, want many: the test does not see them", dir, len(where))
		}
		for field, in := range where {
			if len(in) > 2 {
				t.Errorf("%s: %s is written in %v, want two files at most", dir, field, slices.Sorted(maps.Keys(in)))
			}
		}
		if dir == "." {
			schedulerIsSmall(t, parsed)
		}
	}
}

// written gives the fields that a statement writes, with those that hold what is
// written by its index.
func written(n ast.Node) (all []*ast.SelectorExpr) {
	var to []ast.Expr
	switch x := n.(type) {
	case *ast.AssignStmt:
		if x.Tok != token.DEFINE {
			to = x.Lhs
		}
	case *ast.IncDecStmt:
		to = []ast.Expr{x.X}
	}
	for _, e := range to {
		for {
			if i, ok := e.(*ast.IndexExpr); ok {
				e = i.X
				continue
			}
			if s, ok := e.(*ast.SelectorExpr); ok {
				all = append(all, s)
			}
			break
		}
	}
	return all
}

func schedulerIsSmall(t *testing.T, files []*ast.File) {
	methods, fields := 0, 0
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch x := n.(type) {
			case *ast.FuncDecl:
				if x.Recv != nil {
					star, _ := x.Recv.List[0].Type.(*ast.StarExpr)
					if star != nil && fmt.Sprint(star.X) == "Scheduler" {
						methods++
					}
				}
			case *ast.TypeSpec:
				if s, ok := x.Type.(*ast.StructType); ok && x.Name.Name == "Scheduler" {
					for _, f := range s.Fields.List {
						fields += max(1, len(f.Names))
					}
				}
			}
			return true
		})
	}
	if methods == 0 || methods > 60 || fields == 0 || fields > 15 {
		t.Errorf("Scheduler has %d methods and %d fields, want 60 and 15 at most", methods, fields)
	}
}
