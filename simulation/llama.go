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
	k.Name, k.Does = "llama-server", "llama-server as a router for several models"
	k.Traps = []string{keepsMemory, residue, freesLate, oneAtATime, slowWake, ignoresCallers}
	k.Always = []string{perModel}
	k.Routes = func(e *Engine, routes *http.ServeMux) {
		commonRoutes(e, routes)
		chatRoutes(e, routes)
		routes.HandleFunc("GET /models", func(w http.ResponseWriter, _ *http.Request) {
			data := []any{}
			for _, m := range e.models {
				data = append(data, map[string]any{"id": m.Name, "object": "model", "status": map[string]string{"value": e.state(m, "loaded", "loading", "unloaded")}})
			}
			answer(w, http.StatusOK, map[string]any{"object": "list", "data": data})
		})
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

// LlamaSwap is llama-swap before two llama-servers, of which one runs at a time.
func LlamaSwap() Kind {
	k := llama()
	k.Name, k.Does = "llama-swap", "llama-swap before two llama-servers"
	k.Single = true
	k.Traps = []string{keepsMemory, freesLate, slowWake, ignoresCallers}
	k.Always = []string{oneAtATime}
	k.Routes = func(e *Engine, routes *http.ServeMux) {
		commonRoutes(e, routes)
		chatRoutes(e, routes)
		routes.HandleFunc("GET /running", func(w http.ResponseWriter, _ *http.Request) {
			running := []any{}
			for _, m := range e.models {
				if state := e.state(m, "ready", "starting", ""); state != "" {
					running = append(running, map[string]string{"model": m.Name, "state": state})
				}
			}
			answer(w, http.StatusOK, map[string]any{"running": running})
		})
		unload := func(w http.ResponseWriter, r *http.Request, models ...*model) {
			for _, m := range models {
				if err := e.free(r.Context(), m, true); err != nil {
					e.failed(w, err)
					return
				}
			}
			fmt.Fprint(w, "OK")
		}
		routes.HandleFunc("POST /api/models/unload", func(w http.ResponseWriter, r *http.Request) { unload(w, r, e.models...) })
		routes.HandleFunc("GET /unload", func(w http.ResponseWriter, r *http.Request) { unload(w, r, e.models...) })
		routes.HandleFunc("POST /api/models/unload/{model...}", func(w http.ResponseWriter, r *http.Request) {
			if m, ok := e.named(w, r.PathValue("model")); ok {
				unload(w, r, m)
			}
		})
	}
	return k
}
