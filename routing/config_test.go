package routing_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// mistakes is what Check reports, as "path: problem".
func mistakes(c routing.Config) []string {
	var all []string
	c.Check(func(path, problem string) { all = append(all, path+": "+problem) })
	return all
}

func TestAGoodConfigurationHasNoMistakes(t *testing.T) {
	c := aConfig(heavy("images", path("/v1/images")), light("", path("/v1/vqa")), light("", path("/v1/{x}/{y...}")), pass("", path("/**")))
	for _, url := range []string{"http://localhost", "http://localhost:80/", "https://models.example.com", "http://[::1]:8001",
		"unix:/run/vqa.sock", "HTTP://10.0.0.1:1"} {
		b := c.Backends["vqa"]
		b.URL = url
		c.Backends["vqa"] = b
		if got := mistakes(c); got != nil {
			t.Errorf("with %s: got %q", url, got)
		}
	}
	for _, choice := range []func(*backend.Config){
		func(b *backend.Config) {
			b.Protocol, b.Cancel, b.Errors, b.Breaker.WhenOpen = "http", "ignored", "auto", "reject"
		},
		func(b *backend.Config) {
			b.Protocol, b.Cancel, b.Errors, b.Breaker.WhenOpen = "h2c", "aborts", "grpc", "hold"
		},
		func(b *backend.Config) {
			b.Health = backend.HealthConfig{Path: "/health?deep=1", Every: time.Second}
		},
	} {
		b := c.Backends["flux"]
		choice(&b)
		c.Backends["flux"] = b
		if got := mistakes(c); got != nil {
			t.Errorf("with %+v: got %q", b, got)
		}
	}
}

