package routing_test

import (
	"strings"
	"testing"
)

func TestWhatIsMissingDoesNotMatch(t *testing.T) {
	for _, expression := range []string{
		"body.n > 5", "5 < body.n", "body.n + 1 > 5", "-body.n < 0", "body.m.n > 5", "body.l[0] == 1", "body.l[0].n == 1", "body.e[0] == 1",
		"len(body.l) > 5", "any(body.l, # > 5)", "count(body.l, # > 5) > 0", `body.s contains "x"`, `body.s matches "x"`, `body.s startsWith "x"`,
		`lower(body.s) == "x"`, "int(body.n) > 5", "body.n", "!body.n", "body.n in body.l", `body.m["n"] > 5`, "body.n >= 5 && body.n <= 7",
		"sum(body.l) > 5", "max(body.n, 1) > 5", `"a" in body.m`, "num(body.n, 1) > 5", "megapixels(body.s, 1) > 5", "abs(body.n) > 5", "first(body.l).n > 5",
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
		table := aTable(t, light("it", when(c.expression)), heavy("rest", path("/**")))
		r, b := posted(t, "/", c.body)
		if d, err := decide(t, table, r, b); err != nil || !strings.Contains(d.Why, "dearest") {
			t.Errorf("%s with %.40s: got %s (%s), %v; want it undecidable", c.expression, c.body, d.Route.Name, d.Why, err)
		}
	}
}
