// Package expression compiles and runs the expressions of a configuration: a
// route's `when` and `vram`, and the conditions of a completion.
//
// An expression's author is trusted, what it looks at is not: how long it runs is
// bounded for every input, and a value that servers read in several ways is an
// error and not a guess.
package expression

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

// Environment is what the expressions of a route see.
type Environment struct {
	Method string            `expr:"method"`
	Path   string            `expr:"path"`
	Params map[string]string `expr:"params"` // the path's wildcards
	Header map[string]string `expr:"header"` // lower-case names, first values
	Query  map[string]string `expr:"query"`
	Body   any               `expr:"body"`
	Size   int               `expr:"size"` // of the body, in bytes
}

// Expression is a compiled one of a route, and what it looks at. It is immutable.
type Expression struct {
	Body   bool // of the request
	Size   bool
	Params bool
	Header Mentioned
	Query  Mentioned

	// Unguarded are keys of the body that it calculates with as they come: where a
	// request lacks one, the expression fails.
	Unguarded []string

	program *vm.Program
	whole   bool     // it looks at the body otherwise than by the keys in root
	root    []string // keys right in the body
	below   []string // keys of what is in it
}

// Keys are the keys that the expression looks at, right in the body and deeper in
// it. whole says that it looks at more of the body than these.
func (e *Expression) Keys() (root, below []string, whole bool) { return e.root, e.below, e.whole }

// LooksAt says whether the expression looks at a key right in the body.
func (e *Expression) LooksAt(key string) bool { return e.whole || slices.Contains(e.root, key) }

// Mentioned are the keys of a map that an expression looks at.
type Mentioned struct {
	Keys []string
	All  bool // it cannot be said which
}

// Any says that it looks at some.
func (m *Mentioned) Any() bool { return m.All || len(m.Keys) > 0 }

// When compiles an expression that is true or false.
func When(text string) (*Expression, error) { return request{text: text}.compile() }

// Amount compiles an expression that is a number of bytes.
func Amount(text string) (*Expression, error) { return request{text: text, amount: true}.compile() }

func compile(text string, result expr.Option) (*Expression, error) {
	program, err := compileProgram(text, Environment{}, result)
	if err != nil {
		if strings.HasPrefix(err.Error(), "unknown name") {
			err = fmt.Errorf("%w, where there are body, header, method, params, path, query and size, and the functions "+
				"flag, gib, has, megapixels, mib and num", err)
		}
		return nil, err
	}
	e := &Expression{program: program}
	s := survey{Expression: e, parents: make(map[ast.Node]ast.Node)}
	s.visit(program.Node(), 0)
	if s.err != nil {
		return nil, s.err
	}
	return e, nil
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

// runProgram evaluates a program. A panic in it is an error.
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
		return nil, fmt.Errorf("%w: %w", ErrAbsent, describe(err))
	}
	return nil, describe(err)
}

// ErrAbsent is an expression that fails because something is missing or null.
var ErrAbsent = errors.New("the request does not have what the expression looks at")

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

// True evaluates a `when`. It fails with ErrAbsent where the request is not of
// the kind that the expression was written for. Any other error says that it
// may be: a number in quotes, or a list so long that the memory runs out.
func (e *Expression) True(env *Environment) (bool, error) {
	value, err := runProgram(e.program, env)
	yes, _ := value.(bool)
	return yes, err
}

// mostBytes stands for any finite amount that no card will ever have. Sums of
// it with others still fit an int64.
const mostBytes = 1 << 60

// Bytes evaluates a `vram` to bytes, rounded up.
func (e *Expression) Bytes(env *Environment) (int64, error) {
	value, err := runProgram(e.program, env)
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
