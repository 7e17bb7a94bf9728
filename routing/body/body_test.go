package body

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing/expression"
)

func read(contentType, body string) (any, error) {
	r := &http.Request{Header: http.Header{}, ContentLength: int64(len(body))}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return readInBothWays(r, body, nil)
}

// readInBothWays reads a body in memory, and as one that lies in a file.
func readInBothWays(r *http.Request, body string, names *Names) (any, error) {
	read := Read(r, &Body{Prefix: []byte(body), Size: int64(len(body))}, names)
	if body != "" {
		if spooled := Read(r, &Body{Truncated: true, Size: int64(len(body)), Whole: strings.NewReader(body)}, names); !reflect.DeepEqual(read, spooled) {
			panic(fmt.Sprintf("%q: read as %v, from a file as %v", body, read, spooled))
		}
	}
	return read.Body, read.Doubtful(nil)
}

type object = map[string]any

func TestABodyIsReadByItsType(t *testing.T) {
	for _, c := range []struct {
		contentType, body string
		want              any
	}{
		{"", `{"n":1}`, object{"n": 1.0}},
		{"application/json", `{"n":1}`, object{"n": 1.0}},
		{"Application/JSON ; charset=\"UTF-8\"", `{"n":1}`, object{"n": 1.0}},
		{"application/vnd.api+json", `[1]`, []any{1.0}},
		{"text/json;charset=us-ascii", `"a"`, "a"},
		{"application/x-www-form-urlencoded", "n=1&s=a+b%26&e=&f", object{"n": "1", "s": "a b&", "e": "", "f": ""}},
		{"application/x-www-form-urlencoded", "n=1&n=1&&", object{"n": "1"}},
		{"application/x-www-form-urlencoded", ` {"n":1}`, object{"n": 1.0}}, // what curl -d sends
		{"application/json", "", nil},
		{"application/x-www-form-urlencoded", "\ufeff{\"n\":1}", object{"n": 1.0}},
		{"text/plain;charset=UTF-8", `{"n":1}`, object{"n": 1.0}}, // what a page sends that names no type
		{"application/octet-stream", ` [1]`, []any{1.0}},
		{"application/octet-stream", "\x1f\x8b\x08\x00", nil},
		{"audio/mpeg", "ID3\x04\x00", nil},
		{"audio/wav", "RIFF", nil},
		{"video/mp4", "\x00\x00\x00\x18ftyp", nil},
		{"image/png", "\x89PNG\r\n", nil},
		{"json", `{"n":1}`, object{"n": 1.0}},
		{"application/json; charset=utf8", `{"n":"é"}`, object{"n": "é"}},
		{"application/json; charset=UTF_8", `{"n":"é"}`, object{"n": "é"}},
		{"application/json; charset=iso-8859-1", `{"n":1}`, object{"n": 1.0}},
	} {
		if got, err := read(c.contentType, c.body); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: got %v, %v; want %v", c.contentType, c.body, got, err, c.want)
		}
	}
}

