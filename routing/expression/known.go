package expression

import (
	"sync"
	"weak"

	"github.com/expr-lang/expr"
)

// known are the expressions that are in use, by their text: a file is checked and then
// compiled, and most of it is the same after a reload. Each compilation makes 10 KB of
// garbage.
var known = struct {
	sync.Mutex
	all  map[request]weak.Pointer[Expression] // guarded by Mutex
	next int                                  // guarded by Mutex; how many there are before those that are gone are looked for
}{all: make(map[request]weak.Pointer[Expression]), next: leastKnown}

const leastKnown = 64

// request is what is asked of the compiler.
type request struct {
	text   string
	amount bool // a number, and not a condition
}

// compile compiles an expression of a route, or finds it.
func (r request) compile() (*Expression, error) {
	known.Lock()
	e := known.all[r].Value()
	known.Unlock()
	if e != nil {
		return e, nil
	}
	result := expr.AsBool()
	if r.amount {
		result = expr.AsFloat64()
	}
	e, err := compile(r.text, result)
	if err != nil {
		return nil, err
	}
	known.Lock()
	defer known.Unlock()
	if len(known.all) >= known.next {
		for other, is := range known.all {
			if is.Value() == nil {
				delete(known.all, other)
			}
		}
		known.next = max(leastKnown, 2*len(known.all))
	}
	known.all[r] = weak.Make(e)
	return e, nil
}
