package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/internal/check"
)

// ReclaimConfig says how a backend is unloaded and woken. With the zero value it cannot be
// unloaded.
type ReclaimConfig struct {
	Preset   string        `koanf:"preset"`    // an engine by name; the other keys override it
	Call     string        `koanf:"call"`      // "POST /free"; {{model}} stands for each of the models
	Body     string        `koanf:"body"`      // of the call; the same
	Models   []string      `koanf:"models"`    // empty: those that the engine lists as loaded
	Wake     string        `koanf:"wake"`      // "POST /wake_up"; empty: the next request loads it
	WakeBody string        `koanf:"wake_body"` // of the wake call
	Probe    string        `koanf:"probe"`     // "GET /health": asked until it answers 2xx, after waking or starting
	Stop     Command       `koanf:"stop"`      // the last step
	Start    Command       `koanf:"start"`     // brings back what was stopped
	Timeout  time.Duration `koanf:"timeout"`   // of one call or command; zero: none
	Settle   time.Duration `koanf:"settle"`    // how long the card may take to show that memory is free
}

// Enabled says that there is a call or a stop command.
func (c ReclaimConfig) Enabled() bool {
	return c.Call != "" || presets[c.Preset].call != "" || len(c.Stop) > 0
}

// resolve fills in the settings of the preset. The default of the probe is the path of the
// health check, because the operator knows that it works.
func (c ReclaimConfig) resolve(health string) (ReclaimConfig, preset) {
	p := presets[c.Preset]
	if health != "" {
		health = http.MethodGet + " " + health
	}
	if len(c.Models) > 0 {
		c.Call = cmp.Or(c.Call, p.each)
	}
	c.Call, c.Body = cmp.Or(c.Call, p.call), cmp.Or(c.Body, p.body)
	c.Wake, c.WakeBody = cmp.Or(c.Wake, p.wake), cmp.Or(c.WakeBody, p.wakeBody)
	c.Probe = cmp.Or(c.Probe, health, p.probe)
	return c, p
}

// freesEach says that the models are unloaded one by one.
func (c ReclaimConfig) freesEach() bool { return strings.Contains(c.Call+c.Body, eachModel) }

// wakesEach says that the models are brought back one by one.
func (c ReclaimConfig) wakesEach() bool { return strings.Contains(c.Wake+c.WakeBody, eachModel) }

// check reports mistakes, by paths below `reclaim`.
func (c ReclaimConfig) check(report func(path, problem string), health string) {
	check.AtLeast(report, "timeout", c.Timeout, 0)
	check.AtLeast(report, "settle", c.Settle, 0)
	if c.Preset != "" && presets[c.Preset].call == "" {
		report("preset", fmt.Sprintf("%q: not known: want %s, or call in its place", c.Preset, strings.Join(presetNames(), " or ")))
		return // the preset would have set what else is missing
	}
	c.checkCalls(report)
	c.Stop.check(report, "stop")
	c.Start.check(report, "start")
	full, p := c.resolve(health)
	if full.Call == "" && (c.Body != "" || full.Wake != "") {
		report("call", `"": missing beside what belongs to it: want one such as POST /free`)
	}
	if full.Wake == "" && c.WakeBody != "" {
		report("wake", `"": missing beside its body: want one such as POST /wake_up`)
	}
	if len(c.Start) > 0 && len(c.Stop) == 0 {
		report("stop", `"": missing beside start: want a command such as [systemctl, stop, vllm]`)
	}
	if len(c.Start) > 0 && full.Probe == "" {
		report("probe", `"": missing beside start, so that nothing tells when the server is up: want one such as GET /health`)
	}
	each := full.freesEach() || full.wakesEach()
	if each && len(c.Models) == 0 && p.inspect == "" {
		report("models", fmt.Sprintf("none for %s to stand for: want a list, or the preset of an engine that says what it has loaded", eachModel))
	}
	if len(c.Models) > 0 && !each {
		report("models", fmt.Sprintf("%q: no call or body names them: want %s there, or no models", c.Models, eachModel))
	}
	if slices.Contains(c.Models, "") {
		report("models", `"": not a model: want a name`)
	}
}

