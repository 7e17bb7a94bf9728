package body

import (
	"bytes"
	"mime"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// What is read of a form.
const (
	// MaxFields is how many fields of a form or a query count: some servers leave the
	// rest out.
	MaxFields      = 1000
	maxFieldSize   = 1 << 20
	maxFieldHeader = 8 << 10
	maxFieldName   = 4 << 10
	// mostFields and mostParts are where a form is given up, whatever is in it: going
	// through it would take too long.
	mostFields = 1 << 20
	mostParts  = 100_000
)

// form is a form on its way in. A field that no rule looks at is passed over,
// however odd it is; one that some server may take for a field that the rules
// look at puts that one in doubt.
type form struct {
	Reading
	names *Names
	ascii bool // the charset is one that agrees with UTF-8 on ASCII alone
	count int
	held  int
}

// readForm reads a form. scan goes through it.
func readForm(w *window, names *Names, ascii bool, u *url.URL, scan func(*form, *window) error) Reading {
	f := &form{names: names, ascii: ascii}
	values := make(map[string]any)
	f.Body = values
	if f.Err = scan(f, w); w.err != nil {
		f.Err = errTruncated
	}
	f.checkQuery(values, u)
	return f.Reading
}

// known are the fields that a server may take one of that name for. n[] and
// n[0] are n to some, and so is n[.
func (f *form) known(name string) []string {
	base, _, _ := strings.Cut(name, "[")
	known := f.names.known(strings.TrimSpace(strings.ReplaceAll(base, "\x00", "")))
	if base != name {
		known = append(slices.Clone(known), f.names.known(name)...)
	}
	return known
}

// wants says whether a field's value is to be read.
func (f *form) wants(name string) bool { return f.names.all() || len(f.known(name)) > 0 }

// suspect puts what a field may be taken for in doubt.
func (f *form) suspect(name string, reason error) {
	for _, known := range f.known(name) {
		f.doubt(known, reason)
	}
	if f.names.all() {
		f.doubt(name, reason)
	}
}

// add puts a field or a file into a form, with the doubt that there is about it.
func (f *form) add(name string, value any, doubt error) {
	if !f.wants(name) {
		return
	}
	values := f.Body.(map[string]any)
	if doubt != nil {
		f.suspect(name, doubt)
	}
	if f.count > MaxFields {
		f.suspect(name, errFormSize)
	}
	// Zero bytes end a text for some servers; some take spaces off a name.
	if strings.IndexByte(name, 0) >= 0 || strings.TrimSpace(name) != name {
		f.suspect(name, errForm)
	}
	text, isText := value.(string)
	if isText && strings.IndexByte(text, 0) >= 0 {
		f.suspect(name, errForm)
	}
	if isText && !utf8.ValidString(text) || f.ascii && !isASCII(name+text) {
		f.suspect(name, errCharset)
	}
	if before, twice := values[name]; twice {
		if before, wasText := before.(string); wasText != isText || before != text {
			f.suspect(name, errDuplicate)
		}
		return
	}
	if f.names != nil {
		if err := f.names.root.check(name, values); err != nil {
			f.suspect(name, err)
		}
	}
	if base, _, list := strings.Cut(name, "["); list && len(f.names.known(strings.TrimSpace(base))) > 0 {
		f.suspect(name, errForm)
	}
	if f.held += len(name) + len(text) + perValue; f.held > mostHeld {
		f.suspect(name, errLarge)
		return
	}
	values[name] = value
}

// locate takes note of where a field's value stands. One that comes twice is in doubt,
// with whatever value: only one of them would be found.
func (f *form) locate(name string, v Value) {
	if f.names == nil || name != f.names.locate || name == "" {
		return
	}
	if f.value.To > 0 {
		f.doubt(name, errDuplicate)
	}
	f.value = v
}

// charset looks at a field that says in which charset the others are.
func (f *form) charset(name, value string) error {
	if name == "_charset_" && !isUTF8(value) {
		return errCharset
	}
	return nil
}

// checkQuery finds fields that the rules look at and that are in the query too:
// some servers take that one.
func (f *form) checkQuery(values map[string]any, u *url.URL) {
	if u == nil || u.RawQuery == "" || f.names == nil {
		return
	}
	query := &form{names: &Names{root: f.names.root}}
	found := make(map[string]any)
	query.Body = found
	query.Err = query.readPairs(&window{seen: []byte(u.RawQuery)})
	for key, reason := range query.doubts {
		f.doubt(key, reason)
	}
	for name, value := range found {
		if before, ok := values[name]; !ok || before != value {
			f.suspect(name, errForm)
		}
	}
}

// readURLEncoded reads a form, or JSON under a form's content type, which is
// what `curl -d` sends: servers that take JSON alone do not look at the type.
// To one that takes forms, what stands between ampersands in it may be fields.
func readURLEncoded(b *Body, names *Names, ascii bool, u *url.URL) Reading {
	switch c := b.open().sniff(); {
	case c == '{' || c == '[':
		read := readJSON(b.open(), names, ascii)
		probe := &form{names: names, Reading: Reading{Body: map[string]any{}}}
		if names.all() {
			if w := b.open(); w.passes('&', ';') {
				probe.Err = errForm
			}
		} else {
			probe.Err = probe.readPairs(b.open())
		}
		for name := range probe.Body.(map[string]any) {
			probe.suspect(name, errForm)
		}
		for key, reason := range probe.doubts {
			read.doubt(key, reason)
		}
		if read.Err == nil {
			read.Err = probe.Err
		}
		return read
	case (c < ' ' || c >= 0x7f) && b.open().wide():
		// JSON in another encoding, for some; anything else is what curl sends of a
		// file when it is not told what it is.
		return Reading{Err: errForm}
	}
	return readForm(b.open(), names, ascii, u, (*form).readPairs)
}

// passes says whether one of two bytes comes.
func (w *window) passes(a, b byte) bool {
	for !w.ended() {
		if bytes.IndexByte(w.seen[w.at:], a) >= 0 || bytes.IndexByte(w.seen[w.at:], b) >= 0 {
			return true
		}
		w.at = len(w.seen)
	}
	return false
}

// readPairs reads what is URL-encoded. Semicolons separate for some parsers and
// not for others, and bad escapes are dropped, kept or refused.
func (f *form) readPairs(w *window) error {
	before := byte('&')
	for pieces := 0; !w.ended(); pieces++ {
		if pieces == mostFields {
			return errFormSize
		}
		raw, end, _ := w.until("=&;", maxFieldName)
		if len(raw) == 0 && end != '=' {
			before = end
			continue
		}
		f.count++
		name, doubt := unescape(raw)
		var value string
		wanted := f.wants(name) || name == "_charset_"
		if end == '=' {
			most := 0
			if wanted {
				most = maxFieldSize
			}
			var raw string
			var over bool
			from := w.position()
			raw, end, over = w.until("&;", most)
			if wanted {
				var bad error
				if value, bad = unescape(raw); doubt == nil {
					doubt = bad
				}
				if over {
					doubt = errFormSize
				}
				f.locate(name, Value{from, from + int64(len(raw)), value, escaped})
			}
		}
		if before == ';' || end == ';' {
			doubt = errForm
		}
		if err := f.charset(name, value); err != nil {
			return err
		}
		f.add(name, value, doubt)
		before = end
	}
	return nil
}

// until reads to the first of some bytes, which it passes over and gives, 0 at
// the end. over says that what came is longer than most, and cut.
func (w *window) until(ends string, most int) (text string, end byte, over bool) {
	var long []byte
	for !w.ended() {
		rest := w.seen[w.at:]
		i := bytes.IndexAny(rest, ends)
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		if len(long)+len(part) > most {
			over = true
			part = part[:most-len(long)]
		}
		if i >= 0 {
			end = rest[i]
			w.at += i + 1
			if long == nil {
				return string(part), end, over
			}
			return string(append(long, part...)), end, over
		}
		long = append(long, part...)
		w.at = len(w.seen)
	}
	return string(long), 0, over
}

// unescape decodes a name or a value, as far as it can be. An error says that
// parsers make different things of it. Its bytes are printable.
func unescape(s string) (string, error) {
	text, err := url.QueryUnescape(s)
	if err == nil && utf8.ValidString(text) && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c >= 0x7f }) {
		return text, nil
	}
	if err != nil {
		text = Unescape(strings.ReplaceAll(s, "+", " "))
	}
	return text, errForm
}

