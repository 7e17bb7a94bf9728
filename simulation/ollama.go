package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Ollama is Ollama with two models. Each is loaded by its first request, with
// its key-value cache, and unloaded when it has not been asked for as long as
// the last request's keep_alive says: five minutes, if it says nothing.
func Ollama() Kind {
	return Kind{
		Name: "ollama", Does: "Ollama", Model: "llama3.2:latest", Owner: "library",
		Weights: 4 * admission.GiB, Load: 3 * time.Second, Wake: time.Second,
		Others: []Model{{Name: "qwen2.5vl:latest", Weights: 8 * admission.GiB, Load: 5 * time.Second}},
		Lazy:   true, Concurrency: 1,
		Shortest: time.Second, Longest: 3 * time.Second,
		Aborts: true,
		Full: func(full *OutOfMemory) string {
			return fmt.Sprintf("llama runner process has terminated: cudaMalloc failed: out of memory\n"+
				"ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size %d", int64(full.Asked))
		},
		Traps:  []string{keepsMemory, residue, freesLate, slowWake, ignoresCallers},
		Always: []string{perModel},
		Fail: func(w http.ResponseWriter, status int, _, message string) {
			answer(w, status, map[string]string{"error": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			o := ollama{e}
			modelRoutes(e, routes, nil)
			modelRoute(e, routes, nil)
			chatRoutes(e, routes)
			routes.HandleFunc("POST /v1/completions", e.completions)
			routes.HandleFunc("POST /v1/responses", e.responses)
			routes.HandleFunc("POST /v1/embeddings", e.embeddings)
			libraryRoutes(o, routes)
			routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "Ollama is running") })
			routes.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]string{"version": "0.13.0"})
			})
			routes.HandleFunc("GET /api/tags", o.tags)
			routes.HandleFunc("GET /api/ps", o.ps)
			routes.HandleFunc("POST /api/generate", func(w http.ResponseWriter, r *http.Request) {
				o.work(w, r, func(text string) (string, any) { return "response", text })
			})
			routes.HandleFunc("POST /api/chat", func(w http.ResponseWriter, r *http.Request) {
				o.work(w, r, func(text string) (string, any) {
					return "message", map[string]string{"role": "assistant", "content": text}
				})
			})
			routes.HandleFunc("POST /api/embed", o.embed)
			routes.HandleFunc("POST /api/embeddings", o.oldEmbed)
		},
	}
}

// ollama is what Ollama has beside OpenAI's routes.
type ollama struct{ *Engine }

// keepAlive is how long a model stays after a request: seconds as a number, or a
// text such as 5m. Below zero: for ever.
type keepAlive time.Duration

const keepDefault = keepAlive(5 * time.Minute)

func (k *keepAlive) UnmarshalJSON(text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case float64:
		*k = keepAlive(v * float64(time.Second))
		return nil
	case string:
		d, err := time.ParseDuration(v)
		*k = keepAlive(d)
		return err
	}
	return errors.New("keep_alive: want a number of seconds or a duration such as 5m")
}

func (o ollama) details(m *model) map[string]any {
	return map[string]any{
		"name": m.Name, "model": m.Name, "size": int64(m.Weights), "digest": digest(m),
		"details": map[string]any{
			"parent_model": "", "format": "gguf", "family": family(m), "families": []string{family(m)},
			"parameter_size": "3.2B", "quantization_level": "Q4_K_M",
		},
	}
}

func (o ollama) tags(w http.ResponseWriter, _ *http.Request) {
	list := []any{}
	for _, m := range o.models {
		d := o.details(m)
		d["modified_at"] = pulled
		list = append(list, d)
	}
	answer(w, http.StatusOK, map[string]any{"models": list})
}

// ps lists what is loaded. Memory that a free left behind is no model's there,
// which is why it is a trap.
func (o ollama) ps(w http.ResponseWriter, _ *http.Request) {
	list := []any{}
	for _, m := range o.models {
		if !m.ready.Load() {
			continue
		}
		d := o.details(m)
		all, _ := o.holding(m)
		d["size_vram"], d["context_length"] = int64(all), 4096
		o.mu.Lock()
		d["expires_at"] = m.until
		o.mu.Unlock()
		list = append(list, d)
	}
	answer(w, http.StatusOK, map[string]any{"models": list})
}

