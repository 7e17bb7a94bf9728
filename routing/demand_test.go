package routing_test

import (
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/routing"
)

const (
	mib = admission.MiB
	gib = admission.GiB
)

func demand(t *testing.T, vram, body string, headers ...string) admission.Bytes {
	t.Helper()
	route := heavy("it", path("/**"))
	route.VRAM = vram
	r, b := posted(t, "/", body, headers...)
	d, err := decide(t, aTable(t, route), r, b)
	if err != nil {
		t.Fatal(err)
	}
	if d.Why == "" {
		t.Error("no Why")
	}
	return d.VRAM
}

func TestADemandIsAConstantOrWorkedOut(t *testing.T) {
	const images = "gib(18) + gib(4) * num(body.n, 1) * megapixels(body.size, 1)"
	for _, c := range []struct {
		vram, body string
		want       admission.Bytes
	}{
		{"", "{}", 34 * gib},
		{"20GiB", "{}", 20 * gib},
		{"20.125GiB", "{}", 20*gib + 128*mib}, // a constant is not rounded
		{"0", "{}", 0},
		{"gib(20)", "{}", 20 * gib},
		{"gib(20) + 1", "{}", 22 * gib},
		{images, "{}", 22 * gib},
		{images, "", 34 * gib}, // no body has no fields
		{images, `{"n":2}`, 26 * gib},
		{images, `{"n":"2"}`, 26 * gib},
		{images, `{"n":2,"size":"auto"}`, 26 * gib},
		{images, `{"size":"2000x1000"}`, 26 * gib},
		{images, `{"n":1000}`, 4096 * gib}, // more than the card: the controller refuses it
		{images, `{"n":1e290}`, 1 << 60},
		{"gib(size)", `{"a":1}`, 7 * gib},
	} {
		if got := demand(t, c.vram, c.body); got != c.want {
			t.Errorf("vram %q with %s: got %v, want %v", c.vram, c.body, got, c.want)
		}
	}
}

func TestADemandThatCannotBeWorkedOutIsTheClasses(t *testing.T) {
	for _, c := range []struct {
		vram, body string
		headers    []string
	}{
		{"gib(1) * body.n", `{"n":"1"}`, nil},
		{"gib(1) * body.n", `{}`, nil},
		{"gib(1) * body.n", `{"n":[1]}`, nil},
		{"gib(1) * body.n", `[]`, nil},
		{"gib(1) * body.n", `{"n":1,"n":2}`, nil},
		{"gib(1) * body.n", `{"n":1`, nil},
		{"gib(1) * body.n", `{"n":1}`, []string{"Content-Encoding: br"}},
		{"gib(1) * body.n", `{"n":-1}`, nil},
		{"gib(1) / body.n", `{"n":0}`, nil},
		{"gib(num(body.n, 1))", `{"n":"1,5"}`, nil},
		{"gib(num(body.n, 1))", `{"n":"0x32"}`, nil},
		{"gib(num(body.n, 1))", `{"n":"٥٠"}`, nil},
		{"gib(num(body.n, 1))", `{"n":"nan"}`, nil},
		{"gib(num(body.n, 1))", `{"n":"-inf"}`, nil},
		{"gib(megapixels(body.size, 1))", `{"size":"512"}`, nil},
		{"gib(megapixels(body.size, 1))", `{"size":"1,024x1,024"}`, nil},
		{"gib(megapixels(body.size, 1))", `{"size":"-512x512"}`, nil},
		{"gib(num(header.n, 1))", `{}`, []string{"N: 1", "N: 2"}},
		{"gib(num(query.n, 1))", `{}`, nil},
	} {
		target := "/?n=1;n=2"
		route := heavy("it", path("/**"))
		route.VRAM = c.vram
		r, b := posted(t, target, c.body, c.headers...)
		d, err := decide(t, aTable(t, route), r, b)
		if err != nil || d.VRAM != 34*gib {
			t.Errorf("vram %q with %s %v: got %v, %v; want the class's %v", c.vram, c.body, c.headers, d.VRAM, err, 34*gib)
		}
	}
}

func TestADemandIsRoundedUpToABucket(t *testing.T) {
	for vram, want := range map[string]admission.Bytes{
		"gib(0) * 1":      0,
		"gib(0) + 1":      64 * mib,
		"gib(0.0625)":     64 * mib,
		"gib(0.0625) + 1": 128 * mib,
		"gib(1)":          1 * gib,
		"gib(1) + 1":      1*gib + 128*mib,
		"gib(2) + 1":      2*gib + 256*mib,
		"gib(15) + 1":     16 * gib,
		"gib(33)":         36 * gib,
		"gib(44)":         44 * gib,
		"gib(44) + 0.5":   47 * gib, // not 48: that would never fit
		"gib(47)":         47 * gib, // what fits exactly stays so
		"gib(47) + 1":     48 * gib, // what never fits is not made to
	} {
		if got := demand(t, vram, "{}"); got != want {
			t.Errorf("vram %q: got %v, want %v", vram, got, want)
		}
	}
}

func TestABucketDoesNotGoPastWhatIsLeftBesideTheResident(t *testing.T) {
	route := light("it", path("/**"))
	route.VRAM = "gib(39.5)"
	d, err := decide(t, aTable(t, route), asServed(t, "POST /"), routing.Body{})
	if err != nil || d.VRAM != 40*gib {
		t.Errorf("with 40 GiB left: got %v, %v", d.VRAM, err)
	}
	c := aConfig(route)
	c.Room = nil
	d, err = decide(t, compiled(t, c), asServed(t, "POST /"), routing.Body{})
	if err != nil || d.VRAM != 40*gib {
		t.Errorf("without a bound: got %v, %v", d.VRAM, err)
	}
	c.Room = map[string]admission.Bytes{"gpu0": 46*gib + 768*mib}
	d, err = decide(t, compiled(t, c), asServed(t, "POST /"), routing.Body{})
	if err != nil || d.VRAM != 39*gib+768*mib {
		t.Errorf("with 39.75 GiB left: got %v, %v", d.VRAM, err)
	}
}

func TestTheUndecidableDemandIsComparedAsItIsWorkedOut(t *testing.T) {
	small := heavyToo("small", when(`header.a == "1"`))
	small.VRAM = "gib(2)"
	table := aTable(t, small, routing.RouteConfig{Name: "big", Match: path("/**"), Class: "light", Backend: "vqa", VRAM: "gib(3)"})
	wantRule(t, table, asServed(t, "GET /", "A: 1", "A: 2"), routing.Body{}, "big")
	wantRule(t, table, asServed(t, "GET /", "A: 1"), routing.Body{}, "small")
}
