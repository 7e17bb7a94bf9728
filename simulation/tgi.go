package simulation

import (
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// TGI is Hugging Face's text-generation-inference. It preallocates all that it uses, and
// has no call that frees memory.
func TGI() Kind {
	return Kind{
		Name: "tgi", Does: "text-generation-inference", Model: "Qwen/Qwen2.5-7B-Instruct", Owner: "Qwen/Qwen2.5-7B-Instruct",
		Weights: 20 * admission.GiB, Load: 30 * time.Second,
		Concurrency: 128,
		Shortest:    time.Second, Longest: 4 * time.Second,
		Aborts: true,
		Full:   says("Request failed during generation: Server error: CUDA out of memory."),
		Traps:  []string{ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			switch {
			case kind == serverError && status == http.StatusInternalServerError:
				status, kind = http.StatusFailedDependency, "generation"
			case kind == invalidError:
				status, kind = http.StatusUnprocessableEntity, "validation"
			}
			answer(w, status, map[string]string{"error": message, "error_type": kind})
		},
		Routes: func(e *Engine, routes *Routes) {
			m := e.models[0]
			for _, path := range []string{"/health", "/ping", "/{$}"} {
				routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
					if !e.up.Load() {
						answer(w, http.StatusServiceUnavailable, map[string]string{"error": "unhealthy", "error_type": "healthcheck"})
					}
				})
			}
			routes.HandleFunc("GET /info", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]any{
					"model_id": m.Name, "model_sha": nil, "model_pipeline_tag": "text-generation",
					"max_concurrent_requests": 128, "max_best_of": 2, "max_stop_sequences": 4, "max_input_tokens": 4095, "max_total_tokens": 4096,
					"validation_workers": 2, "max_client_batch_size": 4,
					"router": "text-generation-router", "version": "3.3.6-dev0", "sha": nil, "docker_label": nil,
				})
			})
			modelRoutes(e, routes, nil)
			metrics(e, routes, "tgi_queue_size", "tgi_batch_current_size")
			openAPI(e, routes, "/api-doc/openapi.json", "Text Generation Inference", "3.3.6-dev0")
			chatRoutes(e, routes)
			routes.HandleFunc("POST /v1/completions", e.completions)
			t := tgi{e}
			routes.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) { t.generate(w, r, false, false) })
			routes.HandleFunc("POST /generate_stream", func(w http.ResponseWriter, r *http.Request) { t.generate(w, r, true, false) })
			routes.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) { t.generate(w, r, false, true) })
		},
	}
}

type tgi struct{ *Engine }

// generate is TGI's own route. The older one at / takes the choice of a stream from the
// body, and answers a list.
func (t tgi) generate(w http.ResponseWriter, r *http.Request, stream, old bool) {
	var a struct {
		Inputs     *string `json:"inputs"`
		Stream     bool    `json:"stream"`
		Parameters struct {
			Details bool `json:"details"`
		} `json:"parameters"`
	}
	length, ok := t.read(w, r, &a)
	if !ok {
		return
	}
	if a.Inputs == nil {
		t.fail(w, http.StatusUnprocessableEntity, invalidError, "missing field `inputs`")
		return
	}
	details := func() map[string]any {
		return map[string]any{"finish_reason": "eos_token", "generated_tokens": len(words), "seed": nil}
	}
	m := t.models[0]
	if stream || old && a.Stream {
		token := func(i int, text string) map[string]any {
			return map[string]any{
				"index": i + 1, "token": map[string]any{"id": i, "text": text, "logprob": -0.25, "special": text == ""},
				"generated_text": nil, "details": nil,
			}
		}
		t.stream(w, r, m, length, feed{
			kind: "text/event-stream",
			word: func(i int) string { return event(token(i, words[i])) },
			end: func(string, time.Duration) string {
				last := token(len(words), "")
				last["generated_text"], last["details"] = said, details()
				return event(last)
			},
			broken: func(err error) string {
				_, message := t.fault(err)
				return event(map[string]string{"error": message, "error_type": "generation"})
			},
		})
		return
	}
	t.whole(w, r, m, length, func() any {
		body := map[string]any{"generated_text": said}
		if a.Parameters.Details {
			d := details()
			d["prefill"], d["tokens"] = []any{}, []any{}
			body["details"] = d
		}
		if old {
			return []any{body}
		}
		return body
	})
}
