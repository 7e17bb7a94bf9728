package simulation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// ComfyUI is ComfyUI: POST /prompt answers at once, and /history/{id} says when
// the work has been done. A free is done when the current prompt ends.
func ComfyUI() Kind {
	return Kind{
		Name: "comfyui", Does: "ComfyUI", Model: "sd_xl_base_1.0.safetensors",
		Weights: 7 * admission.GiB, Load: 6 * time.Second, Wake: 2 * time.Second,
		PerRun: 4 * admission.GiB, Concurrency: 1, Lazy: true,
		Shortest: 8 * time.Second, Longest: 12 * time.Second,
		Traps:  []string{keepsMemory, residue, freesLate, afterCurrent, diesOnFree, slowWake},
		Always: []string{answersEarly, ignoresCallers},
		// It allocates by cudaMallocAsync, which has words of its own, and adds a tip
		// (execution.py).
		Full: func(full *OutOfMemory) string {
			return fmt.Sprintf("Allocation on device 0 would exceed allowed memory. (out of memory)\nCurrently allocated     : "+
				"%s\nRequested               : %s\n"+
				"Device limit            : %s\nFree (according to CUDA): %s\nPyTorch limit (set by user-supplied memory fraction)\n"+
				"                        : 17179869184.00 GiB\nThis error means you ran out of memory on your GPU.\n\n"+
				"TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number.",
				torchSize(full.Held), torchSize(full.Asked), torchSize(full.Capacity), torchSize(full.Free))
		},
		Fail: func(w http.ResponseWriter, status int, kind, message string) {
			answer(w, status, map[string]any{
				"error":       map[string]any{"type": kind, "message": message, "details": message, "extra_info": map[string]any{}},
				"node_errors": map[string]any{},
			})
		},
		Routes: func(e *Engine, routes *Routes) {
			c := &comfy{jobs: jobs{Engine: e}, sockets: make(map[string]*socket), inputs: make(map[string][]byte), forgotten: make(map[string]bool)}
			c.watch = c
			// Its page asks below /api, no other client does.
			for _, prefix := range []string{"", "/api"} {
				handle := func(method, path string, handler http.HandlerFunc) {
					routes.HandleFunc(method+" "+prefix+path, ownOrigin(handler))
				}
				handle("POST", "/prompt", c.prompt)
				handle("GET", "/prompt", c.remaining)
				handle("GET", "/queue", c.queue)
				handle("POST", "/queue", c.remove)
				handle("GET", "/history", c.history)
				handle("GET", "/history/{id}", c.history)
				handle("POST", "/history", c.forget)
				handle("GET", "/system_stats", c.stats)
				handle("POST", "/free", c.free)
				handle("POST", "/interrupt", c.interrupt)
				handle("GET", "/view", c.view)
				handle("GET", "/ws", c.websocket)
				handle("POST", "/upload/image", c.upload)
				c.pageRoutes(handle)
			}
			routes.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
				page(w, "ComfyUI", "The page is not a part of the simulation.")
			})
		},
	}
}

type comfy struct {
	jobs

	page      sync.Mutex
	sockets   map[string]*socket // guarded by page; by client
	inputs    map[string][]byte  // guarded by page; what was uploaded, by name
	forgotten map[string]bool    // guarded by page; prompts that were taken out of the history
}

// errRemoved is the end of a prompt whose turn never came. No history has it.
var errRemoved = errors.New("removed from the queue")

func (c *comfy) prompt(w http.ResponseWriter, r *http.Request) {
	var a struct {
		ID     string                     `json:"prompt_id"`
		Prompt map[string]json.RawMessage `json:"prompt"`
		Client string                     `json:"client_id"`
	}
	length, ok := c.read(w, r, &a)
	if !ok {
		return
	}
	if a.Prompt == nil {
		c.fail(w, http.StatusBadRequest, "no_prompt", "No prompt provided")
		return
	}
	j, err := c.add(r, c.models[0], a.ID, length, &comfyAsk{a.Prompt, a.Client})
	if err != nil {
		c.failed(w, err)
		return
	}
	c.say("", "status", c.status())
	answer(w, http.StatusOK, map[string]any{"prompt_id": j.id, "number": j.number, "node_errors": map[string]any{}})
}

// entry is a prompt as the queue and the history show it.
func entry(j *job) []any {
	a := j.ask.(*comfyAsk)
	extra := map[string]any{}
	if a.client != "" {
		extra["client_id"] = a.client
	}
	return []any{j.number, j.id, a.prompt, extra, []string{"9"}}
}

func (c *comfy) remaining(w http.ResponseWriter, _ *http.Request) {
	pending, running, _ := c.list()
	answer(w, http.StatusOK, map[string]any{"exec_info": map[string]int{"queue_remaining": len(pending) + len(running)}})
}

