// Package routing says what a request is and where it may go: the YAML rules,
// compiled once.
//
// What it promises:
//
//   - The first rule that matches decides. What cannot be decided, because two
//     servers could read the request differently, is priced at
//     the most expensive route that may match.
//   - What the rules judged is what the backend gets: a path with two meanings
//     is refused, not cleaned.
//   - A client cannot make its demand less than the class's by a body,
//     a header or a query that cannot be judged.
//
// Start here: NewTable compiles a Config and reports its mistakes (config.go).
// Table.Find finds the rules that a request may fall under by its head (match.go),
// Candidates.Decide chooses among them, by the body where a rule looks at it
// (table.go), and gives a Decision: route, class and demand (routing.go). Paths are in
// path.go and pattern.go, the names that two servers read differently in the packages
// body and expression below.
package routing
