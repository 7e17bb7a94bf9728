package routing

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
)

// Bounds of an expression. Its author is trusted, the body it looks at is not.
const (
	maxNodes     = 300
	memoryBudget = 100_000
)

// environment is what expressions see.
type environment struct {
	Method string            `expr:"method"`
	Path   string            `expr:"path"`
	Params map[string]string `expr:"params"` // the path's wildcards
	Header map[string]string `expr:"header"` // lower-case names, first values
	Query  map[string]string `expr:"query"`
	Body   any               `expr:"body"`
	Size   int               `expr:"size"` // of the body, in bytes
}

// expression is a compiled one, and what it looks at.
type expression struct {
	program *vm.Program
	body    bool
	size    bool
	params  bool
	header  mentioned
	query   mentioned
	root    []string // keys right in the body
	below   []string // keys of what is in it
}

// addNames tells which keys of bodies the expression looks at.
func (e *expression) addNames(n *names) {
	for _, name := range e.root {
		n.root.add(name)
	}
	for _, name := range e.below {
		n.below.add(name)
	}
}

// mentioned are the keys of a map that an expression looks at; all: it cannot
// be said which.
type mentioned struct {
	keys []string
	all  bool
}

func (m mentioned) any() bool { return m.all || len(m.keys) > 0 }

// compileWhen compiles an expression that is true or false.
func compileWhen(text string) (*expression, error) { return compile(text, expr.AsBool()) }

// compileAmount compiles an expression that is a number of bytes.
func compileAmount(text string) (*expression, error) { return compile(text, expr.AsFloat64()) }

func compile(text string, result expr.Option) (*expression, error) {
	program, err := compileProgram(text, environment{}, result)
	if err != nil {
		return nil, err
	}
	e := &expression{program: program}
	s := survey{expression: e, parents: make(map[ast.Node]ast.Node)}
	s.visit(program.Node(), 0)
	return e, s.err
}

// compileProgram compiles an expression over the fields of env.
func compileProgram(text string, env any, result expr.Option) (*vm.Program, error) {
	number := []any{new(func(float64) float64), new(func(int) float64)}
	program, err := expr.Compile(text, result,
		expr.Env(env),
		expr.MaxNodes(maxNodes),
		// A rule is a function of the request.
		expr.DisableBuiltin("now"),
		expr.Function("gib", gib, number...),
		expr.Function("num", num, new(func(any, float64) float64), new(func(any, int) float64)),
		expr.Function("megapixels", megapixels, new(func(any, float64) float64), new(func(any, int) float64)),
		expr.Function("has", has, new(func(any, string) bool)),
	)
	if err != nil {
		return nil, describe(err)
	}
	return program, nil
}

