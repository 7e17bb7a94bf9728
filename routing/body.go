package routing

import (
	"errors"
	"mime"
	"net/http"
	"strings"
)

// Why a body cannot be judged. A body that two parsers could read differently
// is not judged at all: the value the rules see is never a cheaper one than
// the value the backend acts on.
var (
	errTruncated   = errors.New("the body is longer than what is kept in memory")
	errEncoded     = errors.New("the body is compressed")
	errContentType = errors.New("the body is neither JSON nor a form")
	errCharset     = errors.New("the body is not UTF-8")
	errForm        = errors.New("the form can be read in two ways")
	errFormSize    = errors.New("the form is too large")
)

// readBody gives the body as expressions see it: nil where there is none, what
// JSON holds, or a form's fields as a map. A file in a form is a map that holds
// its name, so that no file's name passes for a field's value. An error says why
// the body cannot be judged.
func readBody(r *http.Request, b Body, names *names) (any, error) {
	if len(b.Prefix) == 0 && (!b.Truncated && b.Size <= 0 || r.ContentLength == 0 && (r.Body == nil || r.Body == http.NoBody)) {
		return nil, nil
	}
	if b.Truncated || b.Size > int64(len(b.Prefix)) {
		return nil, errTruncated
	}
	// Underscores are dashes to what passes headers on as variables.
	for _, name := range [...]string{"Content-Encoding", "Content_encoding"} {
		for _, encoding := range r.Header[name] {
			if encoding != "" && !strings.EqualFold(encoding, "identity") {
				return nil, errEncoded
			}
		}
	}
	types := r.Header["Content-Type"]
	if len(types) > 1 || !isSingle(r, "Content-Type") || len(r.Header["Content_type"]) > 0 {
		return nil, errContentType
	}
	if len(types) == 0 || types[0] == "application/json" { // the common ones, unparsed
		return readJSON(string(b.Prefix), names)
	}
	kind, params, err := mime.ParseMediaType(types[0])
	if err != nil {
		return nil, errContentType
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "us-ascii") {
		return nil, errCharset
	}
	switch {
	case kind == "application/json", kind == "text/json", strings.HasPrefix(kind, "application/") && strings.HasSuffix(kind, "+json"):
		return readJSON(string(b.Prefix), names)
	case kind == "application/x-www-form-urlencoded":
		return readURLEncoded(string(b.Prefix), r.URL, names)
	case kind == "multipart/form-data":
		return readMultipart(string(b.Prefix), boundary(types[0], params), r.URL, names)
	}
	// Some servers read JSON whatever the type says.
	return nil, errContentType
}
