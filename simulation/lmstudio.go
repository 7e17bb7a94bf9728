package simulation

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// LMStudio is LM Studio's server with two models. A request loads its model and unloads
// the one before. It answers 200 to every path, known or not.
func LMStudio() Kind {
	return Kind{
		Name: "lmstudio", Does: "LM Studio's server, loading by request", Model: "qwen2.5-7b-instruct", Owner: "organization_owner",
		Weights: 5 * admission.GiB, Load: 3 * time.Second,
		Others: []Model{{Name: "text-embedding-nomic-embed-text-v1.5", Weights: 512 * admission.MiB, Load: time.Second}},
		Lazy:   true, Single: true, Concurrency: 4,
		Shortest: time.Second, Longest: 4 * time.Second,
		Aborts: true, Full: func(full *OutOfMemory) string { return "Failed to load model: " + llamaFull(full) },
		Traps:  []string{keepsMemory, freesLate, slowWake, ignoresCallers},
		Always: []string{perModel, oneAtATime},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			answer(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": nil}})
		},
		Routes: func(e *Engine, routes *Routes) {
			l := lmStudio{e}
			modelRoutes(e, routes, nil)
			chatRoutes(e, routes)
			routes.HandleFunc("POST /v1/completions", e.completions)
			routes.HandleFunc("POST /v1/responses", e.responses)
			routes.HandleFunc("POST /v1/embeddings", e.embeddings)
			routes.HandleFunc("GET /api/v0/models", func(w http.ResponseWriter, _ *http.Request) {
				data := []any{}
				for _, m := range e.models {
					data = append(data, l.about(m))
				}
				answer(w, http.StatusOK, map[string]any{"object": "list", "data": data})
			})
			routes.HandleFunc("GET /api/v0/models/{model...}", func(w http.ResponseWriter, r *http.Request) {
				if m, ok := e.exact(w, r.PathValue("model")); ok {
					answer(w, http.StatusOK, l.about(m))
				}
			})
			routes.HandleFunc("POST /api/v0/chat/completions", e.chat(map[string]any{
				"stats":      map[string]any{"tokens_per_second": 50.0, "time_to_first_token": 0.1, "generation_time": 0.9, "stop_reason": "eosFound"},
				"model_info": map[string]any{"arch": "qwen2", "quant": "Q4_K_M", "format": "gguf", "context_length": 4096},
				"runtime":    map[string]any{"name": "llama.cpp-linux-x86_64-nvidia-cuda", "version": "1.3.0", "supported_formats": []string{"gguf"}},
			}))
			routes.HandleFunc("POST /api/v0/completions", e.completions)
			routes.HandleFunc("POST /api/v0/embeddings", e.embeddings)
			routes.HandleFunc("GET /api/v1/models", l.list)
			routes.HandleFunc("POST /api/v1/models/load", l.loadByHand)
			routes.HandleFunc("POST /api/v1/models/unload", l.unload)
			routes.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
				if _, ok := e.body(w, r); ok {
					answer(w, http.StatusOK, map[string]string{"error": fmt.Sprintf("Unexpected endpoint or method. (%s %s)", r.Method, r.URL.Path)})
				}
			})
		},
	}
}

type lmStudio struct{ *Engine }

// sort is whether a model embeds or speaks.
func (l lmStudio) sort(m *model, embeds, speaks string) string {
	if strings.Contains(m.Name, "embed") {
		return embeds
	}
	return speaks
}

func (l lmStudio) about(m *model) map[string]any {
	return map[string]any{
		"id": m.Name, "object": "model", "type": l.sort(m, "embeddings", "llm"), "publisher": "lmstudio-community",
		"arch": l.sort(m, "nomic-bert", "qwen2"), "compatibility_type": "gguf", "quantization": "Q4_K_M",
		"state": l.state(m, "loaded", "not-loaded", "not-loaded"), "max_context_length": 32768,
	}
}

func (l lmStudio) list(w http.ResponseWriter, _ *http.Request) {
	models := []any{}
	for _, m := range l.models {
		instances := []any{}
		if m.ready.Load() {
			instances = append(instances, map[string]any{"id": m.Name, "config": map[string]any{"context_length": 4096}})
		}
		models = append(models, map[string]any{
			"type": l.sort(m, "embedding", "llm"), "publisher": "lmstudio-community", "key": m.Name, "display_name": m.Name,
			"quantization": map[string]any{"name": "Q4_K_M", "bits_per_weight": 4}, "size_bytes": int64(m.Weights),
			"params_string": nil, "loaded_instances": instances,
		})
	}
	answer(w, http.StatusOK, map[string]any{"models": models})
}

func (l lmStudio) loadByHand(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model string `json:"model"`
	}
	if _, ok := l.read(w, r, &a); !ok {
		return
	}
	m, ok := l.exact(w, a.Model)
	if !ok {
		return
	}
	if err := l.bring(r.Context(), m); err != nil {
		l.failed(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"type": l.sort(m, "embedding", "llm"), "instance_id": m.Name, "load_time_seconds": m.Load.Seconds(), "status": "loaded",
	})
}

func (l lmStudio) unload(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Instance string `json:"instance_id"`
	}
	if _, ok := l.read(w, r, &a); !ok {
		return
	}
	m, ok := l.exact(w, a.Instance)
	if !ok {
		return
	}
	if err := l.free(r.Context(), m, true); err != nil {
		l.failed(w, err)
		return
	}
	l.freed(w, map[string]string{"instance_id": m.Name})
}
