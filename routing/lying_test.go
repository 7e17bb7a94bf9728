package routing_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

// lie is a request of testdata with what Python read of it.
type lie struct {
	sent
	line   string
	most   float64
	reader string
}

// lies reads a file of requests, one a line: the content type, the content
// encoding, the body in quotes, the most that it may be to a server in Python
// ("-" where none reads anything of it), and to which. Lines are kept as they
// are, those with a # too.
func lies(t testing.TB, file string) []lie {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []lie
	for i, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		l := lie{line: line}
		if !strings.HasPrefix(line, "#") {
			columns := strings.Split(line, "\t")
			if len(columns) < 3 {
				t.Fatalf("%s:%d: %q: want type, encoding, body, most and reader", file, i+1, line)
			}
			body, err := strconv.Unquote(columns[2])
			if err != nil {
				t.Fatalf("%s:%d: %s: %v", file, i+1, columns[2], err)
			}
			l.sent = sent{columns[0], columns[1], []byte(body)}
			if len(columns) == 5 && columns[3] != "-" {
				l.reader = columns[4]
				if l.most, err = strconv.ParseFloat(columns[3], 64); err != nil {
					t.Fatalf("%s:%d: %v", file, i+1, err)
				}
			}
		}
		all = append(all, l)
	}
	return all
}

var lyingFiles = []string{"testdata/lies-json.txt", "testdata/lies-form.txt"}

// TestAClientCannotLieItsDemandDown compares the demand of each request in
// testdata with what Python and Go read of it; with -record, Python is asked
// anew.
func TestAClientCannotLieItsDemandDown(t *testing.T) {
	table := theReadTable(t)
	for _, file := range lyingFiles {
		all := lies(t, file)
		if *record {
			recordReadings(t, file, all)
			all = lies(t, file)
		}
		decided := 0
		for _, l := range all {
			if strings.HasPrefix(l.line, "#") {
				continue
			}
			demand, own := demandOf(t, table, l.sent)
			if !own {
				continue
			}
			decided++
			readings := goReadings(l.sent)
			if l.reader != "" {
				readings["Python's "+l.reader] = l.most
			}
			wantNoLess(t, l.sent, demand, readings)
		}
		if decided == 0 {
			t.Errorf("%s: all of it is in doubt", file)
		}
	}
}

