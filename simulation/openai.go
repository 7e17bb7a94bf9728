package simulation

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"time"
)

// modelRoutes are OpenAI's list of models. More adds to what is said of each; nil: nothing.
func modelRoutes(e *Engine, routes *Routes, more func(*model) map[string]any) {
	about := openAIModel(e, more)
	routes.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		data := []any{}
		for _, m := range e.models {
			data = append(data, about(m))
		}
		answer(w, http.StatusOK, map[string]any{"object": "list", "data": data})
	})
}

// modelRoute is OpenAI's description of one model, which not every engine has.
func modelRoute(e *Engine, routes *Routes, more func(*model) map[string]any) {
	about := openAIModel(e, more)
	// Names of models have slashes.
	routes.HandleFunc("GET /v1/models/{model...}", func(w http.ResponseWriter, r *http.Request) {
		if m, ok := e.exact(w, r.PathValue("model")); ok {
			answer(w, http.StatusOK, about(m))
		}
	})
}

func openAIModel(e *Engine, more func(*model) map[string]any) func(*model) map[string]any {
	return func(m *model) map[string]any {
		body := map[string]any{"id": m.Name, "object": "model", "created": 1764547200, "owned_by": cmp.Or(e.kind.Owner, "simulation")}
		if more != nil {
			maps.Copy(body, more(m))
		}
		return body
	}
}

// exact is the model of that very name. After false it has answered.
func (e *Engine) exact(w http.ResponseWriter, name string) (*model, bool) {
	for _, m := range e.models {
		if m.Name == name {
			return m, true
		}
	}
	e.fail(w, http.StatusNotFound, missingError, "model '"+name+"' not found")
	return nil, false
}

// plainHealth is a health check whose good answer has that text and no JSON.
func plainHealth(e *Engine, routes *Routes, path, body string) {
	routes.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		if !e.up.Load() {
			e.health(w, r)
			return
		}
		text(w, http.StatusOK, body)
	})
}

func usage(asked int) map[string]int {
	return map[string]int{"prompt_tokens": asked, "completion_tokens": len(words), "total_tokens": asked + len(words)}
}

// completions are OpenAI's of a text, whole and streamed.
func (e *Engine) completions(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string          `json:"model"`
		Prompt json.RawMessage `json:"prompt"`
		Stream bool            `json:"stream"`
	}
	m, length, ok := e.readNamed(w, r, &a, &a.Model)
	if !ok {
		return
	}
	body := func(text string, finish any) map[string]any {
		return map[string]any{
			"id": "cmpl-simulated", "object": "text_completion", "created": e.clock.Now().Unix(), "model": m.Name,
			"choices": []any{map[string]any{"index": 0, "text": text, "logprobs": nil, "finish_reason": finish}},
		}
	}
	if a.Stream {
		e.stream(w, r, m, length, feed{
			kind: "text/event-stream",
			word: func(i int) string { return event(body(words[i], nil)) },
			end:  func(reason string, _ time.Duration) string { return event(body("", reason)) + "data: [DONE]\n\n" },
		})
		return
	}
	e.whole(w, r, m, length, func() any {
		b := body(said, "stop")
		b["usage"] = usage(len(a.Prompt) / 4)
		return b
	})
}

// texts are one text or several, as a JSON text or a list.
type texts []string

func (t *texts) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*t = texts{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(b, &many); err != nil {
		return fmt.Errorf("want a text or a list of texts")
	}
	*t = many
	return nil
}

// dimensions is how long the vectors of all models are.
const dimensions = 8

// vector is a unit vector that comes from the text.
func vector(text string) []float32 {
	h := fnv.New64a()
	fmt.Fprint(h, text)
	random := rand.New(rand.NewPCG(h.Sum64(), 0))
	v, sum := make([]float32, dimensions), 0.0
	for i := range v {
		x := random.Float64()*2 - 1
		v[i], sum = float32(x), sum+x*x
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(sum))
	}
	return v
}

// similar is the cosine of two texts' vectors.
func similar(a, b string) float64 {
	x, y, sum := vector(a), vector(b), 0.0
	for i := range x {
		sum += float64(x[i]) * float64(y[i])
	}
	return sum
}

// embeddings are OpenAI's. Its client asks for base64.
func (e *Engine) embeddings(w http.ResponseWriter, r *http.Request) {
	var a struct {
		Model  string `json:"model"`
		Input  texts  `json:"input"`
		Format string `json:"encoding_format"`
	}
	m, length, ok := e.readNamed(w, r, &a, &a.Model)
	switch {
	case !ok:
		return
	case len(a.Input) == 0:
		e.fail(w, http.StatusBadRequest, invalidError, "input: want a text or a list of texts")
		return
	}
	e.whole(w, r, m, length, func() any {
		data, tokens := []any{}, 0
		for i, text := range a.Input {
			tokens += len(text)/4 + 1
			of := any(vector(text))
			if a.Format == "base64" {
				var b bytes.Buffer
				binary.Write(&b, binary.LittleEndian, vector(text))
				of = base64.StdEncoding.EncodeToString(b.Bytes())
			}
			data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": of})
		}
		return map[string]any{"object": "list", "data": data, "model": m.Name, "usage": map[string]int{"prompt_tokens": tokens, "total_tokens": tokens}}
	})
}

// form takes a multipart form and says how long its run shall take. After false it has
// answered.
func (e *Engine) form(w http.ResponseWriter, r *http.Request) (form *multipart.Form, length time.Duration, ok bool) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	err := r.ParseMultipartForm(maxBody)
	if err == nil {
		length, err = e.length(r)
	}
	if err != nil {
		e.fail(w, http.StatusBadRequest, invalidError, err.Error())
		return nil, 0, false
	}
	return r.MultipartForm, length, true
}

// field is the first value of a form's field; empty: there is none.
func field(form *multipart.Form, name string) string {
	if v := form.Value[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}