// Unescape decodes the escapes that can be, and leaves the others as they are.
func Unescape(s string) string {
	return lenient.ReplaceAllStringFunc(s, func(escape string) string {
		c, _ := url.PathUnescape(escape)
		return c
	})
}

var lenient = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

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

// readMultipart reads the fields of a form with files. Where its parts begin and
// end must be clear: some parsers look for the boundary in lines that end in
// any way, and some anywhere, so that it may stand nowhere but where all find
// it. What stands before the first and after the last is a part for some.
func readMultipart(b *Body, boundary string, names *Names, ascii bool, u *url.URL) Reading {
	if boundary == "" {
		return Reading{Err: errForm}
	}
	delimiter := []byte("--" + boundary)
	return readForm(b.open(), names, ascii, u, func(f *form, w *window) error { return f.readParts(w, delimiter) })
}

func (f *form) readParts(w *window, delimiter []byte) error {
	if w.has(2) && string(w.seen[w.at:w.at+2]) == "\r\n" {
		w.at += 2
	}
	if !w.has(len(delimiter)) || !bytes.HasPrefix(w.seen[w.at:], delimiter) {
		return errForm
	}
	w.at += len(delimiter)
	for {
		if !w.has(2) {
			return errForm
		}
		switch string(w.seen[w.at : w.at+2]) {
		case "--":
			w.at += 2
			return w.onlyLines()
		case "\r\n":
			w.at += 2
		default:
			return errForm
		}
		if err := f.readPart(w, delimiter); err != nil {
			return err
		}
	}
}