func TestEveryMistakeIsReportedOnceWithItsPathAndItsCure(t *testing.T) {
	class := func(change func(*routing.ClassConfig)) func(*routing.Config) {
		return func(c *routing.Config) {
			k := c.Classes["light"]
			change(&k)
			c.Classes["light"] = k
		}
	}
	to := func(change func(*backend.Config)) func(*routing.Config) {
		return func(c *routing.Config) {
			b := c.Backends["vqa"]
			change(&b)
			c.Backends["vqa"] = b
		}
	}
	url := func(text string) func(*routing.Config) {
		return to(func(b *backend.Config) { b.URL = text })
	}
	route := func(change func(*routing.RouteConfig)) func(*routing.Config) {
		return func(c *routing.Config) { change(&c.Routes[1]) }
	}
	match := func(change func(*routing.MatchConfig)) func(*routing.Config) {
		return route(func(r *routing.RouteConfig) { change(&r.Match) })
	}
	header := func(name string) func(*routing.Config) {
		return match(func(m *routing.MatchConfig) { m.Headers = map[string]string{name: "x"} })
	}
	pattern := func(text string) func(*routing.Config) {
		return match(func(m *routing.MatchConfig) { m.Path = routing.Texts{text} })
	}
	host := func(text string) func(*routing.Config) {
		return match(func(m *routing.MatchConfig) { m.Host = text })
	}
	expression := func(text string) func(*routing.Config) {
		return match(func(m *routing.MatchConfig) { m.When = text })
	}
	amount := func(text string) func(*routing.Config) {
		return route(func(r *routing.RouteConfig) { r.VRAM = text })
	}
	for _, c := range []struct {
		path, says string
		spoil      func(*routing.Config)
	}{
		{"classes.light.slots", "want 1 or more", class(func(k *routing.ClassConfig) { k.Slots = 0 })},
		{"classes.light.slots", "want 1 or more", class(func(k *routing.ClassConfig) { k.Slots = -1 })},
		{"classes.light.vram", "want 0B or more", class(func(k *routing.ClassConfig) { k.VRAM.Amount = -1 })},
		{"classes.light.estimate", "want the execution time to expect, such as 5s", class(func(k *routing.ClassConfig) { k.Estimate = 0 })},
		{"classes.light.execution_timeout", "want 0s or more", class(func(k *routing.ClassConfig) { k.ExecutionTimeout = -1 })},
		{"classes.light.strict_after", "want 0s or more", class(func(k *routing.ClassConfig) { k.StrictAfter = -1 })},
		{"classes.light.queue.limit", "want 0 or more", class(func(k *routing.ClassConfig) { k.Queue.Limit = -1 })},
		{"classes.light.queue.bytes", "want 0B or more", class(func(k *routing.ClassConfig) { k.Queue.Bytes = -1 })},
		{"classes.light.queue.timeout", "want 0s or more", class(func(k *routing.ClassConfig) { k.Queue.Timeout = -1 })},
		{"classes.light.boost", "want 0s or more", class(func(k *routing.ClassConfig) { k.Boost = -1 })},
		{"classes.light.reserved", "want 0 or more", class(func(k *routing.ClassConfig) { k.Reserved = -1 })},
		{"classes.light.vram", "want 40GiB or less", class(func(k *routing.ClassConfig) { k.VRAM.Amount = 41 * admission.GiB })},

		{"backends.vqa.url", "missing: want http://host:port", url("")},
		{"backends.vqa.url", "has no scheme: want http://localhost:8001", url("localhost:8001")},
		{"backends.vqa.url", "want http://host:port, https://host or unix:/path", url("file:///etc/passwd")},
		{"backends.vqa.url", "want http://host:port, https://host or unix:/path", url("/v1")},
		{"backends.vqa.url", "want http://host:port, https://host or unix:/path", url("http://[::1")},
		{"backends.vqa.url", "want http://host:port", url("http://")},
		{"backends.vqa.url", "want http://host:port", url("http:127.0.0.1")},
		{"backends.vqa.url", "want http://host:port", url("http://:8001")},
		{"backends.vqa.url", "want http://localhost, and add_prefix: /v1", url("http://localhost/v1")},
		{"backends.vqa.url", "want scheme and host alone", url("http://localhost?a=b")},
		{"backends.vqa.url", "want scheme and host alone", url("http://localhost?")},
		{"backends.vqa.url", "want scheme and host alone", url("http://localhost#a")},
		{"backends.vqa.url", "want scheme and host alone", url("http://localhost#")},
		{"backends.vqa.url", "want none, for urls are logged", url("http://me:secret@localhost")},
		{"backends.vqa.url", "want the server's own", url("http://169.254.169.254")},
		{"backends.vqa.url", "want the server's own", url("http://[fe80::1%25eth0]:80")},
		{"backends.vqa.url", "want the server's own", url("http://[::ffff:169.254.169.254]")},
		{"backends.vqa.url", "want unix:/path", url("unix:relative")},
		{"backends.vqa.url", "want unix:/path", url("unix:///run/x.sock")},
		{"backends.vqa.protocol", "want http or h2c", to(func(b *backend.Config) { b.Protocol = "grpc" })},
		{"backends.vqa.protocol", "want http, which takes HTTP/2", to(func(b *backend.Config) { b.URL, b.Protocol = "https://localhost", "h2c" })},
		{"backends.vqa.cancel", "want ignored or aborts", to(func(b *backend.Config) { b.Cancel = "no" })},
		{"backends.vqa.errors", "openai or ollama", to(func(b *backend.Config) { b.Errors = "html" })},
		{"backends.vqa.resident", "want 0B or more", to(func(b *backend.Config) { b.Resident.Amount = -1 })},
		{"backends.vqa.slots", "want 0 or more", to(func(b *backend.Config) { b.Slots = -1 })},
		{"backends.vqa.breaker.when_open", "reject or hold", to(func(b *backend.Config) { b.Breaker.WhenOpen = "wait" })},
		{"backends.vqa.breaker.failures", "want 1 or more", to(func(b *backend.Config) { b.Breaker.Failures = 0 })},
		{"backends.vqa.breaker.open", "want a time such as 30s", to(func(b *backend.Config) { b.Breaker.Open = 0 })},
		{"backends.vqa.health.path", "want one such as /health", to(func(b *backend.Config) { b.Health = backend.HealthConfig{Path: "health", Every: 1} })},
		{"backends.vqa.health.path", "want one such as /health",
			to(func(b *backend.Config) { b.Health = backend.HealthConfig{Path: "http://other/health", Every: 1} })},
		{"backends.vqa.health.path", "want one such as /health", to(func(b *backend.Config) { b.Health = backend.HealthConfig{Path: "/%zz", Every: 1} })},
		{"backends.vqa.health.every", "want a time such as 5s", to(func(b *backend.Config) { b.Health.Path = "/health" })},

		{"routes[1].name", "routes[0] has it too: want a name of its own", route(func(r *routing.RouteConfig) { r.Name = "images" })},
		{"routes[1].class", "want heavy or light, or pass: true", route(func(r *routing.RouteConfig) { r.Class = "" })},
		{"routes[1].class", "not in classes: want heavy or light", route(func(r *routing.RouteConfig) { r.Class = "lihgt" })},
		{"routes[1].class", "want class or pass, not both", route(func(r *routing.RouteConfig) { r.Pass = true })},
		{"routes[1].vram", "want it left out", route(func(r *routing.RouteConfig) { r.Pass, r.Class, r.VRAM = true, "", "1GiB" })},
		{"routes[1].backend", "missing: want flux or vqa", route(func(r *routing.RouteConfig) { r.Backend = "" })},
		{"routes[1].errors", "openai or ollama", route(func(r *routing.RouteConfig) { r.Errors = "html" })},
		{"routes[1].vram", "want an amount such as 20GiB", amount("-1GiB")},
		{"routes[1].vram", "want an amount such as 20GiB", amount("twenty")},
		{"routes[1].vram", "or an expression in bytes", amount(`"20GiB"`)},
		{"routes[1].vram", "or an expression in bytes", amount(`gib("20")`)},
		{"routes[1].vram", "or an expression in bytes", amount("gib(bodi.n)")},
		{"routes[1].vram", "want 40GiB or less", amount("41GiB")},
		{"routes[1].match.method", "want one in capitals, such as POST", match(func(m *routing.MatchConfig) { m.Method = routing.Texts{"post"} })},
		{"routes[1].match.method", "want one in capitals, such as POST", match(func(m *routing.MatchConfig) { m.Method = routing.Texts{"GET,POST"} })},
		{"routes[1].match.method", "never forwarded: want another", match(func(m *routing.MatchConfig) { m.Method = routing.Texts{"CONNECT"} })},
		{"routes[1].match.path", "want a pattern such as", pattern("v1/x")},
		{"routes[1].match.path", "regular expressions are not patterns", pattern("^/v1/.*$")},
		{"routes[1].match.path", "regular expressions are not patterns", pattern(`/v1/\d+`)},
		{"routes[1].match.path", "want it there, or a segment with a name", pattern("/**/x")},
		{"routes[1].match.path", "want it there, or a segment with a name", pattern("/a//b")},
		{"routes[1].match.path", "want it there, or a segment with a name", pattern("/{a...}/b")},
		{"routes[1].match.path", "want it there, or a segment with a name", pattern("/{$}/b")},
		{"routes[1].match.path", "want {name} for one segment, or ** at the end", pattern("/a{b}")},
		{"routes[1].match.path", "want {name} for one segment, or ** at the end", pattern("/*.png")},
		{"routes[1].match.path", "want it as it reads decoded", pattern("/a%20b")},
		{"routes[1].match.path", "want a path without dot segments", pattern("/a/../b")},
		{"routes[1].match.path", "want a path without dot segments", pattern("/a;b")},
		{"routes[1].match.path", "want match.when", pattern("/a?n=1")},
		{"routes[1].match.path", "want letters, digits and underscores", pattern("/{a-b}")},
		{"routes[1].match.path", "want letters, digits and underscores", pattern("/{}")},
		{"routes[1].match.path", "want each name once", pattern("/{a}/{a}")},
		{"routes[1].match.host", "want a name such as", host("example.com:80")},
		{"routes[1].match.host", "want a name such as", host("http://example.com")},
		{"routes[1].match.host", "want a name such as", host("*")},
		{"routes[1].match.host", "want a name such as", host("*.")},
		{"routes[1].match.host", "want a name such as", host("*example.com")},
		{"routes[1].match.host", "want a name such as", host(".example.com")},
		{"routes[1].match.host", "want a name such as", host("a.*.com")},
		{"routes[1].match.host", "want a name such as", host("example.com.")},
		{"routes[1].match.headers.host", "want match.host", header("host")},
		{"routes[1].match.headers.x_y", "want letters, digits and dashes", header("x_y")},
		{"routes[1].match.headers.a b", "want letters, digits and dashes", header("a b")},
		{"routes[1].match.headers.", "want letters, digits and dashes", header("")},
		{"routes[1].match.when", "want a condition such as", expression("body.n ==")},
		{"routes[1].match.when", "want a condition such as", expression("1 + 1")},
		{"routes[1].match.when", "want a condition such as", expression("now() == body.n")},
		{"routes[1].match.when", "want a condition such as", expression(`body.model == "a" || modle == "b"`)},
		{"routes[1].match.when", "want the name in lower case", expression(`header["X-Tier"] == "gold"`)},
		{"routes[1].match.when", "want one loop", expression("any(body.l, any(body.m, # > 1))")},
		{"routes[1].match.when", "want a condition such as", expression("body.n" + strings.Repeat(" + 1", 200) + " > 1")},

		{"routes[2].match", "never reached: routes[1] (vqa) matches all of it first: want this one before it", pattern("/**")},
	} {
		config := aConfig(heavy("images", path("/v1/images")), light("vqa", path("/v1/vqa")), pass("rest", path("/**")))
		c.spoil(&config)
		got := mistakes(config)
		if len(got) != 1 || !strings.HasPrefix(got[0], c.path+": ") || !strings.Contains(got[0], c.says) || strings.Contains(got[0], "\n") {
			t.Errorf("got %q\nwant one, %s: … %s", got, c.path, c.says)
		}
		if strings.Contains(strings.Join(got, " "), "secret") {
			t.Errorf("a password is repeated: %q", got)
		}
	}
}