// checkCalls reports mistakes in the calls and their bodies.
func (c ReclaimConfig) checkCalls(report func(path, problem string)) {
	for _, line := range [...]struct{ path, text, such, body string }{
		{"call", c.Call, "POST /free", "body"}, {"wake", c.Wake, "POST /wake_up", "wake_body"}, {"probe", c.Probe, "GET /health", ""},
	} {
		if line.text == "" {
			continue
		}
		switch t, err := parseCall(line.text, ofModels, line.such); {
		case err != nil:
			report(line.path, fmt.Sprintf("%q: %v", line.text, err))
		case t.body != nil && line.body != "":
			report(line.path, fmt.Sprintf("%q: a body with it: want that under %s", line.text, line.body))
		case t.body != nil:
			report(line.path, fmt.Sprintf("%q: a body with it: want none, such as %s", line.text, line.such))
		}
	}
	for _, body := range [...]struct{ path, text string }{{"body", c.Body}, {"wake_body", c.WakeBody}} {
		text := strings.TrimSpace(body.text)
		if text != "" && strings.ContainsRune("{[", rune(text[0])) && !validBody(text) {
			report(body.path, fmt.Sprintf(`%q: not JSON: want a body such as '{"unload_models":true}'`, body.text))
		}
	}
	if strings.Contains(c.Probe, eachModel) {
		report("probe", fmt.Sprintf("%q: is asked once, not for each model: want it without %s", c.Probe, eachModel))
	}
}

// hooks are a backend's ReclaimConfig with its preset filled in, the calls of it,
// and what it has done.
type hooks struct {
	ReclaimConfig
	engine preset

	unload, wake, probe, inspection *template // nil: there is none

	mu       sync.Mutex
	unloaded []string // guarded by mu; models that were unloaded and not brought back
}

// prepare compiles the calls of a configuration that check accepts.
func (h *hooks) prepare(c ReclaimConfig, health string) error {
	h.ReclaimConfig, h.engine = c.resolve(health)
	for _, call := range [...]struct {
		to         **template
		line, body string
	}{
		{&h.unload, h.Call, h.Body}, {&h.wake, h.Wake, h.WakeBody},
		{&h.probe, h.Probe, ""}, {&h.inspection, h.engine.inspect, h.engine.inspectBody},
	} {
		if call.line == "" {
			continue
		}
		t, err := parseCall(call.line, ofModels, "POST /free")
		if err != nil {
			return fmt.Errorf("reclaim: %q: %w", call.line, err)
		}
		t.body = pieces(call.body)
		*call.to = t
	}
	return nil
}

// HasHook says that Unload has a call to make.
func (b *Server) HasHook() bool { return b.hooks.unload != nil }

// HasStop says that there is a command for Stop.
func (b *Server) HasStop() bool { return len(b.hooks.Stop) > 0 }

// MustWake says that after Unload the engine must be woken before it can take a request.
func (b *Server) MustWake() bool { return b.hooks.wake != nil }

// MustWake says that after its reclaim the engine has to be woken or started
// before it can take a request.
func (c ReclaimConfig) MustWake() bool {
	full, _ := c.resolve("")
	return full.Wake != "" || full.Call == "" && len(full.Stop) > 0
}

// Unload asks the engine to free its memory, for each model if there are several. A success
// does not mean that the memory is free. If one model cannot be unloaded, it goes on to the
// next. The error names the call and its result. It wraps ErrRefused if nothing listens.
//
// The calls of this file use the backend's connections. The breaker neither stops nor
// counts them. None is sent twice.
func (b *Server) Unload(ctx context.Context) error {
	if !b.HasHook() {
		return fmt.Errorf("backend: %s: there is no reclaim.call", b.Name)
	}
	models := []string{""}
	if b.hooks.freesEach() {
		var err error
		if models, err = b.held(ctx); err != nil {
			return err
		}
	}
	var failures []error
	for _, model := range models {
		_, err := b.order(ctx, b.hooks.unload, model)
		if err != nil {
			failures = append(failures, err)
			if ctx.Err() != nil || errors.Is(err, ErrUnreachable) {
				break
			}
			continue
		}
		b.hooks.remember(model)
	}
	return errors.Join(failures...)
}

