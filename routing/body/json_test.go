package body

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/anteroom-gpu/anteroom/routing/expression"
)

// readText reads a text once as it is and once in small pieces.
func readText(s string, names *Names) (any, error) {
	r := readJSON(&window{seen: []byte(s)}, names, false)
	pieces := readJSON(&window{rest: iotest.OneByteReader(strings.NewReader(s))}, names, false)
	if !reflect.DeepEqual(r, pieces) {
		panic(fmt.Sprintf("%q: read as %v, in pieces as %v", s, r, pieces))
	}
	return r.Body, r.Doubtful(nil)
}

func TestJSONIsReadAsEncodingJSONReadsIt(t *testing.T) {
	for _, text := range jsonThatIsClear {
		var want any
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%q: encoding/json: %v", text, err)
		}
		if got, err := readText(text, nil); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %#v, %v; want %#v", text, got, err, want)
		}
	}
}

var jsonThatIsClear = []string{
	"null", "true", "false", "0", "-0", "1", "-1.5e-3", "1E+2", "12345678901234567890", "1e308", "5e-324", "1e-400", "0.1",
	`""`, `"a"`, `"\"\\\/\b\f\n\r\t"`, `"\u0041\u00e9\u20AC"`, `"\ud83d\ude00"`, `"é€😀"`, "\"\u007f\u2028\ufffd\"", `"\ufffd"`,
	"[]", "[ ]", "[1,[2,[3]],{}]", "{}", "{ }", ` { "a" : [ 1 , "b" ] , "" : { "a" : null } } `, "\t\r\n 1 \t\r\n",
	`{"n":1,"N":2}`, // told apart as long as no rule looks at them
	`{"a":{"n":1},"b":{"n":2}}`,
	strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth),
}

