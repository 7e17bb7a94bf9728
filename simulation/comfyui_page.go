package simulation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"golang.org/x/net/websocket"
)

// comfyAsk is what a prompt is to know.
type comfyAsk struct {
	prompt map[string]json.RawMessage
	client string // whose socket is told; empty: none is
}

// socket is the connection of a page, or of a program that does as the page does.
type socket struct {
	*websocket.Conn
	out chan any // messages that wait; its end is that of the connection
}

const (
	maxMessages = 1000             // that may wait for a client, before it is taken to be gone
	sendWithin  = 10 * time.Second // how long a message may take to get into a socket
)

// write sends what waits, until the connection ends.
func (s *socket) write(ended <-chan struct{}) {
	for {
		select {
		case m := <-s.out:
			if s.SetWriteDeadline(time.Now().Add(sendWithin)) != nil || websocket.JSON.Send(s.Conn, m) != nil {
				s.Close()
				return
			}
		case <-ended:
			return
		}
	}
}

// say sends a message to the client's socket, or to all where client is empty. It does not
// block.
func (c *comfy) say(client, kind string, data map[string]any) {
	c.page.Lock()
	defer c.page.Unlock()
	for name, s := range c.sockets {
		if client != "" && client != name {
			continue
		}
		select {
		case s.out <- map[string]any{"type": kind, "data": data}:
		default:
			s.Close()
		}
	}
}

func (c *comfy) status() map[string]any {
	pending, running, _ := c.list()
	return map[string]any{"status": map[string]any{"exec_info": map[string]int{"queue_remaining": len(pending) + len(running)}}}
}

// websocket tells a client of the queue, and of what it asked for.
func (c *comfy) websocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		text(w, http.StatusBadRequest, "No WebSocket UPGRADE hdr: None\n Can \"Upgrade\" only to \"WebSocket\".")
		return
	}
	server := websocket.Server{Handler: func(ws *websocket.Conn) {
		s, client := &socket{ws, make(chan any, maxMessages)}, r.FormValue("clientId")
		if client == "" {
			client = strings.ReplaceAll(newID(), "-", "")
		}
		c.page.Lock()
		c.sockets[client] = s
		c.page.Unlock()
		defer context.AfterFunc(c.life, func() { ws.Close() })()
		ended := make(chan struct{})
		defer close(ended)
		go s.write(ended)
		defer func() {
			c.page.Lock()
			defer c.page.Unlock()
			if c.sockets[client] == s {
				delete(c.sockets, client)
			}
		}()
		first := c.status()
		first["sid"] = client
		c.say(client, "status", first)
		for {
			var said struct {
				Type string `json:"type"`
			}
			// What is not JSON is no message, and does no harm.
			err := websocket.JSON.Receive(ws, &said)
			if said.Type == "feature_flags" {
				c.say(client, "feature_flags", comfyFeatures)
			}
			if wrong := (*json.SyntaxError)(nil); err != nil && !errors.As(err, &wrong) {
				return
			}
		}
	}}
	server.ServeHTTP(w, r)
}

var comfyFeatures = map[string]any{"supports_preview_metadata": true, "max_upload_size": 104857600}

// tell sends what happens to a prompt to the client that asked for it.
func (c *comfy) tell(j *job, kind string, data map[string]any) {
	if client := j.ask.(*comfyAsk).client; client != "" {
		data["prompt_id"] = j.id
		c.say(client, kind, data)
	}
}

func (c *comfy) begun(j *job) {
	c.tell(j, "execution_start", map[string]any{"timestamp": c.clock.Now().UnixMilli()})
	c.tell(j, "execution_cached", map[string]any{"nodes": []string{}, "timestamp": c.clock.Now().UnixMilli()})
	c.tell(j, "executing", map[string]any{"node": "3", "display_node": "3"})
}

func (c *comfy) step(j *job, i int) {
	c.tell(j, "progress", map[string]any{"value": i + 1, "max": samplingSteps, "node": "3"})
}

// ended tells what the history says.
func (c *comfy) ended(j *job) {
	if !errors.Is(j.err, errRemoved) {
		outcome := c.outcome(j).(map[string]any)
		for node, output := range outcome["outputs"].(map[string]any) {
			c.tell(j, "executing", map[string]any{"node": node, "display_node": node})
			c.tell(j, "executed", map[string]any{"node": node, "display_node": node, "output": output})
		}
		all := outcome["status"].(map[string]any)["messages"].([]any)
		last := all[len(all)-1].([]any)
		c.tell(j, last[0].(string), maps.Clone(last[1].(map[string]any)))
		c.tell(j, "executing", map[string]any{"node": nil})
	}
	c.say("", "status", c.status())
}

