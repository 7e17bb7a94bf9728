package backend

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// Control is a path of an engine that frees or loads models under requests that run,
// or ends it. It is not for clients.
type Control struct {
	Method string // empty: any
	Path   string // a pattern, as in `match.path`
}

// Controls are those of the engine, and of the calls that are configured.
func (b Config) Controls() []Control {
	var all []Control
	for _, engine := range slices.Compact(slices.Sorted(slices.Values([]string{b.Preset, b.Reclaim.Preset, b.Completion.Preset}))) {
		for _, path := range presets[engine].controls {
			// For every method, because some engines accept GET for it too.
			all = append(all, Control{Path: path})
		}
		for _, path := range presets[engine].posted {
			for _, method := range [...]string{"POST", "PUT", "PATCH", "DELETE"} {
				all = append(all, Control{method, path})
			}
		}
	}
	for _, line := range [...]string{b.Reclaim.Call, b.Reclaim.Wake} {
		if method, target, _, ok := splitCall(line); ok {
			all = append(all, Control{method, callPattern(target)})
		}
	}
	return all
}

// callPattern is the pattern of a call's path. A segment with a placeholder matches any
// text, and so does a segment that a pattern cannot express.
func callPattern(target string) string {
	path, _, _ := strings.Cut(target, "?")
	pattern := ""
	for i, part := range strings.Split(strings.Trim(path, "/"), "/") {
		decoded, err := url.PathUnescape(part)
		odd := func(c rune) bool {
			return c < ' ' || c == 0x7f || c == utf8.RuneError || strings.ContainsRune(`{}*?%/\;`, c)
		}
		if err != nil || strings.ContainsFunc(decoded, odd) || decoded == "." || decoded == ".." {
			decoded = fmt.Sprintf("{any%d}", i)
		}
		if part != "" {
			pattern += "/" + decoded
		}
	}
	if pattern == "" {
		return "/{$}"
	}
	return pattern
}
