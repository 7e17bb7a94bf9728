package routing

import (
	"mime"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

// What is read of a form.
const (
	maxFields      = 1000
	maxFieldSize   = 64 << 10
	maxFieldHeader = 8 << 10
)

// readURLEncoded reads a form, or JSON under a form's content type, which is
// what `curl -d` sends: servers that take JSON alone do not look at the type.
// JSON with an ampersand in it may be a form with fields of its own.
func readURLEncoded(s string, u *url.URL, names *names) (any, error) {
	if start := strings.TrimLeft(s, " \t\r\n"); start != "" && (start[0] == '{' || start[0] == '[') {
		if strings.ContainsAny(s, "&;") {
			return nil, errForm
		}
		return readJSON(s, names)
	}
	// A form's bytes are printable. Others make it JSON in another encoding, or
	// are decoded in different ways.
	if strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
		return nil, errForm
	}
	fields := readFields(s)
	if fields.err != nil {
		return nil, fields.err
	}
	if len(fields.doubtful) > 0 {
		return nil, errForm
	}
	form := make(map[string]any, len(fields.values))
	for name, value := range fields.values {
		if err := addField(form, name, value, names); err != nil {
			return nil, err
		}
	}
	return form, checkQuery(form, u, names)
}

// checkQuery refuses a form where a field that the rules look at is in the
// query too: some servers take that one.
func checkQuery(form map[string]any, u *url.URL, names *names) error {
	if u == nil || u.RawQuery == "" {
		return nil
	}
	query := readFields(u.RawQuery)
	if query.err != nil || len(query.doubtful) > 0 {
		return errForm
	}
	for name, value := range query.values {
		base, _, _ := strings.Cut(name, "[")
		if before, ok := form[name]; len(names.at(0)[fold(strings.TrimSpace(base))]) > 0 && (!ok || before != any(value)) {
			return errForm
		}
	}
	return nil
}

// addField puts a field or a file into a form.
func addField(form map[string]any, name string, value any, names *names) error {
	// Zero bytes end a text for some servers; some take spaces off a name.
	if strings.IndexByte(name, 0) >= 0 || strings.TrimSpace(name) != name {
		return errForm
	}
	text, isText := value.(string)
	if isText && (strings.IndexByte(text, 0) >= 0 || name == "_charset_" && !strings.EqualFold(text, "utf-8")) {
		return errForm
	}
	if before, twice := form[name]; twice {
		if before, wasText := before.(string); wasText != isText || before != text {
			return errForm
		}
		return nil
	}
	known := names.at(0)
	if err := known.check(name, form); err != nil {
		return err
	}
	// n[] and n[0] are n to some servers, and so is n[.
	if base, _, list := strings.Cut(name, "["); list && len(known[fold(strings.TrimSpace(base))]) > 0 {
		return errForm
	}
	form[name] = value
	return nil
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

// boundary gives the boundary of a content type, and nothing where parsers may
// find another, or where it may overlap with itself.
func boundary(contentType string, params map[string]string) string {
	if len(anyBoundary.FindAllString(contentType, 2)) != 1 || strings.ContainsAny(contentType, "\\*") || !plainBoundary.MatchString(params["boundary"]) {
		return ""
	}
	return params["boundary"]
}

var (
	anyBoundary   = regexp.MustCompile(`(?i)boundary\s*=`)
	plainBoundary = regexp.MustCompile(`^[0-9A-Za-z'()+_,./:=?-]{0,69}[0-9A-Za-z]$`)
)

// readMultipart reads the fields of a form with files. It reads only what
// leaves parsers no choice: some look for the boundary in lines that end in any
// way, and some anywhere, so that it may stand nowhere but where all find it.
// What stands before the first and after the last is a part for some.
func readMultipart(body, boundary string, u *url.URL, names *names) (any, error) {
	if boundary == "" {
		return nil, errForm
	}
	form := make(map[string]any)
	first, rest, _ := strings.Cut(body, "--"+boundary)
	if first != "" {
		return nil, errForm
	}
	for count := 0; ; count++ {
		text, tail, more := strings.Cut(rest, "--"+boundary)
		if !more {
			break
		}
		if count == maxFields {
			return nil, errFormSize
		}
		text, begins := strings.CutPrefix(text, "\r\n")
		text, ends := strings.CutSuffix(text, "\r\n")
		header, content, found := strings.Cut(text, "\r\n\r\n")
		switch {
		case !begins || !ends || !found:
			return nil, errForm
		case len(header) > maxFieldHeader:
			return nil, errFormSize
		}
		name, value, err := readPart(header, content)
		if err != nil {
			return nil, err
		}
		if err := addField(form, name, value, names); err != nil {
			return nil, err
		}
		rest = tail
	}
	if rest != "--" && rest != "--\r\n" {
		return nil, errForm
	}
	return form, checkQuery(form, u, names)
}

// disposition is one that all parsers read alike: the name first, for some find
// it in a file's name; no second names, escapes or other encodings.
var disposition = regexp.MustCompile(`^(?i:form-data); *(?i:name)=(?:"([^"\\%;=]*)"|([0-9A-Za-z_.-]+))(?:; *(?i:filename)=("[^"\\;]*"|[0-9A-Za-z_.-]+))?$`)

// readPart gives a field's name and text, or a file's name and, in a map, what
// the file is called: no file's name passes for a field's value.
func readPart(header, content string) (name string, value any, err error) {
	var dispositions, types []string
	for line := range strings.SplitSeq(header, "\r\n") {
		key, value, ok := strings.Cut(line, ":")
		if !ok || key == "" || !isToken(key) || !utf8.ValidString(value) || strings.ContainsFunc(value, isControl) {
			return "", nil, errForm
		}
		value = strings.Trim(value, " ")
		switch strings.ToLower(key) {
		case "content-disposition":
			dispositions = append(dispositions, value)
		case "content-type":
			types = append(types, strings.ToLower(value))
		case "content-transfer-encoding":
			switch strings.ToLower(value) {
			case "7bit", "8bit", "binary":
			default:
				return "", nil, errForm
			}
		}
	}
	if len(dispositions) != 1 || len(types) > 1 || strings.Contains(dispositions[0], "=?") {
		return "", nil, errForm
	}
	found := disposition.FindStringSubmatch(dispositions[0])
	if found == nil {
		return "", nil, errForm
	}
	name = found[1] + found[2]
	kind := "text/plain"
	if len(types) > 0 {
		var params map[string]string
		if kind, params, err = mime.ParseMediaType(types[0]); err != nil || strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "message/") {
			return "", nil, errForm // some look for parts within
		}
		if charset, ok := params["charset"]; ok && charset != "utf-8" && charset != "us-ascii" {
			return "", nil, errCharset
		}
	}
	file, isFile := strings.Trim(found[3], `"`), found[3] != ""
	switch {
	case isFile && file == "" && content != "":
		return "", nil, errForm // browsers send an input without a file so, but without content
	case isFile:
		return name, map[string]any{"filename": file}, nil
	case kind != "text/plain" && kind != "application/json":
		return "", nil, errForm // a file for some
	case len(content) > maxFieldSize:
		return "", nil, errFormSize
	case !utf8.ValidString(content):
		return "", nil, errCharset
	}
	return name, content, nil
}

// isControl says whether a byte has no place in a header.
func isControl(c rune) bool { return c < ' ' || c == 0x7f }