func TestJSONWithTwoReadingsIsUndecidable(t *testing.T) {
	for _, c := range []struct {
		text string
		want error
	}{
		{`{"n":1,"n":50}`, errDuplicate},
		{`{"n":50,"n":50}`, errDuplicate},
		{`{"n":1,"\u006e":50}`, errDuplicate},
		{`{"a":[{"n":1,"n":50}]}`, errDuplicate},
		{`{"":1,"":2}`, errDuplicate},

		{"", errJSON}, {" ", errJSON}, {"{", errJSON}, {`{"a"`, errJSON}, {`{"a":`, errJSON}, {`{"a":1`, errJSON}, {`{"a":1,`, errJSON},
		{"[", errJSON}, {"[1", errJSON}, {"[1,", errJSON}, {`"`, errJSON}, {`"a`, errJSON}, {`"\`, errJSON}, {`"\u`, errJSON},
		{`"\u00`, errJSON}, {"tru", errJSON}, {"-", errJSON},
		{`{"a":1} {"a":2}`, errJSON}, {"1 2", errJSON}, {"{}x", errJSON}, {"{}\x00", errJSON},

		{`{"a":1,}`, errJSON}, {"[1,]", errJSON}, {"[,1]", errJSON}, {"{,}", errJSON}, {"{1:2}", errJSON}, {"{a:1}", errJSON},
		{`{'a':1}`, errJSON}, {`{"a" 1}`, errJSON}, {"[1 2]", errJSON},
		{`{"a":1/**/}`, errJSON}, {"//\n{}", errJSON}, {"#\n{}", errJSON},
		{"NaN", errNumber}, {"Infinity", errNumber}, {"-Infinity", errNumber}, // Python takes them
		{"True", errJSON}, {"None", errJSON}, {"Nan", errJSON}, {"nul", errJSON}, {"trueish", errJSON},
		{"01", errJSON}, {"-01", errJSON}, {"+1", errJSON}, {"1.", errJSON}, {".5", errJSON}, {"1e", errJSON}, {"1e+", errJSON},
		{"0x10", errJSON}, {"1_000", errJSON}, {"١", errJSON},

		{"1e309", errNumber}, {"-1e309", errNumber}, {"1e999999999999999999", errNumber}, {"1" + strings.Repeat("0", 400), errNumber},
		{`{"n":1e400}`, errNumber},

		{"\"a\nb\"", errJSON}, {"\"a\tb\"", errJSON}, {"\"\x00\"", errJSON}, {`"\a"`, errJSON}, {`"\'"`, errJSON}, {`"\x41"`, errJSON},
		{`"\u00G0"`, errJSON}, {`"\u+041"`, errJSON},
		{"\"\\\n\"", errJSON},

		{"\"\xff\"", errCharset}, {"\"\xc0\xb5\"", errCharset}, {"\"\xed\xa0\x80\"", errCharset}, {"{\"\x80\":1}", errCharset}, {"{}\xff", errJSON},
		{`"\ud83d"`, errCharset}, {`"\ud83dx"`, errCharset}, {`"\ude00"`, errCharset}, {`"\ude00\ud83d"`, errCharset},
		{`"\ud83d\u0041"`, errCharset}, {`{"\ud800":1}`, errCharset},
		{`"\ud83d\u00"`, errJSON},

		{"\ufeff\ufeff{}", errJSON}, {"\u00a0{}", errJSON}, {"\u2028{}", errJSON}, {"\f{}", errJSON}, {"\v{}", errJSON},
		{"{\x00\"\x00a\x00\"\x00}\x00", errJSON}, // UTF-16, which Python recognises

		{strings.Repeat("[", maxDepth+2) + strings.Repeat("]", maxDepth+2), errDepth},
		{strings.Repeat("[", 1_000_000), errDepth},
		{strings.Repeat(`{"a":`, 1_000_000), errJSON},
		{strings.Repeat(`{"a":`, 1_000) + "1" + strings.Repeat("}", 1_000), errDepth},
		{strings.Repeat(`{"a":`, 2_000_000), errDepth},
	} {
		if v, err := readText(c.text, nil); !errors.Is(err, c.want) {
			t.Errorf("%.60q: got %v, %v; want %v", c.text, v, err, c.want)
		}
	}
}

func TestAKeyInOtherLettersIsUndecidableWhereARuleLooksAtIt(t *testing.T) {
	compiled := func(text string) *Names {
		e, err := expression.When(text)
		if err != nil {
			t.Fatal(err)
		}
		n := new(Names)
		n.Add(e.Keys())
		return n
	}
	for _, c := range []struct {
		expression, body string
		want             error
	}{
		{"body.n == 1", `{"N":1}`, errCase},
		{"body.n == 1", `{"n":1,"N":50}`, errCase},
		{"body.n == 1", `{"\u004e":1}`, errCase},
		{"body.maxTokens == 1", `{"maxtokens":1}`, errCase},
		{`body["size"] == 1`, `{"ſize":1}`, errCase}, // encoding/json takes it for size
		{"body.k == 1", `{"\u212a":1}`, errCase},
		{`"n" in body`, `{"N":1}`, errCase},
		{`has(body, "n")`, `{"N":1}`, errCase},
		{`get(body, "n") == 1`, `{"N":1}`, errCase},
		{"body?.n == 1", `{"N":1}`, errCase},
		{"$env.body.n == 1", `{"N":1}`, errCase},
		{"let b = body; b.n == 1", `{"N":1}`, errCase},
		{"(body ?? {}).n == 1", `{"N":1}`, errCase},
		{"body.options.n == 1", `{"options":{"N":1}}`, errCase},
		{"body.options.n == 1", `{"Options":{"n":1}}`, errCase},
		{"any(body.images, #.n > 1)", `{"images":[{"N":5}]}`, errCase},
		{"body.l[0].n == 1", `{"l":[{"N":1}]}`, errCase},
		{"body.n == 1 || body.N == 1", `{"n":1,"N":2}`, errDuplicate},
		{"body.n == 1 || body.N == 1", `{"N":2}`, nil},
		{"body.n == 1", `{"n":1,"Nn":2,"tools":[{"N":1}]}`, nil},
		{"body.options.n == 1", `{"N":1,"options":{"n":2}}`, nil},
		{`header["n"] == "1" && body.m == 1`, `{"N":1}`, nil},
		{`body.model == "flux"`, `{"model":"x","Flux":1}`, nil},
	} {
		if _, err := readText(c.body, compiled(c.expression)); !errors.Is(err, c.want) {
			t.Errorf("%s with %s: got %v, want %v", c.expression, c.body, err, c.want)
		}
	}
}

func TestKeysFoldAsEncodingJSONFoldsThem(t *testing.T) {
	for _, key := range []string{"n", "N", "size", "SIZE", "ſize", "K", "k", "\u212a", "Å", "å", "\u212b", "σ", "ς", "Σ", "ß", "ẞ", "İ", "i",
		"ı", "n_1", "a-b", "", "ﬁ", "fi"} {
		for _, field := range []string{"n", "size", "Size", "k", "å", "σ", "ß", "i", "n_1", "a-b", "fi"} {
			target := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "F", Type: reflect.TypeFor[int](),
				Tag: reflect.StructTag(`json:"` + field + `"`)}}))
			text, _ := json.Marshal(map[string]int{key: 1})
			if err := json.Unmarshal(text, target.Interface()); err != nil {
				t.Fatal(err)
			}
			if taken := target.Elem().Field(0).Int() == 1; taken != (fold(key) == fold(field)) {
				t.Errorf("encoding/json takes %q for %q: %v; folded %q and %q", key, field, taken, fold(key), fold(field))
			}
		}
	}
}

