package simulation

import (
	"fmt"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// llamaFull is what ggml says of a card that is full (ggml-cuda.cu, ggml-alloc.c).
func llamaFull(full *OutOfMemory) string {
	return fmt.Sprintf("ggml_backend_cuda_buffer_type_alloc_buffer: allocating %.2f MiB on device 0: cudaMalloc failed: out of memory\n"+
		"ggml_gallocr_reserve_n: failed to allocate CUDA0 buffer of size %d", float64(full.Asked)/float64(admission.MiB), int64(full.Asked))
}

// llama is what llama-server and llama-swap have in common: two models, loaded
// by their first request, each with its key-value cache.
func llama() Kind {
	return Kind{
		Model: "gemma-3-4b", Weights: 4 * admission.GiB, Load: 3 * time.Second,
		Others: []Model{{Name: "qwen3-14b", Weights: 11 * admission.GiB, Load: 6 * time.Second}},
		Lazy:   true, Concurrency: 4,
		Shortest: time.Second, Longest: 4 * time.Second,
		Aborts: true, Full: llamaFull,
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			answer(w, status, map[string]any{"error": map[string]any{"code": status, "message": message, "type": kind}})
		},
	}
}

// LlamaServer is llama-server as a router.
func LlamaServer() Kind {
	k := llama()
	k.Name, k.Does, k.Owner = "llama-server", "llama-server as a router for several models", "llamacpp"
	k.Traps = []string{keepsMemory, residue, freesLate, oneAtATime, slowWake, ignoresCallers}
	k.Always = []string{perModel}
	k.Routes = func(e *Engine, routes *Routes) {
		routerRoutes(e, routes)
		control := func(act func(*http.Request, *model) error) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				var a struct {
					Model string `json:"model"`
				}
				if _, ok := e.read(w, r, &a); !ok {
					return
				}
				m, ok := e.named(w, a.Model)
				if !ok {
					return
				}
				if err := act(r, m); err != nil {
					e.fail(w, http.StatusBadRequest, invalidError, err.Error())
					return
				}
				answer(w, http.StatusOK, map[string]bool{"success": true})
			}
		}
		routes.HandleFunc("POST /models/load", control(func(_ *http.Request, m *model) error {
			if m.ready.Load() {
				return fmt.Errorf("model is already loaded")
			}
			// The answer comes at once; GET /models says when it is there.
			return e.after(func() { _ = e.bring(e.life, m) })
		}))
		routes.HandleFunc("POST /models/unload", control(func(r *http.Request, m *model) error {
			if !m.ready.Load() {
				return fmt.Errorf("model is not running")
			}
			return e.free(r.Context(), m, true)
		}))
	}
	return k
}

// routerRoutes are those of llama-server that free no memory.
func routerRoutes(e *Engine, routes *Routes) {
	for _, path := range []string{"/health", "/v1/health"} {
		routes.HandleFunc("GET "+path, e.health)
	}
	for _, path := range []string{"/models", "/v1/models"} {
		routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			data := []any{}
			for _, m := range e.models {
				data = append(data, map[string]any{
					"id": m.Name, "object": "model", "owned_by": e.kind.Owner, "created": 1764547200, "in_cache": true, "path": "models/" + m.Name + ".gguf",
					"status": map[string]any{"value": e.state(m, "loaded", "loading", "unloaded"), "args": []string{}},
				})
			}
			answer(w, http.StatusOK, map[string]any{"object": "list", "data": data})
		})
	}
	routes.HandleFunc("GET /props", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{
			"default_generation_settings": map[string]any{"params": map[string]any{}, "n_ctx": 0}, "role": "router",
			"max_instances": 4, "models_autoload": true, "model_alias": "llama-server", "model_path": "none", "build_info": "b7200-simulated",
		})
	})
	// The router asks the server of the model that is named.
	ofModel := func(answers func(http.ResponseWriter, *model)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			name := r.FormValue("model")
			if name == "" {
				e.fail(w, http.StatusBadRequest, invalidError, "model name is missing from the request")
			} else if m, ok := e.named(w, name); ok {
				answers(w, m)
			}
		}
	}
	routes.HandleFunc("GET /slots", ofModel(func(w http.ResponseWriter, m *model) {
		slots, busy := []any{}, e.atWork(m)
		for i := range e.kind.Concurrency {
			slots = append(slots, map[string]any{"id": i, "n_ctx": 4096, "speculative": false, "is_processing": i < busy})
		}
		answer(w, http.StatusOK, slots)
	}))
	routes.HandleFunc("GET /metrics", ofModel(func(w http.ResponseWriter, m *model) {
		text(w, http.StatusOK, fmt.Sprintf("# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing %d\n", e.atWork(m)))
	}))
	chatRoutes(e, routes)
	routes.HandleFunc("POST /chat/completions", e.chat(nil))
	routes.HandleFunc("POST /completion", func(w http.ResponseWriter, r *http.Request) { nativeCompletion(e, w, r) })
	routes.HandleFunc("POST /v1/completions", e.completions)
	for _, path := range []string{"/responses", "/v1/responses"} {
		routes.HandleFunc("POST "+path, e.responses)
	}
	routes.HandleFunc("POST /v1/embeddings", e.embeddings)
}

