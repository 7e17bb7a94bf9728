package simulation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// call is a request. An empty path: there is none.
type call struct{ method, path, body string }

// calls are how one asks an engine of a kind for work, for its memory, and for
// its weights.
type calls struct {
	run, other call // of the first model, of the second
	free, back call
}

const (
	chat      = `{"messages":[{"role":"user","content":"?"}],"model":"`
	comfyFree = `{"unload_models":true,"free_memory":true}`
)

var kindCalls = map[string]calls{
	"flux": {run: call{"POST", "/v1/images/generations", `{}`}, free: call{"POST", "/unload", ""}, back: call{"POST", "/load", ""}},
	"vqa":  {run: call{"POST", "/v1/vqa", `{}`}, free: call{"POST", "/unload", ""}, back: call{"POST", "/load", ""}},
	"ollama": {
		run:   call{"POST", "/api/generate", `{"model":"llama3.2","prompt":"?","stream":false}`},
		other: call{"POST", "/api/generate", `{"model":"qwen2.5vl","prompt":"?","stream":false}`},
		free:  call{"POST", "/api/generate", `{"model":"llama3.2","keep_alive":0}`},
	},
	"vllm": {
		run:  call{"POST", "/v1/chat/completions", chat + `x"}`},
		free: call{"POST", "/sleep?level=1&mode=wait", ""}, back: call{"POST", "/wake_up", ""},
	},
	"sglang": {
		run:  call{"POST", "/generate", `{"text":"?"}`},
		free: call{"POST", "/release_memory_occupation", "{}"}, back: call{"POST", "/resume_memory_occupation", "{}"},
	},
	"comfyui": {run: call{"POST", "/prompt", `{"prompt":{"3":{}}}`}, free: call{"POST", "/free", comfyFree}},
	"a1111": {
		run:  call{"POST", "/sdapi/v1/txt2img", `{"prompt":"?"}`},
		free: call{"POST", "/sdapi/v1/unload-checkpoint", ""}, back: call{"POST", "/sdapi/v1/reload-checkpoint", ""},
	},
	"triton": {
		run:  call{"POST", "/v2/models/resnet50/infer", `{"inputs":[{}]}`},
		free: call{"POST", "/v2/repository/models/resnet50/unload", ""}, back: call{"POST", "/v2/repository/models/resnet50/load", ""},
	},
	"llama-server": {
		run:   call{"POST", "/v1/chat/completions", chat + `gemma-3-4b"}`},
		other: call{"POST", "/v1/chat/completions", chat + `qwen3-14b"}`},
		free:  call{"POST", "/models/unload", `{"model":"gemma-3-4b"}`},
	},
	"llama-swap": {
		run:   call{"POST", "/v1/chat/completions", chat + `gemma-3-4b"}`},
		other: call{"POST", "/v1/chat/completions", chat + `qwen3-14b"}`},
		free:  call{"POST", "/api/models/unload/gemma-3-4b", ""},
	},
	"gradio": {run: call{"POST", "/gradio_api/queue/join", `{"data":["?"],"session_hash":"s"}`}},
	"tgi":    {run: call{"POST", "/generate", `{"inputs":"?"}`}},
	"lmstudio": {
		run:   call{"POST", "/v1/chat/completions", chat + `qwen2.5-7b-instruct"}`},
		other: call{"POST", "/v1/embeddings", `{"model":"text-embedding-nomic-embed-text-v1.5","input":"?"}`},
		free:  call{"POST", "/api/v1/models/unload", `{"instance_id":"qwen2.5-7b-instruct"}`},
	},
	"tei":      {run: call{"POST", "/embed", `{"inputs":"?"}`}},
	"rerank":   {run: call{"POST", "/rerank", `{"query":"?","texts":["a"]}`}},
	"infinity": {run: call{"POST", "/embeddings", `{"model":"BAAI/bge-small-en-v1.5","input":"?"}`}},
	"whisper": {
		run:   call{"POST", "/v1/audio/transcriptions", recording + part("model", "Systran/faster-whisper-large-v3") + end},
		other: call{"POST", "/v1/audio/transcriptions", recording + part("model", "Systran/faster-whisper-small") + end},
		free:  call{"DELETE", "/api/ps/Systran/faster-whisper-large-v3", ""},
		back:  call{"POST", "/api/ps/Systran/faster-whisper-large-v3", ""},
	},
	"whisper-cpp": {run: call{"POST", "/inference", recording + end}},
	"tts": {
		run:  call{"POST", "/v1/audio/speech", `{"model":"kokoro","input":"A bird.","voice":"af_heart"}`},
		free: call{"POST", "/dev/unload", ""},
	},
	"diffusers": {run: call{"POST", "/generate", `{"prompt":"a bird"}`}},
}

// bubble is an engine in a bubble of its own, where an hour takes no time.
type bubble struct {
	*testing.T
	kind Kind
	calls
	card   *Card
	engine *Engine
}

// inBubble runs a test of an engine, and then looks for what it left behind.
func inBubble(t *testing.T, kind Kind, size admission.Bytes, traps []string, test func(*bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{T: t, kind: kind, calls: kindCalls[kind.Name], card: NewCard(size)}
		b.engine = NewEngine(kind, b.card, Options{Traps: traps})
		test(b)
		if err := b.engine.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if used := b.used(); used != 0 {
			t.Errorf("%v in use after the end", used)
		}
	})
}

func (b *bubble) used() admission.Bytes {
	b.Helper()
	return look(b, b.card).Used
}

// reply is what came back. Status 0: the connection was cut.
type reply struct {
	status int
	body   string
	took   time.Duration
}

func (b *bubble) begin(ctx context.Context, c call) <-chan reply {
	got := make(chan reply, 1)
	go func() {
		start := time.Now()
		w := httptest.NewRecorder()
		defer func() {
			r := reply{w.Code, w.Body.String(), time.Since(start)}
			if p := recover(); p != nil {
				if p != http.ErrAbortHandler {
					panic(p)
				}
				if !w.Flushed {
					r.status = 0
				}
			}
			got <- r
		}()
		r := httptest.NewRequestWithContext(ctx, c.method, c.path, strings.NewReader(c.body))
		mark(r, c.body)
		b.engine.ServeHTTP(w, r)
	}()
	return got
}

// mark says of a form that it is one.
func mark(r *http.Request, body string) {
	if strings.HasPrefix(body, "--"+boundary) {
		r.Header.Set("Content-Type", "multipart/form-data; boundary="+boundary)
	}
}

func (b *bubble) do(c call) reply { return <-b.begin(b.Context(), c) }

// work asks for work and returns when it has been done, however it is answered.
func (b *bubble) work(c call) reply {
	b.Helper()
	r := b.do(c)
	var a struct {
		Prompt string `json:"prompt_id"`
		Event  string `json:"event_id"`
	}
	json.Unmarshal([]byte(r.body), &a)
	for start := time.Now(); a.Prompt != ""; time.Sleep(time.Second) {
		h := b.do(call{"GET", "/history/" + a.Prompt, ""})
		if h.body != "{}" {
			return reply{h.status, h.body, time.Since(start)}
		}
	}
	if a.Event != "" {
		return b.do(call{"GET", "/gradio_api/queue/data?session_hash=s", ""})
	}
	return r
}

func (b *bubble) load() {
	b.Helper()
	if err := b.engine.Load(b.Context()); err != nil {
		b.Fatal(err)
	}
}
