package simulation

import (
	"encoding/base64"
	"net/http"
	"strings"
)

// studioRoutes are what tools ask of the web interface beside images.
func studioRoutes(a *a1111, routes *Routes) {
	list := func(path string, items ...map[string]any) {
		routes.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, items) })
	}
	list("/sdapi/v1/samplers", map[string]any{"name": "Euler a", "aliases": []string{"k_euler_a"}, "options": map[string]string{}},
		map[string]any{"name": "DPM++ 2M", "aliases": []string{"k_dpmpp_2m"}, "options": map[string]string{}})
	list("/sdapi/v1/schedulers", map[string]any{"name": "automatic", "label": "Automatic", "aliases": nil, "default_rho": -1, "need_inner_model": false})
	list("/sdapi/v1/upscalers", map[string]any{"name": "None", "model_name": nil, "model_path": nil, "model_url": nil, "scale": 4})
	routes.HandleFunc("GET /sdapi/v1/options", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{
			"samples_save": true, "samples_format": "png", "sd_model_checkpoint": a.model.Name + " [6ce0161689]",
			"sd_checkpoint_hash": "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa", "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 1,
		})
	})
	// Options are taken and change nothing: there is one checkpoint.
	routes.HandleFunc("POST /sdapi/v1/options", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Checkpoint string `json:"sd_model_checkpoint"`
		}
		if _, ok := a.read(w, r, &ask); !ok {
			return
		}
		if ask.Checkpoint != "" && !strings.HasPrefix(ask.Checkpoint, strings.TrimSuffix(a.model.Name, ".safetensors")) {
			a.fail(w, http.StatusInternalServerError, "RuntimeError", "model '"+ask.Checkpoint+"' not found")
			return
		}
		answer(w, http.StatusOK, nil)
	})
	routes.HandleFunc("GET /sdapi/v1/cmd-flags", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{"api": true, "listen": false, "port": 7860, "medvram": false, "lowvram": false})
	})
	routes.HandleFunc("POST /sdapi/v1/extra-single-image", func(w http.ResponseWriter, r *http.Request) {
		var ask struct {
			Image string `json:"image"`
		}
		length, ok := a.read(w, r, &ask)
		if !ok {
			return
		}
		if ask.Image == "" {
			a.fail(w, http.StatusInternalServerError, "HTTPException", "Invalid encoded image")
			return
		}
		a.whole(w, r, a.model, length/4, func() any {
			return map[string]string{"html_info": "", "image": base64.StdEncoding.EncodeToString(picture(ask.Image, 0))}
		})
	})
	// Its page is a Gradio application of an old version.
	routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		page(w, "Stable Diffusion", "The interface for programs is below /sdapi/v1.")
	})
	routes.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]any{
			"version": "3.41.2", "mode": "blocks", "title": "Stable Diffusion", "components": []any{}, "dependencies": []any{}, "enable_queue": true,
		})
	})
	openAPI(a.Engine, routes, "/openapi.json", "FastAPI", "0.1.0")
	routes.HandleFunc("POST /sdapi/v1/skip", func(w http.ResponseWriter, _ *http.Request) {
		a.abort(a.model)
		answer(w, http.StatusOK, nil)
	})
}
