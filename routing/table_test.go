package routing_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

const none = "routing: no rule matches"

func TestARuleMatchesByMethod(t *testing.T) {
	table := aTable(t,
		light("get", routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/x"}}),
		light("post", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/x"}}),
		light("any", path("/y")),
	)
	for line, want := range map[string]string{
		"GET /x":    "get",
		"HEAD /x":   "get", // what GET answers, without the body
		"POST /x":   "post",
		"PUT /x":    none,
		"DELETE /y": "any",
		"get /x":    none, // methods are case-sensitive
	} {
		wantRule(t, table, asServed(t, line), routing.Body{}, want)
	}
}

func TestARuleMatchesByPath(t *testing.T) {
	for _, c := range []struct {
		pattern     string
		matches     []string
		matchesNone []string
	}{
		{"/v1/images", []string{"/v1/images", "/v1/images/", "/v1/images?a=b", "/v1/%69mages"}, []string{"/v1/images/x", "/v1/image", "/v1",
			"/", "/V1/images", "/v1/images."}},
		{"/v1/{model}/infer", []string{"/v1/flux/infer", "/v1/a%20b/infer/"}, []string{"/v1/infer", "/v1/a/b/infer", "/v1/a/infer/b"}},
		{"/v1/**", []string{"/v1", "/v1/", "/v1/a", "/v1/a/b/"}, []string{"/v1a", "/", "/v2/a"}},
		{"/v1/", []string{"/v1", "/v1/", "/v1/a/b"}, []string{"/v1a"}},
		{"/v1/{rest...}", []string{"/v1", "/v1/a/b"}, []string{"/v2"}},
		{"/v1/{$}", []string{"/v1/"}, []string{"/v1", "/v1/a"}},
		{"/{$}", []string{"/"}, []string{"/a"}},
		{"/**", []string{"/", "/a", "/a/b.c/"}, nil},
		{"", []string{"/", "/a"}, nil},
		{"/größe", []string{"/gr%C3%B6%C3%9Fe"}, []string{"/grosse"}},
	} {
		table := aTable(t, light("it", path(c.pattern)))
		for _, p := range c.matches {
			wantRule(t, table, asServed(t, "GET "+p), routing.Body{}, "it")
		}
		for _, p := range c.matchesNone {
			wantRule(t, table, asServed(t, "GET "+p), routing.Body{}, none)
		}
	}
}

// ambiguous are spellings of /v1/images that some servers read so and others do
// not.
var ambiguous = []string{
	"//v1/images", "/v1//images", "/v1/images//",
	"/v1/./images", "/v1/x/../images", "/v1/images/.", "/x/../v1/images",
	"/x/%2e%2e/v1/images", "/v1/%2E/images", "/v1/.%2e/v1/images", "/v1/images/x/%2e%2E",
	"/v1%2Fimages", "/v1%2fimages", "/%2Fv1/images", "/v1/x%2f..%2fimages",
	"/v1/%252e/images", "/v1/x/%252e%252e/images", "/v1%252Fimages", "/v1/image%2573",
	"/v1/images;a=b", "/v1;a/images", "/v1/images%3Bx=1", "/x/..;/v1/images", "/v1/images%253Bx",
	`/v1\images`, "/v1%5Cimages", "/v1/x%5c..%5cimages",
	"/v1/images%00", "/v1/images%00.png", "/v1%C0%AFimages", "/v1/images#x", "/v1/images%2523",
	"http://box//v1/images", "http://box/v1/x/%2e%2e/images",
}

func TestAPathWhoseReadingsLeadToDifferentRoutesIsRefused(t *testing.T) {
	for name, table := range map[string]*routing.Table{
		"a pass":          aTable(t, heavyToo("images", path("/v1/images")), pass("rest", path("/**"))),
		"another class":   aTable(t, heavyToo("images", path("/v1/images")), light("rest", path("/**"))),
		"another backend": aTable(t, heavy("images", path("/v1/images")), heavyToo("rest", path("/**"))),
	} {
		for _, target := range ambiguous {
			if _, err := table.Find(asServed(t, "POST "+target)); !errors.Is(err, routing.ErrPath) {
				t.Errorf("%s: %s: got %v, want ErrPath", name, target, err)
			}
		}
	}
	// Whether they differ may depend on the body.
	table := aTable(t, heavyToo("images", routing.MatchConfig{Path: routing.Texts{"/v1/images"}, When: "body.n == 1"}), pass("rest", path("/**")))
	r, b := posted(t, "/v1%2Fimages", `{"n":1}`)
	if got := chosen(t, table, r, b); got != routing.ErrPath.Error() {
		t.Errorf("got %s, want ErrPath", got)
	}
	r, b = posted(t, "/v1%2Fimages", `{"n":2}`)
	wantRule(t, table, r, b, "rest")
	for _, target := range []string{"OPTIONS *", "GET *"} {
		if _, err := table.Find(asServed(t, target)); !errors.Is(err, routing.ErrTarget) {
			t.Errorf("%s: got %v, want ErrTarget", target, err)
		}
	}
}

// TestAPathWithManySpellingsIsRoutedWhereTheyLeadToTheSame is the other side: an
// odd path is no reason to refuse.
func TestAPathWithManySpellingsIsRoutedWhereTheyLeadToTheSame(t *testing.T) {
	table := aTable(t, heavy("images", path("/v1/images")), light("model", path("/v1/models/{model}/infer")), light("files", path("/files/**")))
	rest := aTable(t, light("rest", path("/**")))
	for _, target := range ambiguous {
		wantRule(t, rest, asServed(t, "POST "+target), routing.Body{}, "rest")
	}
	for target, want := range map[string]string{
		"/v1/models/org%2Fname/infer":      "model", // as hubs call them
		"/v1/models/org%2fname/infer/":     "model",
		"/files/a%2Fb.json":                "files",
		"/files/https://host/a.png":        "files",
		"/files/a;b/c":                     "files",
		"/files/100%25":                    "files",
		"/files/a%252Fb":                   "files",
		`/files/a\b`:                       "files",
		"/files/%FF":                       "files",
		"/files/a%0Ab":                     "files",
		"/files//a":                        "files",
		"/files/./a":                       "files",
		"//v1/images":                      "images", // the one reading that leads anywhere
		"/v1//images":                      "images",
		"/v1%2Fimages":                     "images",
		"/files/../v1/images":              "routing: the readings of the path lead to different routes",
		"/files/..%2Fadmin":                "routing: the readings of the path lead to different routes",
		"/files/..%5Cadmin":                "routing: the readings of the path lead to different routes",
		"/files/%252e%252e/admin":          "routing: the readings of the path lead to different routes",
		"/files/..;/admin":                 "routing: the readings of the path lead to different routes",
		"/admin/..;/files":                 "routing: the readings of the path lead to different routes",
		"/v1/models/..%2F..%2Fadmin/infer": "routing: the readings of the path lead to different routes",
		"/v1/models/a" + strings.Repeat("%2F", 100) + "/infer": "model",
	} {
		if got := chosen(t, table, asServed(t, "POST "+target), routing.Body{}); got != want {
			t.Errorf("%s: got %s, want %s", target, got, want)
		}
	}
}

func TestTheRulesSeeAnEncodedSlashAsASlash(t *testing.T) {
	table := aTable(t, heavy("it", routing.MatchConfig{Path: routing.Texts{"/m/{model}/run"},
		When: `params.model == "org/name" && path == "/m/org/name/run"`}))
	wantRule(t, table, asServed(t, "POST /m/org%2Fname/run"), routing.Body{}, "it")
}

// TestAMethodThatAHeaderOverridesIsNoWayAround has headers that some frameworks
// take for the method.
func TestAMethodThatAHeaderOverridesIsNoWayAround(t *testing.T) {
	images := heavyToo("images", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/v1/images"}})
	table := aTable(t, images, pass("rest", path("/**")))
	any := aTable(t, heavyToo("images", path("/v1/images")))
	for _, name := range []string{"X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"} {
		if _, err := table.Find(asServed(t, "GET /v1/images", name+": post")); !errors.Is(err, routing.ErrAmbiguous) {
			t.Errorf("%s: got %v, want ErrAmbiguous", name, err)
		}
		wantRule(t, table, asServed(t, "GET /v1/other", name+": POST"), routing.Body{}, "rest")
		for _, line := range []string{"GET /v1/images", "POST /v1/images"} {
			d, err := decide(t, any, asServed(t, line, name+": PUT"), routing.Body{})
			if err != nil || d.Pass || d.VRAM != 34*gib {
				t.Errorf("%s with %s: got %+v, %v; want it to ask for its class", line, name, d, err)
			}
		}
	}
}

// TestWhatNeedsNoCardPassesAClassRoute unless the rule names its method.
func TestWhatNeedsNoCardPassesAClassRoute(t *testing.T) {
	const socket = "Connection: keep-alive, Upgrade|Upgrade: websocket"
	holding := heavyToo("it", path("/x"))
	holding.HoldSlot = true
	submitting := heavyToo("it", path("/x"))
	submitting.Completion = backend.CompletionConfig{On: []string{"GET /x"}, Poll: "GET /jobs/{{.json.id}}", Until: "body.done",
		Every: time.Second, Timeout: time.Minute}
	for name, c := range map[string]struct {
		route routing.RouteConfig
		pass  map[string]bool
	}{
		"no method": {heavyToo("it", path("/x")), map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "DELETE": true, "POST": false,
			"PUT": false, "PATCH": false, "TRACE": false, "QUERY": false, "GET|" + socket: true}},
		"GET": {heavyToo("it", routing.MatchConfig{Method: routing.Texts{"GET"}, Path: routing.Texts{"/x"}}),
			map[string]bool{"GET": false, "HEAD": false, "GET|" + socket: false}},
		"DELETE": {heavyToo("it", routing.MatchConfig{Method: routing.Texts{"DELETE"}, Path: routing.Texts{"/x"}}), map[string]bool{"DELETE": false}},
		"POST": {heavyToo("it", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/x"}}),
			map[string]bool{"POST": false, "OPTIONS|Origin: http://a|Access-Control-Request-Method: POST": true}},
		"completion": {submitting, map[string]bool{"GET": false, "HEAD": true, "POST": false}},
		"hold_slot":  {holding, map[string]bool{"GET": true, "GET|" + socket: false, "GET|Upgrade: websocket": true}},
		"a pass":     {pass("it", path("/x")), map[string]bool{"GET": true, "POST": true, "GET|" + socket: true}},
	} {
		for line, want := range c.pass {
			method, headers, _ := strings.Cut(line, "|")
			var all []string
			if headers != "" {
				all = strings.Split(headers, "|")
			}
			d, err := decide(t, aTable(t, c.route), asServed(t, method+" /x", all...), routing.Body{})
			if err != nil || d.Pass != want || d.Pass != (d.VRAM == 0) {
				t.Errorf("%s: %s: got %+v, %v; want pass %v", name, line, d, err, want)
			}
		}
	}
}

// TestAPreflightGoesWhereItsRequestWould, not to whatever takes OPTIONS.
func TestAPreflightGoesWhereItsRequestWould(t *testing.T) {
	table := aTable(t, heavy("images", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/v1/images"}}), pass("rest", path("/**")))
	asks := []string{"Origin: http://a", "Access-Control-Request-Method: POST"}
	wantRule(t, table, asServed(t, "OPTIONS /v1/images", asks...), routing.Body{}, "images")
	wantRule(t, table, asServed(t, "OPTIONS /v1/images"), routing.Body{}, "rest")
	wantRule(t, table, asServed(t, "OPTIONS /v1/other", asks...), routing.Body{}, "rest")
	wantRule(t, table, asServed(t, "GET /v1/images", asks...), routing.Body{}, "rest")
}

func TestAnAbsoluteTargetMeansItsPath(t *testing.T) {
	table := aTable(t,
		heavy("images", routing.MatchConfig{Path: routing.Texts{"/v1/images"}, Host: "inside"}),
		pass("rest", path("/**")),
	)
	// The line's host counts, not the header's: that is what net/http forwards.
	wantRule(t, table, asServed(t, "POST http://inside/v1/images", "Host: outside"), routing.Body{}, "images")
	wantRule(t, table, asServed(t, "POST http://outside/v1/images", "Host: inside"), routing.Body{}, "rest")
}

func TestARuleMatchesByHost(t *testing.T) {
	table := aTable(t,
		light("one", routing.MatchConfig{Host: "Images.example.com"}),
		light("below", routing.MatchConfig{Host: "*.example.com"}),
	)
	for host, want := range map[string]string{
		"images.example.com":      "one",
		"IMAGES.example.COM:8080": "one",
		"images.example.com.":     "one", // the same name, written in full
		"a.example.com":           "below",
		"a.b.example.com:80":      "below",
		"example.com":             none,
		"notexample.com":          none,
		".example.com":            none,
		"images.example.com.evil": none,
		"[::1]:8080":              none,
		"":                        none,
	} {
		wantRule(t, table, asServed(t, "GET /", "Host: "+host), routing.Body{}, want)
	}
}

func TestARuleMatchesByHeaders(t *testing.T) {
	table := aTable(t, light("both", routing.MatchConfig{Headers: map[string]string{"x-tier": "gold", "X-Any": "*"}}))
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{[]string{"X-Tier: gold", "X-Any: 1"}, "both"},
		{[]string{"x-tier: gold", "x-any:"}, "both"},
		{[]string{"X-Tier: Gold", "X-Any: 1"}, none},
		{[]string{"X-Tier: gold"}, none},
		{[]string{"X-Any: 1"}, none},
		{[]string{"X-Tier: gold,silver", "X-Any: 1"}, none},
	} {
		wantRule(t, table, asServed(t, "GET /", c.headers...), routing.Body{}, c.want)
	}
}

func TestAHeaderWithTwoMeaningsTakesTheMostExpensiveRule(t *testing.T) {
	table := aTable(t,
		light("light", routing.MatchConfig{Headers: map[string]string{"X-Class": "light"}}),
		pass("free", routing.MatchConfig{Headers: map[string]string{"X-Class": "free"}}),
		heavyToo("rest", path("/**")),
	)
	for _, headers := range [][]string{
		{"X-Class: light", "X-Class: heavy"},
		{"X-Class: heavy", "X-Class: light"},
		{"X-Class: light", "Connection: close, x-class"}, // does not reach the backend
	} {
		wantRule(t, table, asServed(t, "POST /", headers...), routing.Body{}, "rest")
	}
	for _, headers := range [][]string{{"X-Class: free", "X-Class: heavy"}, {"X-Class: free", "Connection: X-Class"}} {
		if _, err := decide(t, table, asServed(t, "POST /", headers...), routing.Body{}); !errors.Is(err, routing.ErrAmbiguous) {
			t.Errorf("%q: got %v, want ErrAmbiguous", headers, err)
		}
	}
	wantRule(t, table, asServed(t, "GET /", "X-Class: light", "X-Class: light"), routing.Body{}, "light")
	wantRule(t, table, asServed(t, "GET /", "X-Class: free", "Connection: close"), routing.Body{}, "free")
}

func TestTheFirstRuleThatMatchesDecides(t *testing.T) {
	table := aTable(t,
		light("narrow", path("/v1/{a}/x")),
		heavy("wide", path("/v1/**")),
		light("never", path("/{a}/b/x")),
	)
	wantRule(t, table, asServed(t, "GET /v1/b/x"), routing.Body{}, "narrow")
	wantRule(t, table, asServed(t, "GET /v1/b/y"), routing.Body{}, "wide")
	wantRule(t, table, asServed(t, "GET /v2/b/x"), routing.Body{}, "never")
	wantRule(t, table, asServed(t, "GET /v2"), routing.Body{}, none)
}

func TestAPassRuleTakesNothing(t *testing.T) {
	d, err := decide(t, aTable(t, pass("static", path("/**"))), asServed(t, "GET /"), routing.Body{})
	if err != nil || !d.Route.Pass || d.VRAM != 0 || d.Route.ClassName != "" || d.Route.Backend != "vqa" {
		t.Errorf("got %+v of %+v, %v", d, d.Route, err)
	}
}

func TestAnExpressionSeesTheRequest(t *testing.T) {
	for _, c := range []struct{ expression, line, body string }{
		{`method == "PUT"`, "PUT /a", ""},
		{`path == "/a b"`, "GET /a%20b", ""},
		{`header["x-n"] == "1" && !("x-m" in header) && !has(header, "x-o")`, "GET /a", ""},
		{`header.host == "box"`, "GET /a", ""},
		{`len(header) > 1`, "GET /a", ""},
		{`query.n == "5" && query["a b"] == "c&d" && !has(query, "m")`, "GET /a?n=5&a+b=c%26d", ""},
		{`size == 7`, "POST /a", `{"a":1}`},
		{`body.n == 3 && body.s == "x" && body.l[1] == true && body.m.k == nil`, "POST /a", `{"n":3,"s":"x","l":[0,true],"m":{"k":null}}`},
		{`has(body, "n") && has(body.l, "a") && !has(body.l, "c") && !has(body.s, "s")`, "POST /a", `{"n":null,"l":["a"],"s":"s"}`},
		{`any(body.l, # > 2)`, "POST /a", `{"l":[1,2,3]}`},
		{`num(body.n, 1) > 4 && num(body.m, 1) == 1 && num(body.s, 0) == 7`, "POST /a", `{"n":"5","s":" 7 "}`},
		{`megapixels(body.size, 1) > 2`, "POST /a", `{"size":"2048x1024"}`},
	} {
		table := aTable(t, heavy("it", when(c.expression)), light("rest", path("/**")))
		r := asServed(t, c.line, "X-N: 1")
		r.ContentLength = int64(len(c.body))
		wantRule(t, table, r, routing.Body{Prefix: []byte(c.body), Size: int64(len(c.body))}, "it")
	}
	table := aTable(t, heavy("it", routing.MatchConfig{Path: routing.Texts{"/m/{model}/{rest...}"},
		When: `params.model == "flux" && params.rest == "a/b"`}))
	wantRule(t, table, asServed(t, "GET /m/flux/a/b"), routing.Body{}, "it")
	wantRule(t, table, asServed(t, "GET /m/sdxl/a/b"), routing.Body{}, none)
}

func TestABodyIsAskedForOnlyWhereItDecides(t *testing.T) {
	table := aTable(t,
		light("path", path("/path")),
		light("header", routing.MatchConfig{Path: routing.Texts{"/header"}, When: `header.a == "b"`}),
		light("size", routing.MatchConfig{Path: routing.Texts{"/size"}, When: "size < 10"}),
		light("body", routing.MatchConfig{Path: routing.Texts{"/body"}, When: "body.n == 1"}),
		routing.RouteConfig{Name: "vram", Match: path("/vram"), Class: "light", Backend: "vqa", VRAM: "gib(num(body.n, 1))"},
		routing.RouteConfig{Name: "required", Match: path("/required"), Class: "light", Backend: "vqa", RequireBody: true},
		pass("rest", path("/**")),
	)
	for _, c := range []struct {
		path   string
		length int64
		needs  bool
		first  string
	}{
		{"/path", 5, false, "path"},
		{"/header", 5, false, "rest"},
		{"/size", 5, false, "size"},
		{"/size", -1, true, "rest"}, // chunked: not known before it is read
		{"/body", 5, true, "rest"},
		{"/vram", 5, true, "vram"},
		{"/required", 5, true, "required"},
		{"/other", 5, false, "rest"},
	} {
		r := asServed(t, "POST "+c.path)
		r.ContentLength = c.length
		candidates, err := table.Find(r)
		if err != nil {
			t.Fatal(err)
		}
		if candidates.NeedBody() != c.needs || candidates.First().Name != c.first {
			t.Errorf("%s of %d bytes: got %v, first %s; want %v, first %s", c.path, c.length, candidates.NeedBody(), candidates.First().Name, c.needs, c.first)
		}
	}
	if (routing.Candidates{}).First() != nil {
		t.Error("the zero Candidates have a first rule")
	}
	if _, err := (routing.Candidates{}).Decide(asServed(t, "GET /"), routing.Body{}); !errors.Is(err, routing.ErrNoRoute) {
		t.Errorf("the zero Candidates: got %v, want ErrNoRoute", err)
	}
}

func TestWhatIsUndecidableStaysWithItsBackendAndAsksAdmission(t *testing.T) {
	table := aTable(t,
		light("light", when(`body.model == "small"`)),
		heavyToo("heavy", when(`body.model == "flux"`)),
		light("rest", path("/**")),
	)
	elsewhere := aTable(t, light("light", when(`body.model == "small"`)), heavy("heavy", when(`body.model == "flux"`)), light("rest", path("/**")))
	past := aTable(t, light("light", when(`body.model == "small"`)), heavyToo("heavy", when(`body.model == "flux"`)), pass("rest", path("/**")))
	full := `{"model":"small"}` // which is all of what is kept of a longer one, below
	wantDoubt := func(t *testing.T, says string, r *http.Request, b routing.Body) {
		t.Helper()
		wantRule(t, table, r, b, "heavy")
		if d, _ := decide(t, table, r, b); !strings.Contains(d.Why, "most expensive") {
			t.Errorf("Why says %q", d.Why)
		}
		for _, crossing := range []*routing.Table{elsewhere, past} {
			if _, err := decide(t, crossing, r, b); !errors.Is(err, routing.ErrAmbiguous) || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want ErrAmbiguous because of %q", err, says)
			}
		}
	}
	for _, c := range []struct {
		name, says string
		body       string
		headers    []string
	}{
		{"malformed", "not well-formed", `{"model":"small"`, nil},
		{"a key twice", "body.model: the key comes twice", `{"model":"small","model":"flux"}`, nil},
		{"a key in other letters", "body.model: the key comes in other letters", `{"Model":"small"}`, nil},
		{"another charset in it", "body.model", "{\"model\":\"sm\xffall\"}", nil},
		{"no JSON", "neither JSON nor a form", "model=small", []string{"Content-Type: text/plain"}},
		{"compressed", "compressed", full, []string{"Content-Encoding: gzip"}},
		{"compressed twice", "compressed", full, []string{"Content-Encoding: identity", "Content-Encoding: gzip"}},
		{"two types", "neither JSON nor a form", full, []string{"Content-Type: application/json", "Content-Type: text/plain"}},
		{"a bad type", "neither JSON nor a form", full, []string{"Content-Type: ;"}},
		{"another charset", "UTF-8", full, []string{"Content-Type: application/json; charset=utf-7"}},
		{"no type, not JSON", "not well-formed", "\x1f\x8b", nil},
		{"fields in it", "body.model", `{"model":"small","a":"&model=flux"}`, []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"a field twice", "body.model: the key comes twice", "model=small&model=flux", []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"a field behind a semicolon", "body.model", "a=b;model=small", []string{"Content-Type: application/x-www-form-urlencoded"}},
		{"a list", "body.model", "model[]=small", []string{"Content-Type: application/x-www-form-urlencoded"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, b := posted(t, "/", c.body, c.headers...)
			wantDoubt(t, c.says, r, b)
		})
	}
	t.Run("not here", func(t *testing.T) {
		r, _ := posted(t, "/", full)
		wantDoubt(t, "not read before", r, routing.Body{Prefix: []byte(full), Truncated: true, Size: 1 << 20})
		wantDoubt(t, "not read before", r, routing.Body{Prefix: []byte(full), Size: 1 << 20})
		wantDoubt(t, "not read before", r, routing.Body{Truncated: true})
	})
	t.Run("clear", func(t *testing.T) {
		for body, want := range map[string]string{full: "light", `{"model":"flux"}`: "heavy", `{"model":"other"}`: "rest", `{}`: "rest", "": "rest"} {
			for _, table := range []*routing.Table{table, elsewhere, past} {
				r, b := posted(t, "/", body, "Content-Type: application/json; charset=UTF-8")
				wantRule(t, table, r, b, want)
			}
		}
	})
}

// TestWhatNoRouteLooksAtIsNoDoubt has bodies that are odd in a place that the
// rules do not look at.
func TestWhatNoRouteLooksAtIsNoDoubt(t *testing.T) {
	table := aTable(t, light("light", when(`body.model == "small"`)), heavy("heavy", when(`body.model == "flux"`)), pass("rest", path("/**")))
	long := strings.Repeat("A", 3<<20)
	const form, multi = "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=b"
	fields := func(parts ...string) string { return "--b\r\n" + strings.Join(parts, "\r\n--b\r\n") + "\r\n--b--\r\n" }
	model := "Content-Disposition: form-data; name=\"model\"\r\n\r\nsmall"
	granularity := "Content-Disposition: form-data; name=\"timestamp_granularities[]\"\r\n\r\n"
	file := "Content-Disposition: form-data; name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n"
	for name, c := range map[string]struct{ header, body string }{
		"a long text before it":         {"", `{"messages":[{"content":"` + long + `"}],"model":"small"}`},
		"a long text behind it":         {"", `{"model":"small","messages":[{"content":"` + long + `"}]}`},
		"another key twice":             {"", `{"a":1,"a":2,"model":"small"}`},
		"a key twice below":             {"", `{"messages":[{"model":"x","model":"y"}],"model":"small"}`},
		"NaN":                           {"", `{"a":NaN,"b":-Infinity,"model":"small","c":Infinity}`},
		"a byte order mark":             {"", "\ufeff{\"model\":\"small\"}"},
		"a large number":                {"", `{"seed":1e999,"id":` + strings.Repeat("9", 1000) + `,"model":"small"}`},
		"deep nesting":                  {"", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `,"model":"small"}`},
		"half a surrogate pair":         {"", `{"a":"\ud83d","model":"small"}`},
		"bytes that are not UTF-8":      {"", "{\"a\":\"\xff\",\"model\":\"small\"}"},
		"a line feed in a text":         {"", "{\"a\":\"x\ny\",\"model\":\"small\"}"},
		"an escaped key":                {"", `{"mod\u0065l":"small"}`},
		"a charset in capitals":         {"Content-Type: application/json; charset=UTF8", `{"model":"small","a":"é"}`},
		"a charset in quotes":           {`Content-Type: application/json; charset="utf-8"`, `{"model":"small"}`},
		"latin-1":                       {"Content-Type: application/json; charset=ISO-8859-1", "{\"a\":\"\xe9\",\"model\":\"small\"}"},
		"what a page sends":             {"Content-Type: text/plain;charset=UTF-8", `{"model":"small"}`},
		"curl -d with an ampersand":     {form, `{"model":"small","a":"AT&T"}`},
		"curl -d with a semicolon":      {form, `{"model":"small","a":"hi; you"}`},
		"curl -d with a query in it":    {form, `{"model":"small","a":"http://x/?n=1&m=2;k=3"}`},
		"a bad escape in another field": {form, "a=100%&model=small&b=%zz"},
		"a semicolon in another field":  {form, "a=x;y&model=small"},
		"another field twice":           {form, "a=1&model=small&a=2"},
		"letters that are not escaped":  {form, "a=größe&model=small"},
		"letters first":                 {form, "größe=1&model=small"},
		"a long field":                  {form, "a=" + long + "&model=small"},
		"two granularities":             {multi, fields(granularity+"word", granularity+"segment", model)},
		"a file of 3 MiB":               {multi, fields(file+long, model)},
		"a file with any bytes":         {multi, fields(file+"\x00\xff\r\n--c\r\n\n--\n", model)},
		"a file's name in another way": {multi, fields("Content-Disposition: form-data; name=\"file\"; filename=\"a.png\"; "+
			"filename*=UTF-8''%C3%A9.png\r\n\r\nx", model)},
		"a file's name with an escape":   {multi, fields(`Content-Disposition: form-data; name="file"; filename="a\"b.png"`+"\r\n\r\nx", model)},
		"a file's name with a semicolon": {multi, fields(`Content-Disposition: form-data; name="file"; filename="a; b.png"`+"\r\n\r\nx", model)},
		"a file's name in latin-1":       {multi, fields("Content-Disposition: form-data; name=\"file\"; filename=\"\xe9.png\"\r\n\r\nx", model)},
		"another field in base64": {multi, fields("Content-Disposition: form-data; "+
			"name=\"a\"\r\nContent-Transfer-Encoding: base64\r\n\r\neA==", model)},
		"another field in a type": {multi, fields("Content-Disposition: form-data; name=\"a\"\r\nContent-Type: "+
			"application/x-thing\r\n\r\nx", model)},
		"lines behind the end":          {multi, fields(model) + "\r\n"},
		"an empty line before the form": {multi, "\r\n" + fields(model)},
	} {
		r, b := posted(t, "/", c.body, strings.Split(c.header, "\n")...)
		if c.header == "" {
			r, b = posted(t, "/", c.body)
		}
		if got := chosen(t, table, r, b); got != "light" {
			t.Errorf("%s: got %s, want light", name, got)
		}
		spooled := routing.Body{Truncated: true, Size: b.Size, Whole: strings.NewReader(c.body)}
		if got := chosen(t, table, r, spooled); got != "light" {
			t.Errorf("%s, from a file: got %s, want light", name, got)
		}
	}
}

// TestAFileHasNoKeys whatever curl says that it is.
func TestAFileHasNoKeys(t *testing.T) {
	table := aTable(t, light("light", when(`body.model == "small"`)), heavy("heavy", when(`body.model == "flux"`)), pass("rest", path("/**")))
	for _, body := range []string{"ID3\x04\x00\x00", "\xff\xfb\x90\x64\x00\x00", "RIFF\x24\x00\x00\x00WAVE", "\x89PNG\r\n\x1a\n",
		"\x00\x00\x00\x18ftypmp42", "OggS\x00"} {
		for _, header := range []string{"Content-Type: application/x-www-form-urlencoded", "Content-Type: application/octet-stream",
			"Content-Type: audio/mpeg"} {
			r, b := posted(t, "/", body, header)
			wantRule(t, table, r, b, "rest")
		}
	}
}

func TestAPassIsNotTakenForWhatCostsNothingToo(t *testing.T) {
	free := light("costs nothing", path("/**"))
	free.VRAM = "0"
	r, b := posted(t, "/", "{")
	for name, table := range map[string]*routing.Table{
		"a pass before":   aTable(t, pass("pass", when("body.a == 1")), free),
		"a pass alone":    aTable(t, pass("pass", when("body.a == 1"))),
		"a pass behind":   aTable(t, light("light", when("body.a == 1")), pass("pass", path("/**"))),
		"another backend": aTable(t, light("light", when("body.a == 1")), heavy("heavy", when("body.a == 2"))),
	} {
		if _, err := decide(t, table, r, b); !errors.Is(err, routing.ErrAmbiguous) {
			t.Errorf("%s: got %v, want ErrAmbiguous", name, err)
		}
	}
	// A pass that is certain stands for passes that are not.
	wantRule(t, aTable(t, pass("pass", when("body.a == 1")), pass("rest", path("/**"))), r, b, "rest")
	// One route that may match is taken as if it did: nothing cheaper is possible.
	wantRule(t, aTable(t, light("light", when("body.a == 1"))), r, b, "light")
}

func TestTheFirstRuleWhoseConditionHoldsDecides(t *testing.T) {
	table := aTable(t, light("a", when("body.a == 1")), heavyToo("b", when("body.b == 1")), heavyToo("rest", path("/**")))
	for body, want := range map[string]string{`{"a":1,"b":1}`: "a", `{"b":1}`: "b", `{"a":2}`: "rest"} {
		r, b := posted(t, "/", body)
		wantRule(t, table, r, b, want)
	}
}

func TestTheMostExpensiveIsByDemandThenSlotsThenTime(t *testing.T) {
	c := aConfig(
		light("a", when("body.a")), routing.RouteConfig{Name: "b", Match: when("body.b"), Class: "few", Backend: "vqa"},
		routing.RouteConfig{Name: "c", Match: when("body.c"), Class: "long", Backend: "vqa"}, light("d", path("/**")),
	)
	c.Classes["few"] = routing.ClassConfig{Slots: 2, VRAM: routing.VRAM{Amount: 512 * admission.MiB}, Estimate: time.Second}
	c.Classes["long"] = routing.ClassConfig{Slots: 2, VRAM: routing.VRAM{Amount: 512 * admission.MiB}, Estimate: time.Minute}
	r, b := posted(t, "/", "{")
	wantRule(t, compiled(t, c), r, b, "c")
	c.Classes["light"] = routing.ClassConfig{Slots: 8, VRAM: routing.VRAM{Amount: 513 * admission.MiB}, Estimate: time.Second}
	wantRule(t, compiled(t, c), r, b, "a")
}

func TestARuleAfterACertainOneIsNotAmongTheMostExpensive(t *testing.T) {
	table := aTable(t, light("maybe", when("body.a == 1")), light("certain", path("/x")), heavyToo("later", path("/**")))
	r, b := posted(t, "/x", "{")
	wantRule(t, table, r, b, "maybe")
}

func TestAnUndecidableQueryTakesTheMostExpensiveRule(t *testing.T) {
	table := aTable(t, heavyToo("many", when(`num(query.n, 1) > 10`)), light("few", path("/**")))
	for target, want := range map[string]string{
		"/?n=50":           "many",
		"/?n=5":            "few",
		"/":                "few",
		"/?n=5&n=5":        "few",
		"/?x=1&x=2&n=5":    "few", // what the rules do not look at may be what it likes
		"/?n=5&n=50":       "many",
		"/?n=50&n=5":       "many",
		"/?n=5;n=50":       "many",
		"/?a=1;n=50":       "many",
		"/?n=5&x=%zz":      "many",
		"/?n=5&%6e=50":     "many",
		"/?n=%C0%B5":       "many",
		"/?n=%D9%A5%D9%A0": "many", // 50 in Arabic digits, which int() of Python reads
	} {
		wantRule(t, table, asServed(t, "POST "+target), routing.Body{}, want)
	}
}

func TestARequiredBodyIsRefusedWhereItCannotBeJudged(t *testing.T) {
	required := heavyToo("images", path("/v1/images"))
	required.RequireBody = true
	required.VRAM = "gib(18) + gib(4) * num(body.n, 1)"
	table := aTable(t, required, light("rest", path("/**")))
	for _, body := range []string{"", "{", `{"n":1,"n":50}`} {
		r, b := posted(t, "/v1/images", body)
		if _, err := decide(t, table, r, b); !errors.Is(err, routing.ErrBody) || len(err.Error()) <= len(routing.ErrBody.Error()) {
			t.Errorf("%q: got %v, want ErrBody with a reason", body, err)
		}
	}
	r, b := posted(t, "/v1/images", `{"n":1}`)
	wantRule(t, table, r, b, "images")
	r, b = posted(t, "/v1/other", "{")
	wantRule(t, table, r, b, "rest")

	// Where it is one of several possible rules it counts if it is the most expensive.
	required.Match = when("body.n == 1")
	table = aTable(t, required, light("rest", path("/**")))
	r, b = posted(t, "/", "{")
	if _, err := decide(t, table, r, b); !errors.Is(err, routing.ErrBody) {
		t.Errorf("got %v, want ErrBody", err)
	}
	table = aTable(t, routing.RouteConfig{Name: "small", Match: when("body.n == 1"), Class: "light", Backend: "vqa", RequireBody: true},
		heavyToo("rest", path("/**")))
	wantRule(t, table, r, b, "rest")
}

// Of a list, one is enough; a model is asked for in JSON and in forms.
func TestListsAndModels(t *testing.T) {
	table := aTable(t,
		heavyToo("chat", routing.MatchConfig{Method: routing.Texts{"POST", "PUT"}, Path: routing.Texts{"/v1/chat", "/v1/{kind}/edits"},
			Model: routing.Texts{"llama3", "qwen2.5*vl"}}),
		light("big", routing.MatchConfig{Model: routing.Texts{"flux*"}, When: "num(body.n, 1) > 4"}),
		pass("rest", path("/**")))
	for _, c := range []struct{ request, body, want string }{
		{"POST /v1/chat", `{"model":"llama3"}`, "chat"},
		{"PUT /v1/images/edits", `{"model":"llama3"}`, "chat"},
		{"POST /v1/chat", `{"model":"qwen2.5-7b-vl"}`, "chat"},
		{"POST /v1/chat", `{"model":"qwen25-7b-vl"}`, "rest"}, // the dot is a dot
		{"POST /v1/chat", `{"model":"llama31"}`, "rest"},
		{"POST /v1/chat", `{}`, "rest"},
		{"PATCH /v1/chat", `{"model":"llama3"}`, "rest"},
		{"POST /v2/chat", `{"model":"llama3"}`, "rest"},
		{"POST /v2/chat", `{"model":"flux-dev","n":5}`, "big"},
		{"POST /v2/chat", `{"model":"flux-dev","n":4}`, "rest"},
	} {
		r := asServed(t, c.request)
		r.Header.Set("Content-Type", "application/json")
		r.ContentLength = int64(len(c.body))
		wantRule(t, table, r, routing.Body{Prefix: []byte(c.body), Size: int64(len(c.body))}, c.want)
	}
	form := "--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nllama3\r\n--x--\r\n"
	r := asServed(t, "POST /v1/chat")
	r.Header.Set("Content-Type", "multipart/form-data; boundary=x")
	r.ContentLength = int64(len(form))
	wantRule(t, table, r, routing.Body{Prefix: []byte(form), Size: int64(len(form))}, "chat")
}
