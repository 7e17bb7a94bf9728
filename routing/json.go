package routing

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxDepth is how deep JSON that a rule looks at may be nested. Parsers give
	// up between some hundreds and some thousands.
	maxDepth = 200
	// mostDepth bounds the nesting of what no rule looks at.
	mostDepth = 1 << 20
	// mostHeld is what the values that the rules look at in one body may take up.
	mostHeld = 32 << 20
	// perValue is what a value takes up beside its text.
	perValue = 48
	// maxKey is the longest key that a rule could look at.
	maxKey = 64 << 10
	// maxNumber is the longest number that is read.
	maxNumber = 400
)

var (
	errJSON      = errors.New("the body is not well-formed JSON")
	errDuplicate = errors.New("the key comes twice")
	errCase      = errors.New("the key comes in other letters than the rules have it")
	errDepth     = errors.New("it is nested too deeply")
	errNumber    = errors.New("it holds a number that is too large or not a number of JSON")
	errLarge     = errors.New("it is too large to be looked at")
)

// jsonReader reads a text into maps, slices, strings, float64s, bools and nils,
// as encoding/json does.
//
// Of an object it keeps the keys that the rules look at, and their values are in
// doubt where parsers read them differently: a key that comes twice (the first
// or the last one wins), one in other letters (servers in Go take it for the
// same), invalid UTF-8 and lone surrogates (replaced, kept or refused), a number
// that is too large, deep nesting. What no rule looks at is passed over: it is
// either JSON to every parser, with the same beginning and end, or no server
// acts on the body. NaN and infinities, which Python takes, are such values.
//
// encoding/json could not do it: it does not show duplicate keys, and its
// Decoder holds values whole.
type jsonReader struct {
	*window
	reading
	names   *names // nil: the rules look at everything
	ascii   bool   // the charset is one that agrees with UTF-8 on ASCII alone
	found   error  // the doubt about the value that is being read
	held    int
	scratch []byte
}

// readJSON reads a body that is JSON.
func readJSON(w *window, names *names, ascii bool) reading {
	p := &jsonReader{window: w, names: names, ascii: ascii}
	p.mark()
	p.space()
	var err error
	if p.peek() == '{' {
		p.body, err = p.root()
	} else if p.body, err = p.value(0); p.found != nil {
		p.reading.err = p.found
	}
	if err == nil {
		if p.space(); !p.ended() {
			err = errJSON
		}
	}
	if w.err != nil {
		err = errTruncated
	}
	if err != nil && p.reading.err == nil {
		p.reading.err = err
	}
	return p.reading
}

// suspect notes the first doubt about the value that is being read.
func (p *jsonReader) suspect(reason error) {
	if p.found == nil {
		p.found = reason
	}
}

// hold counts what a value takes up.
func (p *jsonReader) hold(n int) bool {
	if p.held += n + perValue; p.held > mostHeld {
		p.suspect(errLarge)
		return false
	}
	return true
}

// root reads the object that a body is.
func (p *jsonReader) root() (any, error) {
	object := make(map[string]any)
	err := p.members(func() error {
		p.found = nil
		key, err := p.str(maxKey)
		if err != nil {
			return err
		}
		doubt, known := p.found, p.names.known(key)
		if plain := plainKey(key); plain != key {
			for _, name := range p.names.known(plain) {
				p.doubt(name, errCharset)
			}
		}
		if err := p.colon(); err != nil {
			return err
		}
		if len(known) == 0 && !p.names.all() {
			return p.skip()
		}
		p.found = nil
		value, err := p.value(1)
		if err != nil {
			return err
		}
		_, twice := object[key]
		switch {
		case doubt != nil:
			p.doubt(key, doubt)
		case twice:
			p.doubt(key, errDuplicate)
		case len(known) > 0 && !slices.Contains(known, key):
			for _, name := range known {
				p.doubt(name, errCase)
			}
			p.doubt(key, errCase)
		case len(known) > 1:
			// One server may take both for the same.
			for _, name := range known {
				if _, also := object[name]; also {
					p.doubt(name, errDuplicate)
					p.doubt(key, errDuplicate)
				}
			}
		}
		p.doubt(key, p.found)
		if !twice {
			object[key] = value
		}
		return nil
	})
	return object, err
}

// plainKey is what servers make of a key that leave bytes out that are not
// UTF-8, or take a zero byte for its end.
func plainKey(key string) string {
	if !utf8.ValidString(key) {
		key = strings.ToValidUTF8(key, "")
	}
	key, _, _ = strings.Cut(key, "\x00")
	return key
}

// members goes through an object. It stands at its brace; member reads a key,
// the colon and the value.
func (p *jsonReader) members(member func() error) error {
	p.at++
	if p.space(); p.peek() == '}' {
		p.at++
		return nil
	}
	for {
		if p.space(); p.peek() != '"' {
			return errJSON
		}
		if err := member(); err != nil {
			return err
		}
		p.space()
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return nil
		default:
			return errJSON
		}
	}
}

func (p *jsonReader) colon() error {
	if p.space(); p.peek() != ':' {
		return errJSON
	}
	p.at++
	p.space()
	return nil
}