// describe makes one line of what expr says in several.
func describe(err error) error {
	var at *file.Error
	if errors.As(err, &at) && at.Line > 0 {
		return fmt.Errorf("%s at column %d", at.Message, at.Column+1)
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return errors.New(first)
}

// survey finds what an expression looks at.
type survey struct {
	*expression
	parents map[ast.Node]ast.Node
	err     error
}

// visit walks the tree. loops counts the predicates around a node.
func (s *survey) visit(node ast.Node, loops int) {
	switch n := node.(type) {
	case *ast.IdentifierNode:
		switch n.Value {
		case "$env":
			s.body, s.size, s.params, s.header.all, s.query.all = true, true, true, true, true
		case "body":
			s.body = true
		case "size":
			s.size = true
		case "params":
			s.params = true
		case "header":
			s.key(&s.header, n, true)
		case "query":
			s.key(&s.query, n, false)
		}
	case *ast.PredicateNode:
		if loops++; loops > 1 && s.err == nil {
			s.err = errors.New("a loop within a loop could take hours on a large body: want one loop")
		}
	}
	s.lookup(node)
	for _, child := range children(node) {
		s.parents[child] = node
		s.visit(child, loops)
	}
}

// lookup notes which key of a body is looked up at a node.
func (s *survey) lookup(node ast.Node) {
	var container, key ast.Node
	switch n := node.(type) {
	case *ast.MemberNode:
		container, key = n.Node, n.Property
	case *ast.BinaryNode:
		if n.Operator == "in" {
			container, key = n.Right, n.Left
		}
	case *ast.CallNode:
		if len(n.Arguments) == 2 { // has
			container, key = n.Arguments[0], n.Arguments[1]
		}
	case *ast.BuiltinNode:
		if len(n.Arguments) == 2 { // get
			container, key = n.Arguments[0], n.Arguments[1]
		}
	}
	literal, ok := key.(*ast.StringNode)
	if !ok {
		return
	}
	switch c := container.(type) {
	case *ast.IdentifierNode:
		switch c.Value {
		case "body":
			s.root = append(s.root, literal.Value)
			return
		case "header", "query", "params":
			return
		}
	case *ast.PointerNode:
		s.below = append(s.below, literal.Value)
		return
	case *ast.MemberNode:
		if of, ok := c.Node.(*ast.IdentifierNode); !ok || of.Value != "$env" {
			s.below = append(s.below, literal.Value)
			return
		}
	}
	// A variable or a result may be the body, or what is in it.
	s.root, s.below = append(s.root, literal.Value), append(s.below, literal.Value)
}

// key notes which key of a map is looked up at a node that names the map:
// header["x"], header.x, "x" in header, has(header, "x").
func (s *survey) key(m *mentioned, node ast.Node, lower bool) {
	var key ast.Node
	switch p := s.parents[node].(type) {
	case *ast.MemberNode:
		if p.Node == node {
			key = p.Property
		}
	case *ast.BinaryNode:
		if p.Operator == "in" && p.Right == node {
			key = p.Left
		}
	case *ast.CallNode:
		if callee, ok := p.Callee.(*ast.IdentifierNode); ok && callee.Value == "has" && len(p.Arguments) == 2 && p.Arguments[0] == node {
			key = p.Arguments[1]
		}
	}
	literal, ok := key.(*ast.StringNode)
	if !ok {
		m.all = true
		return
	}
	if lower && literal.Value != strings.ToLower(literal.Value) && s.err == nil {
		s.err = fmt.Errorf("header %q never matches: want the name in lower case", literal.Value)
	}
	if !slices.Contains(m.keys, literal.Value) {
		m.keys = append(m.keys, literal.Value)
	}
}

// children are the nodes right below one. The ast package's own walk goes from
// the leaves up, which hides what is around a node.
func children(node ast.Node) []ast.Node {
	switch n := node.(type) {
	case *ast.UnaryNode:
		return []ast.Node{n.Node}
	case *ast.BinaryNode:
		return []ast.Node{n.Left, n.Right}
	case *ast.ChainNode:
		return []ast.Node{n.Node}
	case *ast.MemberNode:
		return []ast.Node{n.Node, n.Property}
	case *ast.SliceNode:
		return present(n.Node, n.From, n.To)
	case *ast.CallNode:
		return append([]ast.Node{n.Callee}, n.Arguments...)
	case *ast.BuiltinNode:
		return append(present(n.Map), n.Arguments...)
	case *ast.PredicateNode:
		return []ast.Node{n.Node}
	case *ast.ConditionalNode:
		return []ast.Node{n.Cond, n.Exp1, n.Exp2}
	case *ast.VariableDeclaratorNode:
		return []ast.Node{n.Value, n.Expr}
	case *ast.SequenceNode:
		return n.Nodes
	case *ast.ArrayNode:
		return n.Nodes
	case *ast.MapNode:
		return n.Pairs
	case *ast.PairNode:
		return []ast.Node{n.Key, n.Value}
	}
	return nil
}

func present(nodes ...ast.Node) []ast.Node {
	return slices.DeleteFunc(nodes, func(n ast.Node) bool { return n == nil })
}

// run evaluates an expression. A panic in it is an error.
func (e *expression) run(env *environment) (value any, err error) {
	return runProgram(e.program, env)
}

func runProgram(program *vm.Program, env any) (value any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	machine := vm.VM{MemoryBudget: memoryBudget}
	if value, err = machine.Run(program, env); err == nil {
		return value, nil
	}
	if at, ok := errors.AsType[*file.Error](err); ok && isAbsence(at.Message) {
		return nil, fmt.Errorf("%w: %w", errAbsent, describe(err))
	}
	return nil, describe(err)
}

// errAbsent is an expression that fails because something is missing or null.
var errAbsent = errors.New("the request does not have what the expression looks at")

// isAbsence knows by expr's words, for it has no error values. They name the
// types of what is there, nil or not, and repeat nothing that a client wrote
// in these places.
func isAbsence(message string) bool {
	operation, ok := strings.CutPrefix(message, "invalid operation: ")
	return ok && (strings.HasPrefix(operation, "<nil> ") || strings.HasSuffix(operation, " <nil>")) ||
		strings.HasSuffix(message, " from <nil>") || strings.HasSuffix(message, "(type <nil>)") ||
		strings.HasPrefix(message, "index out of range: ") ||
		strings.HasPrefix(message, "reflect: ") && strings.HasSuffix(message, " on zero Value") ||
		strings.HasPrefix(message, "interface conversion: interface {} is nil, ")
}

// true evaluates a `when`. It fails with errAbsent where the request is not of
// the kind that the expression was written for. Any other error says that it
// may be: a number in quotes, or a list so long that the memory runs out.
func (e *expression) true(env *environment) (bool, error) {
	value, err := e.run(env)
	yes, _ := value.(bool)
	return yes, err
}

// mostBytes stands for any finite amount that no card will ever have. Sums of
// it with others still fit an int64.
const mostBytes = 1 << 60

// amount evaluates a `vram` to bytes, rounded up.
func (e *expression) amount(env *environment) (int64, error) {
	value, err := e.run(env)
	if err != nil {
		return 0, err
	}
	n, ok := value.(float64)
	switch {
	case !ok:
		return 0, fmt.Errorf("%T is not a number", value)
	case math.IsNaN(n) || math.IsInf(n, 0) || n < 0:
		return 0, fmt.Errorf("%v is not an amount", n)
	}
	return int64(min(math.Ceil(n), mostBytes)), nil
}

// gib is an amount in GiB, in bytes.
func gib(args ...any) (any, error) {
	n, ok := number(args[0])
	if !ok {
		return nil, fmt.Errorf("gib(%T) is not a number", args[0])
	}
	return n * (1 << 30), nil
}

// num is a number, or a string that holds one, else the default. A string that
// some server could take for a number, and this cannot, is an error: the
// default may be far less than what that server reads.
func num(args ...any) (any, error) {
	if n, ok := number(args[0]); ok {
		return n, nil
	}
	if text, ok := args[0].(string); ok {
		n, ok, err := numeric(text)
		if ok || err != nil {
			return n, err
		}
	}
	n, _ := number(args[1])
	return n, nil
}

// megapixels is the product of a size such as "1024x768" in millions, else the
// default, with the care of num.
func megapixels(args ...any) (any, error) {
	if text, ok := args[0].(string); ok {
		width, height, found := strings.Cut(strings.NewReplacer("X", "x", "×", "x", "*", "x").Replace(text), "x")
		w, okW, errW := numeric(width)
		h, okH, errH := numeric(height)
		switch {
		case found && okW && okH && w >= 0 && h >= 0:
			return w * h / 1e6, nil
		case okW || okH || errW != nil || errH != nil:
			return nil, fmt.Errorf("%.20q is not a size", text)
		}
	}
	n, _ := number(args[1])
	return n, nil
}

// numeric reads a number as lenient parsers do, with spaces around it and
// underscores in it. Not a number at all: neither ok nor an error.
func numeric(text string) (n float64, ok bool, err error) {
	n, err = strconv.ParseFloat(strings.ReplaceAll(strings.TrimSpace(text), "_", ""), 64)
	if err == nil {
		return n, true, nil
	}
	for _, c := range text {
		// Digits of other scripts are digits to Python's int().
		if '0' <= c && c <= '9' || c >= 0x80 {
			return 0, false, fmt.Errorf("%.20q is not clearly a number", text)
		}
	}
	return 0, false, nil
}

// number is for the numbers that expressions hold: float64 from bodies and
// divisions, int from literals and lengths.
func number(v any) (float64, bool) {
	switch n := v.(type) {
	case float64:
		return n, true
	case int:
		return float64(n), true
	case nil:
		return 0, false
	}
	if v := reflect.ValueOf(v); v.CanInt() {
		return float64(v.Int()), true
	}
	return 0, false
}

// has says whether a map has a key, or a list an element.
func has(args ...any) (any, error) {
	key, ok := args[1].(string)
	if !ok {
		return nil, fmt.Errorf("has(…, %T) is not a string", args[1])
	}
	switch c := args[0].(type) {
	case map[string]any:
		_, ok = c[key]
		return ok, nil
	case map[string]string:
		_, ok = c[key]
		return ok, nil
	case []any:
		return slices.ContainsFunc(c, func(v any) bool { return v == any(key) }), nil
	}
	return false, nil
}
