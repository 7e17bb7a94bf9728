package expression

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/expr-lang/expr/ast"
)

// survey finds what an expression looks at.
type survey struct {
	*Expression
	parents map[ast.Node]ast.Node
	err     error
}

// visit walks the tree. loops counts the predicates around a node.
func (s *survey) visit(node ast.Node, loops int) {
	switch n := node.(type) {
	case *ast.IdentifierNode:
		switch n.Value {
		case "$env":
			s.Body, s.whole, s.Size, s.Params, s.Header.All, s.Query.All = true, true, true, true, true, true
		case "body":
			s.Body = true
			s.whole = s.whole || !s.byKey(n)
		case "size":
			s.Size = true
		case "params":
			s.Params = true
		case "header":
			s.key(&s.Header, n, true)
		case "query":
			s.key(&s.Query, n, false)
		}
	case *ast.PredicateNode:
		if loop, ok := s.parents[n].(*ast.BuiltinNode); loops == 0 || !ok || !isElements(loop.Arguments[0]) && !isLiteral(loop.Arguments[0]) {
			loops++
		}
		if loops > 1 && s.err == nil {
			s.err = errors.New("a loop within a loop could take hours on a large body: want one loop, or an inner one over what is in the " +
				"element, such as .content")
		}
	}
	if whole := walksBody(node); loops > 0 && whole != "" && s.err == nil {
		s.err = fmt.Errorf("%s goes through the body again for each element, which could take hours on a large one: want it outside of the loop", whole)
	}
	s.lookup(node)
	s.guard(node)
	for _, child := range children(node) {
		s.parents[child] = node
		if builtin, ok := node.(*ast.BuiltinNode); ok && child == builtin.Map {
			s.visit(child, loops+1) // a predicate that expr has merged into another
			continue
		}
		s.visit(child, loops)
	}
}

// byKey says whether the node around one that names the body looks a key up in
// it, and does nothing else.
func (s *survey) byKey(node ast.Node) bool {
	literal := func(n ast.Node) bool { _, ok := n.(*ast.StringNode); return ok }
	switch p := s.parents[node].(type) {
	case *ast.MemberNode:
		return p.Node == node && literal(p.Property)
	case *ast.BinaryNode:
		return p.Operator == "in" && p.Right == node && literal(p.Left)
	case *ast.CallNode:
		callee, ok := p.Callee.(*ast.IdentifierNode)
		return ok && callee.Value == "has" && len(p.Arguments) == 2 && p.Arguments[0] == node && literal(p.Arguments[1])
	case *ast.BuiltinNode:
		return p.Name == "get" && len(p.Arguments) == 2 && p.Arguments[0] == node && literal(p.Arguments[1])
	}
	return false
}

// guard notes the key of the body that an operand is.
func (s *survey) guard(node ast.Node) {
	n, ok := node.(*ast.BinaryNode)
	if !ok || !strings.Contains("+-*/%**", n.Operator) {
		return
	}
	for _, operand := range []ast.Node{n.Left, n.Right} {
		if member, ok := operand.(*ast.MemberNode); ok {
			of, isName := member.Node.(*ast.IdentifierNode)
			key, isKey := member.Property.(*ast.StringNode)
			if isName && isKey && of.Value == "body" && !slices.Contains(s.Unguarded, key.Value) {
				s.Unguarded = append(s.Unguarded, key.Value)
			}
		}
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

// isElements says whether a node is the element of a loop, or in it. Loops over
// these take no longer, all together, than one over the whole body.
func isElements(node ast.Node) bool {
	for {
		switch n := node.(type) {
		case *ast.PointerNode:
			return n.Name == "" // not the accumulator of a reduce
		case *ast.MemberNode:
			node = n.Node
		case *ast.ChainNode:
			node = n.Node
		case *ast.BinaryNode:
			if n.Operator != "??" || !isElements(n.Right) && !isLiteral(n.Right) {
				return false
			}
			node = n.Left
		case *ast.BuiltinNode:
			if n.Name != "values" && n.Name != "keys" && n.Name != "filter" || n.Map != nil {
				return false
			}
			node = n.Arguments[0]
		default:
			return false
		}
	}
}

func isLiteral(node ast.Node) bool {
	switch n := node.(type) {
	case *ast.NilNode, *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.ConstantNode:
		return true
	case *ast.ArrayNode:
		return !slices.ContainsFunc(n.Nodes, func(n ast.Node) bool { return !isLiteral(n) })
	case *ast.MapNode:
		return len(n.Pairs) == 0
	}
	return false
}

// walksBody names the operation of a node that takes time in proportion to what
// it looks at, where that is the body or a variable and not a loop's element.
func walksBody(node ast.Node) string {
	var name string
	var operands []ast.Node
	switch n := node.(type) {
	case *ast.BuiltinNode:
		switch n.Name {
		case "type", "int", "float", "abs", "ceil", "floor", "round", "first", "last", "get", "bitand", "bitor", "bitxor", "bitnand", "bitnot",
			"bitshl", "bitshr", "bitushr":
			return ""
		}
		if len(n.Arguments) > 1 {
			if _, loop := n.Arguments[1].(*ast.PredicateNode); loop {
				return "" // judged as a loop
			}
		}
		name, operands = n.Name, n.Arguments
	case *ast.CallNode:
		callee, ok := n.Callee.(*ast.IdentifierNode)
		if !ok || callee.Value != "has" {
			return ""
		}
		name, operands = callee.Value, n.Arguments[:1]
	case *ast.BinaryNode:
		switch n.Operator {
		case "in":
			name, operands = n.Operator, []ast.Node{n.Right}
		case "contains", "matches":
			name, operands = n.Operator, []ast.Node{n.Left}
		}
	}
	if slices.ContainsFunc(operands, isWhole) {
		return name
	}
	return ""
}

// isWhole says whether a node is the body or a variable, or anything in these
// that may be large.
func isWhole(node ast.Node) bool {
	if is := node.Type(); is != nil {
		switch is.Kind() {
		case reflect.Bool, reflect.Int, reflect.Float64:
			return false
		}
	}
	for {
		switch n := node.(type) {
		case *ast.IdentifierNode:
			switch n.Value {
			case "method", "path", "params", "header", "query", "size":
				return false
			}
			return true
		case *ast.PointerNode:
			return n.Name == "acc"
		case *ast.MemberNode:
			node = n.Node
		case *ast.ChainNode:
			node = n.Node
		case *ast.SliceNode:
			node = n.Node
		case *ast.BinaryNode:
			return n.Operator == "??" && (isWhole(n.Left) || isWhole(n.Right))
		default:
			return false
		}
	}
}

// key notes which key of a map is looked up at a node that names the map:
// header["x"], header.x, "x" in header, has(header, "x").
func (s *survey) key(m *Mentioned, node ast.Node, lower bool) {
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
		m.All = true
		return
	}
	if lower && literal.Value != strings.ToLower(literal.Value) && s.err == nil {
		s.err = fmt.Errorf("header %q never matches: want the name in lower case", literal.Value)
	}
	if !slices.Contains(m.Keys, literal.Value) {
		m.Keys = append(m.Keys, literal.Value)
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
