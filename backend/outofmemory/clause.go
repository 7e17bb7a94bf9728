package outofmemory

import (
	"slices"
	"strings"
)

// An engine says that it is out of memory as a clause of its own: at the start of
// a message, or behind the name of an exception, a colon or a bracket. Prose
// about memory has the same words inside a sentence: "why do I get CUDA out of
// memory?", "CUDA out of memory errors are caused by …".

// before are the words after which a clause may start.
var before = []string{"error", "exception", "with", "failed", "failure", "status", "raised", "got", "caught", "in", "reason", "warn",
	"warning", "fatal"}

// after are the words that may follow a phrase without a stop between them.
var after = []string{"at", "when", "while", "on", "for", "during", "trying", "tried", "after", "allocating"}

// clientNames are the keys and words by which an error names what the client sent. As a
// word such a name counts only after one of blames: after "invalid prompt: …" come the
// client's words, after "error processing prompt: …" the engine's.
var (
	clientNames = []string{"prompt", "input", "inputs", "text", "query", "content", "caption", "question", "instruction", "request", "body",
		"value",
		"argument", "parameter", "tag", "title", "name", "filename", "file", "path", "directory", "folder", "word", "token", "string", "user"}
	blames = []string{"bad", "invalid", "unsupported", "unknown", "unexpected", "malformed", "illegal", "forbidden", "your", "such", "a", "or"}
)

// startsClause says that a clause may begin at i. A line that does not begin
// atStart is the rest of a longer one.
//
//  1. At the start of a line, also of one that is escaped.
//  2. Behind a mark that ends or opens something. Behind a colon or an equals
//     sign not where it stands behind the name of what the client sent.
//  3. Behind a quotation mark that opens right behind such a mark, or the line's
//     start.
//  4. Behind one of the words before, and behind what is no word of prose: a
//     number, a file with its line, a name with colons.
func startsClause(line string, i int, atStart bool) bool {
	head := strings.TrimRight(line[:i], " \t")
	switch {
	case head == "":
		return atStart
	case isBreak(head):
		return true
	}
	c := head[len(head)-1]
	switch {
	case c == '"' || c == '\'' || c == '`': // 3
		if len(head) < i {
			return false // it closes what stands before
		}
		head = strings.TrimRight(head[:len(head)-1], " \\")
		return head == "" || opens(head)
	case !isWord(c): // 2
		return opens(head)
	}
	if len(head) == i {
		return false
	}
	word := head[strings.LastIndexAny(head, " \t([{<\"'`")+1:]
	if slices.Contains(before, strings.ToLower(word)) { // 4
		return true
	}
	return strings.ContainsFunc(word, func(r rune) bool { return r < 0x80 && !isLetter(byte(r)) && r != '-' && r != '\'' && r != '/' })
}

// opens says that a clause may begin behind the mark at the end of head.
func opens(head string) bool {
	switch c := head[len(head)-1]; c {
	case ':', '=':
		head = strings.TrimRight(head[:len(head)-1], " \t")
		plain := strings.TrimRight(head, "\"'`\\")
		isKey := c == '=' || len(plain) < len(head)
		before, name := lastWord(plain)
		name = name[strings.LastIndexByte(name, '_')+1:]
		if !slices.Contains(clientNames, name) {
			return true
		}
		_, blame := lastWord(strings.TrimRight(before, " "))
		return !isKey && !slices.Contains(blames, blame)
	case '(', '[', '{', ')', ']', '}', '|', '>', ',', ';', '.', '!', '-', '*', '\\', '/':
		return true
	}
	return false
}

// lastWord splits the last word off a text, in lower case.
func lastWord(text string) (before, word string) {
	i := len(text)
	for i > 0 && isWord(text[i-1]) {
		i--
	}
	return text[:i], strings.ToLower(text[i:])
}

// endsClause says that a clause may end at i.
func endsClause(line string, i int) bool {
	rest := line[i:]
	if rest == "" {
		return true
	}
	switch c := rest[0]; c {
	case '.':
		return len(rest) == 1 || !isWord(rest[1]) // no file's name
	case ',', ':', ';', ')', ']', '}', '!', '<', '\\', '|', '\r':
		return true
	case '"', '\'', '`':
		return len(rest) == 1 || strings.IndexByte(`)]},.;:\"'`, rest[1]) >= 0
	case ' ', '\t':
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" || !isLetter(rest[0]) {
			return rest == "" || rest[0] != '?' && rest[0] != '\'' && rest[0] != '"'
		}
		word := rest[:len(rest)-len(strings.TrimLeftFunc(rest, func(r rune) bool { return r < 0x80 && isLetter(byte(r)) }))]
		if lowered := strings.ToLower(word); lowered == "error" || lowered == "exception" {
			next := strings.TrimPrefix(rest, word)
			return next == "" || strings.IndexByte(".:;,)(!", next[0]) >= 0
		}
		return slices.Contains(after, strings.ToLower(word))
	}
	return false
}
