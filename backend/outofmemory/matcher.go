package outofmemory

import "strings"

const (
	// maxLine is how much of a line is looked at at once. What is longer is looked
	// at in pieces that overlap: words that begin in the last overlap bytes are left
	// to the next piece, which has lead bytes before them.
	maxLine = 8 << 10
	overlap = 1 << 10
	lead    = 256
	// maxFound is how many places are kept of an error: more than one, because the
	// first may be what the client sent.
	maxFound = 4
	// around and behind are how much text before and after the words is searched
	// for figures.
	around = 512
	behind = 2 << 10
)

// matcher searches the text of an error line by line. It holds at most maxLine
// bytes of a line and maxFound × (maxLine + behind) of what it found.
type matcher struct {
	patterns []string // beside the table: anywhere in a line
	line     []byte
	isCut    bool // the line has begun before what is in line
	searched int  // how much of line was searched before
	found    []place
	wanted   int // how many bytes more the last place takes
}

// place is where an error says that memory is short.
type place struct {
	engine string
	words  string
	text   []byte // from the words, or a little before, to some way behind them
	at     int    // where in text the words begin
}

// full says that nothing more is searched for.
func (m *matcher) full() bool { return len(m.found) == maxFound && m.wanted == 0 }

func (m *matcher) writeByte(c byte) {
	if c == '\n' {
		m.endLine()
		return
	}
	m.line = append(m.line, c)
	if len(m.line) == maxLine {
		m.search(maxLine - overlap)
		m.line = append(m.line[:0], m.line[maxLine-overlap-lead:]...)
		m.isCut, m.searched = true, lead
	}
}

func (m *matcher) endLine() {
	m.search(len(m.line))
	m.line, m.isCut, m.searched = m.line[:0], false, 0
}

// search looks at the line for words that begin before limit.
func (m *matcher) search(limit int) {
	if len(m.line) == 0 {
		return
	}
	line := string(m.line)
	m.follow(line[m.searched:limit])
	for at := m.searched; len(m.found) < maxFound; {
		engine, from, to := find(line, at, !m.isCut)
		if n, pattern := m.own(line[at:]); n >= 0 && (from < 0 || at+n < from) {
			engine, from, to = "", at+n, at+n+len(pattern)
		}
		if from < 0 || from >= limit {
			return
		}
		begin := max(0, from-around)
		// What of the words is behind limit comes with the next piece.
		m.found = append(m.found, place{engine: engine, words: line[from:to], text: []byte(line[begin:limit]), at: from - begin})
		m.wanted = behind
		at = to
	}
}

// own is the first of the configuration's patterns in a text, and where.
func (m *matcher) own(text string) (at int, pattern string) {
	at = -1
	for _, p := range m.patterns {
		if n := strings.Index(text, p); n >= 0 && (at < 0 || n < at) {
			at, pattern = n, p
		}
	}
	return at, pattern
}

// follow adds a line to the text behind the last place.
func (m *matcher) follow(line string) {
	if m.wanted == 0 {
		return
	}
	last := &m.found[len(m.found)-1]
	if !m.isCut {
		line = "\n" + line
	}
	n := min(len(line), m.wanted)
	last.text = append(last.text, line[:n]...)
	m.wanted -= n
}

// report is the first place that is the engine's own. sent says of words that
// the client has sent them; nil: it is not known.
//
// Words that the client sent count only together with a figure behind them that
// it did not send: then a prompt has the same words by chance.
func (m *matcher) report(sent func(words string) bool) (Report, bool) {
	for i := range m.found {
		p := &m.found[i]
		text := string(p.text)
		if sent != nil && sent(p.words) {
			end := figureEnd(text[p.at:])
			if end == 0 || sent(text[p.at:p.at+end]) {
				continue
			}
		}
		r := Report{Engine: p.engine, Words: p.words}
		r.read(text)
		return r, true
	}
	return Report{}, false
}