func TestAllMistakesAreReportedAtOnce(t *testing.T) {
	c := aConfig(heavy("a", path("a")), light("b", when("1")), pass("", path("/**")), light("", path("/x")))
	c.Classes["light"] = routing.ClassConfig{}
	c.Backends["flux"] = backend.Config{}
	got := mistakes(c)
	for i := range got {
		got[i], _, _ = strings.Cut(got[i], ": ")
	}
	want := []string{
		"classes.light.slots", "classes.light.estimate",
		"backends.flux.url", "backends.flux.breaker.failures", "backends.flux.breaker.open",
		"routes[0].match.path", "routes[1].match.when", "routes[3].match",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestARuleThatIsNeverReachedIsNamed(t *testing.T) {
	match := func(method, path, host, when string, headers ...string) routing.MatchConfig {
		m := routing.MatchConfig{Method: routing.Texts{method}, Path: routing.Texts{path}, Host: host, When: when, Headers: make(map[string]string)}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, "=")
			m.Headers[name] = value
		}
		return m
	}
	for _, c := range []struct {
		name          string
		first, second routing.MatchConfig
		hidden        bool
	}{
		{"the same", path("/a"), path("/a"), true},
		{"everything", match("", "", "", ""), path("/a"), true},
		{"a slash at the end", path("/a"), path("/a/{$}"), true},
		{"without it", path("/a/{$}"), path("/a"), false},
		{"a wildcard", path("/{x}/b"), path("/a/b"), true},
		{"two names of one wildcard", path("/{x}"), path("/{y}"), true},
		{"a literal before a wildcard", path("/a"), path("/{x}"), false},
		{"a tree", path("/a/**"), path("/a/{x}/b"), true},
		{"a tree and its root", path("/a/**"), path("/a"), true},
		{"the root of a tree", path("/a"), path("/a/**"), false},
		{"a tree below another", path("/a/b/**"), path("/a/**"), false},
		{"one step and a tree", path("/a/{x}"), path("/a/**"), false},
		{"GET before HEAD", match("GET", "", "", ""), match("HEAD", "", "", ""), true},
		{"HEAD before GET", match("HEAD", "", "", ""), match("GET", "", "", ""), false},
		{"one method before all", match("GET", "", "", ""), match("", "", "", ""), false},
		{"a host", match("", "", "a.com", ""), match("", "", "A.com", ""), true},
		{"a host before all", match("", "", "a.com", ""), path("/a"), false},
		{"all below a host", match("", "", "*.a.com", ""), match("", "", "b.a.com", ""), true},
		{"further below", match("", "", "*.a.com", ""), match("", "", "*.b.a.com", ""), true},
		{"not the host itself", match("", "", "*.a.com", ""), match("", "", "a.com", ""), false},
		{"a header", match("", "", "", "", "X-A=1"), match("", "", "", "", "x-a=1", "B=2"), true},
		{"another value", match("", "", "", "", "X-A=1"), match("", "", "", "", "X-A=2"), false},
		{"any value", match("", "", "", "", "X-A=*"), match("", "", "", "", "X-A=2"), true},
		{"one value before any", match("", "", "", "", "X-A=1"), match("", "", "", "", "X-A=*"), false},
		{"a header before none", match("", "", "", "", "X-A=1"), path("/a"), false},
		{"a condition", when("body.n == 1"), path("/**"), false},
		{"a condition behind", path("/**"), when("body.n == 1"), true},
		{"an open condition after the same", when("body.n == 1"), when("body.n == 1"), false},
	} {
		got := mistakes(aConfig(light("first", c.first), heavy("second", c.second)))
		hidden := len(got) == 1 && strings.HasPrefix(got[0], "routes[1].match: never reached: routes[0] (first)")
		if hidden != c.hidden || !hidden && len(got) > 0 {
			t.Errorf("%s: got %q, want hidden: %v", c.name, got, c.hidden)
		}
	}
}