// nativeCompletion is llama.cpp's own, older than OpenAI's.
func nativeCompletion(e *Engine, w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string `json:"model"`
		Stream bool   `json:"stream"`
	}
	m, length, ok := e.readNamed(w, r, &a, &a.Model)
	if !ok {
		return
	}
	body := func(text string, stop bool) map[string]any {
		return map[string]any{"index": 0, "content": text, "stop": stop, "model": m.Name, "tokens_predicted": len(words)}
	}
	if a.Stream {
		e.stream(w, r, m, length, feed{
			kind: "text/event-stream",
			word: func(i int) string { return event(body(words[i], false)) },
			end:  func(string, time.Duration) string { return event(body("", true)) },
		})
		return
	}
	e.whole(w, r, m, length, func() any { return body(said, true) })
}

// LlamaSwap is llama-swap before two llama-servers, of which one runs at a time.
func LlamaSwap() Kind {
	k := llama()
	k.Name, k.Does, k.Owner = "llama-swap", "llama-swap before two llama-servers", "llama-swap"
	k.Single = true
	k.Traps = []string{keepsMemory, freesLate, slowWake, ignoresCallers}
	k.Always = []string{oneAtATime}
	k.Routes = func(e *Engine, routes *Routes) {
		plainHealth(e, routes, "/health", "OK")
		modelRoutes(e, routes, nil)
		chatRoutes(e, routes)
		routes.HandleFunc("POST /v1/completions", e.completions)
		routes.HandleFunc("POST /v1/responses", e.responses)
		routes.HandleFunc("POST /v1/embeddings", e.embeddings)
		routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/ui", http.StatusFound) })
		routes.HandleFunc("GET /ui", func(w http.ResponseWriter, _ *http.Request) { page(w, "llama-swap", "GET /running says what runs.") })
		// Ollama has this path too.
		routes.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, map[string]string{"version": "180", "commit": "simulated", "build_date": "2026-11-01T00:00:00Z"})
		})
		routes.HandleFunc("GET /running", func(w http.ResponseWriter, _ *http.Request) {
			running := []any{}
			for _, m := range e.models {
				if state := e.state(m, "ready", "starting", ""); state != "" {
					running = append(running, map[string]any{
						"model": m.Name, "state": state, "name": "", "description": "", "cmd": "llama-server -m " + m.Name + ".gguf",
						"proxy": "http://localhost:5800", "ttl": 0,
					})
				}
			}
			answer(w, http.StatusOK, map[string]any{"running": running})
		})
		unload := func(w http.ResponseWriter, r *http.Request, models ...*model) bool {
			for _, m := range models {
				if err := e.free(r.Context(), m, true); err != nil {
					e.failed(w, err)
					return false
				}
			}
			return true
		}
		routes.HandleFunc("POST /api/models/unload", func(w http.ResponseWriter, r *http.Request) {
			if unload(w, r, e.models...) {
				answer(w, http.StatusOK, map[string]string{"msg": "ok"})
			}
		})
		routes.HandleFunc("GET /unload", func(w http.ResponseWriter, r *http.Request) {
			if unload(w, r, e.models...) {
				fmt.Fprint(w, "OK")
			}
		})
		routes.HandleFunc("POST /api/models/unload/{model...}", func(w http.ResponseWriter, r *http.Request) {
			if m, ok := e.named(w, r.PathValue("model")); ok && unload(w, r, m) {
				fmt.Fprint(w, "OK")
			}
		})
	}
	return k
}
