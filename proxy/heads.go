package proxy

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// heads looks at the heads of the requests on an HTTP/1 connection, as they are read, for
// three forms that net/http accepts and other servers read differently: a line that ends in
// a line feed alone, a header that is folded, and both a length and a transfer encoding. A
// backend that reads them differently would see the end of one request as the beginning of
// another.
//
// It does not decide where a request ends. The handler tells it how net/http has framed
// each request, and then it looks at the bytes after that request's head. If it cannot
// follow, no further request of the connection is served.
type heads struct {
	mu    sync.Mutex
	state headState // guarded by mu, as all below
	odd   string    // what is odd about the head; empty: nothing
	// lines of the head so far, and the present one: its beginning, its length, and
	// its last byte.
	lines  int
	line   []byte
	length int
	last   byte
	// What the head says of the body's length.
	hasLength, hasEncoding bool
	bodiless               bool // the last head that is whole said nothing of it

	left    int64   // of the body, or of a chunk and the line behind it
	pending *[]byte // read behind a head whose request has not begun; nil: nothing
}

type headState uint8

const (
	inHead   headState = iota
	atBody             // behind a head: the handler says what follows
	inBody             // of left bytes
	inSize             // in the line before a chunk
	inChunk            // of left bytes
	inEnd              // in the trailer
	lookAway           // HTTP/2, or what cannot be followed
)

const (
	// mostLine is how much of a line is kept: the names of headers that matter.
	mostLine = 24
	// mostPending is more than net/http reads ahead of a handler.
	mostPending = 64 << 10
)

// see takes the bytes that were read from the connection.
func (h *heads) see(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.follow(p)
}

// follow goes through bytes that were read. The caller holds mu.
func (h *heads) follow(p []byte) {
	for len(p) > 0 && h.state != lookAway {
		switch h.state {
		case atBody:
			h.keep(p)
			return
		case inBody, inChunk:
			n := min(h.left, int64(len(p)))
			h.left -= n
			p = p[n:]
			if h.left == 0 {
				h.state = map[headState]headState{inBody: inHead, inChunk: inSize}[h.state]
			}
		default:
			end := bytes.IndexByte(p, '\n')
			if end < 0 {
				h.extend(p)
				return
			}
			h.extend(p[:end])
			p = p[end+1:]
			h.endLine()
			h.line, h.length, h.last = h.line[:0], 0, 0
		}
	}
}

// keep stores the bytes that were read after a head. They are in a buffer of a pool,
// because a request may wait for long.
func (h *heads) keep(p []byte) {
	switch {
	case h.pending == nil:
		h.pending = getBuffer(len(p))
	case len(*h.pending)+len(p) > mostPending:
		h.state, h.pending = lookAway, nil
		return
	case len(*h.pending)+len(p) > cap(*h.pending):
		grown := getBuffer(len(*h.pending) + len(p))
		*grown = append(*grown, *h.pending...)
		putBuffer(h.pending)
		h.pending = grown
	}
	*h.pending = append(*h.pending, p...)
}

// extend adds to the present line.
func (h *heads) extend(p []byte) {
	if len(p) == 0 {
		return
	}
	h.line = append(h.line, p[:min(len(p), mostLine-len(h.line))]...)
	h.length += len(p)
	h.last = p[len(p)-1]
}

// endLine judges a line that is whole.
func (h *heads) endLine() {
	empty := h.length == 0 || h.length == 1 && h.last == '\r'
	switch h.state {
	case inSize:
		size, _, _ := strings.Cut(strings.TrimRight(string(h.line), "\r"), ";")
		n, err := strconv.ParseInt(strings.TrimRight(size, " \t"), 16, 63)
		switch {
		case err != nil || n < 0:
			h.state = lookAway
		case n == 0:
			h.state = inEnd
		default:
			h.state, h.left = inChunk, n+2
		}
		return
	case inEnd:
		if empty {
			h.state = inHead
		}
		return
	}
	if h.last != '\r' {
		h.note("a line ends in a line feed alone")
	}
	switch {
	case empty:
		if h.state = atBody; h.hasLength && h.hasEncoding {
			h.note("it has both a Content-Length and a Transfer-Encoding")
		}
		h.bodiless = !h.hasLength && !h.hasEncoding
		h.lines, h.hasLength, h.hasEncoding = 0, false, false
		return
	case h.lines == 0 && bytes.HasPrefix(h.line, []byte("PRI * HTTP/2")):
		h.state = lookAway
	case h.lines > 0 && (h.line[0] == ' ' || h.line[0] == '\t'):
		h.note("a header goes on in a second line")
	case h.lines > 0:
		h.hasLength = h.hasLength || hasName(h.line, "Content-Length:")
		h.hasEncoding = h.hasEncoding || hasName(h.line, "Transfer-Encoding:")
	}
	h.lines++
}

// hasName says that a line begins with a header's name and its colon.
func hasName(line []byte, name string) bool {
	return len(line) >= len(name) && line[0]|0x20 == name[0]|0x20 && strings.EqualFold(string(line[:len(name)]), name)
}

// note keeps the first oddity.
func (h *heads) note(what string) {
	if h.odd == "" {
		h.odd = what
	}
}

// isBetween says that the last request was read to its end, and nothing of the next one. A
// nil *heads returns false.
func (h *heads) isBetween() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state == inHead && h.lines == 0 && h.length == 0 || h.state == atBody && h.bodiless
}

// isInBody says that not all of a request's body was read. A nil *heads does not know.
func (h *heads) isInBody() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state >= inBody && h.state < lookAway
}

// begin is called once for each request, when its handler begins. It says what is odd about
// its head; empty: nothing. lost says that the bytes after the request cannot be followed.
// A nil *heads finds nothing.
func (h *heads) begin(r *http.Request) (odd string, lost bool) {
	if h == nil || r.ProtoMajor != 1 {
		return "", false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	odd, h.odd = h.odd, ""
	if h.state != atBody {
		h.state, h.pending = lookAway, nil
		return odd, true
	}
	switch {
	case len(r.TransferEncoding) > 0:
		h.state = inSize
	case r.ContentLength > 0:
		h.state, h.left = inBody, r.ContentLength
	default:
		h.state = inHead
	}
	if behind := h.pending; behind != nil {
		h.pending = nil
		h.follow(*behind)
		putBuffer(behind)
	}
	return odd, false
}