func TestABodyThatServersReadDifferentlyIsUndecidable(t *testing.T) {
	const form = "application/x-www-form-urlencoded"
	for _, c := range []struct {
		contentType, body string
		want              error
	}{
		{"text/plain", `n=1`, errContentType},
		{"application/octet-stream", "{\x00\"\x00n\x00\"\x00", errJSON},
		{"application/octet-stream", "\xff\xfe{\x00\"\x00", errContentType},
		{"audio/mpeg", "\x00{\x00\"", errContentType},
		{"image/png", "\x00\x00\x00{", errContentType},
		{"application/x-protobuf", "\x0a\x01n", errContentType},
		{"application/json, text/plain", `{"n":1}`, errContentType},
		{"application/json; charset=utf-16", `{"n":1}`, errCharset},
		{"0;0ChArset=u7", "{\"+AG4\":2}", errCharset}, // which is n in UTF-7
		{"text/plain; x=\"charset=utf-7\"", "{\"n\":2}", errCharset},
		{form, "n=1&n=50", errDuplicate},
		{form, "n=1;n=50", errForm},
		{form, "n=1&%6e=50", errDuplicate},
		{form, "n=%zz", errForm},
		{form, "n=%ff", errForm},
		{form, `{"n":1}&n=50`, errJSON},
		{form, `{"n":1,"a":"&n=50"}`, errForm},
		{form, `{"n":1,"n":50}`, errDuplicate},
		{form, "größe=1", errForm},
		{form, "n=1\r\n", errForm},
		{form, "\xff\xfe{\x00", errForm},
		{form, "_charset_=utf-16&n=1", errCharset},
		{form, "n%00=1", errForm},
		{form, "n=1%00", errForm},
		{form, "+n=1", errForm},
		{form + "; charset=utf-16", "n=1", errCharset},
		{"application/json; charset=utf-8; charset=utf-16", `{"n":1}`, errContentType},
		{"multipart/form-data; boundary=b", `{"n":1}`, errForm},
		{"multipart/mixed; boundary=b", field("n", "1") + "--b--", errContentType},
		{"", "n=1", errJSON},
		{form, strings.Repeat("a=1&", MaxFields+1), errFormSize},
	} {
		if v, err := read(c.contentType, c.body); !errors.Is(err, c.want) {
			t.Errorf("%s %.40q: got %v, %v; want %v", c.contentType, c.body, v, err, c.want)
		}
	}
}

// part is one of a form, with its headers as they stand.
func part(headers, content string) string {
	return "--b\r\n" + headers + "\r\n\r\n" + content + "\r\n"
}

func field(name, value string) string {
	return part(fmt.Sprintf(`Content-Disposition: form-data; name="%s"`, name), value)
}

func aFile(name, filename, content string) string {
	return part(fmt.Sprintf("Content-Disposition: form-data; name=%q; filename=%q\r\nContent-Type: image/png", name, filename), content)
}

func TestAFormWithFilesIsReadByItsFields(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want any
	}{
		"fields":            {field("n", "5") + field("s", "a\r\nb") + "--b--", object{"n": "5", "s": "a\r\nb"}},
		"a line at the end": {field("n", "5") + "--b--\r\n", object{"n": "5"}},
		"the same twice":    {field("n", "5") + field("n", "5") + "--b--", object{"n": "5"}},
		"a file": {field("n", "5") + aFile("image", "a.png", "\x89PNG\xff\r\n") + "--b--",
			object{"n": "5", "image": object{"filename": "a.png"}}},
		"several files":           {aFile("image", "a.png", "a") + aFile("image", "b.png", "b") + "--b--", object{"image": object{"filename": "a.png"}}},
		"an input without a file": {aFile("image", "", "") + "--b--", object{"image": object{"filename": ""}}},
		"a field with its type": {part("Content-Disposition: form-data; name=n\r\nContent-Type: text/plain; "+
			"charset=UTF-8\r\nContent-Transfer-Encoding: 8bit", "5") + "--b--", object{"n": "5"}},
		"a name of several scripts": {field("größe", "x") + "--b--", object{"größe": "x"}},
	} {
		if got, err := read("multipart/form-data; boundary=b", c.body); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, c.want)
		}
	}
}

