// Package outofmemory finds out-of-memory errors of model servers in their answers. It has
// one table of the words of engines, and reads the figures that they name. It looks only at
// the engine's own text: at the fields of an error, never at what a client sent or a model
// wrote.
//
// Promises:
//
//  1. A Scanner holds no more than a fixed amount of memory, however long the
//     answer is.
//  2. Its verdict does not depend on how the answer's bytes are split.
//  3. An answer that is no error by its status, its media type and its form is not
//     searched.
package outofmemory

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxScanned is how much of an answer is looked at, unpacked.
	maxScanned = 4 << 20
	// maxPacked is how much of a compressed answer is kept until its end. Of a longer
	// answer only the beginning is searched.
	maxPacked = 128 << 10
	// maxWindow is the window that RFC 9659 allows zstd in answers of HTTP. An answer with
	// a larger window is not unpacked.
	maxWindow = 8 << 20
)

// form is how an answer is written.
type form uint8

const (
	unknown form = iota // by its first byte
	jsonText
	plain
	html
	events // server-sent events
	lines  // JSON, one a line
	packed // compressed: kept until the end
	grpc   // its trailers tell
)

// Scanner looks for an out-of-memory error in an answer as it passes. It is not
// safe for concurrent use. A nil Scanner finds nothing.
type Scanner struct {
	form     form
	strict   bool // the status is no error: only what says that it is one counts
	found    matcher
	json     walk
	html     stripper
	event    eventLine
	encoding string
	packed   []byte
	within   form // of what is compressed
	left     int  // bytes that may still be looked at
	finished bool
}

// Scan returns a Scanner for an answer; nil if there is nothing to search: a success that
// is no stream of JSON, or an answer that is neither text nor JSON. patterns are texts of
// the configuration that count beside the table, wherever they are in an error's own text.
//
// These parts are searched:
//
//  1. 400 and above: the fields of JSON that hold the error (roleOf), text and
//     HTML; of a stream of events each event, of JSON lines each line.
//  2. Below: events that are named error or failed, events and lines of JSON that
//     say by their first key that they are an error (walk.strict).
//  3. gRPC over HTTP/2: grpc-message in the trailers, or in the header of an answer
//     that has nothing else.
func Scan(status int, header http.Header, patterns []string) *Scanner {
	kind, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	f := formOf(kind)
	if status < 400 && f != events && f != lines && f != grpc || f == packed {
		return nil
	}
	s := &Scanner{form: f, strict: status < 400, left: maxScanned}
	s.found.patterns = patterns
	if f == grpc {
		s.Trailer(header)
		return s
	}
	switch encoding := strings.ToLower(strings.TrimSpace(header.Get("Content-Encoding"))); encoding {
	case "", "identity":
	case "gzip", "x-gzip", "deflate", "br", "zstd":
		s.form, s.within, s.encoding = packed, f, encoding
	default:
		return nil
	}
	s.begin()
	return s
}

// formOf is the form of a media type; packed: none that is looked at.
func formOf(kind string) form {
	switch {
	case kind == "text/event-stream":
		return events
	case kind == "application/x-ndjson", kind == "application/ndjson", kind == "application/jsonl", kind == "application/x-jsonlines",
		kind == "application/jsonlines", kind == "application/stream+json", kind == "application/json-lines":
		return lines
	case strings.HasPrefix(kind, "application/grpc") && !strings.HasPrefix(kind, "application/grpc-web"):
		return grpc
	case kind == "text/html", kind == "application/xhtml+xml":
		return html
	case strings.HasPrefix(kind, "image/"), strings.HasPrefix(kind, "audio/"), strings.HasPrefix(kind, "video/"), strings.HasPrefix(kind, "font/"),
		kind == "application/octet-stream", kind == "application/zip":
		return packed
	}
	return unknown
}

func (s *Scanner) begin() {
	s.json.reset(&s.found, s.strict)
	s.html = stripper{to: &s.found}
	s.event = eventLine{}
}

