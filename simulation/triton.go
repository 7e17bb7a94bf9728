package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Triton is Triton with --model-control-mode=explicit and two models, of which
// the first is loaded at the start. A request to one that is not loaded is
// refused.
func Triton() Kind {
	return Kind{
		Name: "triton", Does: "Triton in explicit model control", Model: "resnet50",
		Weights: 2 * admission.GiB, Load: 4 * time.Second, PerRun: 256 * admission.MiB,
		Others:      []Model{{Name: "bert", Weights: 3 * admission.GiB, Load: 5 * time.Second, PerRun: 256 * admission.MiB}},
		Explicit:    true,
		Concurrency: 1,
		// What ONNX Runtime says, through Triton's onnxruntime_backend.
		Full: func(full *OutOfMemory) string {
			return fmt.Sprintf("onnx runtime error 6: Non-zero status code returned while running Conv node. Name:'Conv_3' Status Message: "+
				"/workspace/onnxruntime/onnxruntime/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "+
				"onnxruntime::Stream*, bool, onnxruntime::WaitNotificationFn) Failed to allocate memory for requested buffer of size %d", int64(full.Asked))
		},
		Shortest: 100 * time.Millisecond, Longest: 200 * time.Millisecond,
		Traps:  []string{keepsMemory, residue, freesLate, notExplicit, slowWake},
		Always: []string{ignoresCallers, perModel},
		Fail: func(w http.ResponseWriter, status int, _, message string) {
			answer(w, status, map[string]string{"error": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			t := triton{e}
			ready := func(ok bool, w http.ResponseWriter) {
				if !ok {
					w.WriteHeader(http.StatusBadRequest)
				}
			}
			routes.HandleFunc("GET /v2", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]any{
					"name": "triton", "version": "2.63.0", "extensions": []string{
						"classification", "sequence", "model_repository", "model_repository(unload_dependents)", "schedule_policy",
						"model_configuration", "system_shared_memory", "cuda_shared_memory", "binary_tensor_data", "parameters", "statistics", "trace", "logging",
					},
				})
			})
			routes.HandleFunc("GET /v2/models/{model}", t.about)
			routes.HandleFunc("GET /v2/models/{model}/stats", t.stats)
			routes.HandleFunc("GET /v2/health/live", func(http.ResponseWriter, *http.Request) {})
			routes.HandleFunc("GET /v2/health/ready", func(w http.ResponseWriter, _ *http.Request) { ready(e.up.Load(), w) })
			routes.HandleFunc("GET /v2/models/{model}/ready", func(w http.ResponseWriter, r *http.Request) {
				m := t.known(r.PathValue("model"))
				ready(m != nil && t.available(m), w)
			})
			routes.HandleFunc("POST /v2/models/{model}/infer", t.infer)
			routes.HandleFunc("POST /v2/repository/index", t.index)
			routes.HandleFunc("POST /v2/repository/models/{model}/load", func(w http.ResponseWriter, r *http.Request) {
				t.control(w, r, e.wake)
			})
			// What runs is waited for after the answer.
			routes.HandleFunc("POST /v2/repository/models/{model}/unload", func(w http.ResponseWriter, r *http.Request) {
				t.control(w, r, func(ctx context.Context, m *model) error { return e.suspend(ctx, m, false, false) })
			})
		},
	}
}

// triton is the inference protocol of version 2 with the repository extension.
type triton struct{ *Engine }

// known is a model by its exact name, because a path always names one.
func (t triton) known(name string) *model {
	for _, m := range t.models {
		if m.Name == name {
			return m
		}
	}
	return nil
}

func (t triton) available(m *model) bool { return m.ready.Load() && !t.sleeping(m) }

// about says what a model takes and gives.
func (t triton) about(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("model")
	if m := t.known(name); m == nil || !t.available(m) {
		t.fail(w, http.StatusBadRequest, missingError, "Request for unknown model: '"+name+"' is not found")
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"name": name, "versions": []string{"1"}, "platform": "onnxruntime_onnx",
		"inputs":  []any{map[string]any{"name": "input0", "datatype": "FP32", "shape": []int{-1, 1}}},
		"outputs": []any{map[string]any{"name": "output0", "datatype": "FP32", "shape": []int{-1, 1}}},
	})
}

// stats count what a model was asked for.
func (t triton) stats(w http.ResponseWriter, r *http.Request) {
	m := t.known(r.PathValue("model"))
	if m == nil {
		t.fail(w, http.StatusBadRequest, missingError, "Request for unknown model: '"+r.PathValue("model")+"' is not found")
		return
	}
	t.mu.Lock()
	begun := m.begun
	t.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"model_stats": []any{
		map[string]any{"name": m.Name, "version": "1", "inference_count": begun, "execution_count": begun},
	}})
}

// control loads or unloads.
func (t triton) control(w http.ResponseWriter, r *http.Request, act func(context.Context, *model) error) {
	m := t.known(r.PathValue("model"))
	switch {
	case t.traps[notExplicit]:
		t.fail(w, http.StatusBadRequest, invalidError, "explicit model load / unload is not allowed if polling is enabled")
	case m == nil:
		t.fail(w, http.StatusBadRequest, invalidError, "failed to load '"+r.PathValue("model")+"', failed to poll from model repository")
	default:
		if err := act(r.Context(), m); err != nil {
			t.failed(w, err)
		}
	}
}

func (t triton) index(w http.ResponseWriter, _ *http.Request) {
	list := []any{}
	for _, m := range t.models {
		if t.available(m) {
			list = append(list, map[string]string{"name": m.Name, "version": "1", "state": "READY"})
		} else {
			list = append(list, map[string]string{"name": m.Name, "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"})
		}
	}
	answer(w, http.StatusOK, list)
}

// infer takes JSON, which tensors in binary may follow.
func (t triton) infer(w http.ResponseWriter, r *http.Request) {
	body, ok := t.body(w, r)
	if !ok {
		return
	}
	if text := r.Header.Get("Inference-Header-Content-Length"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > len(body) {
			t.fail(w, http.StatusBadRequest, invalidError, "invalid Inference-Header-Content-Length "+text)
			return
		}
		body = body[:n]
	}
	var ask struct {
		ID     string            `json:"id"`
		Inputs []json.RawMessage `json:"inputs"`
	}
	length, err := t.length(r)
	switch {
	case json.Unmarshal(body, &ask) != nil:
		t.fail(w, http.StatusBadRequest, invalidError, "failed to parse the request JSON buffer")
		return
	case len(ask.Inputs) == 0:
		t.fail(w, http.StatusBadRequest, invalidError, "Unable to find 'inputs' in the request")
		return
	case err != nil:
		t.fail(w, http.StatusBadRequest, invalidError, err.Error())
		return
	}
	m := t.known(r.PathValue("model"))
	unknown := "Request for unknown model: '" + r.PathValue("model") + "' is not found"
	if m == nil {
		t.fail(w, http.StatusBadRequest, invalidError, unknown)
		return
	}
	took, err := t.run(t.caller(r), m, length, 1, nil)
	switch {
	case errors.Is(err, errAsleep):
		t.fail(w, http.StatusBadRequest, invalidError, unknown)
	case err != nil:
		t.failed(w, err)
	default:
		setTook(w.Header(), executeHeader, took)
		answer(w, http.StatusOK, map[string]any{
			"id": ask.ID, "model_name": m.Name, "model_version": "1",
			"outputs": []any{map[string]any{"name": "output0", "datatype": "FP32", "shape": []int{1, 1}, "data": []float64{0.5}}},
		})
	}
}