// readPart reads one part and the delimiter behind it.
func (f *form) readPart(w *window, delimiter []byte) error {
	if f.count++; f.count > mostParts {
		return errFormSize
	}
	header, err := w.header(delimiter)
	if err != nil {
		return err
	}
	p, err := f.partOf(header)
	if err != nil {
		return err
	}
	wanted := (f.wants(p.name) || p.name == "_charset_") && !p.file
	most := 0
	if wanted {
		most = maxFieldSize
	}
	from := w.position()
	content, length, err := w.content(delimiter, most)
	if err != nil {
		return err
	}
	var value any = string(content)
	switch {
	case p.file:
		value = map[string]any{"filename": p.filename}
		if p.filename == "" && length > 0 { // browsers send an input without a file so, but without content
			p.doubt = errForm
		}
	case wanted && length > maxFieldSize:
		p.doubt = errFormSize
	}
	if !p.file {
		f.locate(p.name, Value{from, from + int64(length), string(content), plain})
		if err := f.charset(p.name, string(content)); err != nil {
			return err
		}
	}
	f.add(p.name, value, p.doubt)
	return nil
}

// onlyLines wants nothing but line ends to the end.
func (w *window) onlyLines() error {
	for !w.ended() {
		if !w.has(2) || string(w.seen[w.at:w.at+2]) != "\r\n" {
			return errForm
		}
		w.at += 2
	}
	return nil
}

// header reads a part's headers and the empty line behind them.
func (w *window) header(delimiter []byte) (string, error) {
	for {
		rest := w.seen[w.at:]
		if i := bytes.Index(rest, []byte("\r\n\r\n")); i >= 0 && i <= maxFieldHeader {
			header := rest[:i]
			if bytes.Contains(header, delimiter) {
				return "", errForm
			}
			w.at += i + 4
			return string(header), nil
		}
		if len(rest) > maxFieldHeader+4 {
			return "", errFormSize
		}
		if !w.more() {
			return "", errForm
		}
	}
}