// held are the models to unload: those of the configuration that are loaded, or, if it
// names none, all loaded models.
func (b *Server) held(ctx context.Context) ([]string, error) {
	configured := b.hooks.Models
	if b.hooks.inspection == nil {
		return configured, nil
	}
	h, err := b.inspect(ctx)
	switch {
	case err == nil && len(configured) == 0:
		return h.loaded, nil
	case err == nil:
		return slices.DeleteFunc(slices.Clone(configured), func(model string) bool {
			// Ollama lists models without a tag with this tag.
			return !slices.Contains(h.loaded, model) && !slices.Contains(h.loaded, model+":latest")
		}), nil
	case len(configured) == 0 || errors.Is(err, ErrUnreachable):
		return nil, err
	}
	return configured, nil
}

func (h *hooks) remember(model string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if model != "" && !slices.Contains(h.unloaded, model) {
		h.unloaded = append(h.unloaded, model)
	}
}

func (h *hooks) forget(model string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unloaded = slices.DeleteFunc(h.unloaded, func(m string) bool { return m == model })
}

// Stop runs the stop command.
func (b *Server) Stop(ctx context.Context) error {
	if !b.HasStop() {
		return fmt.Errorf("backend: %s: there is no reclaim.stop", b.Name)
	}
	return b.execute(ctx, b.hooks.Stop)
}

func (b *Server) execute(ctx context.Context, c Command) error {
	ctx, cancel := within(ctx, b.hooks.Timeout)
	defer cancel()
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("backend: %s: %w", b.Name, err)
	}
	return nil
}

// within is a context that ends after a time; zero: as it would.
func within(ctx context.Context, most time.Duration) (context.Context, context.CancelFunc) {
	if most <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, most)
}

// Wake loads the engine again: with the start command if it was stopped, with the wake call
// if it needs one. It returns when the probe is answered with 2xx, or when ctx ends. An
// error that wraps ErrRefused says that nothing listens: the engine has ended.
//
// An engine that was just started is awake, and some engines crash if they are woken then.
// Only models that are loaded one by one still have to be loaded.
func (b *Server) Wake(ctx context.Context, stopped bool) error {
	if stopped {
		if len(b.hooks.Start) > 0 {
			if err := b.execute(ctx, b.hooks.Start); err != nil {
				return err
			}
		}
		if err := b.untilReady(ctx, func(error) bool { return true }); err != nil {
			return err
		}
		if !b.hooks.wakesEach() {
			return nil
		}
	}
	if b.MustWake() {
		models := []string{""}
		if b.hooks.wakesEach() {
			models = b.missing(ctx)
		}
		for _, model := range models {
			if _, err := b.order(ctx, b.hooks.wake, model); err != nil {
				return err
			}
			b.hooks.forget(model)
		}
	}
	return b.untilReady(ctx, func(err error) bool { return !errors.Is(err, ErrRefused) })
}

// Died says that an engine that was told to free its memory has ended instead: nothing
// listens, or it was started anew. It counts as started anew if the call was answered with
// 2xx, or its connection broke, and the engine reports that it holds its weights.
func (b *Server) Died(ctx context.Context, call error) bool {
	if b.Down(ctx) {
		return true
	}
	loaded, known := b.Loaded(ctx)
	return known && loaded && (call == nil || errors.Is(call, ErrProtocol))
}

// Down says that nothing listens at the address of the probe.
func (b *Server) Down(ctx context.Context) bool {
	return b.hooks.probe != nil && errors.Is(b.probeOnce(ctx), ErrRefused)
}

// CanStart says that there is a start command.
func (b *Server) CanStart() bool { return len(b.hooks.Start) > 0 }

// AwaitReturn asks the probe of an engine that died until it is answered with
// 2xx, for as long as wait says.
func (b *Server) AwaitReturn(ctx context.Context, wait func() bool) error {
	return b.untilReady(ctx, func(error) bool { return wait() })
}

