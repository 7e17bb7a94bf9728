package routing_test

import (
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
)

func TestWhatIsMissingDoesNotMatch(t *testing.T) {
	for _, expression := range []string{
		"body.n > 5", "5 < body.n", "body.n + 1 > 5", "-body.n < 0", "body.m.n > 5", "body.l[0] == 1", "body.l[0].n == 1", "body.e[0] == 1",
		"len(body.l) > 5", "any(body.l, # > 5)", "count(body.l, # > 5) > 0", `body.s contains "x"`, `body.s matches "x"`, `body.s startsWith "x"`,
		`lower(body.s) == "x"`, "int(body.n) > 5", "body.n", "!body.n", "body.n in body.l", `body.m["n"] > 5`, "body.n >= 5 && body.n <= 7",
		"sum(body.l) > 5", "max(body.n, 1) > 5", `"a" in body.m`, "num(body.n, 1) > 5", "megapixels(body.s, 1) > 5", "abs(body.n) > 5",
		"first(body.l).n > 5",
		"filter(body.l, # > 5)[0] == 1", `split(body.s, ",")[0] == "x"`,
	} {
		table := aTable(t, heavy("it", when(expression)), light("rest", path("/**")))
		for _, body := range []string{`{"e":[]}`, `{"n":null,"l":null,"s":null,"m":null,"e":[]}`, ""} {
			r, b := posted(t, "/", body)
			if d, err := decide(t, table, r, b); err != nil || d.Route.Name != "rest" && expression != "!body.n" {
				t.Errorf("%s with %s: got %s (%s), %v; want rest", expression, body, d.Route.Name, d.Why, err)
			}
		}
	}
}

func TestAValueOfAnotherTypeIsUndecidable(t *testing.T) {
	for _, c := range []struct{ expression, body string }{
		{"body.n > 5", `{"n":"50"}`}, // which many servers convert
		{"body.n > 5", `{"n":true}`},
		{"body.n > 5", `{"n":[50]}`},
		{"body.n * 2 > 5", `{"n":"50"}`},
		{"num(body.n, 1) > 5", `{"n":"5_0,0"}`},
		{"num(body.n, 1) > 5", `{"n":"٥٠"}`},
		{"megapixels(body.size, 1) > 5", `{"size":"4096,4096"}`},
		{"int(body.n) > 5", `{"n":"٥٠"}`},
		{"body.m.n > 5", `{"m":"x"}`},
		{"body.m.n > 5", `[]`},
		{`body.s contains "x"`, `{"s":["x"]}`},
		{"any(body.l, # > 5)", `{"l":["50"]}`},
		{`body.n > 5`, `{"n":"<nil>"}`},
		{`int(body.n) > 5`, `{"n":" <nil> "}`},
		{`map(body.l, #)[0] > 5`, `{"l":[` + strings.Repeat("1,", 200_000) + `50]}`}, // past the memory budget
	} {
		table := aTable(t, light("it", when(c.expression)), heavyToo("rest", path("/**")))
		r, b := posted(t, "/", c.body)
		if d, err := decide(t, table, r, b); err != nil || !strings.Contains(d.Why, "most expensive") {
			t.Errorf("%s with %.40s: got %s (%s), %v; want it undecidable", c.expression, c.body, d.Route.Name, d.Why, err)
		}
	}
}

func TestAnExpressionIsCheckedWhenTheFileIsLoaded(t *testing.T) {
	for vram, says := range map[string]string{
		`gib("2")`:                "gib",
		`gib(true)`:               "gib",
		`gib()`:                   "not enough arguments",
		`num(body.n)`:             "not enough arguments",
		`num(body.n, "1")`:        "num",
		`num(body.n, 1, 2)`:       "too many arguments",
		`megapixels(body.s, {})`:  "megapixels",
		`flag(body.b, 1) ? 1 : 2`: "flag",
		`flag(body.b, true)`:      "float64",
		`has(body, 1) ? 1 : 2`:    "has",
		`body.n > 1`:              "float64",
		`"20GiB" + ""`:            "float64",
		`gib(bodi.n)`:             "bodi",
		`tib(1)`:                  "tib",
		`size.n`:                  "size",
		`method + 1`:              "mismatched types",
		`gib(1`:                   "at column",
		`gib(now().Year())`:       "now",

		// What takes hours on a body of numbers alone.
		`sum(body.l, sum(body.l))`:                            "sum",
		`sum(body.l, count(body.m, # > 1))`:                   "want one loop",
		`sum(body.l, any(body.l, true) ? 1 : 2)`:              "want one loop",
		`sum(map(filter(body.l, true), count(body.l, true)))`: "want one loop",
		`count(body.l, # in body.l)`:                          "in goes through the body",
		`count(body.l, # in (body.l ?? []))`:                  "in goes through the body",
		`count(body.l, body.s contains "x")`:                  "contains goes through the body",
		`count(body.l, has(body.l, "x"))`:                     "has goes through the body",
		`sum(body.l, len(body.s))`:                            "len goes through the body",
		`let l = body.l; sum(body.l, max(l))`:                 "max goes through the body",
		`reduce(body.l, len(concat(#acc, [#])), [])`:          "concat goes through the body",
		`reduce(body.l, any(#acc, true) ? 1 : 2, body.l)`:     "want one loop",
		`sum(body.l, sum(.m, sum(body.l, #)))`:                "want one loop",
	} {
		c := aConfig(heavy("it", path("/**")))
		c.Routes[0].VRAM = vram
		got := ""
		c.Check(func(at, problem string) { got += at + ": " + problem })
		if !strings.HasPrefix(got, "routes[0].vram: ") || !strings.Contains(got, says) || !strings.Contains(got, "want an amount such as") {
			t.Errorf("%s: got %q, want %s", vram, got, says)
		}
	}
}

// TestALoopOverWhatIsInAnElementIsAllowed needs as many steps as the body has
// elements, not the square of it.
func TestALoopOverWhatIsInAnElementIsAllowed(t *testing.T) {
	large := `{"l":[{"m":[` + strings.Repeat("1,", 20_000) + `1]},{}],"s":"x"}`
	for vram, want := range map[string]admission.Bytes{
		`gib(sum(body.l, sum(.m ?? [], # > 0 ? 1 : 0)) / 20001.0)`:              1 * gib,
		`gib(sum(body.l, len(.m ?? [])) / 20001.0)`:                             1 * gib,
		`gib(sum(body.l, any(["m", "n"], # == path) ? 1 : 2))`:                  4 * gib,
		`let most = 1.5; gib(sum(body.l, min(most, num(.n, 2))))`:               3 * gib,
		`let most = 1; gib(sum(body.l, path in ["/a", "/"] ? most : 0))`:        2 * gib,
		`gib(sum(map(filter(body.l, .m == nil), len(values(#))), # + 5))`:       5 * gib,
		`gib(sum(body.l, count(.m ?? [], has(["x"], body.s)) > 20000 ? 3 : 0))`: 3 * gib,
	} {
		if got := demand(t, vram, large); got != want {
			t.Errorf("%s: got %v, want %v", vram, got, want)
		}
	}
}
