package body

import (
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
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
	Reading
	names   *Names // nil: the rules look at everything
	ascii   bool   // the charset is one that agrees with UTF-8 on ASCII alone
	found   error  // the doubt about the value that is being read
	held    int
	scratch []byte
}

// readJSON reads a body that is JSON.
func readJSON(w *window, names *Names, ascii bool) Reading {
	p := &jsonReader{window: w, names: names, ascii: ascii}
	p.mark()
	p.space()
	var err error
	if p.peek() == '{' {
		p.Body, err = p.root()
	} else if p.Body, err = p.value(0); p.found != nil {
		p.Reading.Err = p.found
	}
	if err == nil {
		if p.space(); !p.ended() {
			err = errJSON
		}
	}
	if w.err != nil {
		err = errTruncated
	}
	if err != nil && p.Reading.Err == nil {
		p.Reading.Err = err
	}
	return p.Reading
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
		from := p.position()
		value, err := p.value(1)
		if err != nil {
			return err
		}
		if text, ok := value.(string); ok && p.names != nil && key == p.names.locate {
			p.Reading.value = Value{from, p.position(), text, quoted}
		}
		if doubt != nil {
			p.doubt(key, doubt)
		} else {
			p.doubtTwins(object, key, known)
		}
		p.doubt(key, p.found)
		if _, twice := object[key]; !twice {
			object[key] = value
		}
		return nil
	})
	return object, err
}

// doubtTwins doubts a key that servers may take for another one: it stands there twice,
// or is written otherwise than the names that are known for it.
func (p *jsonReader) doubtTwins(object map[string]any, key string, known []string) {
	if _, twice := object[key]; twice {
		p.doubt(key, errDuplicate)
		return
	}
	if len(known) > 0 && !slices.Contains(known, key) {
		for _, name := range known {
			p.doubt(name, errCase)
		}
		p.doubt(key, errCase)
		return
	}
	if len(known) < 2 {
		return
	}
	// One server may take both for the same.
	for _, name := range known {
		if _, also := object[name]; also {
			p.doubt(name, errDuplicate)
			p.doubt(key, errDuplicate)
		}
	}
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

// ReadWithout reads JSON as it comes and leaves out keys deeper than its root, with
// their values: they take no memory, however large they are. What is left may be
// 32 MiB.
func ReadWithout(r io.Reader, keys []string) ([]byte, error) {
	read := readJSON(&window{rest: r}, &Names{whole: true, without: keys}, false)
	if read.Err != nil {
		return nil, read.Err
	}
	return json.Marshal(read.Body)
}