// content reads a part's content and the delimiter behind it, and keeps up to
// most bytes.
func (w *window) content(delimiter []byte, most int) (kept []byte, length int, err error) {
	take := func(part []byte) {
		length += len(part)
		kept = append(kept, part[:min(len(part), max(0, most-len(kept)))]...)
	}
	keep := len(delimiter) + 1 // what may be the beginning of a line end and a delimiter
	for {
		rest := w.seen[w.at:]
		if i := bytes.Index(rest, delimiter); i >= 0 {
			if i < 2 || string(rest[i-2:i]) != "\r\n" {
				return nil, 0, errForm
			}
			take(rest[:i-2])
			w.at += i + len(delimiter)
			return kept, length, nil
		}
		if n := len(rest) - keep; n > 0 {
			take(rest[:n])
			w.at += n
		}
		if !w.more() {
			return nil, 0, errForm
		}
	}
}

var (
	// disposition is one that all parsers read alike: the name first, for some
	// find it in a file's name; no second names, escapes or other encodings.
	disposition = regexp.MustCompile(`^(?i:form-data); *(?i:name)=(?:"([^"\\%;=]*)"|([0-9A-Za-z_.-]+))(?:; *(?i:filename)=("[^"\\;]*"|[0-9A-Za-z_.-]+))?$`)
	// named is one whose name is clear, though not what its file is called.
	named    = regexp.MustCompile(`^(?i:form-data)[ \t]*;[ \t]*(?i:name)="([^"\\%;=\x00-\x1f]*)"((?:[ \t]*;[ \t]*(?i:filename\*?)=(?:"(?:[^"\\]|\\.)*"|[^;"\s]*))+)[ \t]*;?$`)
	anyName  = regexp.MustCompile(`(?i)name[ \t]*\*?[0-9]*\*?[ \t]*=`)
	fileName = regexp.MustCompile(`;[ \t]*(?i:filename\*?)=`)
)

// formPart is what a part's headers say of it.
type formPart struct {
	name, filename string
	file           bool
	doubt          error // about its value
}

// partOf reads the headers of a part. An error puts the whole form in doubt: it
// cannot be said which field this is.
func (f *form) partOf(header string) (p formPart, err error) {
	var dispositions, types []string
	for line := range strings.SplitSeq(header, "\r\n") {
		key, value, ok := strings.Cut(line, ":")
		if !ok || key == "" || !httpguts.ValidHeaderFieldName(key) || strings.ContainsFunc(value, isControl) {
			return p, errForm
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
				p.doubt = errForm
			}
		}
	}
	if len(dispositions) != 1 || len(types) > 1 || strings.Contains(dispositions[0], "=?") {
		return p, errForm
	}
	if found := disposition.FindStringSubmatch(dispositions[0]); found != nil {
		p.name, p.filename, p.file = found[1]+found[2], strings.Trim(found[3], `"`), found[3] != ""
	} else if found := named.FindStringSubmatch(dispositions[0]); found != nil &&
		len(anyName.FindAllString(found[2], -1)) == len(fileName.FindAllString(found[2], -1)) {
		p.name, p.filename, p.file, p.doubt = found[1], "…", true, errForm
	} else {
		return p, errForm
	}
	if !utf8.ValidString(p.name) {
		p.doubt = errCharset
	}
	kind := "text/plain"
	if len(types) > 0 {
		var params map[string]string
		kind, params, err = mime.ParseMediaType(types[0])
		if strings.HasPrefix(kind, "multipart/") || strings.HasPrefix(kind, "message/") || err != nil && anyWithin.MatchString(types[0]) {
			return p, errForm // some look for parts within
		}
		if err != nil {
			p.doubt = errForm
		} else if charset, ok := params["charset"]; ok && !isUTF8(charset) && !strings.EqualFold(charset, "us-ascii") {
			p.doubt = errCharset
		}
	}
	if !p.file && kind != "text/plain" && kind != "application/json" {
		p.doubt = errForm // a file for some
	}
	return p, nil
}

var anyWithin = regexp.MustCompile(`multipart|message`)

// isControl says whether a byte has no place in a header.
func isControl(c rune) bool { return c < ' ' || c == 0x7f }
