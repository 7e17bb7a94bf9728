// Package backend is the model servers: their connections, breakers and health,
// what is known of each engine, and the calls that are made to it.
//
// What it promises:
//
//   - A request goes to a server once at most, whatever dies.
//   - Every request that the breaker let through is counted once: as a success, as
//     a failure, or as neither.
//   - The proxy's own calls pass the breaker by and are not counted there. Those that
//     change something are sent once.
//
// Start here: New makes a Server of a Config (server.go). Server.Send forwards a
// request past the breaker (breaker.go). health.go says whether it is there,
// reclaim.go has the calls that unload and wake it, completion.go follows work beyond
// its answer. presets.go is the table of what is known of each engine; identify.go
// finds out which one answers at an address. Package outofmemory knows their words for
// a card that is full.
package backend
