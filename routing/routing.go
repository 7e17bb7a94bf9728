// Package routing says what a request is and where it may go: the YAML rules,
// compiled once, and the backends behind them with their breakers and health.
//
// What it promises:
//
//   - The first rule that matches decides. What cannot be decided, because two
//     servers could read the request differently, counts as the dearest that
//     it may be.
//   - What the rules judged is what the backend gets: a path with two meanings
//     is refused, not cleaned.
//   - A client cannot make its demand less than the class's by a body,
//     a header or a query that cannot be judged.
//   - A request goes to a backend once at most, whatever dies.
//   - Every request that the breaker let through is counted once: as a
//     success, as a failure, or as neither.
package routing
