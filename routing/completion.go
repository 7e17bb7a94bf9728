package routing

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
)

// CompletionConfig says how to tell that work has ended whose answer comes
// before that. The zero value: the answer's end is the work's.
type CompletionConfig struct {
	Preset  string        `koanf:"preset"`  // comfyui | gradio; keys beside it count before what it says
	On      []string      `koanf:"on"`      // the calls that answer early: "POST /prompt"
	Poll    string        `koanf:"poll"`    // "GET /history/{{.json.prompt_id}}", from the early answer
	Until   string        `koanf:"until"`   // an expression over body, the polled JSON, and json, the early answer
	Every   time.Duration `koanf:"every"`   // how often
	Timeout time.Duration `koanf:"timeout"` // then the work counts as over all the same
	Cancel  string        `koanf:"cancel"`  // "POST /interrupt"; empty: it cannot be stopped
}

// watched is how an engine tells of the end in a stream of events that its
// clients read, where nothing can be asked.
type watched struct{ name, id, ended string }

var completions = map[string]struct {
	CompletionConfig
	event watched // zero: it can be asked
}{
	"comfyui": {CompletionConfig: CompletionConfig{
		On: []string{"POST /prompt", "POST /api/prompt"}, Poll: "GET /history/{{.json.prompt_id}}",
		// An entry comes when the prompt has ended, however that was.
		Until: "has(body, json.prompt_id)", Cancel: "POST /interrupt",
	}},
	"gradio": {
		CompletionConfig: CompletionConfig{On: []string{"POST /gradio_api/queue/join", "POST /queue/join"}},
		// Gradio gives a session's events to one reader alone, so they are read as
		// they pass on their way to the client.
		event: watched{name: "msg", id: "event_id", ended: "process_completed"},
	},
}

// Enabled says that there is something to tell the end by.
func (c CompletionConfig) Enabled() bool { return c.Preset != "" || c.Poll != "" }

func (c CompletionConfig) resolve() (CompletionConfig, watched) {
	p := completions[c.Preset]
	if len(c.On) == 0 {
		c.On = p.On
	}
	c.Poll, c.Until, c.Cancel = cmp.Or(c.Poll, p.Poll), cmp.Or(c.Until, p.Until), cmp.Or(c.Cancel, p.Cancel)
	if c.Poll != "" {
		return c, watched{}
	}
	return c, p.event
}

func (c CompletionConfig) check(report func(path, problem string)) {
	if _, known := completions[c.Preset]; c.Preset != "" && !known {
		report("preset", fmt.Sprintf("%q: not known: want %s, or poll and until in its place", c.Preset, strings.Join(slices.Sorted(maps.Keys(completions)), " or ")))
		return
	}
	full, event := c.resolve()
	if !c.Enabled() {
		for name, value := range map[string]string{"until": c.Until, "cancel": c.Cancel, "on": strings.Join(c.On, ", ")} {
			if value != "" {
				report(name, fmt.Sprintf("%q: beside no poll: want completion.poll too, such as GET /jobs/{{.json.id}}, or a preset", value))
			}
		}
		return
	}
	wantAtLeast(report, "every", c.Every, time.Millisecond)
	wantAtLeast(report, "timeout", c.Timeout, c.Every)
	if len(full.On) == 0 {
		report("on", "none: want the calls that answer early, such as [POST /jobs]")
	}
	for _, line := range full.On {
		if _, _, ok := splitCall(line); !ok {
			report("on", fmt.Sprintf("%q: not a call: want a method and a path, such as POST /jobs", line))
		}
	}
	if _, _, ok := splitCall(full.Cancel); full.Cancel != "" && !ok {
		report("cancel", fmt.Sprintf("%q: not a call: want a method and a path, such as POST /interrupt", full.Cancel))
	}
	if event != (watched{}) {
		return
	}
	if _, err := parsePoll(full.Poll); err != nil {
		report("poll", fmt.Sprintf("%q: %v: want a call such as GET /jobs/{{.json.id}}", full.Poll, err))
	}
	if full.Until == "" {
		report("until", `"": missing: want a condition on what is polled, such as body.status == "done"`)
	} else if _, err := compileUntil(full.Until); err != nil {
		report("until", fmt.Sprintf("%q: %v: want a condition on body and json, such as body.status == \"done\"", full.Until, err))
	}
}

func parsePoll(text string) (*template.Template, error) {
	t, err := template.New("poll").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "template: poll:"))
	}
	if method, target, ok := strings.Cut(text, " "); !ok || method != strings.ToUpper(method) || !strings.HasPrefix(target, "/") {
		return nil, errors.New("not a call")
	}
	return t, nil
}

// polled is what an `until` sees.
type polled struct {
	Body any `expr:"body"`
	JSON any `expr:"json"`
}

func compileUntil(text string) (*vm.Program, error) {
	program, err := expr.Compile(text, append(functions(), expr.AsBool(), expr.Env(polled{}), expr.MaxNodes(maxNodes), expr.DisableBuiltin("now"))...)
	if err != nil {
		return nil, describe(err)
	}
	return program, nil
}

// completion is a CompletionConfig, compiled.
type completion struct {
	CompletionConfig
	event watched
	poll  *template.Template
	until *vm.Program
}

