package expression

import (
	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
)

// Condition is a compiled expression over an environment of its caller's. A nil
// *Condition never holds.
type Condition struct{ program *vm.Program }

// NewCondition compiles an expression over the fields of env, which is a struct. It
// is true or false.
func NewCondition(text string, env any) (*Condition, error) {
	program, err := compileProgram(text, env, expr.AsBool())
	if err != nil {
		return nil, err
	}
	return &Condition{program}, nil
}

// Holds is false where the condition cannot be judged: what it looks at may come
// with a later answer. env is of the type that it was compiled for, or a pointer to
// one.
func (c *Condition) Holds(env any) bool {
	if c == nil {
		return false
	}
	value, err := runProgram(c.program, env)
	yes, _ := value.(bool)
	return err == nil && yes
}
