// Package race lets tests be cheaper under the race detector, which makes code five to
// ten times as slow and finds nothing where there is one goroutine. Such tests do the
// whole of their work without it: CONTRIBUTING.md has the command.
package race

// Some is n, and under the race detector a tenth of it, rounded up.
func Some(n int) int {
	if Enabled {
		return (n + 9) / 10
	}
	return n
}