// work is /api/generate and /api/chat, which differ in how they carry text.
// Without a prompt they load the model or, with keep_alive 0, unload it.
func (o ollama) work(w http.ResponseWriter, r *http.Request, carry func(string) (string, any)) {
	var a struct {
		Model     string            `json:"model"`
		Prompt    string            `json:"prompt"`
		Images    []string          `json:"images"`
		Messages  []json.RawMessage `json:"messages"`
		Stream    *bool             `json:"stream"`
		KeepAlive *keepAlive        `json:"keep_alive"`
	}
	length, ok := o.read(w, r, &a)
	if !ok {
		return
	}
	m, ok := o.named(w, a.Model)
	if !ok {
		return
	}
	keep := keepDefault
	if a.KeepAlive != nil {
		keep = *a.KeepAlive
	}
	frame := func(text string, more map[string]any) map[string]any {
		f := map[string]any{"model": m.Name, "created_at": o.clock.Now().UTC(), "done": more != nil}
		key, value := carry(text)
		f[key] = value
		for k, v := range more {
			f[k] = v
		}
		return f
	}
	if a.Prompt == "" && len(a.Messages) == 0 {
		reason, err := "load", error(nil)
		if keep == 0 {
			reason, err = "unload", o.free(r.Context(), m, false)
		} else if err = o.bring(r.Context(), m); err == nil {
			err = o.keep(m, keep)
		}
		if err != nil {
			o.failed(w, err)
			return
		}
		answer(w, http.StatusOK, frame("", map[string]any{"done_reason": reason}))
		return
	}
	defer func() {
		// An engine that has ended keeps nothing, and needs no timer.
		_ = o.keep(m, keep)
	}()
	last := func(text, reason string, took time.Duration) map[string]any {
		return frame(text, map[string]any{
			"done_reason": reason, "total_duration": int64(took), "load_duration": 0,
			"prompt_eval_count": len(a.Prompt) / 4, "eval_count": len(words), "eval_duration": int64(took),
		})
	}
	if a.Stream == nil || *a.Stream {
		line := func(f any) string { return string(encoded(f)) + "\n" }
		o.stream(w, r, m, length, feed{
			kind:   "application/x-ndjson",
			word:   func(i int) string { return line(frame(words[i], nil)) },
			end:    func(reason string, took time.Duration) string { return line(last("", reason, took)) },
			broken: func(err error) string { return line(map[string]string{"error": err.Error()}) },
		})
		return
	}
	o.whole(w, r, m, length, func() any { return last(said, "stop", length) })
}

func (o ollama) embed(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model string `json:"model"`
		Input texts  `json:"input"`
	}
	length, ok := o.read(w, r, &a)
	if !ok {
		return
	}
	if m, ok := o.named(w, a.Model); ok {
		o.whole(w, r, m, length, func() any {
			vectors := [][]float32{}
			for _, text := range a.Input {
				vectors = append(vectors, vector(text))
			}
			return map[string]any{
				"model": m.Name, "embeddings": vectors, "total_duration": int64(length), "load_duration": 0, "prompt_eval_count": len(a.Input),
			}
		})
	}
}

// oldEmbed is the route before embed, of one text.
func (o ollama) oldEmbed(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	}
	length, ok := o.read(w, r, &a)
	if !ok {
		return
	}
	if m, ok := o.named(w, a.Model); ok {
		o.whole(w, r, m, length, func() any { return map[string]any{"embedding": vector(a.Prompt)} })
	}
}

// keep unloads m after that time, unless it is asked for again by then.
func (o ollama) keep(m *model, k keepAlive) error {
	d := time.Duration(k)
	ctx, forget := context.WithCancel(o.life)
	o.mu.Lock()
	if m.forget != nil {
		m.forget()
	}
	begun := m.begun
	m.forget, m.until = forget, o.clock.Now().Add(o.real(d))
	if d < 0 {
		m.until = o.clock.Now().AddDate(100, 0, 0)
	}
	o.mu.Unlock()
	if d < 0 {
		return nil
	}
	return o.after(func() {
		if d > 0 && o.clock.Sleep(ctx, o.real(d)) != nil {
			return
		}
		o.mu.Lock()
		again := m.begun != begun
		o.mu.Unlock()
		if !again {
			o.note(o.free(o.life, m, false))
		}
	})
}
