package simulation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"

	"golang.org/x/net/websocket"
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
			"version": "3.41.2", "mode": "blocks", "title": "Stable Diffusion", "components": []any{}, "enable_queue": true,
			"dependencies": []any{map[string]any{"api_name": "txt2img", "queue": nil}, map[string]any{"api_name": "interrupt", "queue": nil}},
		})
	})
	routes.HandleFunc("GET /queue/join", a.joinQueue)
	openAPI(a.Engine, routes, "/openapi.json", "FastAPI", "0.1.0")
	routes.HandleFunc("POST /sdapi/v1/skip", func(w http.ResponseWriter, _ *http.Request) {
		a.abort(a.model)
		answer(w, http.StatusOK, nil)
	})
}

// What the page asks by the queue of Gradio, by the index of its function.
const (
	pageDraws = iota
	pageInterrupts
)

// joinQueue is the queue of Gradio 3: a WebSocket for each thing that the page asks, which
// is closed when that is done.
func (a *a1111) joinQueue(w http.ResponseWriter, r *http.Request) {
	length, err := a.length(r)
	if err != nil || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		a.fail(w, http.StatusNotFound, missingError, "Not Found")
		return
	}
	websocket.Server{Handler: func(ws *websocket.Conn) {
		defer ws.Close()
		defer context.AfterFunc(a.life, func() { ws.Close() })()
		say := func(message string, more map[string]any) bool {
			m := map[string]any{"msg": message}
			for key, value := range more {
				m[key] = value
			}
			return websocket.JSON.Send(ws, m) == nil
		}
		var asked struct {
			Function int               `json:"fn_index"`
			Session  string            `json:"session_hash"`
			Data     []json.RawMessage `json:"data"`
		}
		if !say("send_hash", nil) || websocket.JSON.Receive(ws, &asked) != nil || asked.Session == "" {
			return
		}
		if !say("estimation", map[string]any{"rank": 0, "queue_size": 1}) || !say("send_data", nil) || websocket.JSON.Receive(ws, &asked) != nil {
			return
		}
		say("process_starts", nil)
		switch asked.Function {
		case pageDraws:
			_, err := a.run(a.caller(r), a.model, length, samplingSteps, nil)
			if err != nil {
				say("process_completed", map[string]any{"success": false, "output": map[string]any{"error": err.Error()}})
				return
			}
			image := "data:image/png;base64," + base64.StdEncoding.EncodeToString(picture("", 0))
			say("process_completed", map[string]any{"success": true, "output": map[string]any{"data": []any{[]string{image}}, "is_generating": false}})
		case pageInterrupts:
			a.abort(a.model)
			say("process_completed", map[string]any{"success": true, "output": map[string]any{"data": []any{}, "is_generating": false}})
		default:
			say("process_completed", map[string]any{"success": false, "output": map[string]any{"error": nil}})
		}
	}}.ServeHTTP(w, r)
}