func TestAFormThatParsersSplitDifferentlyIsUndecidable(t *testing.T) {
	const end = "--b--\r\n"
	five := field("n", "5")
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"two values":                   {five + field("n", "50") + end, errDuplicate},
		"a field and a file":           {five + aFile("n", "5", "x") + end, errDuplicate},
		"a file and a field":           {aFile("n", "5", "x") + five + end, errDuplicate},
		"a file without a name":        {aFile("n", "", "50") + end, errForm},
		"something before":             {"preamble\r\n" + five + end, errForm},
		"something behind":             {five + end + five + end, errForm},
		"no end":                       {five, errForm},
		"half a part":                  {five + "--b\r\nContent-Dispo", errForm},
		"bare line feeds":              {strings.ReplaceAll(five+end, "\r\n", "\n"), errForm},
		"no name":                      {part("Content-Disposition: form-data", "5") + end, errForm},
		"no disposition":               {part("X: y", "5") + end, errForm},
		"another disposition":          {part("Content-Disposition: attachment; name=n", "5") + end, errForm},
		"two dispositions":             {part("Content-Disposition: form-data; name=n\r\nContent-Disposition: form-data; name=m", "5") + end, errForm},
		"two names":                    {part(`Content-Disposition: form-data; name="n"; name="m"`, "5") + end, errForm},
		"an encoded name":              {part("Content-Disposition: form-data; name*=utf-8''n", "5") + end, errForm},
		"an encoded file name":         {part("Content-Disposition: form-data; name=n; filename*=utf-8''a", "5") + end, errForm},
		"a name within an encoded one": {part(`Content-Disposition: form-data; name="m"; filename="=?utf-8?q?a=22=3B_name=3D=22n?="`, "5") + end, errForm},
		"a name after a file's":        {part(`Content-Disposition: form-data; filename="a"; name="n"`, "5") + end, errForm},
		"a name in a parameter":        {part(`Content-Disposition: form-data; name="n"; x="; name=m"`, "5") + end, errForm},
		"an escape in a name":          {part(`Content-Disposition: form-data; name="\n"`, "5") + end, errForm},
		"percents in a name":           {part(`Content-Disposition: form-data; name="%6e"`, "5") + end, errForm},
		"a header over two lines":      {part("Content-Disposition: form-data;\r\n name=n", "5") + end, errForm},
		"a header with a line feed": {part("X: y\nContent-Disposition: form-data; name=m\r\nContent-Disposition: form-data; name=n", "5") +
			end, errForm},
		"a space before the colon":     {part("Content-Disposition : form-data; name=n", "5") + end, errForm},
		"a header that is too long":    {part("Content-Disposition: form-data; name=n\r\nX: "+strings.Repeat("y", maxFieldHeader), "5") + end, errFormSize},
		"a boundary with a space":      {strings.Replace(five, "--b", "--b ", 1) + end, errForm},
		"a boundary after a line feed": {field("a", "x\n--b\nContent-Disposition: form-data; name=n\n\n50") + end, errForm},
		"a boundary in a line":         {field("a", "x--bc") + end, errForm},
		"a form within": {part("Content-Disposition: form-data; name=n\r\nContent-Type: multipart/mixed; boundary=c", "--c--") +
			end, errForm},
		"a message within a file":    {part("Content-Disposition: form-data; name=n; filename=a\r\nContent-Type: message/rfc822", "a: b") + end, errForm},
		"a field that may be a file": {part("Content-Disposition: form-data; name=n\r\nContent-Type: application/octet-stream", "5") + end, errForm},
		"two types": {part("Content-Disposition: form-data; name=n\r\nContent-Type: text/plain\r\nContent-Type: text/plain",
			"5") + end, errForm},
		"its own charset":            {field("_charset_", "utf-16") + five + end, errCharset},
		"a zero byte":                {field("n", "5\x00") + end, errForm},
		"a name that is not UTF-8":   {field("n\xff", "5") + end, errCharset},
		"another transfer encoding":  {part("Content-Disposition: form-data; name=n\r\nContent-Transfer-Encoding: base64", "NTA=") + end, errForm},
		"another charset":            {part("Content-Disposition: form-data; name=n\r\nContent-Type: text/plain; charset=utf-16", "5") + end, errCharset},
		"a value that is not UTF-8":  {field("n", "5\xff") + end, errCharset},
		"a field that is too large":  {field("n", strings.Repeat("5", maxFieldSize+1)) + end, errFormSize},
		"too many fields":            {strings.Repeat(five, MaxFields+1) + end, errFormSize},
		"the end inside of a field":  {field("a", "x\r\n--b--\r\n"+field("n", "50")) + end, errForm},
		"the end inside of its line": {field("a", "x--b--y") + end, errForm},
	} {
		if v, err := read("multipart/form-data; boundary=b", c.body); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, %v; want %v", name, v, err, c.want)
		}
	}
	for _, contentType := range []string{"multipart/form-data", "multipart/form-data; boundary=c",
		"multipart/form-data; boundary=b; boundary=c", "multipart/mixed; boundary=b",
		`multipart/form-data; boundary=b; x="boundary=c"`, "multipart/form-data; boundary*=utf-8''b", "multipart/form-data; boundary*0=b",
		`multipart/form-data; boundary="b\\"`, "multipart/form-data; boundary=b; charset=utf-16",
	} {
		if v, err := read(contentType, five+end); err == nil {
			t.Errorf("%s: got %v", contentType, v)
		}
	}
}

