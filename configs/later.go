package configs

import (
	"strings"
)

// later names the keys that exist in the design of the file and not in this version, with *
// for a name of the user's own. The error for such a key says that this version does not
// have it yet.
var later = map[string]bool{
	"routes[].preserve_host": true,
}

const notYet = "is not available in this version: leave it out"

// laterValue is the problem of a value that this version does not know yet,
// where its key is known; empty: none.
func laterValue(pattern, text string) string {
	switch pattern {
	case "listen", "admin.listen":
		if text == "systemd" || strings.HasPrefix(text, "systemd:") {
			return "a systemd socket " + notYet
		}
	}
	return ""
}
