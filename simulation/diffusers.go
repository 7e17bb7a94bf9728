package simulation

import (
	"encoding/base64"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Diffusers is what people write first: a diffusers pipeline in a FastAPI application of
// one route, one image at a time, with no call that frees memory.
func Diffusers() Kind {
	return Kind{
		Name: "diffusers", Does: "a diffusers pipeline in a FastAPI application", Model: "stabilityai/stable-diffusion-xl-base-1.0",
		Weights: 7 * admission.GiB, Load: 6 * time.Second, PerRun: 4 * admission.GiB, Concurrency: 1,
		Shortest: 6 * time.Second, Longest: 10 * time.Second,
		Always: []string{ignoresCallers},
		Fail:   failFastAPI,
		Routes: func(e *Engine, routes *Routes) {
			routes.HandleFunc("GET /health", e.health)
			openAPI(e, routes, "/openapi.json", "FastAPI", "0.1.0")
			routes.HandleFunc("POST /generate", func(w http.ResponseWriter, r *http.Request) {
				var a struct {
					Prompt *string `json:"prompt"`
					Images int     `json:"num_images_per_prompt"`
					Seed   int64   `json:"seed"`
				}
				length, ok := e.read(w, r, &a)
				switch {
				case !ok:
					return
				case a.Prompt == nil:
					answer(w, http.StatusUnprocessableEntity, map[string]any{"detail": []any{
						map[string]any{"type": "missing", "loc": []string{"body", "prompt"}, "msg": "Field required", "input": map[string]any{}},
					}})
					return
				}
				e.whole(w, r, e.models[0], length, func() any {
					images := []string{}
					for i := range min(max(a.Images, 1), 8) {
						images = append(images, base64.StdEncoding.EncodeToString(picture(*a.Prompt, i)))
					}
					return map[string]any{"images": images, "seed": a.Seed}
				})
			})
		},
	}
}
