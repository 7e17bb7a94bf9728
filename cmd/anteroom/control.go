package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"
)

// action is a control call of the admin API as a command.
type action struct {
	name, argument, does string // argument is empty where there is none
	// paths has one path, with the argument for %s, or two: that of a class and that of a
	// backend.
	paths []string
	done  string // what is printed then; %s is the argument
}

// actions are the control calls. The admin listener logs each with the operator, the action
// and the reason.
var actions = []action{
	{"pause", "CLASS", "stop a class's grants: its queue stays, and what runs goes on", []string{"/api/classes/%s/pause"}, "%s is paused"},
	{"resume", "CLASS|BACKEND", "undo pause or drain", []string{"/api/classes/%s/resume", "/api/backends/%s/resume"}, "%s takes work again"},
	{"drain", "BACKEND", "give a backend no new work: what waits for it waits on", []string{"/api/backends/%s/drain"}, "%s gets no new work"},
	{"unload", "BACKEND", "unload a backend when what runs there has ended, pinned or not", []string{"/api/backends/%s/reclaim"},
		"%s is being unloaded; `anteroom backends` shows what comes of it"},
	{"wake", "BACKEND", "load a backend that is asleep, where there is room", []string{"/api/backends/%s/wake"},
		"%s is being woken; `anteroom backends` shows what comes of it"},
	{"cancel", "ID", "end a waiting request; `anteroom queue` has its id", []string{"/api/queue/%s/cancel"}, "request %s is cancelled"},
	{"release", "ID", "give the grant of work back that is known to be over", []string{"/api/grants/%s/release"}, "grant %s is given back"},
	{"forget", "ROUTE", "forget what was learned of a route", []string{"/api/learned/%s/forget"}, "what was learned of %s is forgotten"},
	{"reload", "", "read the configuration again", []string{"/api/reload"}, "the configuration is reloaded"},
}

// command makes an action a command.
func (a action) command() command {
	does := a.does
	if a.argument != "" {
		does += ": " + a.argument
	}
	return command{a.name, does, a.run}
}

func (a action) run(args []string, stdout, stderr io.Writer) int {
	fs := newFlags(a.name, a.argument, strings.ToUpper(a.does[:1])+a.does[1:]+".", stderr)
	reach := clientFlags(fs)
	reason := fs.String("reason", "", "why, for the log: `TEXT`")
	asJSON := fs.Bool("json", false, "print JSON")
	wanted := 0
	if a.argument != "" {
		wanted = 1
	}
	given, code, done := parseMixed(fs, args, wanted)
	if done {
		return code
	}
	on := ""
	if wanted > 0 {
		on = given[0]
	}
	err := a.do(reach(), on, *reason)
	if err != nil {
		fmt.Fprintf(stderr, "anteroom %s: %v\n", a.name, err)
		return 1
	}
	if *asJSON {
		printJSON(stdout, map[string]any{"action": a.name, "on": on, "reason": *reason})
		return 0
	}
	fmt.Fprintln(stdout, strings.ReplaceAll(a.done, "%s", on))
	return 0
}

func (a action) do(c *client, on, reason string) error {
	path := a.paths[0]
	if len(a.paths) > 1 {
		// The names are looked up, and not tried one after the other: a refused call would
		// be logged as an operator's mistake.
		var state struct {
			Classes []struct{ Name string }
		}
		if err := c.get("/api/state", &state); err != nil {
			return err
		}
		if !slices.ContainsFunc(state.Classes, func(class struct{ Name string }) bool { return class.Name == on }) {
			path = a.paths[1]
		}
	}
	err := c.post(strings.ReplaceAll(path, "%s", url.PathEscape(on)), reason)
	if len(a.paths) > 1 && isNotFound(err) {
		return fmt.Errorf("there is no class and no backend %q", on)
	}
	return err
}

// runHealth is `anteroom health`, for checks of containers: 0 where the proxy is ready.
func runHealth(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("health", "", "Say whether a running proxy is ready for requests: exit code 0 where it is, else 1.", stderr)
	reach := clientFlags(fs)
	live := fs.Bool("live", false, "ask whether it runs, ready or not")
	asJSON := fs.Bool("json", false, "print JSON, with the parts that are not ready")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	path := "/readyz"
	if *live {
		path = "/livez"
	}
	c := reach()
	c.http.Timeout = 5 * time.Second
	if *asJSON && !*live {
		path += "?verbose"
	}
	body, err := c.do(http.MethodGet, path)
	if err != nil {
		fmt.Fprintln(stderr, "anteroom health:", err)
		return 1
	}
	defer body.Close()
	io.Copy(stdout, body) // run checks whether it was written
	return 0
}

// runRecord is `anteroom record`.
func runRecord(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("record", "", "Write what a running proxy has served in the last minutes as a trace for `anteroom simulate`, or for "+
		"a trace viewer.", stderr)
	reach := clientFlags(fs)
	last := fs.Duration("for", 10*time.Minute, "the last `TIME`")
	format := fs.String("format", "csv", "`csv` for simulate, or trace for Perfetto (ui.perfetto.dev)")
	plain := fs.Bool("plain-tenants", false, "write tenants' names, and not words that stand for them")
	out := fs.String("out", "", "write to `FILE`, and not to standard output")
	if code, done := parse(fs, args, 0); done {
		return code
	}
	query := url.Values{"for": {last.String()}, "format": {*format}}
	if *plain {
		query.Set("tenants", "plain")
	}
	if err := saveRecord(reach(), "/api/record?"+query.Encode(), *out, stdout); err != nil {
		fmt.Fprintln(stderr, "anteroom record:", err)
		return 1
	}
	return 0
}

func saveRecord(c *client, path, out string, stdout io.Writer) error {
	body, err := c.do(http.MethodGet, path)
	if err != nil {
		return err
	}
	defer body.Close()
	if out == "" {
		_, err = io.Copy(stdout, body)
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, body); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
