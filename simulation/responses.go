package simulation

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// responses are OpenAI's newer way to ask, whole and as the events that its client reads.
func (e *Engine) responses(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string          `json:"model"`
		Input  json.RawMessage `json:"input"`
		Stream bool            `json:"stream"`
	}
	m, length, ok := e.readNamed(w, r, &a, &a.Model)
	if !ok {
		return
	}
	id, created := "resp_"+strings.ReplaceAll(newID(), "-", ""), e.clock.Now().Unix()
	body := func(status string) map[string]any {
		output := []any{}
		b := map[string]any{"id": id, "object": "response", "created_at": created, "status": status, "model": m.Name, "error": nil}
		if status == "completed" {
			output = append(output, responseItem("completed", said))
			asked := len(a.Input) / 4
			b["usage"] = map[string]int{"input_tokens": asked, "output_tokens": len(words), "total_tokens": asked + len(words)}
		}
		b["output"] = output
		return b
	}
	if !a.Stream {
		e.whole(w, r, m, length, func() any { return body("completed") })
		return
	}
	number := 0
	send := func(kind string, more map[string]any) string {
		more["type"], more["sequence_number"] = kind, number
		number++
		return "event: " + kind + "\n" + event(more)
	}
	of := func(more map[string]any) map[string]any {
		more["item_id"], more["output_index"], more["content_index"] = "msg_simulated", 0, 0
		return more
	}
	part := func(text string) map[string]any {
		return map[string]any{"type": "output_text", "text": text, "annotations": []any{}}
	}
	e.stream(w, r, m, length, feed{
		kind: "text/event-stream",
		word: func(i int) string {
			before := ""
			if i == 0 {
				before = send("response.created", map[string]any{"response": body("in_progress")}) +
					send("response.output_item.added", map[string]any{"output_index": 0, "item": responseItem("in_progress")}) +
					send("response.content_part.added", of(map[string]any{"part": part("")}))
			}
			return before + send("response.output_text.delta", of(map[string]any{"delta": words[i]}))
		},
		end: func(string, time.Duration) string {
			return send("response.output_text.done", of(map[string]any{"text": said})) +
				send("response.content_part.done", of(map[string]any{"part": part(said)})) +
				send("response.output_item.done", map[string]any{"output_index": 0, "item": responseItem("completed", said)}) +
				send("response.completed", map[string]any{"response": body("completed")})
		},
	})
}

// responseItem is the message that a response consists of.
func responseItem(status string, texts ...string) map[string]any {
	content := []any{}
	for _, text := range texts {
		content = append(content, map[string]any{"type": "output_text", "text": text, "annotations": []any{}})
	}
	return map[string]any{"id": "msg_simulated", "type": "message", "role": "assistant", "status": status, "content": content}
}
