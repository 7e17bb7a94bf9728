// Package memory is the ledger of GPU memory: what each backend holds, what
// running work may still take, and so whether a request fits.
//
// Three questions are kept apart. How much is free is told by the driver's
// total. How much a request would add, and which backend is worth an unload,
// needs attribution: which backend holds what. Only attribution can be in doubt,
// and only where the driver does not tell which process holds what.
//
// So each account (one replica of a backend on one GPU) has an interval
//
//	low ≤ held ≤ high
//
// and one more stands for the unmanaged rest. The total of the card ties them
// together: Σ held + unmanaged = used. The intervals speak of the moment of the
// last reading. What running work may still do is kept beside them, as Peak.
//
// What the package promises:
//
//  1. Before the first reading of a GPU that is read, nothing fits.
//  2. A request that fits cannot overflow the card, as far as the figures are
//     right and the evidence tells: either every account grows to its Peak from
//     what it surely holds, or every account holds the most that it may.
//  3. Where the driver names the processes of an account, the account is exactly
//     what the driver says, and nothing is inferred for it.
//  4. A figure that is only believed never bars for good: what a backend may
//     hold, and what it needs, can be put to a trial.
//  5. Only the Ledger writes the state of memory. Whatever else is said about it
//     (booked, retained, unattributed, available) is worked out from that.
//
// Start here: Ledger (ledger.go) is told of runs (run.go), readings (reading.go,
// measure.go) and unloads (unload.go), and answers Fits and Available. attribution.go
// works out which backend holds what, describe.go shows it.
//
// The package knows runs by what their owner hands it, and nothing of tickets,
// queues or classes. It has no clock: every time is an age, given by the
// caller, that must not go backwards. Nothing in it is safe for concurrent use.
package memory