func TestAFieldThatServersCallByAnotherNameIsUndecidable(t *testing.T) {
	e, err := expression.When(`body.n == "1" || body["l[]"] == "1"`)
	if err != nil {
		t.Fatal(err)
	}
	known := new(Names)
	known.Add(e.Keys())
	for _, c := range []struct {
		query, name string
		want        error
	}{
		{"", "n", nil},
		{"", "m", nil},
		{"", "m[]", nil},
		{"", "N", errCase},
		{"", "n[]", errForm},
		{"", "N[0]", errForm},
		{"", "n [", errForm},
		{"", "l[]", nil},
		{"", "l", nil},
		{"m=2", "n", nil},
		{"n=1", "n", nil},
		{"n=2", "n", errForm}, // which the query's goes before for some
		{"n=2", "m", errForm},
		{"N[]=2", "m", errForm},
		{"m=1;n=2", "m", errForm},
	} {
		for contentType, body := range map[string]string{
			"application/x-www-form-urlencoded": url.QueryEscape(c.name) + "=1",
			"multipart/form-data; boundary=b":   field(c.name, "1") + "--b--",
		} {
			r := &http.Request{Header: http.Header{"Content-Type": {contentType}}, URL: &url.URL{RawQuery: c.query}, ContentLength: 1}
			if v, err := readInBothWays(r, body, known); !errors.Is(err, c.want) {
				t.Errorf("?%s with %s: got %v, %v; want %v", c.query, body, v, err, c.want)
			}
		}
	}
}

// TestWhatABackendWouldDecodeIsUndecidable, and so is what is only said to be
// compressed.
func TestWhatABackendWouldDecodeIsUndecidable(t *testing.T) {
	for _, c := range []struct {
		headers http.Header
		want    error
	}{
		{http.Header{}, nil},
		{http.Header{"Content-Encoding": {""}}, nil},
		{http.Header{"Content-Encoding": {"Identity"}}, nil},
		{http.Header{"Content-Encoding": {"identity", "identity"}}, nil},
		{http.Header{"Content-Encoding": {"gzip"}}, errEncoded},
		{http.Header{"Content-Encoding": {"x-gzip"}}, errEncoded},
		{http.Header{"Content-Encoding": {"deflate"}}, errEncoded},
		{http.Header{"Content-Encoding": {"br"}}, errEncoded},
		{http.Header{"Content-Encoding": {"identity, gzip"}}, errEncoded},
		{http.Header{"Content-Encoding": {"identity", "gzip"}}, errEncoded},
		{http.Header{"Content-Encoding": {"aws-chunked"}}, errEncoded},
		{http.Header{"Content_encoding": {"deflate"}}, errEncoded}, // the same to WSGI and CGI
		{http.Header{"Content_type": {"application/json"}}, errContentType},
		{http.Header{"Content-Type": {"application/json", "application/json; charset=utf-16"}}, errContentType},
		{http.Header{"Content-Type": {"application/json"}, "Connection": {"close, content-type"}}, errContentType},
	} {
		body := []byte(`{"n":1}`)
		r := &http.Request{Header: c.headers, ContentLength: int64(len(body))}
		if v, err := readInBothWays(r, string(body), nil); !errors.Is(err, c.want) {
			t.Errorf("%v: got %v, %v; want %v", c.headers, v, err, c.want)
		}
	}
}

