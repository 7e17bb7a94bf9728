package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// SGLang is SGLang with --enable-memory-saver. Its weights are all that it
// preallocates; a run adds nothing. A release aborts what runs.
func SGLang() Kind {
	return Kind{
		Name: "sglang", Does: "SGLang with its memory saver", Model: "Qwen/Qwen2.5-7B-Instruct", Owner: "sglang",
		Weights: 20 * admission.GiB, Load: 30 * time.Second, Wake: 2 * time.Second,
		Concurrency: 256,
		Shortest:    time.Second, Longest: 4 * time.Second,
		Aborts: true,
		Traps: []string{
			keepsMemory, residue, freesLate, diesOnFree, diesAsleep, hangsAsleep, slowWake, ignoresCallers,
		},
		Always: []string{abortsInFlight, wantsBody},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			answer(w, status, map[string]any{"object": "error", "message": message, "type": pythonError(kind), "param": nil, "code": status})
		},
		Routes: sglangRoutes,
	}
}

func sglangRoutes(e *Engine, routes *Routes) {
	plainHealth(e, routes, "/health", "")
	more := func(m *model) map[string]any {
		return map[string]any{"root": m.Name, "parent": nil, "max_model_len": 32768}
	}
	modelRoutes(e, routes, more)
	modelRoute(e, routes, more)
	chatRoutes(e, routes)
	routes.HandleFunc("POST /v1/completions", e.completions)
	routes.HandleFunc("POST /v1/responses", e.responses)
	metrics(e, routes, "sglang:num_queue_reqs", "sglang:num_running_reqs")
	openAPI(e, routes, "/openapi.json", "FastAPI", "0.1.0")
	m := e.models[0]
	// A health check that is work: it generates a token.
	routes.HandleFunc("GET /health_generate", func(w http.ResponseWriter, r *http.Request) {
		if _, err := e.run(e.caller(r), m, e.kind.Shortest/10, 1, nil); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	for _, path := range []string{"/get_model_info", "/model_info"} {
		routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, map[string]any{
				"model_path": m.Name, "tokenizer_path": m.Name, "is_generation": true,
				"preferred_sampling_params": nil, "weight_version": "default",
			})
		})
	}
	for _, path := range []string{"/get_server_info", "/server_info"} {
		routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusOK, map[string]any{
				"model_path": m.Name, "served_model_name": m.Name, "enable_memory_saver": true, "mem_fraction_static": 0.85, "tp_size": 1,
				"internal_states": []any{map[string]any{"memory_usage": map[string]float64{"weight": float64(m.Weights) / float64(admission.GiB)}}},
				"version":         "0.5.6",
			})
		})
	}
	// Its cache is a part of the weights here: there is nothing to flush.
	routes.HandleFunc("POST /flush_cache", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "Cache flushed.\n") })
	routes.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) { generate(e, m, w, r) })
	sglangMemory(e, routes, m)
}

// sglangMemory are the calls that release the memory and take it again.
func sglangMemory(e *Engine, routes *Routes, m *model) {
	// Both calls parse a body before anything else.
	memory := func(act func(context.Context) error, done func(http.ResponseWriter)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			body, ok := e.body(w, r)
			if !ok {
				return
			}
			if body = bytes.TrimSpace(body); len(body) == 0 || !json.Valid(body) {
				e.fail(w, http.StatusBadRequest, invalidError, "1 validation error: body: Field required")
				return
			}
			if err := act(r.Context()); err != nil {
				e.failed(w, err)
				return
			}
			done(w)
		}
	}
	routes.HandleFunc("POST /release_memory_occupation", memory(func(ctx context.Context) error {
		e.abort(m)
		return e.suspend(ctx, m, false, true)
	}, func(w http.ResponseWriter) { e.freed(w, nil) }))
	routes.HandleFunc("POST /resume_memory_occupation", memory(func(ctx context.Context) error {
		return e.wake(ctx, m)
	}, func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }))
}

// generate is SGLang's own route, whose stream repeats all that has been said so
// far.
func generate(e *Engine, m *model, w http.ResponseWriter, r *http.Request) {
	var a struct {
		Text   json.RawMessage `json:"text"`
		Stream bool            `json:"stream"`
	}
	length, ok := e.read(w, r, &a)
	if !ok {
		return
	}
	body := func(count int, reason any) any {
		text := ""
		for _, word := range words[:count] {
			text += word
		}
		return map[string]any{"text": text, "meta_info": map[string]any{
			"id": "simulated", "finish_reason": reason, "prompt_tokens": len(a.Text) / 4, "completion_tokens": count,
		}}
	}
	stop := map[string]string{"type": "stop"}
	if !a.Stream {
		e.whole(w, r, m, length, func() any { return body(len(words), stop) })
		return
	}
	e.stream(w, r, m, length, feed{
		kind: "text/event-stream",
		word: func(i int) string { return event(body(i+1, nil)) },
		end: func(string, time.Duration) string {
			return event(body(len(words), stop)) + "data: [DONE]\n\n"
		},
	})
}