func TestWhatNeverFitsItsCardIsReportedOnceForEachAmount(t *testing.T) {
	c := aConfig(light("a", path("/a")), light("b", path("/b")), heavy("c", path("/c")))
	k := c.Classes["light"]
	k.VRAM.Amount = 41 * admission.GiB
	c.Classes["light"] = k
	if got := mistakes(c); len(got) != 1 || !strings.Contains(got[0],
		"classes.light.vram: 41GiB: more than gpu0 can ever give beside the 7GiB that backend vqa holds: want 40GiB or less") {
		t.Errorf("got %q", got)
	}
	c.Routes[0].VRAM, c.Routes[1].VRAM = "1GiB", "1GiB" // then the class's is never asked for
	if got := mistakes(c); got != nil {
		t.Errorf("got %q", got)
	}
	c.Room = nil
	c.Routes[0].VRAM = "4000GiB"
	if got := mistakes(c); got != nil {
		t.Errorf("without a bound: got %q", got)
	}
}

func TestRefusalsSpeakTheDialectOfTheRouteTheBackendOrThePath(t *testing.T) {
	for _, c := range []struct{ route, backend, path, want string }{
		{"", "", "/x", "problem"},
		{"", "", "", "problem"},
		{"", "", "/v1/images", "openai"},
		{"auto", "auto", "/v1/**", "openai"},
		{"", "", "/api/chat", "ollama"},
		{"", "", "/api/embeddings", "ollama"},
		{"", "", "/api/prompt", "problem"},
		{"", "grpc", "/v1/images", "grpc"},
		{"auto", "grpc", "/v1/images", "grpc"},
		{"problem", "grpc", "/v1/images", "problem"},
	} {
		config := aConfig(heavy("", path(c.path)))
		config.Routes[0].Errors = c.route
		b := config.Backends["flux"]
		b.Errors = c.backend
		config.Backends["flux"] = b
		target := strings.ReplaceAll(c.path, "**", "x")
		if target == "" {
			target = "/"
		}
		d, err := decide(t, compiled(t, config), asServed(t, "GET "+target), routing.Body{})
		if err != nil || d.Route.Errors != c.want {
			t.Errorf("route %q, backend %q, path %q: got %q, %v; want %q", c.route, c.backend, c.path, d.Route.Errors, err, c.want)
		}
		if d.Route.Name != "routes[0]" || d.Route.ClassName != "heavy" || d.Route.Class.Slots != 1 || d.Route.Backend != "flux" {
			t.Errorf("got %+v", d.Route)
		}
	}
}

func TestATableOfABadConfigurationIsRefused(t *testing.T) {
	_, err := routing.NewTable(aConfig(heavy("a", path("a")), light("b", when("1"))))
	if err == nil || !strings.Contains(err.Error(), "routes[0].match.path") || !strings.Contains(err.Error(), "routes[1].match.when") {
		t.Errorf("got %v, want both mistakes", err)
	}
}