func (c *comfy) queue(w http.ResponseWriter, _ *http.Request) {
	pending, running, _ := c.list()
	entries := func(of []*job) []any {
		list := []any{}
		for _, j := range of {
			list = append(list, entry(j))
		}
		return list
	}
	answer(w, http.StatusOK, map[string]any{"queue_running": entries(running), "queue_pending": entries(pending)})
}

// remove takes prompts out whose turn has not come.
func (c *comfy) remove(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Clear  bool     `json:"clear"`
		Delete []string `json:"delete"`
	}
	if _, ok := c.read(w, r, &a); !ok {
		return
	}
	pending, _, _ := c.list()
	for _, j := range pending {
		if a.Clear || slices.Contains(a.Delete, j.id) {
			j.cancel(errRemoved)
		}
	}
}

// history has what has ended: all of it, or the one prompt.
func (c *comfy) history(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	all := map[string]any{}
	_, _, ended := c.list()
	for _, j := range ended {
		c.page.Lock()
		forgotten := c.forgotten[j.id]
		c.page.Unlock()
		if (id == "" || id == j.id) && !errors.Is(j.err, errRemoved) && !forgotten {
			all[j.id] = c.outcome(j)
		}
	}
	answer(w, http.StatusOK, all)
}

// outcome is a prompt in the history. A card that was full is an error in there,
// because the answer to the prompt has been given.
func (c *comfy) outcome(j *job) any {
	about := map[string]any{"prompt_id": j.id}
	messages := []any{[]any{"execution_start", about}}
	status, outputs := "success", map[string]any{}
	full := (*OutOfMemory)(nil)
	switch {
	case j.err == nil:
		messages = append(messages, []any{"execution_success", about})
		outputs["9"] = map[string]any{"images": []any{
			map[string]string{"filename": j.id + ".png", "subfolder": "", "type": "output"},
		}}
	case errors.Is(j.err, errCut):
		status = "error"
		messages = append(messages, []any{"execution_interrupted", map[string]any{"prompt_id": j.id, "node_id": "3", "node_type": "KSampler"}})
	default:
		status = "error"
		kind := "RuntimeError"
		_, message := c.fault(j.err)
		if errors.As(j.err, &full) {
			kind = "torch.OutOfMemoryError"
		}
		messages = append(messages, []any{"execution_error", map[string]any{
			"prompt_id": j.id, "node_id": "3", "node_type": "KSampler", "executed": []string{}, "exception_type": kind, "exception_message": message,
			"traceback": []string{"  File \"/app/execution.py\", line 510, in execute\n"}, "current_inputs": j.ask, "current_outputs": []string{},
		}})
	}
	return map[string]any{
		"prompt": entry(j), "outputs": outputs, "meta": map[string]any{},
		"status": map[string]any{"status_str": status, "completed": j.err == nil, "messages": messages},
	}
}

func (c *comfy) stats(w http.ResponseWriter, _ *http.Request) {
	card, err := c.card.Memory()
	if err != nil {
		c.failed(w, err)
		return
	}
	all, idle := c.holding(c.models[0])
	answer(w, http.StatusOK, map[string]any{
		"system": map[string]any{
			"os": "posix", "ram_total": 67430146048, "ram_free": 33715073024, "comfyui_version": "0.3.75", "python_version": "3.12.3",
			"pytorch_version": "2.9.0+cu128", "embedded_python": false, "argv": []string{"main.py"},
		},
		"devices": []any{map[string]any{
			"name": "cuda:0 simulated", "type": "cuda", "index": 0,
			"vram_total": int64(card.Capacity), "vram_free": int64(card.Capacity - card.Used + idle),
			"torch_vram_total": int64(all), "torch_vram_free": int64(idle),
		}},
	})
}

// free only asks for it: what runs goes on, and the answer comes at once.
func (c *comfy) free(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Models bool `json:"unload_models"`
		Memory bool `json:"free_memory"`
	}
	if _, ok := c.read(w, r, &a); !ok {
		return
	}
	err := error(nil)
	switch m := c.models[0]; {
	case a.Models:
		err = c.Engine.free(r.Context(), m, false)
	case a.Memory:
		err = c.trim(m)
	}
	if err != nil {
		c.failed(w, err)
		return
	}
	c.freed(w, nil)
}

// interrupt ends the prompt at work, or that of the id.
func (c *comfy) interrupt(w http.ResponseWriter, r *http.Request) {
	body, ok := c.body(w, r)
	if !ok {
		return
	}
	var a struct {
		ID string `json:"prompt_id"`
	}
	if len(body) > 0 && json.Unmarshal(body, &a) != nil {
		c.fail(w, http.StatusBadRequest, invalidError, "invalid JSON")
		return
	}
	_, running, _ := c.list()
	for _, j := range running {
		if a.ID == "" || a.ID == j.id {
			j.cancel(errCut)
		}
	}
}
