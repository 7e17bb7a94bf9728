package simulation

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// A1111 is AUTOMATIC1111's web interface with --api, or Forge. One image at a
// time; what was unloaded comes back with the next request.
func A1111() Kind {
	return Kind{
		Name: "a1111", Does: "AUTOMATIC1111 or Forge with --api", Model: "v1-5-pruned-emaonly.safetensors",
		Weights: 4 * admission.GiB, Load: 6 * time.Second, Wake: 2 * time.Second,
		PerRun: 4 * admission.GiB, Concurrency: 1,
		Shortest: 4 * time.Second, Longest: 8 * time.Second,
		Traps:  []string{keepsMemory, residue, freesLate, slowWake},
		Always: []string{ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			switch {
			case strings.HasPrefix(message, "CUDA out of memory"):
				kind = "OutOfMemoryError"
			case status == http.StatusBadRequest:
				// What FastAPI says of a body that it cannot read.
				answer(w, http.StatusUnprocessableEntity, map[string]any{"detail": []any{
					map[string]any{"loc": []string{"body"}, "msg": message, "type": "json_invalid"},
				}})
				return
			case status == http.StatusNotFound:
				answer(w, status, map[string]string{"detail": message})
				return
			}
			answer(w, status, map[string]string{"error": kind, "detail": "", "body": "", "errors": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			a := &a1111{Engine: e, model: e.models[0]}
			routes.HandleFunc("POST /sdapi/v1/txt2img", func(w http.ResponseWriter, r *http.Request) { a.work(w, r, false) })
			routes.HandleFunc("POST /sdapi/v1/img2img", func(w http.ResponseWriter, r *http.Request) { a.work(w, r, true) })
			routes.HandleFunc("GET /sdapi/v1/sd-models", func(w http.ResponseWriter, _ *http.Request) {
				list := []any{}
				for _, m := range e.models {
					list = append(list, map[string]any{
						"title": m.Name + " [6ce0161689]", "model_name": strings.TrimSuffix(m.Name, ".safetensors"), "hash": "6ce0161689",
						"sha256": "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa", "filename": "models/Stable-diffusion/" + m.Name, "config": nil,
					})
				}
				answer(w, http.StatusOK, list)
			})
			routes.HandleFunc("POST /sdapi/v1/unload-checkpoint", func(w http.ResponseWriter, r *http.Request) {
				if err := e.free(r.Context(), a.model, true); err != nil {
					e.failed(w, err)
					return
				}
				e.freed(w, map[string]any{})
			})
			routes.HandleFunc("POST /sdapi/v1/reload-checkpoint", func(w http.ResponseWriter, r *http.Request) {
				if err := e.bring(r.Context(), a.model); err != nil {
					e.failed(w, err)
					return
				}
				answer(w, http.StatusOK, map[string]any{})
			})
			studioRoutes(a, routes)
			routes.HandleFunc("GET /sdapi/v1/memory", a.memory)
			routes.HandleFunc("GET /sdapi/v1/progress", a.progress)
			routes.HandleFunc("POST /sdapi/v1/interrupt", func(w http.ResponseWriter, _ *http.Request) {
				e.abort(a.model)
				answer(w, http.StatusOK, map[string]any{})
			})
		},
	}
}

// a1111 is the web interface's state.
type a1111 struct {
	*Engine
	model *model
	step  atomic.Int64 // of the image at work; 0: there is none
}

const samplingSteps = 20

// work makes an image. One that is interrupted is answered as far as it came.
func (a *a1111) work(w http.ResponseWriter, r *http.Request, from bool) {
	var ask struct {
		Prompt string            `json:"prompt"`
		Batch  int               `json:"batch_size"`
		Images []json.RawMessage `json:"init_images"`
	}
	length, ok := a.read(w, r, &ask)
	if !ok {
		return
	}
	if from && len(ask.Images) == 0 {
		a.fail(w, http.StatusNotFound, missingError, "Init image not found")
		return
	}
	took, err := a.run(a.caller(r), a.model, length, samplingSteps, func(i int) error {
		a.step.Store(int64(i+1) % samplingSteps)
		return nil
	})
	if errors.Is(err, errCut) {
		a.step.Store(0)
		err = nil
	}
	if err != nil {
		a.failed(w, err)
		return
	}
	images := []string{}
	for i := range min(max(ask.Batch, 1), 8) {
		images = append(images, base64.StdEncoding.EncodeToString(picture(ask.Prompt, i)))
	}
	setTook(w.Header(), executeHeader, took)
	answer(w, http.StatusOK, map[string]any{
		"images": images, "parameters": map[string]string{"prompt": ask.Prompt},
		"info": string(encoded(map[string]string{"prompt": ask.Prompt, "sd_model_name": a.model.Name})),
	})
}

func (a *a1111) memory(w http.ResponseWriter, _ *http.Request) {
	card, err := a.card.Memory()
	if err != nil {
		a.failed(w, err)
		return
	}
	all, idle := a.holding(a.model)
	both := func(n admission.Bytes) map[string]int64 {
		return map[string]int64{"current": int64(n), "peak": int64(n)}
	}
	answer(w, http.StatusOK, map[string]any{
		"ram": map[string]int64{"free": 0, "used": 0, "total": 0},
		"cuda": map[string]any{
			"system":    map[string]int64{"free": int64(card.Capacity - card.Used), "used": int64(card.Used), "total": int64(card.Capacity)},
			"active":    both(all - idle),
			"allocated": both(all - idle), "reserved": both(all), "inactive": both(idle),
			"events": map[string]int{"retries": 0, "oom": a.OutOfMemory()},
		},
	})
}

func (a *a1111) progress(w http.ResponseWriter, _ *http.Request) {
	step := a.step.Load()
	jobs := 0
	if a.busy(a.model) {
		jobs = 1
	}
	answer(w, http.StatusOK, map[string]any{
		"progress": float64(step) / samplingSteps, "eta_relative": 0.0, "current_image": nil, "textinfo": nil,
		"state": map[string]any{
			"skipped": false, "interrupted": false, "job": "", "job_count": jobs, "job_timestamp": "20261101000000", "job_no": 0,
			"sampling_step": step, "sampling_steps": samplingSteps,
		},
	})
}
