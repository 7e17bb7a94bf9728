package simulation

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"time"
)

// chatRoutes are OpenAI's chat completions, whole and streamed.
func chatRoutes(e *Engine, routes *Routes) {
	routes.HandleFunc("POST /v1/chat/completions", e.chat(nil))
}

// chat answers chat completions. More adds to a whole one; nil: nothing.
func (e *Engine) chat(more map[string]any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var a struct {
			Model    string          `json:"model"`
			Messages json.RawMessage `json:"messages"`
			Stream   bool            `json:"stream"`
		}
		m, length, ok := e.readNamed(w, r, &a, &a.Model)
		if !ok {
			return
		}
		if a.Stream {
			e.stream(w, r, m, length, chunks(m))
			return
		}
		took, err := e.run(e.caller(r), m, length, 1, nil)
		text, finish := said, "stop"
		if errors.Is(err, errCut) && e.kind.Cut != "" {
			text, finish, err = "", e.kind.Cut, nil
		}
		if err != nil {
			e.failed(w, err)
			return
		}
		setTook(w.Header(), executeHeader, took)
		body := completion(m, "chat.completion", "message", map[string]string{"role": "assistant", "content": text}, finish)
		asked := len(a.Messages) / 4
		body["usage"] = usage(asked)
		maps.Copy(body, more)
		answer(w, http.StatusOK, body)
	}
}

// completion is a chat completion, or one chunk of it. finish may be nil.
func completion(m *model, object, key string, message, finish any) map[string]any {
	return map[string]any{
		"id": "chatcmpl-simulated", "object": object, "created": time.Now().Unix(), "model": m.Name,
		"choices": []any{map[string]any{"index": 0, key: message, "finish_reason": finish}},
	}
}

// chunks are a completion as server-sent events.
func chunks(m *model) feed {
	chunk := func(delta, finish any) string {
		return event(completion(m, "chat.completion.chunk", "delta", delta, finish))
	}
	return feed{
		kind: "text/event-stream",
		word: func(i int) string { return chunk(map[string]string{"role": "assistant", "content": words[i]}, nil) },
		end: func(reason string, _ time.Duration) string {
			return chunk(map[string]string{}, reason) + "data: [DONE]\n\n"
		},
	}
}

// event is a server-sent event.
func event(body any) string { return "data: " + string(encoded(body)) + "\n\n" }
