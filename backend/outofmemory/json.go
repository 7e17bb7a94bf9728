package outofmemory

import (
	"bytes"
	"slices"
	"strings"
)

// maxDepth is how deep JSON is looked into.
const maxDepth = 48

// maxKey is how much of a key is kept.
const maxKey = 40

// role says how the search treats a value of JSON.
type role uint8

const (
	holder  role = iota // its objects are looked into, its own text is not
	own                 // its text is the engine's own
	foreign             // neither it nor anything in it is looked at: what the client sent
)

// walk goes through JSON byte by byte and gives the text of the engine's own fields to a
// matcher. It is lenient: text that is no JSON is skipped.
type walk struct {
	to *matcher
	// strict walks through an answer that is no error by its status. There the
	// first key must say that it is one: "error", or "object" or "type" with the
	// value "error". So the deltas of a stream are left after their first key.
	strict bool

	stack   [maxDepth]level
	depth   int
	beyond  int  // levels deeper than maxDepth
	isError bool // strict: the first key says so
	isTyped bool // strict: it says so by its value
	dead    bool // nothing more is looked at
	ended   bool // the outermost value has ended
	// broken says that the text is no JSON, or that other text follows it. If seen is
	// false, no part of it was JSON.
	broken, seen bool

	inString, isKey, escaped bool
	inLiteral                bool
	hex                      int // digits of \u that are still to come
	rune                     rune
	high                     rune // the first half of a surrogate pair
	key                      [maxKey]byte
	keyLength                int
	role                     role // of the value that comes
}

type level struct {
	isObject, wantsKey bool
	role               role // of the elements of an array
}

func (w *walk) reset(to *matcher, strict bool) { *w = walk{to: to, strict: strict, role: own} }

func (w *walk) writeByte(c byte) {
	if w.dead || w.broken {
		return
	}
	if w.inString {
		w.stringByte(c)
		return
	}
	wasLiteral := w.inLiteral
	w.inLiteral = false
	switch c {
	case ' ', '\t', '\r', '\n':
		return
	}
	if w.ended {
		w.broken = true
		return
	}
	switch c {
	case '{', '[':
		w.open(c == '{')
	case '}', ']':
		w.close()
	case ',':
		if w.depth > 0 && w.beyond == 0 {
			t := w.top()
			t.wantsKey = t.isObject
			w.role = t.role
		}
	case ':':
	case '"':
		w.seen = true
		w.inString, w.isKey = true, w.depth > 0 && w.beyond == 0 && w.top().wantsKey
		if w.isKey {
			w.keyLength = 0
		}
	default:
		// Literals as Python writes them are accepted.
		w.inLiteral = true
		w.broken = !wasLiteral && strings.IndexByte("-0123456789tfnNITF", c) < 0 || w.depth == 0 || w.beyond == 0 && w.top().wantsKey
	}
}

func (w *walk) top() *level { return &w.stack[w.depth-1] }

func (w *walk) open(isObject bool) {
	if w.strict && w.depth == 0 && !isObject {
		w.dead = true
		return
	}
	if w.depth == maxDepth {
		w.beyond++
		return
	}
	inner := w.role
	if isObject && inner == own {
		inner = holder // its keys say what is whose
	}
	w.stack[w.depth] = level{isObject: isObject, wantsKey: isObject, role: inner}
	w.depth++
	w.role = inner
}

func (w *walk) close() {
	switch {
	case w.beyond > 0:
		w.beyond--
		return
	case w.depth == 0:
		w.broken = true
		return
	}
	w.depth--
	w.ended = w.depth == 0
}

func (w *walk) stringByte(c byte) {
	switch {
	case w.hex > 0:
		w.hex--
		w.rune = w.rune<<4 | rune(unhex(c))
		if w.hex == 0 {
			w.unicode(w.rune)
		}
	case w.escaped:
		w.escaped = false
		switch c {
		case 'u':
			w.hex, w.rune = 4, 0
		case 'n':
			w.emit('\n')
		case 'r':
			w.emit('\r')
		case 't':
			w.emit('\t')
		case 'b', 'f':
			w.emit(' ')
		default:
			w.emit(c)
		}
	case c == '\\':
		w.escaped = true
	case c == '"':
		w.endString()
	default:
		w.emit(c)
	}
}

