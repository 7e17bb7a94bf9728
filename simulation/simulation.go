// Package simulation is a GPU box without a GPU: a card whose memory runs out,
// model servers that take it and have the traps of the real ones, simple gates
// to compare with, and traffic. It serves the demo, examples, tests and benchmarks,
// over sockets or in process, in real time or in that of a VirtualClock.
//
// What it promises:
//
//   - A card never gives out more than its capacity, and counts every attempt
//     to take more.
//   - What a process held is given back when the process ends, however it ends.
//   - An engine behaves well where no trap is switched on, but for those that
//     its kind has of itself.
//   - Figures come from what clients and cards saw, never from a proxy.
//   - The same scene has the same arrivals and execution times each time, and in
//     virtual time the same outcome.
//   - All durations are those of the simulated box; a speed makes the real ones
//     shorter.
package simulation
