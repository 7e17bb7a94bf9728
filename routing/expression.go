package routing

import (
	"errors"
	"fmt"
	"math"
	"slices"
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
	whole   bool // it looks at the body otherwise than by the keys in root
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
	n.whole = n.whole || e.whole
}

// looksAt says whether an expression looks at a key right in the body.
func (e *expression) looksAt(key string) bool { return slices.Contains(e.root, key) }

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
	options := append(functions(), result,
		expr.Env(env),
		expr.MaxNodes(maxNodes),
		// A rule is a function of the request.
		expr.DisableBuiltin("now"),
	)
	program, err := expr.Compile(text, options...)
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