// FuzzJSONIsNeverReadAsAnotherServerWould reads with encoding/json, and in the
// ways in which servers differ from it.
func FuzzJSONIsNeverReadAsAnotherServerWould(f *testing.F) {
	for _, text := range jsonThatIsClear {
		f.Add([]byte(text))
	}
	for _, text := range []string{
		`{"n":1,"n":50}`, `{"n":1,"\u006e":50}`, "\ufeff{}", "1e400", "NaN", "\"\xff\"", `"\ud800"`, `"\ud800\udc00"`, "[1,2,", `{"a":"\u12`,
		"-", "1.5e+", `{"a":[{"b":null}]}`, "[[[[]]]]",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readText(string(text), nil)
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
		var want any
		strict := json.Unmarshal(text, &want)
		if err != nil {
			// Not a reason to refuse it that no server could have: what is
			// refused is no JSON, or has one of the known differences.
			if strict == nil && errors.Is(err, errJSON) {
				t.Fatalf("%q: %v, but encoding/json reads it", text, err)
			}
			if errors.Is(err, errCharset) && utf8.Valid(text) && !strings.Contains(string(text), `\u`) {
				t.Fatalf("%q: %v, but it is UTF-8", text, err)
			}
			if errors.Is(err, errDuplicate) && strict == nil && keys(want) == tokens(text) {
				t.Fatalf("%q: %v, but no key is lost", text, err)
			}
			return
		}
		if strict != nil {
			t.Fatalf("%q: read as %#v, but encoding/json says %v", text, got, strict)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, want %#v", text, got, want)
		}
		if !utf8.Valid(text) {
			t.Fatalf("%q: read although it is not UTF-8", text)
		}
		// The last of two keys wins in one server, the first in another: here
		// none may have been lost.
		if kept, all := keys(got), tokens(text); kept != all {
			t.Fatalf("%q: %d keys are left of %d", text, kept, all)
		}
		check(t, text, got)
	})
}

// check finds what no body with one reading holds.
func check(t *testing.T, text []byte, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			check(t, text, key)
			check(t, text, value)
		}
	case []any:
		for _, value := range v {
			check(t, text, value)
		}
	case string:
		if !utf8.ValidString(v) {
			t.Fatalf("%q: %q is not UTF-8", text, v)
		}
		if strings.Contains(v, "\ufffd") && !strings.Contains(string(text), "\ufffd") && !strings.Contains(strings.ToLower(string(text)), `\ufffd`) {
			t.Fatalf("%q: %q holds a replacement that was not sent", text, v)
		}
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			t.Fatalf("%q: holds %v", text, v)
		}
	}
}

// keys counts the keys of a value.
func keys(v any) (n int) {
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, value := range v {
			n += keys(value)
		}
	case []any:
		for _, value := range v {
			n += keys(value)
		}
	}
	return n
}

// tokens counts the keys of a text that is JSON, each as often as it comes.
func tokens(text []byte) (n int) {
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	type level struct{ object, key bool }
	var levels []level
	for {
		token, err := decoder.Token()
		if err != nil {
			return n
		}
		var here *level
		if len(levels) > 0 {
			here = &levels[len(levels)-1]
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			levels = levels[:len(levels)-1]
			continue
		}
		if here != nil && here.object {
			if here.key = !here.key; here.key {
				n++
				continue
			}
		}
		switch token {
		case json.Delim('{'):
			levels = append(levels, level{object: true})
		case json.Delim('['):
			levels = append(levels, level{})
		}
	}
}
