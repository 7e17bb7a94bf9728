package simulation

import (
	"fmt"
	"net/http"
)

// pageRoutes are what the app says of itself, to its page and to clients.
func (g *gradio) pageRoutes(routes *Routes) {
	routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html>\n<html><head><title>Gradio</title><script>window.gradio_config = %s;</script></head>"+
			"<body><gradio-app></gradio-app></body></html>\n", encoded(gradioConfig(root(r))))
	})
	routes.HandleFunc("GET /config", func(w http.ResponseWriter, r *http.Request) { answer(w, http.StatusOK, gradioConfig(root(r))) })
	say := func(path string, body any) {
		routes.HandleFunc("GET "+gradioPrefix+"/"+path, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, body) })
	}
	say("info", gradioInfo)
	say("app_id", map[string]any{"app_id": gradioApp})
	say("startup-events", true)
	say("login_check", map[string]string{"msg": "Logged in"})
	routes.HandleFunc("GET "+gradioPrefix+"/theme.css", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/css")
		fmt.Fprint(w, ":root { --primary-500: #f97316; }\n")
	})
	routes.HandleFunc("POST "+gradioPrefix+"/reset", func(w http.ResponseWriter, r *http.Request) {
		if _, ok := g.body(w, r); ok {
			answer(w, http.StatusOK, map[string]bool{"success": true})
		}
	})
}

// gradioApp is the number that a restart would change.
const gradioApp = 6100000000000000001

// gradioConfig is the app for its page and for clients, which find it at root.
func gradioConfig(root string) map[string]any {
	component := func(id int, sort, label string) map[string]any {
		return map[string]any{
			"id": id, "type": sort, "props": map[string]any{"label": label, "name": sort, "visible": true, "interactive": id%2 == 1},
			"skip_api": false, "component_class_id": fmt.Sprint(sort), "key": nil, "rendered_in": nil,
		}
	}
	dependency := func(id, from, to int) map[string]any {
		return map[string]any{
			"id": id, "targets": []any{[]any{from, "submit"}}, "inputs": []int{from}, "outputs": []int{to}, "backend_fn": true, "js": nil,
			"queue": true, "api_name": gradioFunctions[id], "api_visibility": "public", "cancels": []int{}, "batch": false, "max_batch_size": 4,
			"types": map[string]bool{"generator": false, "cancel": false}, "trigger_mode": "once", "show_progress": "full", "show_progress_on": nil,
			"collects_event_data": false, "connection": "sse", "time_limit": nil, "stream_every": 0.5, "rendered_in": nil, "scroll_to_output": false,
			"trigger_after": nil, "trigger_only_on_success": false, "like_user_message": false, "event_specific_args": nil, "js_implementation": nil,
		}
	}
	layout := map[string]any{"id": 0, "children": []any{map[string]int{"id": 1}, map[string]int{"id": 2}, map[string]int{"id": 3},
		map[string]int{"id": 4}}}
	return map[string]any{
		"version": "6.0.0", "protocol": "sse_v3", "api_prefix": gradioPrefix, "root": root, "app_id": gradioApp, "mode": "blocks", "title": "Gradio",
		"components": []any{
			component(1, "textbox", "prompt"), component(2, "image", "drawing"), component(3, "image", "image"), component(4, "textbox", "caption"),
		},
		"dependencies": []any{dependency(0, 1, 2), dependency(1, 3, 4)}, "layout": layout,
		"page":  map[string]any{"": map[string]any{"components": []int{1, 2, 3, 4}, "dependencies": []int{0, 1}, "layout": layout}},
		"pages": []any{[]any{"", "Home", true}}, "current_page": "", "username": nil, "space_id": nil, "is_space": false, "is_colab": false,
		"enable_queue": true, "show_error": true, "connect_heartbeat": true, "dev_mode": false, "vibe_mode": false, "analytics_enabled": false,
		"css": nil, "js": nil, "head": nil, "theme": "default", "stylesheets": []string{}, "footer_links": []string{"api", "gradio", "settings"},
		"max_file_size": nil, "theme_hash": "0", "fill_height": false, "fill_width": false, "pwa": false, "mcp_server": false, "run_history": false,
	}
}

// gradioInfo is the app's two functions as its users call them.
var gradioInfo = func() map[string]any {
	text := func(label string) map[string]any {
		return map[string]any{
			"label": label, "parameter_name": label, "parameter_has_default": false, "parameter_default": nil,
			"type": map[string]string{"type": "string"}, "python_type": map[string]string{"type": "str", "description": ""},
			"component": "Textbox", "example_input": "Hello!!",
		}
	}
	image := func(label string) map[string]any {
		return map[string]any{
			"label": label, "parameter_name": label, "parameter_has_default": false, "parameter_default": nil,
			"type": map[string]any{"title": "ImageData", "type": "object", "properties": map[string]any{
				"path": map[string]any{"type": "string"}, "url": map[string]any{"type": "string"},
			}},
			"python_type": map[string]string{"type": "dict(path: str | None, url: str | None)", "description": ""},
			"component":   "Image", "example_input": nil,
		}
	}
	of := func(in, out map[string]any) map[string]any {
		return map[string]any{"parameters": []any{in}, "returns": []any{out}, "api_visibility": "public", "description": ""}
	}
	return map[string]any{
		"named_endpoints": map[string]any{
			"/predict": of(text("prompt"), image("drawing")), "/caption": of(image("image"), text("caption")),
		},
		"unnamed_endpoints": map[string]any{},
	}
}()
