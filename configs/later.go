package configs

import (
	"strings"
)

// later names the keys that exist in the design of the file and not in this
// version, with * for a name of the user's own. Whoever wrote one of them made
// no typing mistake and is told so.
var later = map[string]bool{
	"state":                    true,
	"backends.*.urls":          true,
	"backends.*.replicas":      true,
	"backends.*.pinned":        true,
	"backends.*.min_residency": true,
	"backends.*.retry_oom":     true,
	"backends.*.reclaim":       true,
	"routes[].preserve_host":   true,
}

const notYet = "is not available in this version: leave it out"

// laterValue is the problem of a value that this version does not know yet,
// where its key is known; empty: none.
func laterValue(pattern, text string) string {
	switch pattern {
	case "backends.*.resident":
		if text == "learn" {
			return "learn " + notYet
		}
	case "listen", "admin.listen":
		if text == "systemd" || strings.HasPrefix(text, "systemd:") {
			return "a systemd socket " + notYet
		}
	}
	return ""
}

// laterShape is the problem of a mapping or a list where this version wants
// one value and a later one takes more; empty: none.
func laterShape(pattern string) string {
	if pattern == "backends.*.resident" {
		return "an amount for each GPU " + notYet
	}
	return ""
}
