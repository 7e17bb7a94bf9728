package body

import "io"

// chunk is how much of a long body is read at a time.
const chunk = 64 << 10

// window is a body on its way through a parser: what has been read and not yet
// parsed. A parser that passes over something holds no more of it than a chunk.
type window struct {
	seen []byte // parsed up to at
	at   int
	base int64     // what came before seen
	rest io.Reader // what comes behind it; nil: nothing
	err  error     // why the rest cannot be read
}

// open begins to read a body.
func (b *Body) open() *window {
	if b.Whole != nil {
		return &window{rest: io.NewSectionReader(b.Whole, 0, b.Size)}
	}
	return &window{seen: b.Prefix}
}

// position is how far the body has been parsed.
func (w *window) position() int64 { return w.base + int64(w.at) }

// more reads on and keeps what is not yet parsed. It is false at the end.
func (w *window) more() bool {
	if w.rest == nil {
		return false
	}
	left := w.seen[w.at:]
	w.base += int64(w.at)
	if next := len(left) + chunk; w.at == 0 || cap(w.seen) < next {
		w.seen = append(make([]byte, 0, next), left...)
	} else {
		w.seen = append(w.seen[:0], left...)
	}
	w.at = 0
	n, err := io.ReadFull(w.rest, w.seen[len(left):len(left)+chunk])
	w.seen = w.seen[:len(left)+n]
	if err != nil {
		w.rest = nil
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			w.err = err
		}
	}
	return n > 0
}

// peek gives the next byte, 0 at the end: no text that is valid goes on with
// that.
func (w *window) peek() byte {
	if w.at < len(w.seen) || w.more() {
		return w.seen[w.at]
	}
	return 0
}

// ended says that nothing is left.
func (w *window) ended() bool { return w.at >= len(w.seen) && !w.more() }

// has makes n bytes visible, and says whether there are as many.
func (w *window) has(n int) bool {
	for len(w.seen)-w.at < n {
		if !w.more() {
			return false
		}
	}
	return true
}

func (w *window) space() {
	for {
		switch w.peek() {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return
		}
	}
}

// mark passes over a byte order mark, which servers skip.
func (w *window) mark() {
	if w.has(3) && string(w.seen[w.at:w.at+3]) == "\ufeff" {
		w.at += 3
	}
}

// sniff is the first byte that means something.
func (w *window) sniff() byte {
	w.mark()
	w.space()
	return w.peek()
}
