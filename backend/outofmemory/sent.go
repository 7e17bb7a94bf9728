package outofmemory

import (
	"bufio"
	"bytes"
	"io"
)

// Sent says whether a client's text contains the words: their letters and digits in that
// order, in any case, with any other characters between them. So it finds them in JSON, in
// forms and in queries. Escapes of JSON and of URLs are read both as they are and as what
// they stand for. It reads body to its end, or to where the words are found.
func Sent(body io.Reader, words string) bool {
	needle := lettersOf(words)
	if len(needle) == 0 {
		return false
	}
	raw, plain := seeker{needle: needle}, seeker{needle: needle}
	in := bufio.NewReaderSize(body, 32<<10)
	for {
		c, err := in.ReadByte()
		if err != nil {
			return false
		}
		if raw.next(c) {
			return true
		}
		switch c {
		case '\\':
			c = escaped(in, &raw)
		case '%':
			if ahead, _ := in.Peek(2); len(ahead) == 2 && isHex(ahead[0]) && isHex(ahead[1]) {
				c = unhex(ahead[0])<<4 | unhex(ahead[1])
				raw.next(ahead[0])
				raw.next(ahead[1])
				in.Discard(2)
			}
		}
		if plain.next(c) || raw.found {
			return true
		}
	}
}

func isHex(c byte) bool { return isDigit(c) || 'a' <= lower(c) && lower(c) <= 'f' }

// escaped reads what stands behind a backslash: the byte that it stands for, or a
// space.
func escaped(in *bufio.Reader, raw *seeker) byte {
	ahead, _ := in.Peek(5)
	switch {
	case len(ahead) == 0:
		return ' '
	case len(ahead) == 5 && ahead[0] == 'u' && isHex(ahead[1]) && isHex(ahead[2]) && isHex(ahead[3]) && isHex(ahead[4]):
		for _, c := range ahead {
			raw.next(c)
		}
		in.Discard(5)
		if ahead[1] != '0' || ahead[2] != '0' {
			return ' '
		}
		return unhex(ahead[3])<<4 | unhex(ahead[4])
	}
	raw.next(ahead[0])
	in.Discard(1)
	switch ahead[0] {
	case 'n', 'r', 't', 'b', 'f', 'u':
		return ' '
	}
	return ahead[0]
}

// lettersOf are the letters and digits of a text, in lower case.
func lettersOf(text string) []byte {
	var out []byte
	for i := range len(text) {
		if c := lower(text[i]); isDigit(c) || isLetter(c) {
			out = append(out, c)
		}
	}
	return out
}

// seeker finds a needle among the letters and digits of bytes that come one by
// one.
type seeker struct {
	needle []byte
	last   []byte // at most twice as long as the needle
	found  bool
}

// next takes a byte and says that the needle was found, now or before.
func (s *seeker) next(c byte) bool {
	c = lower(c)
	if s.found || !isDigit(c) && !isLetter(c) {
		return s.found
	}
	if len(s.last) == 2*len(s.needle) {
		s.last = append(s.last[:0], s.last[len(s.needle)+1:]...)
	}
	s.last = append(s.last, c)
	s.found = c == s.needle[len(s.needle)-1] && bytes.HasSuffix(s.last, s.needle)
	return s.found
}
