package style

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// What a function that is no test may have: lines, and cognitive complexity.
const (
	mostLines      = 80
	mostComplexity = 30
)

func TestFunctionsAreShortAndPlain(t *testing.T) {
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
			if !ok || f.Body == nil {
				continue
			}
			read++
			if lines := files.Position(f.End()).Line - files.Position(f.Pos()).Line + 1; lines > mostLines {
				t.Errorf("%s: %s has %d lines, want %d at the most", files.Position(f.Pos()), f.Name.Name, lines, mostLines)
			}
			if n := complexityOf(f); n > mostComplexity {
				t.Errorf("%s: %s has a cognitive complexity of %d, want %d at the most", files.Position(f.Pos()), f.Name.Name, n, mostComplexity)
			}
		}
	}
	if read < 1000 {
		t.Errorf("%d functions were read, want those of the whole tree", read)
	}
}

// complexityOf is the cognitive complexity of a function (G. Ann Campbell, "Cognitive
// Complexity", SonarSource 2018; gocognit counts alike, but for calls of itself through others):
//
//  1. A branch or a loop counts 1, and 1 more for each that it stands in.
//  2. Each else counts 1.
//  3. Each row of the same operator && or || counts 1.
//  4. A jump to a label counts 1.
//  5. So does a call of the function itself.
func complexityOf(f *ast.FuncDecl) int {
	c := &complexity{name: f.Name.Name}
	if f.Recv != nil && len(f.Recv.List[0].Names) == 1 {
		c.name = f.Recv.List[0].Names[0].Name + "." + c.name
	}
	ast.Walk(c, f.Body)
	return c.sum
}

type complexity struct {
	name  string // as the function calls itself; empty: it has been seen to
	depth int
	sum   int
}

// branch counts a branch or a loop with its head.
func (c *complexity) branch(body ast.Node, head ...ast.Node) {
	c.sum += 1 + c.depth
	for _, n := range head {
		c.walk(n)
	}
	c.inside(body)
}

// inside walks what stands one level deeper.
func (c *complexity) inside(n ast.Node) {
	c.depth++
	c.walk(n)
	c.depth--
}

func (c *complexity) walk(n ast.Node) {
	if n != nil {
		ast.Walk(c, n)
	}
}

// Visit makes complexity an ast.Visitor.
func (c *complexity) Visit(n ast.Node) ast.Visitor {
	switch n := n.(type) {
	case *ast.IfStmt:
		c.branch(n.Body, n.Init, n.Cond)
		c.otherwise(n.Else)
	case *ast.ForStmt:
		c.branch(n.Body, n.Init, n.Cond, n.Post)
	case *ast.RangeStmt:
		c.branch(n.Body, n.X)
	case *ast.SwitchStmt:
		c.branch(n.Body, n.Init, n.Tag)
	case *ast.TypeSwitchStmt:
		c.branch(n.Body, n.Init, n.Assign)
	case *ast.SelectStmt:
		c.branch(n.Body)
	case *ast.FuncLit:
		c.inside(n.Body)
	case *ast.BinaryExpr:
		if n.Op != token.LAND && n.Op != token.LOR {
			return c
		}
		last := token.ILLEGAL
		c.row(n, &last)
	case *ast.BranchStmt:
		if n.Label != nil {
			c.sum++
		}
	case *ast.CallExpr:
		if c.name != "" && types.ExprString(n.Fun) == c.name {
			c.name = ""
			c.sum++
		}
		return c
	default:
		return c
	}
	return nil
}

// otherwise counts an else, which stands as deep as its if.
func (c *complexity) otherwise(n ast.Stmt) {
	switch n := n.(type) {
	case nil:
	case *ast.IfStmt:
		c.sum++
		c.walk(n.Init)
		c.walk(n.Cond)
		c.inside(n.Body)
		c.otherwise(n.Else)
	default:
		c.sum++
		c.inside(n)
	}
}

// row walks an expression in the order that it is written in. last is the last && or ||
// before it.
func (c *complexity) row(n ast.Expr, last *token.Token) {
	switch n := n.(type) {
	case *ast.ParenExpr:
		c.row(n.X, last)
	case *ast.UnaryExpr:
		c.row(n.X, last)
	case *ast.BinaryExpr:
		c.row(n.X, last)
		if (n.Op == token.LAND || n.Op == token.LOR) && n.Op != *last {
			c.sum++
			*last = n.Op
		}
		c.row(n.Y, last)
	default:
		c.walk(n)
	}
}
