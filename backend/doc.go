// Package backend knows the model servers: their connections, breakers and health, what is
// known of each engine, and the calls that are made to it.
//
// What it promises:
//
//   - A request is sent to a server at most once, whatever fails.
//   - Every request that the breaker let through is counted once: as a success, as
//     a failure, or as neither.
//   - The breaker neither stops nor counts the proxy's own calls. Those that change
//     something are sent once.
//
// Start here: New makes a Server of a Config (server.go). Server.Send forwards a request
// through the breaker (breaker.go). health.go checks whether the server is there,
// reclaim.go has the calls that unload and wake it, completion.go follows work beyond its
// answer. presets.go is the table of what is known of each engine; identify.go finds out
// which one answers at an address. Package outofmemory recognises their out-of-memory
// errors.
package backend
