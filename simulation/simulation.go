// Package simulation is a GPU box without a GPU: a card whose memory runs out,
// model servers that take it, simple gates to compare with, and traffic. It
// serves the demo, examples, tests and benchmarks.
//
// What it promises:
//
//   - A card never gives out more than its capacity, and counts every attempt
//     to take more.
//   - What a process held is given back when the process ends, however it ends.
//   - Figures come from what clients and cards saw, never from a proxy.
//   - The same scene has the same arrivals and execution times each time.
//   - All durations are those of the simulated box; a speed makes the real ones
//     shorter.
package simulation
