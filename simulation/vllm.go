package simulation

import (
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// VLLM is vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1. Its weights
// are all that it preallocates, key-value cache and all; a run adds nothing.
// While it sleeps requests are refused, unless a trap says otherwise.
func VLLM() Kind {
	return Kind{
		Name: "vllm", Does: "vLLM in its development mode, with sleep", Model: "Qwen/Qwen2.5-7B-Instruct", Owner: "vllm",
		Weights: 20 * admission.GiB, Load: 30 * time.Second, Wake: 2 * time.Second,
		Concurrency: 256,
		Shortest:    time.Second, Longest: 4 * time.Second,
		Aborts: true, Cut: "abort",
		Traps: []string{
			keepsMemory, residue, freesLate, abortsInFlight, diesOnFree, diesAsleep, hangsAsleep, slowWake, ignoresCallers,
		},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			answer(w, status, map[string]any{"error": map[string]any{"message": message, "type": pythonError(kind), "param": nil, "code": status}})
		},
		Routes: func(e *Engine, routes *Routes) {
			for _, path := range []string{"/health", "/ping"} {
				plainHealth(e, routes, path, "")
			}
			modelRoutes(e, routes, func(m *model) map[string]any {
				return map[string]any{"root": m.Name, "parent": nil, "max_model_len": 32768, "permission": []any{}}
			})
			chatRoutes(e, routes)
			routes.HandleFunc("POST /v1/completions", e.completions)
			routes.HandleFunc("POST /v1/responses", e.responses)
			metrics(e, routes, "vllm:num_requests_waiting", "vllm:num_requests_running")
			openAPI(e, routes, "/openapi.json", "FastAPI", "0.1.0")
			m := e.models[0]
			routes.HandleFunc("GET /load", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]int{"server_load": e.atWork(m)})
			})
			routes.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]string{"version": "0.12.0"})
			})
			routes.HandleFunc("GET /is_sleeping", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]bool{"is_sleeping": e.sleeping(m)})
			})
			routes.HandleFunc("POST /sleep", func(w http.ResponseWriter, r *http.Request) {
				mode, level := r.FormValue("mode"), r.FormValue("level")
				switch {
				case mode != "" && mode != "abort" && mode != "wait":
					e.fail(w, http.StatusBadRequest, invalidError, "mode "+mode+": want abort or wait")
					return
				case level != "" && level != "1" && level != "2":
					e.fail(w, http.StatusBadRequest, invalidError, "level "+level+": want 1 or 2")
					return
				}
				if mode != "wait" || e.traps[abortsInFlight] {
					e.abort(m)
				}
				if err := e.suspend(r.Context(), m, level == "2", true); err != nil {
					e.failed(w, err)
					return
				}
				e.freed(w, nil)
			})
			routes.HandleFunc("POST /wake_up", func(w http.ResponseWriter, r *http.Request) {
				if err := e.wake(r.Context(), m); err != nil {
					e.failed(w, err)
					return
				}
				w.WriteHeader(http.StatusOK)
			})
		},
	}
}

// pythonError is the name that vLLM and SGLang give to one of OpenAI's errors.
func pythonError(kind string) string {
	switch kind {
	case invalidError:
		return "BadRequestError"
	case missingError:
		return "NotFoundError"
	default:
		return "InternalServerError"
	}
}
