// Package body reads what requests hold: JSON and forms, as far as route rules look
// at them.
//
// A value has one meaning or is in doubt: where two servers could read a key in two
// ways, the reading says so and why. What no rule looks at is passed over, and holds
// no memory.
package body

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
)

// Body is a request body as the rules see it.
type Body struct {
	// Prefix is the body, or its beginning if Truncated.
	Prefix    []byte
	Truncated bool
	Size      int64
	// Whole is all of a body that is Truncated. Nil: the rest is not here yet.
	Whole io.ReaderAt
}

// Why a body, or a key of it, cannot be judged. What two parsers could read
// differently is not judged at all: the value the rules see is never a cheaper
// one than the value the backend acts on.
var (
	errTruncated   = errors.New("the body is not read before it is forwarded")
	errEncoded     = errors.New("the body is compressed")
	errContentType = errors.New("the body is neither JSON nor a form")
	errCharset     = errors.New("it is not UTF-8")
	errForm        = errors.New("the form can be read in two ways")
	errFormSize    = errors.New("the form is too large")
)

// Read gives the body as expressions see it: nil where there is none, what
// JSON holds, or a form's fields as a map. A file in a form is a map that holds
// its name, so that no file's name passes for a field's value.
func Read(r *http.Request, b *Body, names *Names) Reading {
	if len(b.Prefix) == 0 && b.Whole == nil && (!b.Truncated && b.Size <= 0 || r.ContentLength == 0 && (r.Body == nil || r.Body == http.NoBody)) {
		return Reading{}
	}
	if b.Whole == nil && (b.Truncated || b.Size > int64(len(b.Prefix))) {
		return Reading{Err: errTruncated}
	}
	if isEncoded(r) {
		return Reading{Err: errEncoded}
	}
	types := r.Header["Content-Type"]
	if len(types) > 1 || !SingleHeader(r, "Content-Type") || len(r.Header["Content_type"]) > 0 {
		return Reading{Err: errContentType}
	}
	if len(types) == 0 || types[0] == "application/json" { // the common ones, unparsed
		return readJSON(b.open(), names, false)
	}
	kind, params, err := mime.ParseMediaType(types[0])
	if err != nil {
		return Reading{Err: errContentType}
	}
	charset, ok := params["charset"]
	ascii := ok && !isUTF8(charset)
	named := 0
	if ok {
		named = 1
	}
	// Some look for the word alone, wherever it stands.
	if ascii && !extendsASCII(charset) || strings.Count(strings.ToLower(types[0]), "charset") != named {
		return Reading{Err: errCharset}
	}
	switch {
	case kind == "application/x-www-form-urlencoded":
		return readURLEncoded(b, names, ascii, r.URL)
	case kind == "multipart/form-data":
		return readMultipart(b, boundary(types[0], params), names, ascii, r.URL)
	case kind == "application/json", kind == "text/json", strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"):
		return readJSON(b.open(), names, ascii)
	}
	// Some servers read JSON whatever the type says, and pages that send it
	// without a type send text/plain.
	if c := b.open().sniff(); c == '{' || c == '[' {
		return readJSON(b.open(), names, ascii)
	}
	if isBinary(kind) && !b.open().wide() {
		return Reading{} // no server reads keys in a sound or a picture
	}
	return Reading{Err: errContentType}
}

// isEncoded says that a request's body is compressed. Underscores are dashes to what
// passes headers on as variables.
func isEncoded(r *http.Request) bool {
	for _, name := range [...]string{"Content-Encoding", "Content_encoding"} {
		for _, encoding := range r.Header[name] {
			if encoding != "" && !strings.EqualFold(encoding, "identity") {
				return true
			}
		}
	}
	return false
}

// isBinary says that a type is of what is neither JSON nor a form.
func isBinary(kind string) bool {
	for _, family := range [...]string{"audio/", "image/", "video/", "font/"} {
		if strings.HasPrefix(kind, family) {
			return true
		}
	}
	switch kind {
	case "application/octet-stream", "application/pdf", "application/zip", "application/gzip", "application/x-tar", "application/ogg":
		return true
	}
	return false
}

// wide says that a body may be JSON in UTF-16 or UTF-32, which Python's reader
// recognises by itself.
func (w *window) wide() bool {
	w.has(4)
	head := append([]byte(nil), w.seen[:min(4, len(w.seen))]...)
	begins := func(at int) bool { return at < len(head) && strings.IndexByte("{[ \t\r\n", head[at]) >= 0 }
	zero := func(at int) bool { return at < len(head) && head[at] == 0 }
	return len(head) >= 2 && (head[0] == 0xff && head[1] == 0xfe || head[0] == 0xfe && head[1] == 0xff) ||
		begins(0) && zero(1) || zero(0) && begins(1) || zero(0) && zero(1) && (begins(3) || len(head) == 4 && head[2] == 0xfe && head[3] == 0xff)
}

// isUTF8 says whether a charset is UTF-8, in one of its spellings.
func isUTF8(charset string) bool { return plainCharset(charset) == "utf8" }

// extendsASCII says whether a charset has the bytes of ASCII for its letters.
func extendsASCII(charset string) bool {
	name := plainCharset(charset)
	if name == "usascii" || name == "ascii" || name == "latin1" {
		return true
	}
	for _, family := range [...]string{"iso8859", "windows125", "cp125"} {
		if strings.HasPrefix(name, family) {
			return true
		}
	}
	return false
}

func plainCharset(charset string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == ' ' {
			return -1
		}
		return r
	}, strings.ToLower(charset))
}

// SingleHeader says whether a header, by its canonical name, reaches the backend
// with the one value that the rules see: it does not come twice with different
// values, and Connection does not have it taken off on the way.
func SingleHeader(r *http.Request, name string) bool {
	values := r.Header[name]
	for i := 1; i < len(values); i++ {
		if values[i] != values[0] {
			return false
		}
	}
	if len(values) == 0 {
		return true
	}
	for _, connection := range r.Header["Connection"] {
		for token := range strings.SplitSeq(connection, ",") {
			if strings.EqualFold(strings.TrimSpace(token), name) {
				return false
			}
		}
	}
	return true
}
