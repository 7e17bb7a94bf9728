// Package admission decides which request runs now, which waits, which is
// refused, and why.
//
// The rules live in Scheduler as plain data and functions. It has no clock, no
// lock, no goroutine and does no I/O: `now` is an argument and every call
// returns what is to happen. Controller is the shell around it for a live
// process, with one mutex, one timer and a channel for each waiting request. The
// packages below it each know one thing: queue what waits and in which order,
// memory what each backend holds, residency which backends are loaded, history what was
// learned from finished work.
//
// What the package promises after every event. The numbers are those that tests
// name.
//
//  1. No resource is over its capacity through anything granted here: class
//     slots, backend slots, and booked bytes on each GPU. After a shrink, usage
//     does not grow until it is under capacity again. The exceptions are a lone
//     run and a trial, beside which nothing starts that adds memory.
//  2. A request ends exactly once: done, cancelled, expired or refused. It is
//     granted at most once, and its grant is released at most once.
//  3. Requests of one flow are granted in their order of arrival.
//  4. A request that left is never granted.
//  5. What can never fit is refused on arrival, and nothing else is for want of
//     memory.
//  6. An unavailable backend gets no grant and no reservation.
//  7. After a pass, a head that fits waits only because of a head that ranks
//     before it.
//  8. A strict head starts no later than the end of the last work that was
//     running when it became strict, provided that it fits then.
//  9. The time for which a head that fits can be blocked is bounded.
//  10. A request that is older than another by more than the difference of
//     their boosts ranks before it.
//  11. Tenants that have work waiting all the time share by their weights.
//  12. With no new work a drain ends, and nothing is booked as running.
//  13. At rest, another pass grants nothing.
//  14. The same events give the same grants.
//  15. Explaining changes nothing, and the reason is the one that decided.
//  16. With random estimates all of these but 11 still hold.
//  17. A head that truly fits starts within TrialAfter, the rest of the running
//     work and three readings, whatever the ledger believes (trial.go).
//  18. What was freed for a head is the head's until it starts or leaves (turns.go).
//
// Start here: Controller.Admit (controller.go) asks for the right to run and waits for
// it. Scheduler.pass (backfill.go) goes over the queues and says what may pass a
// blocked head, fit.go what fits, turns.go and trial.go what happens where
// memory must be freed or is in doubt, explain.go why a request waits.
//
// Controller has one mutex. What is given to Attend, ReadNow and Warn is called while
// it is held: it returns at once, and does not call the Controller.
//
// The package and all below it but gpu need the standard library alone.
package admission
