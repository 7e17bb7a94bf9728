package routing

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is how deep JSON may be nested. Parsers give up between some
// hundreds and some thousands.
const maxDepth = 200

var (
	errJSON      = errors.New("the body is not well-formed JSON")
	errDuplicate = errors.New("the body names a key twice")
	errCase      = errors.New("the body has a key that the rules look at in other letters")
	errDepth     = errors.New("the body is nested too deeply")
	errNumber    = errors.New("the body holds a number that is too large")
)

// readJSON reads a text into maps, slices, strings, float64s, bools and nils,
// as encoding/json does, and refuses what encoding/json takes although other
// parsers read it differently: a key that comes twice (first or last one
// wins), invalid UTF-8 and lone surrogates (replaced, kept or refused), deep
// nesting, and a key of the names in other letters, which servers in Go take for
// the same key. It does in one pass what two would do with encoding/json, whose
// Decoder does not show duplicate keys to those who want values.
func readJSON(s string, names *names) (any, error) {
	if !utf8.ValidString(s) {
		return nil, errCharset
	}
	p := jsonReader{s: s, names: names}
	p.space()
	v, err := p.value(0)
	if err != nil {
		return nil, err
	}
	p.space()
	if p.at != len(s) {
		return nil, errJSON
	}
	return v, nil
}

// jsonReader is a text and how much of it has been read. Strings without
// escapes are parts of the text and cost nothing.
type jsonReader struct {
	s     string
	at    int
	names *names // nil: none
}

func (p *jsonReader) space() {
	for p.at < len(p.s) {
		switch p.s[p.at] {
		case ' ', '\t', '\r', '\n':
			p.at++
		default:
			return
		}
	}
}

// peek gives the next byte, 0 at the end: no valid text goes on with that.
func (p *jsonReader) peek() byte {
	if p.at < len(p.s) {
		return p.s[p.at]
	}
	return 0
}

func (p *jsonReader) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch c := p.peek(); c {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		return p.text()
	case 't':
		return true, p.word("true")
	case 'f':
		return false, p.word("false")
	case 'n':
		return nil, p.word("null")
	default:
		if c == '-' || '0' <= c && c <= '9' {
			return p.number()
		}
		return nil, errJSON
	}
}

func (p *jsonReader) word(w string) error {
	if !strings.HasPrefix(p.s[p.at:], w) {
		return errJSON
	}
	p.at += len(w)
	return nil
}

func (p *jsonReader) object(depth int) (any, error) {
	object := make(map[string]any)
	names := p.names.at(depth)
	p.at++
	if p.space(); p.peek() == '}' {
		p.at++
		return object, nil
	}
	for {
		if p.space(); p.peek() != '"' {
			return nil, errJSON
		}
		key, err := p.text()
		if err != nil {
			return nil, err
		}
		if _, twice := object[key]; twice {
			return nil, errDuplicate
		}
		if len(names) > 0 {
			if err := names.check(key, object); err != nil {
				return nil, err
			}
		}
		if p.space(); p.peek() != ':' {
			return nil, errJSON
		}
		p.at++
		p.space()
		if object[key], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return object, nil
		default:
			return nil, errJSON
		}
	}
}

func (p *jsonReader) array(depth int) (any, error) {
	array := []any{}
	p.at++
	if p.space(); p.peek() == ']' {
		p.at++
		return array, nil
	}
	for {
		p.space()
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			return array, nil
		default:
			return nil, errJSON
		}
	}
}

// number reads by JSON's grammar, which is narrower than strconv's.
func (p *jsonReader) number() (any, error) {
	start := p.at
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if !p.digits() {
		return nil, errJSON
	}
	if p.peek() == '.' {
		p.at++
		if !p.digits() {
			return nil, errJSON
		}
	}
	if p.peek()|0x20 == 'e' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !p.digits() {
			return nil, errJSON
		}
	}
	n, err := strconv.ParseFloat(p.s[start:p.at], 64)
	if err != nil {
		return nil, errNumber
	}
	return n, nil
}

func (p *jsonReader) digits() bool {
	start := p.at
	for c := p.peek(); '0' <= c && c <= '9'; c = p.peek() {
		p.at++
	}
	return p.at > start
}

// text reads a string from its opening quote on.
func (p *jsonReader) text() (string, error) {
	p.at++
	start := p.at
	for ; p.at < len(p.s); p.at++ {
		switch c := p.s[p.at]; {
		case c == '"':
			p.at++
			return p.s[start : p.at-1], nil
		case c == '\\':
			return p.escaped(start)
		case c < 0x20:
			return "", errJSON
		}
	}
	return "", errJSON
}

// escaped reads a string that has an escape, which is next.
func (p *jsonReader) escaped(start int) (string, error) {
	var text strings.Builder
	for p.at < len(p.s) {
		switch c := p.s[p.at]; {
		case c == '"':
			text.WriteString(p.s[start:p.at])
			p.at++
			return text.String(), nil
		case c < 0x20:
			return "", errJSON
		case c != '\\':
			p.at++
			continue
		}
		text.WriteString(p.s[start:p.at])
		p.at++
		c := p.peek()
		p.at++
		switch c {
		case '"', '\\', '/':
			text.WriteByte(c)
		case 'b':
			text.WriteByte('\b')
		case 'f':
			text.WriteByte('\f')
		case 'n':
			text.WriteByte('\n')
		case 'r':
			text.WriteByte('\r')
		case 't':
			text.WriteByte('\t')
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			text.WriteRune(r)
		default:
			return "", errJSON
		}
		start = p.at
	}
	return "", errJSON
}

// unicode reads what follows `\u`; the second half of a surrogate pair too.
func (p *jsonReader) unicode() (rune, error) {
	r, ok := p.hex()
	if !ok {
		return 0, errJSON
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	if !strings.HasPrefix(p.s[p.at:], `\u`) {
		return 0, errCharset
	}
	p.at += 2
	low, ok := p.hex()
	if !ok {
		return 0, errJSON
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		return 0, errCharset
	}
	return r, nil
}

func (p *jsonReader) hex() (rune, bool) {
	if len(p.s)-p.at < 4 {
		return 0, false
	}
	n := rune(0)
	for _, c := range []byte(p.s[p.at : p.at+4]) {
		if !isHex(c) {
			return 0, false
		}
		digit := rune(c - '0')
		if c > '9' {
			digit = rune(c|0x20) - 'a' + 10
		}
		n = n<<4 | digit
	}
	p.at += 4
	return n, true
}
