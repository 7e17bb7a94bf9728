// Package markdown has what the pages that are made of code have in common.
package markdown

import (
	"strings"
	"unicode/utf8"
)

// Width is the longest that a line of a page is, in letters, where its words allow it.
const Width = 120

// Wrap breaks a text into lines of at most Width letters. The first begins with first,
// the others with indent. No line begins with what would make a list or a heading of it.
func Wrap(first, indent, text string) string {
	var b strings.Builder
	b.WriteString(first)
	length := utf8.RuneCountInString(first)
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case length+1+n > Width && !strings.ContainsAny(word[:1], "-+*#>|=") && !isNumber(word):
			b.WriteString("\n" + indent)
			length = utf8.RuneCountInString(indent)
		default:
			b.WriteByte(' ')
			length++
		}
		b.WriteString(word)
		length += n
	}
	b.WriteByte('\n')
	return b.String()
}

// isNumber says that a word may be the number of a list's item.
func isNumber(word string) bool {
	return strings.Trim(word, "0123456789") == "." || strings.Trim(word, "0123456789") == ")"
}
