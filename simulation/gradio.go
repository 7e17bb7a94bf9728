package simulation

import (
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// Gradio is an app made with Gradio: a request joins a queue and is answered at
// once; what comes of it is told to whoever listens to its session. It has no
// call that frees memory.
func Gradio() Kind {
	return Kind{
		Name: "gradio", Does: "an app made with Gradio", Model: "sdxl-turbo",
		Weights: 7 * admission.GiB, Load: 6 * time.Second,
		PerRun: 4 * admission.GiB, Concurrency: 1,
		Shortest: 8 * time.Second, Longest: 12 * time.Second,
		Always: []string{answersEarly, ignoresCallers},
		Fail: func(w http.ResponseWriter, status int, _, message string) {
			answer(w, status, map[string]string{"detail": message})
		},
		Routes: func(e *Engine, routes *Routes) {
			g := &gradio{jobs{Engine: e}}
			routes.HandleFunc("GET /config", func(w http.ResponseWriter, _ *http.Request) {
				answer(w, http.StatusOK, map[string]any{"version": "6.0.0", "protocol": "sse_v3", "api_prefix": "/gradio_api"})
			})
			routes.HandleFunc("POST /gradio_api/queue/join", g.join)
			routes.HandleFunc("GET /gradio_api/queue/data", g.data)
			routes.HandleFunc("GET /gradio_api/queue/status", func(w http.ResponseWriter, _ *http.Request) {
				pending, _, _ := g.list()
				answer(w, http.StatusOK, map[string]any{"queue_size": len(pending)})
			})
		},
	}
}

type gradio struct{ jobs }

func (g *gradio) join(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Data    []json.RawMessage `json:"data"`
		Session string            `json:"session_hash"`
	}
	length, ok := g.read(w, r, &a)
	if !ok {
		return
	}
	if a.Session == "" {
		g.fail(w, http.StatusBadRequest, invalidError, "Session hash not found.")
		return
	}
	j, err := g.add(r, g.models[0], "", length, a.Session)
	if err != nil {
		g.failed(w, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"event_id": j.id})
}

// data tells a session what comes of its jobs, one after the other, and ends
// when there are no more.
func (g *gradio) data(w http.ResponseWriter, r *http.Request) {
	session := r.FormValue("session_hash")
	var mine []*job
	pending, running, ended := g.list()
	ahead := len(running)
	for _, j := range append(append(ended, running...), pending...) {
		if j.ask == session && !closed(j.told) {
			mine = append(mine, j)
		}
	}
	if len(mine) == 0 {
		g.fail(w, http.StatusNotFound, missingError, "Session not found")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	send := func(message string, j *job, more map[string]any) bool {
		body := map[string]any{"msg": message}
		if j != nil {
			body["event_id"] = j.id
		}
		for k, v := range more {
			body[k] = v
		}
		_, err := io.WriteString(w, event(body))
		return err == nil && http.NewResponseController(w).Flush() == nil
	}
	for _, j := range mine {
		if !send("estimation", j, map[string]any{"rank": ahead, "queue_size": len(pending), "rank_eta": j.length.Seconds()}) {
			return
		}
		for _, happens := range []chan struct{}{j.begun, j.ended} {
			select {
			case <-happens:
			case <-j.ended:
			case <-r.Context().Done():
				return
			}
			if happens == j.begun && !send("process_starts", j, map[string]any{"eta": j.length.Seconds()}) {
				return
			}
		}
		if !send("process_completed", j, g.outcome(j)) {
			return
		}
		g.tell(j)
	}
	send("close_stream", nil, nil)
}

// outcome is what is told of a job at its end. An error is no status here: the
// answer has begun long before.
func (g *gradio) outcome(j *job) map[string]any {
	if j.err != nil {
		_, message := g.fault(j.err)
		return map[string]any{"success": false, "title": "Error", "output": map[string]any{"error": message}}
	}
	return map[string]any{"success": true, "output": map[string]any{
		"data":          []any{map[string]string{"path": j.id + ".png", "url": "/gradio_api/file=" + j.id + ".png"}},
		"is_generating": false, "duration": j.took.Seconds(),
	}}
}
