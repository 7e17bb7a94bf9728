package body

import (
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// How the texts of JSON are read.

// str reads a string from its opening quote on. What is longer than most is in
// doubt, and comes cut.
func (p *jsonReader) str(most int) (string, error) {
	p.at++
	// The common case: it has no escape and lies in the window.
	for i := p.at; i < len(p.seen); i++ {
		c := p.seen[i]
		if c == '"' {
			s := string(p.seen[p.at:i])
			p.at = i + 1
			return p.finish(s, len(s) > most), nil
		}
		if c == '\\' || c < 0x20 {
			break
		}
	}
	out, over := p.scratch[:0], false
	for {
		if p.ended() {
			return "", errJSON
		}
		rest := p.seen[p.at:]
		n := 0
		for n < len(rest) && rest[n] != '"' && rest[n] != '\\' && rest[n] >= 0x20 {
			n++
		}
		if over = over || len(out)+n > most; !over {
			out = append(out, rest[:n]...)
		}
		if p.at += n; n == len(rest) {
			continue
		}
		switch rest[n] {
		case '"':
			p.at++
			p.scratch = out
			return p.finish(string(out), over), nil
		case '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
		default:
			return "", errJSON
		}
	}
}

func (p *jsonReader) finish(s string, over bool) string {
	if over {
		p.suspect(errLarge)
	} else if !utf8.ValidString(s) {
		p.suspect(errCharset)
	} else if p.ascii && !isASCII(s) {
		p.suspect(errCharset)
	}
	return s
}

// escape reads an escape from its backslash on.
func (p *jsonReader) escape() (rune, error) {
	if !p.has(2) {
		return 0, errJSON
	}
	c := p.seen[p.at+1]
	p.at += 2
	switch c {
	case '"', '\\', '/':
		return rune(c), nil
	case 'b':
		return '\b', nil
	case 'f':
		return '\f', nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'u':
		return p.unicode()
	}
	return 0, errJSON
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
	if !p.has(2) || string(p.seen[p.at:p.at+2]) != `\u` {
		p.suspect(errCharset)
		return utf8.RuneError, nil
	}
	p.at += 2
	low, ok := p.hex()
	if !ok {
		return 0, errJSON
	}
	if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
		p.suspect(errCharset)
	}
	return r, nil
}

func (p *jsonReader) hex() (rune, bool) {
	if !p.has(4) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(p.seen[p.at:p.at+4]), 16, 16)
	if err != nil {
		return 0, false
	}
	p.at += 4
	return rune(n), true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
