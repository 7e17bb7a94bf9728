package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/configs"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/routing"
	"github.com/anteroom-gpu/anteroom/simulation/replay"
	"github.com/anteroom-gpu/anteroom/simulation/replay/configured"
)

// verdict is what admission would decide about a request while nothing runs.
type verdict struct {
	Idle   *prospect `json:"idle"`          // nothing has worked yet
	Worked *prospect `json:"others_worked"` // each other backend has, and retains what it took
	Note   string    `json:"note,omitempty"`
}

// prospect is one answer: "starts", "waits" (and starts then) or "refused".
type prospect struct {
	Verdict string         `json:"verdict"`
	Wait    float64        `json:"wait_s"`
	Unloads []string       `json:"unloads,omitempty"` // backends, for it
	Code    admission.Code `json:"code,omitempty"`    // of a refusal
	Says    string         `json:"says"`
}

// judge asks the rules of the configuration about a request that was explained.
func judge(config *configs.Config, file string, e explanation) *verdict {
	box, mistakes := configured.Box(file, config)
	if len(mistakes) > 0 {
		return &verdict{Note: "not known: " + mistakes.Error()}
	}
	// The verdict uses the figures of the configuration alone. With a real card a request
	// that does not fit by these figures is tried after a while; here no engine could fail.
	box.Readings = replay.Readings{}
	v := &verdict{}
	at := slices.IndexFunc(box.Routes, func(r replay.Route) bool { return r.Name == e.Route })
	for _, worked := range []bool{false, true} {
		p, err := replay.Ask(box, box.Routes[at], e.vram, worked)
		if err != nil {
			return &verdict{Note: "not known: " + err.Error()}
		}
		if said := newProspect(p); worked {
			v.Worked = said
		} else {
			v.Idle = said
		}
	}
	for _, text := range box.Unplayed {
		if strings.HasPrefix(text, "backend ") || strings.HasPrefix(text, "route "+e.Route+": ") {
			v.Note = "what is learned is not known here, and counts as 0 or as is declared"
		}
	}
	return v
}

func newProspect(p replay.Prospect) *prospect {
	out := &prospect{Verdict: "starts", Wait: p.Wait.Seconds(), Unloads: p.Unloads, Code: p.Code, Says: "starts at once"}
	var unloads string
	if len(p.Unloads) > 0 {
		unloads = ", after " + strings.Join(p.Unloads, " and ") + " was unloaded for it"
	}
	switch {
	case p.Code != "" && p.Wait == 0:
		out.Verdict, out.Says = "refused", strings.Join(nonEmpty(fmt.Sprintf("is refused (%s)", p.Code), p.Detail), ": ")
	case p.Code != "":
		out.Verdict = "refused"
		out.Says = fmt.Sprintf("waits for %v and is refused then (%s): %s", p.Wait.Round(100*time.Millisecond), p.Code, admin.Says(p.Waiter))
		for _, k := range p.Waiter.Keepers {
			if !k.Reclaims {
				out.Says += fmt.Sprintf("; %s retains %v and is not unloaded", k.Backend, k.High)
			}
		}
	case p.Wait > 0:
		out.Verdict, out.Says = "waits", fmt.Sprintf("waits for %v%s", p.Wait.Round(100*time.Millisecond), unloads)
	case unloads != "":
		out.Says += unloads
	}
	return out
}

func nonEmpty(all ...string) []string {
	return slices.DeleteFunc(all, func(text string) bool { return text == "" })
}

// print writes the verdict for people.
func (v *verdict) print(line func(name, format string, a ...any)) {
	if v.Idle == nil {
		line("verdict", "%s", v.Note)
		return
	}
	says := v.Idle.Says
	if v.Idle.Verdict != "refused" {
		says += " while nothing runs"
	}
	line("verdict", "%s", says)
	if v.Worked.Says != v.Idle.Says {
		line("", "%s", "once the other backends have worked: "+v.Worked.Says)
	}
	if v.Note != "" {
		line("", "%s", "("+v.Note+")")
	}
}

// reading is one way in which a backend may read a request.
type reading struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	Route  string `json:"route,omitempty"`
	Class  string `json:"class,omitempty"`
	To     string `json:"backend,omitempty"`
	Pass   bool   `json:"pass,omitempty"`
	Says   string `json:"says,omitempty"` // why it has no route
}

func readings(config *configs.Config, r *http.Request, body []byte) (all []reading) {
	table, err := routing.NewTable(config.Routing)
	if err != nil {
		return nil
	}
	found, err := table.Readings(r, routing.Body{Prefix: body, Size: int64(len(body))})
	if err != nil {
		return []reading{{Method: r.Method, Path: r.URL.Path, Says: err.Error()}}
	}
	for _, f := range found {
		one := reading{Method: f.Method, Path: f.Path}
		switch d := f.Decision; {
		case errors.Is(f.Err, routing.ErrNoRoute):
			one.Says = "no route"
		case f.Err != nil:
			one.Says = f.Err.Error()
		default:
			one.Route, one.Class, one.To, one.Pass = d.Route.Name, d.Route.ClassName, d.Route.Backend, d.Pass
		}
		all = append(all, one)
	}
	return all
}

func printReadings(w io.Writer, all []reading) {
	for _, r := range all {
		says := r.Says
		switch {
		case r.Pass:
			says = fmt.Sprintf("%s, past admission to %s", r.Route, r.To)
		case says == "":
			says = fmt.Sprintf("%s, class %s of %s", r.Route, r.Class, r.To)
		}
		fmt.Fprintf(w, "read as   %s %s: %s\n", r.Method, printable(r.Path), says)
	}
}

// printable is a path without control characters.
func printable(path string) string {
	quoted := fmt.Sprintf("%q", path)
	return quoted[1 : len(quoted)-1]
}
