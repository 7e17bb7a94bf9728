package simulation

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// libraryRoutes are Ollama's for the models on its disk, which are always the same: a pull
// of one of them is a pull of nothing new, and there is no registry to pull others from.
func libraryRoutes(o ollama, routes *Routes) {
	routes.HandleFunc("POST /api/show", o.show)
	routes.HandleFunc("POST /api/pull", o.pull)
	for _, pattern := range []string{"POST /api/push", "POST /api/create", "POST /api/copy", "DELETE /api/delete"} {
		routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if _, ok := o.body(w, r); ok {
				o.fail(w, http.StatusNotImplemented, serverError, "the simulation keeps the models that it has")
			}
		})
	}
}

// pulled is when the models came to the disk.
var pulled = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func digest(m *model) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(m.Name))) }

func family(m *model) string { return strings.TrimSuffix(m.Name, ":latest") }

// asksForModel is what several of the routes are asked: the model, by its old or its new key.
type asksForModel struct {
	Model  string `json:"model"`
	Name   string `json:"name"`
	Stream *bool  `json:"stream"`
}

func (a asksForModel) model() string {
	if a.Model == "" {
		return a.Name
	}
	return a.Model
}

func (o ollama) show(w http.ResponseWriter, r *http.Request) {
	var a asksForModel
	if _, ok := o.read(w, r, &a); !ok {
		return
	}
	m, ok := o.named(w, a.model())
	if !ok {
		return
	}
	answer(w, http.StatusOK, map[string]any{
		"modelfile": "FROM " + m.Name + "\n", "parameters": "", "template": "{{ .Prompt }}", "modified_at": pulled,
		"details": o.details(m)["details"], "capabilities": []string{"completion"},
		"model_info": map[string]any{"general.architecture": family(m), family(m) + ".context_length": 131072},
	})
}

// pullSteps is in how many pieces a model is said to come.
const pullSteps = 4

// pull tells of a download in the words of a real one. It takes as long as a load.
func (o ollama) pull(w http.ResponseWriter, r *http.Request) {
	var a asksForModel
	if _, ok := o.read(w, r, &a); !ok {
		return
	}
	m := o.model(a.model())
	stream := a.Stream == nil || *a.Stream
	if stream {
		w.Header().Set("Content-Type", "application/x-ndjson")
	}
	send := func(body map[string]any) error {
		if !stream {
			return nil
		}
		_, err := io.WriteString(w, string(encoded(body))+"\n")
		return errors.Join(err, http.NewResponseController(w).Flush())
	}
	err := send(map[string]any{"status": "pulling manifest"})
	if m == nil {
		message := map[string]any{"error": "pull model manifest: file does not exist"}
		if stream {
			send(message)
		} else {
			answer(w, http.StatusInternalServerError, message)
		}
		return
	}
	of := digest(m)
	for i := 0; err == nil && i <= pullSteps; i++ {
		err = send(map[string]any{
			"status": "pulling " + of[:12], "digest": "sha256:" + of, "total": int64(m.Weights), "completed": int64(m.Weights) * int64(i) / pullSteps,
		})
		if i < pullSteps {
			err = errors.Join(err, o.clock.Sleep(r.Context(), o.real(m.Load)/pullSteps))
		}
	}
	for _, status := range []string{"verifying sha256 digest", "writing manifest", "success"} {
		if err == nil {
			err = send(map[string]any{"status": status})
		}
	}
	if !stream && err == nil {
		answer(w, http.StatusOK, map[string]string{"status": "success"})
	}
}
