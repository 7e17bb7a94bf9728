package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
)

// explanation is what `explain --json` prints.
type explanation struct {
	Route    string     `json:"route"`
	Class    string     `json:"class"`
	Backend  string     `json:"backend"`
	Pass     bool       `json:"pass"`
	Demand   demandJSON `json:"demand"`
	Estimate float64    `json:"estimate_s"`
	Reason   string     `json:"reason"`
	Verdict  *verdict   `json:"verdict,omitempty"`  // nil: it passes, or is refused before it asks
	Readings []reading  `json:"readings,omitempty"` // with --all-readings
	vram     admission.Bytes
}

type demandJSON struct {
	VRAM  map[string]int64 `json:"vram_bytes"` // by GPU, of each that a replica is on
	Slots int              `json:"slots"`
}

// headers collects -H flags.
type headers http.Header

func (h headers) String() string { return "" }

func (h headers) Set(text string) error {
	key, value, ok := strings.Cut(text, ":")
	if key = strings.TrimSpace(key); !ok || key == "" {
		return errors.New("want 'Key: value'")
	}
	http.Header(h).Add(key, strings.TrimSpace(value))
	return nil
}

func runExplain(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("explain", "METHOD PATH", "Say which rule a request would fall under, what it would ask for, and why.", stderr)
	options := configFlags(fs)
	header := headers{}
	fs.Var(header, "H", "send a `HEADER`, 'Key: value'; may be given often")
	text := fs.String("body", "", "send a `BODY`: text, @FILE, or - for standard input; JSON unless a Content-Type says otherwise")
	listener := fs.String("listener", "", "ask as on the listener `NAME` of listeners; empty: the main one")
	every := fs.Bool("all-readings", false, "list all the ways in which a backend may read the method and the path, with the rule of each")
	asJSON := fs.Bool("json", false, "print JSON")
	arguments, code, done := parseMixed(fs, args, 2)
	if done {
		return code
	}
	body, err := readBody(*text)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom explain: --body:", err)
		return 2
	}
	r, err := newRequest(arguments[0], arguments[1], http.Header(header), body)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom explain:", err)
		return 2
	}
	config, mistakes := loadConfig(options())
	if len(mistakes) > 0 {
		fmt.Fprintln(stderr, mistakes)
		return 1
	}
	l, exists := config.Proxy.Listeners[*listener]
	if !exists && *listener != "" {
		fmt.Fprintf(stderr, "anteroom explain: --listener %q: not in listeners: want one of %s\n", *listener,
			strings.Join(slices.Sorted(maps.Keys(config.Proxy.Listeners)), ", "))
		return 2
	}
	config.Routing = config.Routing.On(*listener, l.Backend)
	e, err := explain(config, r, body)
	if err != nil {
		e.Reason = err.Error()
		code = 1
	} else if !e.Pass {
		e.Verdict = judge(config, options().File, e)
	}
	if *every {
		e.Readings = readings(config, r, body)
	}
	switch {
	case *asJSON:
		printJSON(stdout, e)
	case code != 0:
		fmt.Fprintf(stderr, "%s %s: %s\n", r.Method, r.RequestURI, e.Reason)
	default:
		e.print(stdout, config)
	}
	if !*asJSON {
		printReadings(stdout, e.Readings)
	}
	return code
}

// readBody reads what --body says.
func readBody(text string) ([]byte, error) {
	if text == "-" {
		return io.ReadAll(os.Stdin)
	}
	if file, ok := strings.CutPrefix(text, "@"); ok {
		return os.ReadFile(file)
	}
	return []byte(text), nil
}