func unhex(c byte) byte {
	switch {
	case isDigit(c):
		return c - '0'
	case 'a' <= lower(c) && lower(c) <= 'f':
		return lower(c) - 'a' + 10
	}
	return 0
}

// unicode takes what \u stands for. Halves of a pair are put together.
func (w *walk) unicode(r rune) {
	switch {
	case 0xD800 <= r && r < 0xDC00:
		w.high = r
		return
	case 0xDC00 <= r && r < 0xE000 && w.high != 0:
		r = 0x10000 + (w.high-0xD800)<<10 + (r - 0xDC00)
	}
	w.high = 0
	for _, c := range []byte(string(r)) {
		w.emit(c)
	}
}

func (w *walk) emit(c byte) {
	switch {
	case w.isKey:
		if w.keyLength < maxKey {
			w.key[w.keyLength] = c
			w.keyLength++
		}
	case w.collects():
		w.to.writeByte(c)
	case w.strict && !w.isError && w.depth == 1 && w.keyLength < maxKey:
		// The value of "object" or "type".
		w.key[w.keyLength] = c
		w.keyLength++
	}
}

// collects says that the present string is the engine's own text.
func (w *walk) collects() bool {
	return w.beyond == 0 && w.role == own && (!w.strict || w.isError)
}

func (w *walk) endString() {
	w.inString = false
	if w.beyond > 0 {
		return
	}
	if w.isKey {
		w.isKey = false
		w.top().wantsKey = false
		w.named(w.key[:w.keyLength])
		return
	}
	if w.strict && !w.isError {
		w.isError = w.depth == 1 && string(w.key[:w.keyLength]) == "error"
		w.isTyped, w.dead = w.isError, !w.isError
		return
	}
	if w.collects() {
		w.to.endLine()
	}
	w.ended = w.depth == 0
}

// named takes the key of an object's next value.
func (w *walk) named(key []byte) {
	if w.top().role == foreign {
		w.role = foreign
		return
	}
	w.role = roleOf(key)
	if !w.strict || w.depth != 1 || w.isTyped {
		return
	}
	switch name := string(key); {
	case strings.HasPrefix(name, "error"):
		w.isError = true
	case name == "object", name == "type":
		w.keyLength = 0 // its value decides
	default:
		w.dead = true
	}
}

// foreignKeys hold what the client sent, or what a model made of it.
var foreignKeys = []string{"prompt", "prompts", "negativeprompt", "input", "inputs", "query", "body", "param", "params", "parameters",
	"args", "kwargs",
	"arguments", "request", "payload", "choices", "delta", "workflow", "currentinputs", "currentoutputs", "extrapnginfo", "extrainfo",
	"receivedvalue",
	"inputvalue", "inputconfig", "ctx", "loc", "toolcalls", "functions", "instances", "content", "headers", "url"}

// ownKeys hold what a server says of an error: FastAPI, OpenAI and vLLM, Ollama,
// Triton, ComfyUI, Gradio, AUTOMATIC1111, TGI, problem details (RFC 9457).
var ownKeys = []string{"detail", "details", "message", "messages", "msg", "reason", "cause", "description", "traceback", "stack",
	"stacktrace", "trace", "stderr",
	"title", "type", "code", "kind", "failure", "fault", "err", "statusmessage"}

// roleOf says what the value of a key is. Case, underscores and dashes do not
// count.
func roleOf(key []byte) role {
	var plain [maxKey]byte
	n := 0
	for _, c := range key {
		if c != '_' && c != '-' {
			plain[n] = lower(c)
			n++
		}
	}
	name := string(bytes.TrimSpace(plain[:n]))
	switch {
	case slices.Contains(foreignKeys, name):
		return foreign
	case slices.Contains(ownKeys, name), strings.HasPrefix(name, "error"), strings.HasPrefix(name, "exception"),
		strings.HasSuffix(name, "error"), strings.HasSuffix(name, "exception"):
		return own
	}
	return holder
}
