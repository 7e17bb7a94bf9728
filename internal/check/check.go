// Package check has what the sections of a configuration report their mistakes
// with. A mistake is the path of a key and a sentence that says what is wrong and
// what is wanted.
package check

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// At reports below a path.
func At(report func(path, problem string), prefix string) func(path, problem string) {
	return func(path, problem string) { report(prefix+"."+path, problem) }
}

// OneOf reports a choice that is not one of those there are. Empty is always one.
func OneOf(report func(path, problem string), path, value string, choices ...string) {
	if value != "" && !slices.Contains(choices, value) {
		report(path, fmt.Sprintf("%q: not known: want %s", value, strings.Join(choices, " or ")))
	}
}

// AtLeast reports a number that is too small.
func AtLeast[N cmp.Ordered](report func(path, problem string), path string, value, least N) {
	if value < least {
		report(path, fmt.Sprintf("%v: too small: want %v or more", value, least))
	}
}

// AtMost reports a number that is too large.
func AtMost[N cmp.Ordered](report func(path, problem string), path string, value, most N) {
	if value > most {
		report(path, fmt.Sprintf("%v: too large: want %v or less", value, most))
	}
}
