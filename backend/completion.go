package backend

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/check"
	"github.com/anteroom-gpu/anteroom/routing/expression"
)

// CompletionConfig says how the end of work is found, for a backend that answers before it
// is done. Without a preset and a poll the answer is the end.
type CompletionConfig struct {
	Preset  string        `koanf:"preset"` // comfyui | gradio | a1111 | none
	On      []string      `koanf:"on"`     // METHOD /path of the calls that are answered early; empty: see Applies
	Poll    string        `koanf:"poll"`   // METHOD /path, with values of the answer
	Until   string        `koanf:"until"`  // an expression over the answer to poll
	Every   time.Duration `koanf:"every"`
	Timeout time.Duration `koanf:"timeout"`
	Cancel  string        `koanf:"cancel"` // METHOD /path and a body, with values of the answer
}

// early is what is known of an engine that answers before its work is done.
type early struct {
	submits func(path string) bool // whether a POST there is answered early
	poll    string
	until   string
	failed  string // after until: whether the work failed
	// gone and goneWhen find out that the engine does not know the work any more, so that
	// until will never be true.
	gone, goneWhen string
	without        []string // as in Call, of poll and gone
	watch          bool     // the end shows in a stream of events that a client reads
}

// isGradioCall says that a path is that of Gradio's plain interface, with at
// least n segments behind `call`: its name, and for its events also the id.
func isGradioCall(path string, n int) bool {
	_, behind, ok := strings.Cut(path, "/call/")
	return ok && behind != "" && !strings.HasSuffix(behind, "/") && strings.Count(behind, "/") >= n-1
}

// GradioEvents says whether a GET of the path is answered with Gradio's events, and names
// the event; empty: the events of all work of a session.
func GradioEvents(path string) (event string, ok bool) {
	if isGradioCall(path, 2) {
		return path[strings.LastIndexByte(path, '/')+1:], true
	}
	return "", strings.HasSuffix(path, "/queue/data")
}

// Completion is how a route's work is followed to its end. It is immutable.
type Completion struct {
	Every   time.Duration // between two polls
	Timeout time.Duration // from the answer on; after that the work is followed no more
	// Watch says that the end shows in Gradio's events alone.
	Watch bool

	on                  []string               // what is answered early; nil: submits says
	submits             func(path string) bool // of a POST; nil: any path, and any method that changes something
	poll, cancel, gone  *template              // nil: there is none
	until, failed, lost *expression.Condition
	without             []string // as in Call, of poll and gone
}

// Applies says whether the answer to a request is not the end of its work.
func (c *Completion) Applies(r *http.Request) bool {
	switch {
	case c == nil:
		return false
	case c.on != nil:
		return slices.Contains(c.on, r.Method+" "+r.URL.Path)
	case r.Method == http.MethodGet, r.Method == http.MethodHead, r.Method == http.MethodOptions:
		return false
	case c.submits == nil:
		return true
	}
	return r.Method == http.MethodPost && c.submits(r.URL.Path)
}

// Names says that the key `on` of the configuration names the request.
func (c *Completion) Names(r *http.Request) bool { return c != nil && c.on != nil && c.Applies(r) }

// Job is work that goes on after its answer.
type Job struct {
	// Poll asks for its state, Gone asks whether the engine knows it, Cancel ends it. The
	// zero Call: there is none.
	Poll, Gone, Cancel Call
	// Event names it in Gradio's events; empty elsewhere.
	Event string

	how  *Completion
	json any // the answer that it began with
}

// Job reads the answer to a request that Applies. An error says why there is
// nothing to follow, so that the answer is the end.
func (c *Completion) Job(path string, answer []byte) (*Job, error) {
	j := &Job{how: c}
	var exact any // json.Number keeps all digits of a large number
	decoder := json.NewDecoder(bytes.NewReader(answer))
	decoder.UseNumber()
	if json.Unmarshal(answer, &j.json) != nil || decoder.Decode(&exact) != nil {
		return nil, errors.New("the answer is not JSON")
	}
	if c.Watch {
		object, _ := j.json.(map[string]any)
		if j.Event, _ = object["event_id"].(string); j.Event == "" {
			return nil, errors.New("the answer has no event_id")
		}
		// Any answer shows that the engine is there.
		root, _, _ := strings.Cut(strings.TrimSuffix(path, "/queue/join"), "/call/")
		j.Poll = Call{Method: http.MethodGet, Target: root + "/queue/status"}
	}
	for _, call := range [...]struct {
		from *template
		to   *Call
	}{{c.poll, &j.Poll}, {c.gone, &j.Gone}, {c.cancel, &j.Cancel}} {
		if call.from == nil {
			continue
		}
		var err error
		if *call.to, err = call.from.fill(values{json: exact}); err != nil {
			return nil, err
		}
	}
	j.Poll.Without, j.Gone.Without = c.without, c.without
	return j, nil
}

// Ended says whether the work has ended, by the answer to Poll, and whether it failed.
func (j *Job) Ended(status int, answer []byte) (ended, failed bool) {
	env := j.environment(status, answer)
	return j.how.until.Holds(env), j.how.failed.Holds(env)
}

