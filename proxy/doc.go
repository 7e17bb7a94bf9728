// Package proxy is the HTTP face: a request comes in, asks for room, is
// forwarded, and its answer streams back.
//
// What it promises:
//
//   - A request is sent to a backend at most once, and never after its client
//     has been seen to leave. There is one exception, retry_oom: a run that has
//     ended with a complete out-of-memory error, of which its client has seen
//     nothing, is followed by one more.
//   - A grant is given back exactly once, when the backend has ended: at its
//     last byte, at the end of its connection, when the work that it goes on
//     with has ended, or when the handler panics. What is given back earlier, by
//     a limit of the operator's, is logged.
//   - What a backend answers is what the client gets. The proxy speaks for
//     itself only when it refuses, and an answer that was cut looks cut.
//   - What clients can make it hold is bounded by limits.
//
// Start here: Handler.ServeHTTP (handler.go) is the life of a request from top to
// bottom. It is read in (body.go), its client is told apart (claims.go), it waits for
// a grant, and is sent as one attempt (attempt.go, forward.go); its answer streams back
// (response.go), and work that goes on is followed (completion.go). errors.go turns
// refusals into statuses. ladder.go unloads and wakes backends for the controller.
// rules.go holds what a reload exchanges, server.go the listeners. Package admin is the
// admin listener.
//
// Locks are taken in this order, and none is held while a request is forwarded:
//
//  1. Handler.reloading, while the controller and the rules may name different replicas.
//  2. A server's own, in package backend, while it says what may be used of it.
//  3. link.mu of a replica, while that is passed on.
//  4. The mutex of admission.Controller.
//
// Every other mutex guards a few fields, and nothing is called while it is held.
package proxy