// missing are the models to load again: those of the configuration, else those that Unload
// has unloaded, else those that the engine lists as unloaded, because an earlier process
// may have unloaded them.
func (b *Server) missing(ctx context.Context) []string {
	if len(b.hooks.Models) > 0 {
		return b.hooks.Models
	}
	b.hooks.mu.Lock()
	models := slices.Clone(b.hooks.unloaded)
	b.hooks.mu.Unlock()
	if len(models) == 0 && b.hooks.inspection != nil {
		if h, err := b.inspect(ctx); err == nil {
			models = h.unloaded
		}
	}
	return models
}

// Pauses between probes, and how long one may take.
const (
	firstPause = 50 * time.Millisecond
	mostPause  = time.Second
	mostProbe  = 5 * time.Second
)

// untilReady repeats the probe until it is answered with 2xx. After an error it goes on if
// again(err) is true: an engine that was just started does not listen at once.
func (b *Server) untilReady(ctx context.Context, again func(error) bool) error {
	if b.hooks.probe == nil {
		return nil
	}
	pause := firstPause
	var last error
	for {
		err := b.probeOnce(ctx)
		if err == nil {
			b.setHealthy(true)
			b.breaker.shut("it answers after it was woken")
		}
		if err == nil || !again(err) {
			return err
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("backend: %s: not ready: %w: %w", b.Name, ctx.Err(), last)
		case <-time.After(pause):
		}
		pause = min(2*pause, mostPause)
	}
}

func (b *Server) probeOnce(ctx context.Context) error {
	ctx, cancel := within(ctx, mostProbe)
	defer cancel()
	_, err := b.order(ctx, b.hooks.probe, "")
	return err
}

// Tells says that the engine can report whether it is loaded.
func (b *Server) Tells() bool { return b.hooks.inspection != nil }

// Loaded asks the engine whether it holds a model. known is false if the engine cannot
// report that or gives no valid answer: an engine that does not listen may be loading.
func (b *Server) Loaded(ctx context.Context) (loaded, known bool) {
	if b.hooks.inspection == nil {
		return false, false
	}
	h, err := b.inspect(ctx)
	if err != nil {
		return false, false
	}
	if models := b.hooks.Models; len(models) > 0 && len(h.loaded) > 0 {
		return slices.ContainsFunc(models, func(m string) bool {
			return slices.Contains(h.loaded, m) || slices.Contains(h.loaded, m+":latest")
		}), true
	}
	return h.any, true
}

func (b *Server) inspect(ctx context.Context) (holdings, error) {
	p := &b.hooks.engine
	answer, err := b.order(ctx, b.hooks.inspection, "")
	if err != nil {
		return holdings{}, err
	}
	h, err := p.read(answer)
	if err != nil {
		return holdings{}, fmt.Errorf("backend: %s: %s: %w", b.Name, p.inspect, err)
	}
	return h, nil
}

// order makes one call and returns the answer's body. A status other than 2xx is an error.
func (b *Server) order(ctx context.Context, t *template, model string) ([]byte, error) {
	failed := func(err error) error { return fmt.Errorf("backend: %s: %s: %w", b.Name, t.line, err) }
	c, err := t.fill(values{model: model})
	if err != nil {
		return nil, failed(err)
	}
	failed = func(err error) error { return fmt.Errorf("backend: %s: %s %s: %w", b.Name, c.Method, c.Target, err) }
	limited, cancel := within(ctx, b.hooks.Timeout)
	defer cancel()
	answer, text, err := b.send(limited, c, "", nil, mostAnswer)
	switch {
	case err != nil && ctx.Err() == nil && limited.Err() != nil:
		return nil, failed(fmt.Errorf("no answer within %v: %w", b.hooks.Timeout, limited.Err()))
	case answer == nil:
		return nil, failed(err)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, failed(b.hooks.engine.refused(answer, text))
	case err != nil:
		return nil, failed(err)
	}
	return text, nil
}

// refused is the error of an answer that is not 2xx.
func (p *preset) refused(answer *http.Response, text []byte) error {
	said := answer.Status
	if words := excerpt(text); words != "" {
		said += ": " + words
	}
	if p.needs != "" && answer.StatusCode >= 400 && answer.StatusCode < 500 {
		said += " (it takes this when it was started with " + p.needs + ")"
	}
	return errors.New(said)
}