func (p *jsonReader) value(depth int) (any, error) {
	if depth > maxDepth {
		p.suspect(errDepth)
		return nil, p.skip()
	}
	switch c := p.peek(); c {
	case '{':
		return p.object(depth)
	case '[':
		return p.array(depth)
	case '"':
		s, err := p.str(p.names.longest(mostHeld - p.held))
		p.hold(len(s))
		return s, err
	}
	return p.scalar()
}

func (p *jsonReader) object(depth int) (any, error) {
	object := make(map[string]any)
	below := p.names.at(depth)
	err := p.members(func() error {
		key, err := p.str(maxKey)
		if err != nil {
			return err
		}
		if err := p.colon(); err != nil {
			return err
		}
		if p.names.passes(key) {
			return p.skip()
		}
		if _, twice := object[key]; twice {
			p.suspect(errDuplicate)
		} else if err := below.check(key, object); err != nil {
			p.suspect(err)
		}
		value, err := p.value(depth + 1)
		if err == nil && p.hold(len(key)) {
			object[key] = value
		}
		return err
	})
	return object, err
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
		if p.hold(0) {
			array = append(array, v)
		}
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

// scalar reads what is neither a string nor a container.
func (p *jsonReader) scalar() (any, error) {
	switch c := p.peek(); {
	case c == 't':
		return true, p.word("true")
	case c == 'f':
		return false, p.word("false")
	case c == 'n':
		return nil, p.word("null")
	case c == 'N':
		return nil, p.noNumber("NaN")
	case c == 'I':
		return nil, p.noNumber("Infinity")
	case c == '-' && p.has(2) && p.seen[p.at+1] == 'I':
		return nil, p.noNumber("-Infinity")
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	}
	return nil, errJSON
}

func (p *jsonReader) word(w string) error {
	if !p.has(len(w)) || string(p.seen[p.at:p.at+len(w)]) != w {
		return errJSON
	}
	p.at += len(w)
	return nil
}

// noNumber reads what Python takes for a number.
func (p *jsonReader) noNumber(w string) error {
	err := p.word(w)
	if err == nil {
		p.suspect(errNumber)
	}
	return err
}

// number reads by JSON's grammar, which is narrower than strconv's.
func (p *jsonReader) number() (any, error) {
	text := p.scratch[:0]
	length := 0
	for c := p.peek(); '0' <= c && c <= '9' || c == '-' || c == '+' || c == '.' || c|0x20 == 'e'; c = p.peek() {
		if length++; length <= maxNumber {
			text = append(text, c)
		}
		p.at++
	}
	p.scratch = text
	if length > maxNumber {
		p.suspect(errNumber)
		return nil, nil
	}
	if !isNumber(text) {
		return nil, errJSON
	}
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		p.suspect(errNumber)
	}
	return n, nil
}

func isNumber(s []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(s) && '0' <= s[n] && s[n] <= '9' {
			n++
		}
		s = s[n:]
		return n > 0
	}
	if len(s) > 0 && s[0] == '-' {
		s = s[1:]
	}
	if len(s) > 0 && s[0] == '0' {
		s = s[1:]
	} else if !digits() {
		return false
	}
	if len(s) > 0 && s[0] == '.' {
		if s = s[1:]; !digits() {
			return false
		}
	}
	if len(s) > 0 && s[0]|0x20 == 'e' {
		if s = s[1:]; len(s) > 0 && (s[0] == '+' || s[0] == '-') {
			s = s[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(s) == 0
}

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
	n := rune(0)
	for _, c := range p.seen[p.at : p.at+4] {
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

// skip passes over a value. Nothing that it meets is a doubt about another.
func (p *jsonReader) skip() error {
	found := p.found
	defer func() { p.found = found }()
	var open []byte // the braces around what is next
	for {
		p.space()
		switch p.peek() {
		case '{', '[':
			c := p.seen[p.at]
			p.at++
			p.space()
			if p.peek() == c+2 { // the brace that closes it
				p.at++
				break
			}
			if len(open) == mostDepth {
				return errDepth
			}
			open = append(open, c)
			if c == '{' {
				if err := p.skipKey(); err != nil {
					return err
				}
			}
			continue
		case '"':
			if err := p.skipText(); err != nil {
				return err
			}
		default:
			if _, err := p.scalar(); err != nil {
				return err
			}
		}
		for more := false; !more; {
			if len(open) == 0 {
				return nil
			}
			p.space()
			switch c, around := p.peek(), open[len(open)-1]; c {
			case ',':
				p.at++
				more = true
				if around == '{' {
					if err := p.skipKey(); err != nil {
						return err
					}
				}
			case around + 2:
				p.at++
				open = open[:len(open)-1]
			default:
				return errJSON
			}
		}
	}
}

func (p *jsonReader) skipKey() error {
	if p.space(); p.peek() != '"' {
		return errJSON
	}
	if err := p.skipText(); err != nil {
		return err
	}
	return p.colon()
}

func (p *jsonReader) skipText() error {
	p.at++
	for {
		if p.ended() {
			return errJSON
		}
		text := p.seen
		for i := p.at; i < len(text); i++ {
			if text[i] == '"' {
				p.at = i + 1
				return nil
			}
			if text[i] == '\\' {
				p.at = i
				break
			}
			p.at = i + 1
		}
		if p.at < len(text) {
			if !p.has(2) {
				return errJSON
			}
			p.at += 2
		}
	}
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
