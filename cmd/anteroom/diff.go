package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/routing"
)

// difference is what `check --diff --json` prints.
type difference struct {
	Requests []requestChange  `json:"requests"`
	Settings []configs.Change `json:"settings"`
}

// requestChange is a kind of request that is answered differently.
type requestChange struct {
	Request  string `json:"request"` // "POST /v1/chat/completions, model llama3"
	Listener string `json:"listener,omitempty"`
	Before   string `json:"before"`
	After    string `json:"after"`
}

// runDiff is `check --diff OLD NEW`.
func runDiff(o configs.Options, oldFile, newFile string, asJSON bool, stdout, stderr io.Writer) int {
	var both [2]*configs.Config
	code := 0
	for i, file := range []string{oldFile, newFile} {
		o.File = file
		config, mistakes := loadConfig(o)
		for _, m := range mistakes {
			fmt.Fprintln(stderr, m)
			code = 1
		}
		both[i] = config
	}
	if code != 0 {
		return code
	}
	d := difference{Requests: requestChanges(both[0], both[1]), Settings: configs.Diff(both[0], both[1])}
	if asJSON {
		printJSON(stdout, d)
		return 0
	}
	for i, r := range d.Requests {
		on := ""
		if r.Listener != "" {
			on = " on listener " + r.Listener
		}
		fmt.Fprintf(stdout, "%s%s\n", r.Request, on)
		if i+1 == len(d.Requests) || d.Requests[i+1].Before != r.Before || d.Requests[i+1].After != r.After {
			fmt.Fprintf(stdout, "    before: %s\n    after:  %s\n", r.Before, r.After)
		}
	}
	for _, c := range d.Settings {
		fmt.Fprintf(stdout, "%s: %s", c.Path, strings.Join(nonEmpty(c.Before, c.After), " → "))
		if len(c.For) > 0 {
			fmt.Fprintf(stdout, " (for %s)", strings.Join(c.For, ", "))
		}
		fmt.Fprintln(stdout)
	}
	if len(d.Requests)+len(d.Settings) == 0 {
		fmt.Fprintln(stdout, "nothing changes")
	}
	return 0
}

// requestChanges asks both configurations about one request for each method, path and model
// that a route of either names. Routes with `when` are left out, because it is not known
// which requests fulfil the condition.
func requestChanges(before, after *configs.Config) []requestChange {
	changes := []requestChange{}
	asked := make(map[requestChange]bool) // by name and listener
	tables := make(map[string][2]*routing.Table)
	ask := func(p probe, listener string) {
		change := requestChange{Request: p.name, Listener: listener}
		if asked[change] {
			return
		}
		asked[change] = true
		if _, made := tables[listener]; !made {
			tables[listener] = [2]*routing.Table{tableOf(before, listener), tableOf(after, listener)}
		}
		change.Before, change.After = p.answer(before, tables[listener][0]), p.answer(after, tables[listener][1])
		if change.Before != change.After {
			changes = append(changes, change)
		}
	}
	for _, config := range []*configs.Config{before, after} {
		for i := range config.Routing.Routes {
			r := &config.Routing.Routes[i]
			if r.Match.When != "" {
				continue
			}
			for _, listener := range listenersOf(config, r) {
				for _, p := range probesOf(r) {
					ask(p, listener)
				}
			}
		}
	}
	return changes
}

// listenersOf are the listeners that a route is for, in order of their names.
func listenersOf(config *configs.Config, r *routing.RouteConfig) []string {
	if r.Listener != "" {
		return []string{r.Listener}
	}
	listeners := []string{""} // the main one
	for name, l := range config.Proxy.Listeners {
		if l.Backend == r.Backend {
			listeners = append(listeners, name)
		}
	}
	slices.Sort(listeners)
	return listeners
}

// tableOf is the table of a listener; nil: there is no such listener.
func tableOf(config *configs.Config, listener string) *routing.Table {
	l, exists := config.Proxy.Listeners[listener]
	if listener != "" && !exists {
		return nil
	}
	table, err := routing.NewTable(config.Routing.On(listener, l.Backend))
	if err != nil {
		return nil // cannot happen: it was compiled when it was loaded
	}
	return table
}

// probe is a request as a route matches it.
type probe struct {
	name, method, path, body string
	header                   http.Header
}

func probesOf(r *routing.RouteConfig) (all []probe) {
	methods, paths, models := r.Match.Method, r.Match.Path, r.Match.Model
	if len(methods) == 0 {
		methods = routing.Texts{"GET", "POST"}
	}
	if len(paths) == 0 {
		paths = routing.Texts{"/**"}
	}
	if len(models) == 0 {
		models = routing.Texts{""}
	}
	host := strings.Replace(r.Match.Host, "*", "a", 1)
	for _, method := range methods {
		for _, path := range paths {
			for _, model := range models {
				p := probe{name: method + " " + path, method: method, path: samplePath(path), header: http.Header{}}
				if model != "" {
					p.name += ", model " + model
					p.body = fmt.Sprintf(`{"model": %q}`, strings.ReplaceAll(model, "*", "a"))
				}
				if host != "" {
					p.name += ", host " + r.Match.Host
					p.header.Set("Host", host)
				}
				for name, value := range r.Match.Headers {
					p.header.Set(name, cmp.Or(strings.Replace(value, "*", "a", 1), "a"))
				}
				for _, name := range slices.Sorted(maps.Keys(r.Match.Headers)) {
					p.name += ", " + name + ": " + r.Match.Headers[name]
				}
				all = append(all, p)
			}
		}
	}
	return all
}

// samplePath is a path that a pattern matches.
func samplePath(pattern string) string {
	segments := strings.Split(pattern, "/")
	for i, s := range segments {
		switch {
		case s == "{$}":
			segments[i] = ""
		case s == "**", strings.HasPrefix(s, "{"), s == "" && i > 0 && i == len(segments)-1:
			segments[i] = "a"
		}
	}
	return strings.Join(segments, "/")
}

// answer is what a configuration makes of the request, in words.
func (p probe) answer(config *configs.Config, table *routing.Table) string {
	if table == nil {
		return "no such listener"
	}
	r, err := newRequest(p.method, p.path, p.header.Clone(), []byte(p.body))
	if err != nil {
		return err.Error()
	}
	candidates, err := table.Find(r)
	var d routing.Decision
	if err == nil {
		d, err = candidates.Decide(r, routing.Body{Prefix: []byte(p.body), Size: int64(len(p.body))})
	}
	switch {
	case errors.Is(err, routing.ErrNoRoute):
		return "404 no_route"
	case errors.Is(err, routing.ErrControl):
		return "403 control_route"
	case err != nil:
		return err.Error()
	case d.Pass:
		return "past admission to " + d.Route.Backend
	}
	takes := admission.Bytes(d.VRAM).String()
	if d.Route.Learn {
		takes = "a learned amount"
	}
	return fmt.Sprintf("class %s of %s, takes %s", d.Route.ClassName, d.Route.Backend, takes)
}
