package routing

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// What is read of a form.
const (
	maxFields    = 1000
	maxFieldSize = 64 << 10
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
	for _, encoding := range r.Header["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return nil, errEncoded
		}
	}
	types := r.Header["Content-Type"]
	if len(types) > 1 {
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
		return readURLEncoded(string(b.Prefix), names)
	case kind == "multipart/form-data":
		return readMultipart(b.Prefix, params["boundary"])
	}
	// Some servers read JSON whatever the type says.
	return nil, errContentType
}

// readURLEncoded reads a form, or JSON under a form's content type, which is
// what `curl -d` sends: servers that take JSON alone do not look at the type.
// JSON with an ampersand in it may be a form with fields of its own.
func readURLEncoded(s string, names *names) (any, error) {
	if start := strings.TrimLeft(s, " \t\r\n"); start != "" && (start[0] == '{' || start[0] == '[') {
		if strings.ContainsAny(s, "&;") {
			return nil, errForm
		}
		return readJSON(s, names)
	}
	fields := readFields(s)
	if fields.err != nil {
		return nil, fields.err
	}
	if len(fields.doubtful) > 0 {
		return nil, errForm
	}
	body := make(map[string]any, len(fields.values))
	for k, v := range fields.values {
		body[k] = v
	}
	return body, nil
}

// fields are the parameters of a query or of a form.
type fields struct {
	values   map[string]string
	doubtful map[string]bool // come several times, with different values
	err      error           // parsers disagree about all of them
}

// readFields reads what is URL-encoded. Semicolons separate for some parsers
// and not for others, and bad escapes are dropped, kept or refused.
func readFields(s string) fields {
	f := fields{values: make(map[string]string)}
	if strings.IndexByte(s, ';') >= 0 {
		f.err = errForm
		return f
	}
	count := 0
	for pair := range strings.SplitSeq(s, "&") {
		if pair == "" {
			continue
		}
		if count++; count > maxFields {
			f.err = errFormSize
			return f
		}
		name, value, _ := strings.Cut(pair, "=")
		name, badName := url.QueryUnescape(name)
		value, badValue := url.QueryUnescape(value)
		if badName != nil || badValue != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			f.err = errForm
			return f
		}
		if before, ok := f.values[name]; ok && before != value {
			if f.doubtful == nil {
				f.doubtful = make(map[string]bool)
			}
			f.doubtful[name] = true
			continue
		}
		f.values[name] = value
	}
	return f
}

// readMultipart reads the fields of a form with files. Whatever strict and
// lenient parsers split differently cannot be judged.
func readMultipart(body []byte, boundary string) (any, error) {
	// What stands before the first boundary and after the last is not a form's
	// for some parsers, and is for others.
	if boundary == "" || !bytes.HasPrefix(body, []byte("--"+boundary+"\r\n")) ||
		!bytes.HasSuffix(bytes.TrimSuffix(body, []byte("\r\n")), []byte("\r\n--"+boundary+"--")) {
		return nil, errForm
	}
	form := make(map[string]any)
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	for count := 0; ; count++ {
		part, err := reader.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, errForm
		}
		if count == maxFields {
			return nil, errFormSize
		}
		name, value, file, err := readPart(part)
		if err != nil {
			return nil, err
		}
		switch before := form[name].(type) {
		case string:
			if file || before != value {
				return nil, errForm
			}
		case map[string]any:
			if !file {
				return nil, errForm
			}
		default:
			if form[name] = value; file {
				form[name] = map[string]any{"filename": value}
			}
		}
	}
	// A boundary that ends the form in the middle leaves fields behind it.
	if bytes.Count(body, []byte("--"+boundary+"--")) != 1 {
		return nil, errForm
	}
	return form, nil
}

// readPart gives a field's name and text, or a file's name.
func readPart(part *multipart.Part) (name, value string, file bool, err error) {
	dispositions := part.Header["Content-Disposition"]
	if len(dispositions) != 1 || strings.Contains(dispositions[0], "*") || strings.Count(strings.ToLower(dispositions[0]), "name=") > 2 {
		return "", "", false, errForm // name*= and a second name: each parser has its own idea
	}
	kind, params, err := mime.ParseMediaType(dispositions[0])
	name, named := params["name"]
	if err != nil || kind != "form-data" || !named || !utf8.ValidString(name) {
		return "", "", false, errForm
	}
	for _, encoding := range part.Header["Content-Transfer-Encoding"] {
		switch strings.ToLower(encoding) {
		case "7bit", "8bit", "binary":
		default:
			return "", "", false, errForm
		}
	}
	if value, file = params["filename"]; value != "" {
		return name, value, true, nil
	}
	if kind := part.Header.Get("Content-Type"); kind != "" {
		_, params, err := mime.ParseMediaType(kind)
		if charset, ok := params["charset"]; err != nil || ok && !strings.EqualFold(charset, "utf-8") {
			return "", "", false, errCharset
		}
	}
	text, err := io.ReadAll(io.LimitReader(part, maxFieldSize+1))
	switch {
	case err != nil:
		return "", "", false, errForm
	case len(text) > maxFieldSize:
		return "", "", false, errFormSize
	case !utf8.Valid(text):
		return "", "", false, errCharset
	}
	if file {
		// Browsers send an input without a file so; a file without a name, but
		// with content, is a field for some parsers.
		if len(text) > 0 {
			return "", "", false, errForm
		}
		return name, "", true, nil
	}
	return name, string(text), false, nil
}