func TestABoundaryThatOverlapsWithItselfIsUndecidable(t *testing.T) {
	for _, boundary := range []string{"-", "--", "b-", "b--"} {
		body := strings.ReplaceAll(field("n", "5")+"--b--", "--b", "--"+boundary)
		if v, err := read("multipart/form-data; boundary="+boundary, body); !errors.Is(err, errForm) {
			t.Errorf("%s: got %v, %v", boundary, v, err)
		}
	}
}

// TestWhatIsLookedAtIsBounded has a value that takes more memory than it may, and
// keys behind it.
func TestWhatIsLookedAtIsBounded(t *testing.T) {
	e, err := expression.When(`len(body.l) > 1 || body.n == 1`)
	if err != nil {
		t.Fatal(err)
	}
	n, err := expression.When(`body.n == 1`)
	if err != nil {
		t.Fatal(err)
	}
	known := new(Names)
	known.Add(e.Keys())
	for name, value := range map[string]string{
		"many values": "[" + strings.Repeat("1,", 1<<20) + "1]",
		"a long text": `"` + strings.Repeat("x", mostHeld+1) + `"`,
		"many keys":   "{" + strings.Repeat(`"k":1,`, 1<<20) + `"z":1}`,
	} {
		body := `{"l":` + value + `,"n":1}`
		r := &http.Request{Header: http.Header{}, ContentLength: int64(len(body))}
		read := Read(r, &Body{Truncated: true, Size: int64(len(body)), Whole: strings.NewReader(body)}, known)
		if err := read.Doubtful(e.LooksAt); !errors.Is(err, errLarge) && !errors.Is(err, errDuplicate) {
			t.Errorf("%s: got %v, want errLarge", name, err)
		}
		if err := read.Doubtful(n.LooksAt); err != nil || read.Body.(object)["n"] != 1.0 {
			t.Errorf("%s: the key behind it: got %v, %v", name, read.Body.(object)["n"], err)
		}
	}
}

// TestAFormOfVeryManyFieldsIsGivenUp, and one of many is not.
func TestAFormOfVeryManyFieldsIsGivenUp(t *testing.T) {
	n, err := expression.When(`body.n == "1"`)
	if err != nil {
		t.Fatal(err)
	}
	known := new(Names)
	known.Add(n.Keys())
	for name, c := range map[string]struct {
		contentType, body string
		want              error
	}{
		"ampersands":   {"application/x-www-form-urlencoded", "n=1" + strings.Repeat("&", mostFields+2), errFormSize},
		"parts":        {"multipart/form-data; boundary=b", field("n", "1") + strings.Repeat(field("a", "x"), mostParts) + "--b--", errFormSize},
		"many parts":   {"multipart/form-data; boundary=b", field("n", "1") + strings.Repeat(field("a", "x"), 10_000) + "--b--", nil},
		"many fields":  {"application/x-www-form-urlencoded", "n=1" + strings.Repeat("&a=b", 10_000), nil},
		"a late field": {"application/x-www-form-urlencoded", strings.Repeat("a=b&", MaxFields) + "n=1", errFormSize}, // which some servers leave out
	} {
		r := &http.Request{Header: http.Header{"Content-Type": {c.contentType}}, ContentLength: int64(len(c.body))}
		read := Read(r, &Body{Prefix: []byte(c.body), Size: int64(len(c.body))}, known)
		if err := read.Doubtful(n.LooksAt); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}