// newRequest is a request as a server would see it.
func newRequest(method, target string, header http.Header, body []byte) (*http.Request, error) {
	at, err := url.ParseRequestURI(target)
	if err != nil || !strings.HasPrefix(target, "/") {
		return nil, fmt.Errorf("path %q: want one that begins with /", target)
	}
	r, err := http.NewRequest(strings.ToUpper(method), "http://localhost/", nil)
	if err != nil {
		return nil, fmt.Errorf("method %q: want one such as POST", method)
	}
	r.URL, r.RequestURI, r.Header = at, target, header
	if host := header.Get("Host"); host != "" {
		// Where a server finds it.
		r.Host = host
		header.Del("Host")
	}
	if len(body) > 0 {
		if header.Get("Content-Type") == "" {
			header.Set("Content-Type", "application/json")
		}
		r.ContentLength = int64(len(body))
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	return r, nil
}

// explain asks the table that serve would ask.
func explain(config *configs.Config, r *http.Request, body []byte) (explanation, error) {
	e := explanation{Demand: demandJSON{VRAM: map[string]int64{}}}
	table, err := routing.NewTable(config.Routing)
	if err != nil {
		return e, err
	}
	candidates, err := table.Find(r)
	if err != nil {
		if errors.Is(err, routing.ErrNoRoute) {
			return e, errors.New("no route matches: it would be answered 404 no_route")
		}
		switch {
		case errors.Is(err, routing.ErrPath):
			err = fmt.Errorf("%w: it would be answered 400 ambiguous_path", err)
		case errors.Is(err, routing.ErrControl):
			err = fmt.Errorf("%w: it would be answered 403 control_route", err)
		case errors.Is(err, routing.ErrAmbiguous):
			err = fmt.Errorf("%w: it would be answered 400 ambiguous_body", err)
		}
		return e, err
	}
	limits := config.Proxy.Limits
	if admission.Bytes(len(body)) > limits.Body && !candidates.Free(r) {
		return e, fmt.Errorf("the body of %v is larger than limits.body (%v): it would be answered 413 body_too_large",
			admission.Bytes(len(body)), limits.Body)
	}
	d, err := candidates.Decide(r, routing.Body{Prefix: body, Size: int64(len(body))})
	if errors.Is(err, routing.ErrAmbiguous) {
		return e, fmt.Errorf("%w: it would be answered 400 ambiguous_body", err)
	}
	if err != nil {
		return e, err
	}
	e.Route, e.Class, e.Backend, e.Pass, e.Reason = d.Route.Name, d.Route.ClassName, d.Route.Backend, d.Pass, d.Why
	if e.Pass {
		return e, nil
	}
	e.Demand.Slots, e.vram = 1, d.VRAM
	e.Estimate = d.Route.Class.Estimate.Seconds()
	for _, server := range config.Routing.Backends[e.Backend].Servers() {
		for _, place := range server.Places() {
			e.Demand.VRAM[place.GPU] = int64(d.VRAM)
		}
	}
	if candidates.NeedBody() && len(body) == 0 {
		e.Reason += "; the rules look at the body: give one with --body"
	}
	return e, nil
}

// print writes the explanation for people.
func (e explanation) print(w io.Writer, config *configs.Config) {
	line := func(name, format string, a ...any) { fmt.Fprintf(w, "%-9s %s\n", name, fmt.Sprintf(format, a...)) }
	line("route", "%s", e.Route)
	servers := config.Routing.Backends[e.Backend].Servers()
	var addresses []string
	for _, server := range servers {
		addresses = append(addresses, redacted(server.URL))
	}
	line("backend", "%s (%s)", e.Backend, strings.Join(addresses, ", "))
	if e.Pass {
		line("pass", "forwarded at once: no queue, no slot")
	} else {
		class := config.Routing.Classes[e.Class]
		line("class", "%s (%d at once)", e.Class, class.Slots)
		name, said := "demand", map[string]bool{"": true}
		for _, server := range servers {
			if where := e.where(server); !said[where] {
				line(name, "%s", where)
				name, said[where] = "or", true
			}
		}
		line("estimate", "%v", class.Estimate)
	}
	if e.Reason != "" {
		line("because", "%s", e.Reason)
	}
	if e.Verdict != nil {
		e.Verdict.print(line)
	}
}

// where says what the request takes on one server, and beside what.
func (e explanation) where(server backend.Config) string {
	var parts []string
	for _, place := range server.Places() {
		part := fmt.Sprintf("%v on %s", admission.Bytes(e.Demand.VRAM[place.GPU]), place.GPU)
		if place.Resident > 0 {
			part += fmt.Sprintf(", beside the %v that %s holds", place.Resident, e.Backend)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " and ")
}

func redacted(address string) string {
	if u, err := url.Parse(address); err == nil {
		return u.Redacted()
	}
	return address
}