// Write takes the next bytes of the answer. It never fails.
func (s *Scanner) Write(p []byte) (int, error) {
	if s == nil || s.finished || s.form == grpc {
		return len(p), nil
	}
	n := len(p)
	if s.form == packed {
		s.packed = append(s.packed, p[:min(len(p), maxPacked-len(s.packed))]...)
		return n, nil
	}
	p = p[:min(len(p), s.left)]
	s.left -= len(p)
	for len(p) > 0 && !s.found.full() {
		switch s.form {
		case events:
			p = p[s.eventBytes(p):]
			continue
		case lines:
			p = p[s.lineBytes(p):]
			continue
		case unknown:
			s.sniff(p[0])
		}
		s.textByte(p[0])
		p = p[1:]
	}
	return n, nil
}

// sniff finds the form by the first byte that is no space.
func (s *Scanner) sniff(c byte) {
	switch c {
	case ' ', '\t', '\r', '\n', 0xEF, 0xBB, 0xBF: // and a byte order mark
	case '{', '[', '"':
		s.form = jsonText
	case '<':
		s.form = html
	default:
		s.form = plain
	}
}

// textByte takes a byte of JSON, HTML or plain text. If it is no JSON after all, the rest
// is read as plain text.
func (s *Scanner) textByte(c byte) {
	switch s.form {
	case jsonText:
		s.json.writeByte(c)
		if s.json.broken && (s.json.ended || !s.json.seen) && !s.strict {
			s.form = plain
			s.found.writeByte(c)
		}
	case html:
		s.html.writeByte(c)
	case plain:
		s.found.writeByte(c)
	}
}

// lineBytes takes bytes of JSON lines, to the end of the present line at most, and
// says how many.
func (s *Scanner) lineBytes(p []byte) int {
	end := bytes.IndexByte(p, '\n')
	n := end
	if end < 0 {
		n = len(p)
	}
	for _, c := range p[:n] {
		if s.json.dead {
			break
		}
		s.json.writeByte(c)
	}
	if end < 0 {
		return n
	}
	s.endValue()
	return n + 1
}

// endValue ends a line or an event of JSON.
func (s *Scanner) endValue() {
	s.found.endLine()
	s.json.reset(&s.found, s.strict)
}

// Trailer takes the trailers of the answer. Those of gRPC have its status.
func (s *Scanner) Trailer(trailer http.Header) {
	if s == nil || s.form != grpc || trailer.Get("Grpc-Message") == "" || trailer.Get("Grpc-Status") == "0" {
		return
	}
	message := trailer.Get("Grpc-Message")
	message = message[:min(len(message), 64<<10)]
	if plain, err := url.PathUnescape(message); err == nil {
		message = plain
	}
	for i := range len(message) {
		s.found.writeByte(message[i])
	}
	s.found.endLine()
}

// Report says at the end of the answer whether it is an out-of-memory error, and
// what it says. sent says whether the client sent words, whatever stands between
// them; nil: it is not known what it sent. It is called only where the words of the
// table were found. A Report is the same each time.
func (s *Scanner) Report(sent func(words string) bool) (Report, bool) {
	if s == nil {
		return Report{}, false
	}
	s.finish()
	return s.found.report(sent)
}

func (s *Scanner) finish() {
	if s.finished {
		return
	}
	if s.form == packed {
		s.form = s.within
		unpacked := unpack(s.encoding, s.packed)
		s.packed = nil
		// An answer that was cut can still be searched up to the cut.
		io.Copy(s, io.LimitReader(unpacked, maxScanned))
		unpacked.Close()
	}
	s.found.endLine()
	s.finished = true
}

// unpack reads a compressed answer. deflate has zlib's header, but some servers leave it
// out. Reading starts no goroutine.
func unpack(encoding string, packed []byte) io.ReadCloser {
	in := bytes.NewReader(packed)
	var r io.ReadCloser
	var err error
	switch encoding {
	case "br":
		r = io.NopCloser(brotli.NewReader(in))
	case "zstd":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow)); err == nil {
			r = z.IOReadCloser()
		}
	case "deflate":
		if r, err = zlib.NewReader(in); err != nil {
			in.Reset(packed)
			r, err = flate.NewReader(in), nil
		}
	default:
		r, err = gzip.NewReader(in)
	}
	if err != nil {
		return io.NopCloser(bytes.NewReader(nil))
	}
	return r
}