func newCompletion(c CompletionConfig) (*completion, error) {
	if !c.Enabled() {
		return nil, nil
	}
	full, event := c.resolve()
	k := &completion{CompletionConfig: full, event: event}
	var err error
	if event == (watched{}) {
		if k.poll, err = parsePoll(full.Poll); err == nil {
			k.until, err = compileUntil(full.Until)
		}
	}
	return k, err
}

// AnswersEarly says that the answer to such a request comes before its work has
// ended.
func (b *Backend) AnswersEarly(method, path string) bool {
	return b.completion != nil && slices.Contains(b.completion.On, method+" "+path)
}

// Job is work that goes on after its answer.
type Job struct {
	backend *Backend
	json    any
	ID      string // of its events; empty: it is polled
	poll    string
}

// NewJob reads the answer that came early. An error says that it names no work:
// then there is none.
func (b *Backend) NewJob(answer []byte) (*Job, error) {
	j := &Job{backend: b}
	if err := json.Unmarshal(answer, &j.json); err != nil {
		return nil, fmt.Errorf("routing: %s: the early answer is not JSON: %w", b.Name, err)
	}
	c := b.completion
	if c.event != (watched{}) {
		fields, _ := j.json.(map[string]any)
		if j.ID, _ = fields[c.event.id].(string); j.ID == "" {
			return nil, fmt.Errorf("routing: %s: the early answer has no %s", b.Name, c.event.id)
		}
		return j, nil
	}
	var line bytes.Buffer
	if err := c.poll.Execute(&line, map[string]any{"json": escaped(j.json)}); err != nil {
		return nil, fmt.Errorf("routing: %s: completion.poll: %w", b.Name, err)
	}
	j.poll = line.String()
	return j, nil
}

// escaped is a value whose texts are fit for a path.
func escaped(v any) any {
	switch v := v.(type) {
	case string:
		return url.PathEscape(v)
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, below := range v {
			out[key] = escaped(below)
		}
		return out
	}
	return v
}

// ErrLate says that a job did not end within completion.timeout.
var ErrLate = errors.New("routing: the work was not seen to end in time")

// lostAfter is how long a backend must be gone until its work counts as gone
// with it.
const lostAfter = 2 * time.Second

// Wait returns when the job has ended: nil as it should, ErrMemory where it ran
// out of memory, ErrLate after completion.timeout, an error that wraps ErrUnreachable where its backend is
// gone, or that of ctx.
func (j *Job) Wait(ctx context.Context) error {
	c := j.backend.completion
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrLate)
	defer cancel()
	if j.ID != "" {
		ended := j.backend.events.watch(j.ID)
		defer j.backend.events.drop(j.ID)
		select {
		case <-ended:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	var lost time.Time // when it was first not there
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		ended, err := j.ask(ctx)
		switch {
		case ended:
			return err
		case !errors.Is(err, ErrUnreachable):
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > lostAfter:
			return err
		}
	}
}

// ask polls once.
func (j *Job) ask(ctx context.Context) (ended bool, err error) {
	text, err := j.backend.order(ctx, j.poll, "", "")
	if err != nil {
		return false, err
	}
	env := polled{JSON: j.json}
	if err := json.Unmarshal(text, &env.Body); err != nil {
		return false, err
	}
	machine := vm.VM{MemoryBudget: memoryBudget}
	value, err := machine.Run(j.backend.completion.until, env)
	if ended, _ = value.(bool); ended && j.backend.saysFull(text) {
		return true, ErrMemory // it says so in an answer of 200
	}
	return ended, err
}

// HasCancel says that work on the backend can be stopped, by CancelWork.
func (b *Backend) HasCancel() bool { return b.completion != nil && b.completion.Cancel != "" }

// CancelWork asks the backend to stop what it works on.
func (b *Backend) CancelWork(ctx context.Context) error {
	_, err := b.order(ctx, b.completion.Cancel, "", "")
	return err
}

// Overhear reads the events that pass on their way to a client, where those
// tell of the end of work. Other answers it leaves alone.
func (b *Backend) Overhear(answer *http.Response) {
	if b.completion != nil && b.completion.event != (watched{}) && strings.HasPrefix(answer.Header.Get("Content-Type"), "text/event-stream") {
		answer.Body = &overheard{ReadCloser: answer.Body, backend: b}
	}
}

// overheard is a stream of events that is read by the line as it passes.
type overheard struct {
	io.ReadCloser
	backend *Backend
	line    []byte
	skip    bool // until the line ends: it is too long to be one of ours
}

// longestEvent bounds what is kept of one line.
const longestEvent = 1 << 20

func (o *overheard) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			o.keep(rest)
			break
		}
		o.keep(rest[:end])
		o.tell()
		o.line, o.skip, rest = o.line[:0], false, rest[end+1:]
	}
	return n, err
}

func (o *overheard) keep(part []byte) {
	if o.skip = o.skip || len(o.line)+len(part) > longestEvent; !o.skip {
		o.line = append(o.line, part...)
	}
}

func (o *overheard) tell() {
	text, ok := bytes.CutPrefix(o.line, []byte("data:"))
	event := o.backend.completion.event
	if !ok || o.skip || !bytes.Contains(text, []byte(event.ended)) {
		return
	}
	var fields map[string]any
	if json.Unmarshal(text, &fields) == nil && fields[event.name] == event.ended {
		if id, ok := fields[event.id].(string); ok {
			o.backend.events.happened(id)
		}
	}
}
