package body

// How the values of JSON are passed over that no rule looks at.

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
		var err error
		if open, err = p.skipEnds(open); err != nil || len(open) == 0 {
			return err
		}
	}
}

// skipEnds passes over what is behind a value: the braces that close, and the comma and
// the key before the next value. It gives the braces that are still open; none: the
// outermost value has ended.
func (p *jsonReader) skipEnds(open []byte) ([]byte, error) {
	for len(open) > 0 {
		p.space()
		switch c, around := p.peek(), open[len(open)-1]; c {
		case ',':
			p.at++
			if around == '{' {
				return open, p.skipKey()
			}
			return open, nil
		case around + 2:
			p.at++
			open = open[:len(open)-1]
		default:
			return open, errJSON
		}
	}
	return nil, nil
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
