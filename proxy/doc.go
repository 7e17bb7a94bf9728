// Package proxy serves clients over HTTP: a request comes in, asks admission, is forwarded,
// and its answer streams back.
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
//   - The client gets what the backend answers. The proxy writes an answer of its own only
//     when it refuses. A client can see that an answer was cut short.
//   - What clients can make it hold is bounded by limits.
//
// Start here: Handler.ServeHTTP (handler.go) is the life of a request from top to bottom.
// The body is read (body.go), the tenant and the priority are found out (claims.go), the
// request waits for a grant, and is sent as one attempt (attempt.go, forward.go). Its
// answer streams back (response.go), and work that goes on after the answer is followed
// (completion.go). errors.go turns refusals into statuses. ladder.go unloads and wakes
// backends for the controller. rules.go has what a reload replaces, server.go the
// listeners. Package admin is the admin listener.
//
// Locks are taken in this order, and none is held while a request is forwarded:
//
//  1. Handler.reloading, while the controller and the rules may name different replicas.
//  2. The mutex of a backend.Server, while it reports how many requests it may run.
//  3. link.mu of a replica, while that report is passed on.
//  4. The mutex of admission.Controller.
//
// Every other mutex guards a few fields, and nothing is called while it is held.
package proxy
