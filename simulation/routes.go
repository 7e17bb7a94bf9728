package simulation

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxBody bounds a request's body: images come as base64.
const maxBody = 64 << 20

func (e *Engine) health(w http.ResponseWriter, _ *http.Request) {
	if e.ready.Load() {
		answer(w, http.StatusOK, map[string]string{"status": "ok"})
	} else {
		answer(w, http.StatusServiceUnavailable, map[string]string{"status": "loading"})
	}
}

func (e *Engine) models(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{"object": "list", "data": []any{
		map[string]any{"id": e.kind.Model, "object": "model", "created": 0, "owned_by": "simulation"},
	}})
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("simulation: " + err.Error()) // our own maps
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	w.Write(text)
}

// fail answers as OpenAI's servers do.
func fail(w http.ResponseWriter, status int, kind, message string) {
	answer(w, status, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": nil}})
}

// failed answers a run that came to nothing. Nobody reads it where the caller
// has left.
func failed(w http.ResponseWriter, err error) {
	if full := (*OutOfMemory)(nil); errors.As(err, &full) {
		fail(w, http.StatusInternalServerError, "server_error", full.Error())
	} else {
		fail(w, http.StatusServiceUnavailable, "server_error", err.Error())
	}
}

// ask is what these engines read of a request.
type ask struct {
	Prompt   string          `json:"prompt"`
	N        int             `json:"n"`
	Question string          `json:"question"`
	Messages json.RawMessage `json:"messages"`
	Stream   bool            `json:"stream"`

	length time.Duration
}

// read takes a request's body whole, because net/http does not notice that a
// caller left while there is something to read. After false it has answered.
func (e *Engine) read(w http.ResponseWriter, r *http.Request) (a ask, ok bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err == nil {
		a.length, err = e.length(r)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request_error", err.Error())
		return a, false
	}
	return a, true
}

func setTook(h http.Header, key string, took time.Duration) {
	h.Set(key, strconv.FormatFloat(took.Seconds(), 'f', 6, 64))
}

// whole runs a request and answers when all is done.
func (e *Engine) whole(w http.ResponseWriter, r *http.Request, a ask, body func() any) {
	took, err := e.run(r.Context(), a.length, 1, nil)
	if err != nil {
		failed(w, err)
		return
	}
	setTook(w.Header(), executeHeader, took)
	answer(w, http.StatusOK, body())
}

func imageRoutes(e *Engine, routes *http.ServeMux) {
	routes.HandleFunc("POST /v1/images/generations", func(w http.ResponseWriter, r *http.Request) {
		a, ok := e.read(w, r)
		if !ok {
			return
		}
		n := min(max(a.N, 1), 10)
		e.whole(w, r, a, func() any {
			images := make([]any, n)
			for i := range images {
				images[i] = map[string]string{"b64_json": picture(a.Prompt, i)}
			}
			return map[string]any{"created": time.Now().Unix(), "data": images}
		})
	})
}

// picture is a PNG whose colour comes from the prompt.
func picture(prompt string, i int) string {
	h := fnv.New32a()
	fmt.Fprint(h, prompt, i)
	sum := h.Sum32()
	m := image.NewPaletted(image.Rect(0, 0, 64, 64), color.Palette{color.RGBA{byte(sum), byte(sum >> 8), byte(sum >> 16), 255}})
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		panic("simulation: " + err.Error()) // into memory
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// words are what the small model says to everything, a token each.
var words = strings.SplitAfter("A small bird sits on the roof of a red house .", " ")

func questionRoutes(e *Engine, routes *http.ServeMux) {
	routes.HandleFunc("POST /v1/vqa", func(w http.ResponseWriter, r *http.Request) {
		if a, ok := e.read(w, r); ok {
			e.whole(w, r, a, func() any { return map[string]string{"answer": strings.Join(words, "")} })
		}
	})
	routes.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		a, ok := e.read(w, r)
		switch {
		case !ok:
		case a.Stream:
			e.stream(w, r, a)
		default:
			e.whole(w, r, a, func() any {
				return e.chat("chat.completion", "message", map[string]string{"role": "assistant", "content": strings.Join(words, "")}, "stop",
					map[string]int{"prompt_tokens": len(a.Messages) / 4, "completion_tokens": len(words), "total_tokens": len(a.Messages)/4 + len(words)})
			})
		}
	})
}

// chat is a chat completion, or one chunk of it. finish and usage may be nil.
func (e *Engine) chat(object, key string, message, finish, usage any) any {
	body := map[string]any{
		"id": "chatcmpl-simulated", "object": object, "created": time.Now().Unix(), "model": e.kind.Model,
		"choices": []any{map[string]any{"index": 0, key: message, "finish_reason": finish}},
	}
	if usage != nil {
		body["usage"] = usage
	}
	return body
}

// stream answers token by token as server-sent events. What the run took is
// known at the end alone and comes as a trailer.
func (e *Engine) stream(w http.ResponseWriter, r *http.Request, a ask) {
	begun := false
	send := func(event string) error {
		if !begun {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("Cache-Control", "no-cache")
			begun = true
		}
		if _, err := fmt.Fprintf(w, "data: %s\n\n", event); err != nil {
			return err
		}
		return http.NewResponseController(w).Flush()
	}
	chunk := func(delta, finish any) error {
		text, err := json.Marshal(e.chat("chat.completion.chunk", "delta", delta, finish, nil))
		if err != nil {
			panic("simulation: " + err.Error()) // our own maps
		}
		return send(string(text))
	}
	listening := true // a run that does not abort goes on when nobody reads
	took, err := e.run(r.Context(), a.length, len(words), func(i int) error {
		if !listening {
			return nil
		}
		err := chunk(map[string]string{"role": "assistant", "content": words[i]}, nil)
		if err != nil && !e.kind.Aborts {
			listening, err = false, nil
		}
		return err
	})
	if err != nil && !begun {
		failed(w, err)
		return
	}
	if err != nil {
		// The status is out: a cut connection alone says that this is no end.
		panic(http.ErrAbortHandler)
	}
	if chunk(map[string]string{}, "stop") == nil && send("[DONE]") == nil {
		setTook(w.Header(), http.TrailerPrefix+executeHeader, took)
	}
}