// ownOrigin answers 403 to a page of another origin, as ComfyUI does when it is asked on
// loopback.
func ownOrigin(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		origin, err := url.Parse(r.Header.Get("Origin"))
		if err == nil && origin.Host != "" && loopback(r.Host) && !strings.EqualFold(origin.Host, r.Host) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// loopback says whether a host, with a port or without, is this machine.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// forget takes prompts out of the history.
func (c *comfy) forget(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	if _, ok := c.read(w, r, &a); !ok {
		return
	}
	if a.Clear {
		_, _, ended := c.list()
		for _, j := range ended {
			a.Delete = append(a.Delete, j.id)
		}
	}
	c.page.Lock()
	defer c.page.Unlock()
	for _, id := range a.Delete {
		c.forgotten[id] = true
	}
}

// upload keeps an image for later prompts.
func (c *comfy) upload(w http.ResponseWriter, r *http.Request) {
	form, _, ok := c.form(w, r)
	if !ok {
		return
	}
	files := form.File["image"]
	if len(files) == 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f, err := files[0].Open()
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	defer f.Close()
	body, err := io.ReadAll(f)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	name := path.Base(path.Clean("/" + files[0].Filename))
	c.page.Lock()
	if len(c.inputs) >= maxUploads {
		clear(c.inputs)
	}
	c.inputs[name] = body
	c.page.Unlock()
	answer(w, http.StatusOK, map[string]string{"name": name, "subfolder": field(form, "subfolder"), "type": "input"})
}

// view answers an image that a prompt made, or one that was uploaded.
func (c *comfy) view(w http.ResponseWriter, r *http.Request) {
	name := r.FormValue("filename")
	w.Header().Set("Content-Disposition", "filename=\""+strings.ReplaceAll(name, "\"", "")+"\"")
	if r.FormValue("type") == "input" {
		c.page.Lock()
		body, ok := c.inputs[name]
		c.page.Unlock()
		if ok {
			http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(body))
			return
		}
	}
	_, _, ended := c.list()
	for _, j := range ended {
		if j.id+".png" == name && j.err == nil {
			w.Header().Set("Content-Type", "image/png")
			w.Write(picture(name, 0))
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
}

// pageRoutes are what the page asks when it is opened.
func (c *comfy) pageRoutes(handle func(method, path string, handler http.HandlerFunc)) {
	say := func(path string, body any) {
		handle("GET", path, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, body) })
	}
	nodes := comfyNodes(c.models[0].Name)
	say("/object_info", nodes)
	handle("GET", "/object_info/{class}", func(w http.ResponseWriter, r *http.Request) {
		of := map[string]any{}
		if n, ok := nodes[r.PathValue("class")]; ok {
			of[r.PathValue("class")] = n
		}
		answer(w, http.StatusOK, of)
	})
	say("/features", comfyFeatures)
	say("/embeddings", []string{})
	say("/extensions", []string{})
	say("/settings", map[string]any{})
	say("/users", map[string]any{"storage": "server", "migrated": true})
	say("/userdata", []string{})
	say("/i18n", map[string]any{})
	say("/models", []string{"checkpoints", "loras", "vae"})
	handle("GET", "/models/{folder}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("folder") == "checkpoints" {
			answer(w, http.StatusOK, []string{c.models[0].Name})
		} else {
			answer(w, http.StatusOK, []string{})
		}
	})
}

// comfyNodes are the nodes of the workflow that a new page shows, and one for images.
func comfyNodes(checkpoint string) map[string]any {
	node := func(name, category string, output []string, out bool, inputs ...any) map[string]any {
		required, order := map[string]any{}, []string{}
		for i := 0; i < len(inputs); i += 2 {
			required[inputs[i].(string)] = inputs[i+1]
			order = append(order, inputs[i].(string))
		}
		return map[string]any{
			"input": map[string]any{"required": required}, "input_order": map[string]any{"required": order}, "output": output,
			"output_is_list": make([]bool, len(output)), "output_name": output, "name": name, "display_name": name, "description": "",
			"python_module": "nodes", "category": category, "output_node": out,
		}
	}
	of := func(sort string) []any { return []any{sort} }
	number := func(def, low, high int) []any {
		return []any{"INT", map[string]any{"default": def, "min": low, "max": high}}
	}
	text := []any{"STRING", map[string]any{"multiline": true}}
	return map[string]any{
		"CheckpointLoaderSimple": node("CheckpointLoaderSimple", "loaders", []string{"MODEL", "CLIP", "VAE"}, false, "ckpt_name",
			[]any{[]string{checkpoint}}),
		"CLIPTextEncode": node("CLIPTextEncode", "conditioning", []string{"CONDITIONING"}, false, "text", text, "clip", of("CLIP")),
		"EmptyLatentImage": node("EmptyLatentImage", "latent", []string{"LATENT"}, false,
			"width", number(512, 16, 16384), "height", number(512, 16, 16384), "batch_size", number(1, 1, 4096)),
		"KSampler": node("KSampler", "sampling", []string{"LATENT"}, false, "model", of("MODEL"), "seed", number(0, 0, 1<<53),
			"steps", number(20, 1, 10000), "cfg", []any{"FLOAT", map[string]any{"default": 8.0}}, "sampler_name", []any{[]string{"euler"}},
			"scheduler", []any{[]string{"normal"}}, "positive", of("CONDITIONING"), "negative", of("CONDITIONING"), "latent_image", of("LATENT"),
			"denoise", []any{"FLOAT", map[string]any{"default": 1.0}}),
		"VAEDecode": node("VAEDecode", "latent", []string{"IMAGE"}, false, "samples", of("LATENT"), "vae", of("VAE")),
		"LoadImage": node("LoadImage", "image", []string{"IMAGE", "MASK"}, false, "image",
			[]any{[]string{"example.png"}, map[string]any{"image_upload": true}}),
		"SaveImage": node("SaveImage", "image", []string{}, true, "images", of("IMAGE"), "filename_prefix",
			[]any{"STRING", map[string]any{"default": "ComfyUI"}}),
	}
}