// TellsFailure says that Ended can recognise failed work.
func (j *Job) TellsFailure() bool { return j.how.failed != nil }

// Unknown says that the engine does not know the work any more, by the answer to Gone.
func (j *Job) Unknown(status int, answer []byte) bool {
	return j.how.lost.Holds(j.environment(status, answer))
}

// jobEnvironment has the values that the expressions of a completion can use.
type jobEnvironment struct {
	Body   any `expr:"body"`   // what the poll was answered; nil where that is not JSON
	JSON   any `expr:"json"`   // what the request was answered
	Status int `expr:"status"` // of the poll
}

func (j *Job) environment(status int, answer []byte) *jobEnvironment {
	env := &jobEnvironment{JSON: j.json, Status: status}
	if json.Unmarshal(answer, &env.Body) != nil {
		env.Body = nil
	}
	return env
}

// IsZero says that nothing is configured.
func (c CompletionConfig) IsZero() bool {
	return len(c.On) == 0 && c.Preset+c.Poll+c.Until+c.Cancel == "" && c.Every == 0 && c.Timeout == 0
}

// Over is a route's configuration, completed with its backend's. If it has a preset or a
// poll of its own, only Every and Timeout come from the backend.
func (c CompletionConfig) Over(backend CompletionConfig) CompletionConfig {
	c.Every, c.Timeout = cmp.Or(c.Every, backend.Every), cmp.Or(c.Timeout, backend.Timeout)
	if c.Preset == "" && c.Poll == "" {
		c.Preset, c.Poll = backend.Preset, backend.Poll
		if len(c.On) == 0 {
			c.On = backend.On
		}
		c.Until, c.Cancel = cmp.Or(c.Until, backend.Until), cmp.Or(c.Cancel, backend.Cancel)
	}
	return c
}

// Check reports mistakes in a route's own completion.
func (c CompletionConfig) Check(report func(path, problem string)) {
	check.OneOf(report, "preset", c.Preset, append([]string{"none"}, earlyEngines()...)...)
}

// Compile reports mistakes and gives how work is followed; nil: its answer is its
// end.
func (c CompletionConfig) Compile(report func(path, problem string)) *Completion {
	var p early
	if known := presets[c.Preset].early; known != nil {
		p = *known
	} else if c.Preset != "" && c.Preset != "none" {
		return nil // Check reports this
	}
	if c.Preset == "none" || c.Preset == "" && c.Poll == "" {
		if c.Until != "" || c.Cancel != "" || len(c.On) > 0 {
			report("poll", `"": missing: want a call such as GET /jobs/{{.json.id}}, or a preset`)
		}
		return nil
	}
	if p.watch && (c.Poll != "" || c.Until != "") {
		report("preset", `"gradio": tells the end by the events that pass through: want no poll and no until`)
	}
	if c.Poll == "" && c.Until == "" {
		c.Poll, c.Until = p.poll, p.until
	} else {
		c.Poll, p.failed, p.gone, p.without = cmp.Or(c.Poll, p.poll), "", "", nil
	}
	out := &Completion{Every: c.Every, Timeout: c.Timeout, Watch: p.watch, submits: p.submits, without: p.without}
	if len(c.On) > 0 {
		out.on = c.On
	}
	c.checkOn(report)
	const example = `body.state == "done"`
	call := func(path, text string) (t *template) {
		if text == "" {
			return nil
		}
		t, err := parseCall(strings.TrimSpace(text), ofAnswers, "GET /jobs/{{.json.id}}")
		if err != nil {
			report(path, fmt.Sprintf("%q: %v", text, err))
		}
		return t
	}
	condition := func(path, text string) *expression.Condition {
		if text == "" {
			return nil
		}
		e, err := expression.NewCondition(text, jobEnvironment{})
		if err != nil {
			report(path, fmt.Sprintf("%q: %v: want a condition such as %s", text, err, example))
		}
		return e
	}
	out.poll, out.cancel, out.gone = call("poll", c.Poll), call("cancel", c.Cancel), call("poll", p.gone)
	out.until, out.failed, out.lost = condition("until", c.Until), condition("until", p.failed), condition("until", p.goneWhen)
	if c.Until == "" && !p.watch {
		report("until", `"": missing: want a condition such as `+example)
	}
	if c.Every <= 0 {
		report("every", fmt.Sprintf("%v: too short: want a time such as 500ms", c.Every))
	}
	if c.Timeout <= 0 {
		report("timeout", fmt.Sprintf("%v: too short: want a time such as 15m", c.Timeout))
	}
	return out
}

// checkOn reports entries of `on` that are no method and path.
func (c CompletionConfig) checkOn(report func(path, problem string)) {
	for i, line := range c.On {
		if _, target, body, ok := splitCall(line); !ok || body != "" || strings.ContainsAny(target, "?{*") {
			report(fmt.Sprintf("on[%d]", i), fmt.Sprintf("%q: not a request: want a method and a path, such as POST /jobs", line))
		}
	}
}