func recordReadings(t *testing.T, file string, all []lie) {
	p := startPython(t)
	if p == nil {
		t.Fatal("-record needs python3")
	}
	var text strings.Builder
	for _, l := range all {
		if strings.HasPrefix(l.line, "#") {
			fmt.Fprintln(&text, l.line)
			continue
		}
		most, by := 0.0, ""
		for reader, n := range p.readings(t, l.sent) {
			if n > most || n == most && reader < by {
				most, by = n, reader
			}
		}
		amount := "-"
		if by != "" {
			amount = strconv.FormatFloat(most, 'g', -1, 64)
		}
		fmt.Fprintf(&text, "%s\t%s\t%q\t%s\t%s\n", l.contentType, l.encoding, l.body, amount, by)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestAnHonestRequestIsNotInDoubt holds the other side of the bargain.
func TestAnHonestRequestIsNotInDoubt(t *testing.T) {
	table := theReadTable(t)
	const boundary = "----WebKitFormBoundaryAbC123"
	form := strings.NewReplacer("\n", "\r\n", "BOUNDARY", boundary).Replace(`--BOUNDARY
Content-Disposition: form-data; name="n"

3
--BOUNDARY
Content-Disposition: form-data; name="size"
Content-Type: text/plain; charset=UTF-8

2000x1000
--BOUNDARY
Content-Disposition: form-data; name="image"; filename="größe (1).png"
Content-Type: image/png

PNG
--BOUNDARY--
`)
	for _, s := range []sent{
		{"application/json", "", []byte(`{"n":3,"size":"2000x1000"}`)},
		{"", "identity", []byte(`{"prompt":"ein Bär & eine Ärztin; 50x50","n":"3","size":"2000x1000"}`)},
		{"application/x-www-form-urlencoded", "", []byte("prompt=a+cat%3B+%26c&n=3&size=2000x1000")},
		{"multipart/form-data; boundary=" + boundary, "", []byte(form)},
		{`multipart/form-data; charset=utf-8; boundary="` + boundary + `"`, "", []byte(form)},
	} {
		if got, own := demandOf(t, table, s); !own || got != 6 {
			t.Errorf("%q %q: got %v GiB, worked out: %v; want 6", s.contentType, s.body, got, own)
		}
	}
}

func FuzzDemandJSON(f *testing.F) { fuzzDemand(f, lyingFiles[0], "application/json", jsonPieces) }

func FuzzDemandForm(f *testing.F) {
	fuzzDemand(f, lyingFiles[1], "multipart/form-data; boundary=b", formPieces)
}

// Pieces that bodies are put together from; the first are an honest one.
var (
	jsonPieces = []string{
		`{`, `"n"`, `:`, `50`, `,`, `"size"`, `:`, `"4096x4096"`, `}`,
		`[`, `]`, `"`, `n`, `N`, `\u006e`, `1`, `0`, `-`, `.`, `e`, `_`, `x`, ` `, "\n", "\t", "\x00", `\`, `\n`, `\ud800`, `\u0000`, `null`,
		`true`, `NaN`, `Infinity`,
		`"50"`, `"1"`, `"1x1"`, `"auto"`, `×`, `"SIZE"`, `ſ`, `٥`, "\ufeff", "\xff", "\xc0\x80", `""`, `"a"`, `/*`, `*/`, `'`, `{}`, `512`,
		`"n":1,`, `"size":"1x1",`,
	}
	formPieces = []string{
		"--b", "\r\n", `Content-Disposition: form-data; name="n"`, "\r\n", "\r\n", "50", "\r\n",
		"--b", "\r\n", `Content-Disposition: form-data; name="size"`, "\r\n", "\r\n", "4096x4096", "\r\n", "--b--", "\r\n",
		"\n", "\r", "--", "-", "b", " ", "\t", ";", "; ", `"`, "=", "%", "&", "*", `\`, ":", "\x00", "\xff", "é", "1", "0", "n", "N", "name",
		"name=", `name="n"`, "name*=", "utf-8''n", "filename", `; filename=""`, `; filename="a.png"`,
		"Content-Disposition", "Content-Type: ", "text/plain", "; charset=utf-16", "multipart/mixed; boundary=c", "message/rfc822", "--c",
		"--c--", "application/octet-stream",
		"Content-Transfer-Encoding: ", "base64", "quoted-printable", "NTA=", "=35=30", "binary", "form-data", "attachment", "_charset_", "[]",
		"=?utf-8?q?n?=", "n=50", "n=1", "size=1x1", "%6e", "+",
		"--b\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n", "--b\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n",
	}
)

// fuzzDemand looks for a request that Go or Python reads as more than the
// demand that it is given. A body goes on with the pieces that numbers stand for.
func fuzzDemand(f *testing.F, file, contentType string, pieces []string) {
	for _, l := range lies(f, file) {
		if !strings.HasPrefix(l.line, "#") {
			f.Add(l.contentType, l.encoding, l.body, []byte(nil))
		}
	}
	all := make([]byte, len(pieces))
	for i := range pieces {
		all[i] = byte(i)
	}
	f.Add(contentType, "", []byte(nil), all)
	table := theReadTable(f)
	p := startPython(f)
	f.Fuzz(func(t *testing.T, contentType, encoding string, body, numbers []byte) {
		for _, i := range numbers {
			body = append(body, pieces[int(i)%len(pieces)]...)
		}
		s := sent{strings.Trim(contentType, " "), strings.Trim(encoding, " "), body}
		if strings.ContainsFunc(s.contentType+s.encoding, unicode.IsControl) {
			t.Skip("net/http refuses such headers")
		}
		demand, own := demandOf(t, table, s)
		if !own || len(body) == 0 {
			return
		}
		wantNoLess(t, s, demand, goReadings(s))
		wantNoLess(t, s, demand, p.readings(t, s))
	})
}
