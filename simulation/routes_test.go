package simulation

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A step is a call and what its answer must have. "" after a path: nothing.
type step struct {
	call
	status int
	words  string
}

func ok(method, path, body, words string) step { return step{call{method, path, body}, 200, words} }

// Each story is told to an engine that has loaded its weights.
var stories = map[string][]step{
	"flux": {
		ok("GET", "/health", "", `"ok"`),
		ok("GET", "/v1/models", "", `"id":"flux"`),
		ok("POST", "/v1/images/generations", `{"prompt":"a bird","n":2}`, `{"b64_json":"iVBOR`),
		ok("POST", "/unload", "", `"unloaded"`),
		ok("GET", "/health", "", `"ok"`),
		ok("POST", "/load", "", `"loaded"`),
	},
	"vqa": {
		ok("POST", "/v1/vqa", `{"question":"?"}`, `"answer":"A small bird`),
		ok("POST", "/v1/chat/completions", chat+`any"}`, `"finish_reason":"stop"`),
		ok("POST", "/unload", "", `"unloaded"`),
	},
	"ollama": {
		ok("GET", "/", "", "Ollama is running"),
		ok("GET", "/api/version", "", `"version"`),
		ok("GET", "/api/tags", "", `"name":"qwen2.5vl:latest"`),
		ok("GET", "/api/ps", "", `{"models":[]}`),
		ok("POST", "/api/generate", `{"model":"llama3.2"}`, `"done_reason":"load"`),
		ok("GET", "/api/ps", "", `"size_vram":4294967296`),
		ok("POST", "/api/generate", `{"model":"llama3.2","prompt":"?"}`, `"done":false,"model":"llama3.2:latest","response":"bird "}`+"\n"),
		ok("POST", "/api/generate", `{"model":"llama3.2","prompt":"?"}`, `"done":true,"done_reason":"stop","eval_count":12`),
		ok("POST", "/api/chat", `{"model":"llama3.2","messages":[{"role":"user","content":"?"}],"stream":false}`, `"message":{"content":"A small bird`),
		ok("POST", "/v1/chat/completions", chat+`llama3.2"}`, `"chat.completion"`),
		ok("POST", "/api/embed", `{"model":"llama3.2","input":"?"}`, `"embeddings":[[`),
		ok("POST", "/api/generate", `{"model":"llama3.2","keep_alive":0}`, `"done_reason":"unload"`),
		ok("GET", "/api/ps", "", `{"models":[]}`),
		{call{"POST", "/api/generate", `{"model":"gone"}`}, 404, `{"error":"model 'gone' not found"}`},
		{call{"POST", "/api/generate", `{"model":"llama3.2","keep_alive":"soon"}`}, 400, `{"error":`},
	},
	"vllm": {
		ok("GET", "/health", "", ""),
		ok("GET", "/version", "", `"version"`),
		ok("GET", "/v1/models", "", `"id":"Qwen/Qwen2.5-7B-Instruct"`),
		ok("POST", "/v1/chat/completions", chat+`x","stream":true}`, "data: [DONE]\n\n"),
		ok("GET", "/is_sleeping", "", `{"is_sleeping":false}`),
		{call{"POST", "/sleep?level=3", ""}, 400, `"type":"BadRequestError"`},
		{call{"POST", "/sleep?mode=maybe", ""}, 400, `"code":400`},
		ok("POST", "/sleep?level=1", "", ""),
		ok("GET", "/is_sleeping", "", `{"is_sleeping":true}`),
		ok("GET", "/health", "", ""),
		{call{"POST", "/v1/chat/completions", chat + `x"}`}, 503, "asleep"},
		ok("POST", "/wake_up", "", ""),
		ok("GET", "/is_sleeping", "", `{"is_sleeping":false}`),
		ok("POST", "/v1/chat/completions", chat+`x"}`, `"role":"assistant"`),
	},
	"sglang": {
		ok("GET", "/health", "", ""),
		ok("GET", "/get_model_info", "", `"model_path"`),
		ok("POST", "/generate", `{"text":"?"}`, `"finish_reason":{"type":"stop"}`),
		ok("POST", "/generate", `{"text":"?","stream":true}`, `"text":"A small "}`+"\n\n"),
		ok("POST", "/v1/chat/completions", chat+`x"}`, `"role":"assistant"`),
		{call{"POST", "/release_memory_occupation", ""}, 400, `"object":"error"`},
		ok("POST", "/release_memory_occupation", "{}", ""),
		{call{"POST", "/resume_memory_occupation", ""}, 400, `"object":"error"`},
		ok("POST", "/resume_memory_occupation", `{"tags":["weights"]}`, ""),
	},
	"comfyui": {
		{call{"POST", "/prompt", `{}`}, 400, `"type":"no_prompt"`},
		ok("POST", "/prompt", `{"prompt":{"3":{}},"prompt_id":"one"}`, `{"node_errors":{},"number":1,"prompt_id":"one"}`),
		ok("POST", "/api/prompt", `{"prompt":{"3":{}},"prompt_id":"two"}`, `"number":2`),
		ok("POST", "/prompt", `{"prompt":{"3":{}},"prompt_id":"three"}`, `"number":3`),
		ok("GET", "/queue", "", `"queue_running":[[1,"one",{"3":{}},{},["9"]]]`),
		ok("GET", "/prompt", "", `{"exec_info":{"queue_remaining":3}}`),
		ok("GET", "/history/one", "", `{}`),
		ok("POST", "/queue", `{"delete":["two"]}`, ""),
		ok("GET", "/queue", "", `"queue_pending":[[3,"three",{"3":{}},{},["9"]]]`),
		ok("WAIT", "7s", "", ""), // until the weights are there
		ok("POST", "/interrupt", "", ""),
		ok("GET", "/history/one", "", `"execution_interrupted"`),
		ok("GET", "/queue", "", `"queue_pending":[],"queue_running":[[3,"three"`),
		ok("WAIT", "20s", "", ""),
		ok("GET", "/history/three", "", `"status":{"completed":true,"messages":[["execution_start",{"prompt_id":"three"}],["execution_success"`),
		ok("GET", "/history/three", "", `"filename":"three.png"`),
		ok("GET", "/history/two", "", `{}`),
		ok("GET", "/view?filename=three.png", "", "PNG"),
		ok("GET", "/system_stats", "", `"torch_vram_free":4294967296,"torch_vram_total":11811160064,"type":"cuda","vram_free":44023414784,"vram_total":51539607552`),
		ok("POST", "/free", `{"free_memory":true}`, ""),
		ok("GET", "/system_stats", "", `"torch_vram_free":0,"torch_vram_total":7516192768`),
		ok("POST", "/free", comfyFree, ""),
		ok("GET", "/system_stats", "", `"torch_vram_total":0`),
	},
	"a1111": {
		ok("GET", "/sdapi/v1/sd-models", "", `"model_name":"v1-5-pruned-emaonly"`),
		ok("POST", "/sdapi/v1/txt2img", `{"prompt":"a bird","batch_size":2}`, `"images":["iVBOR`),
		ok("POST", "/sdapi/v1/img2img", `{"init_images":["x"]}`, `"images":["iVBOR`),
		{call{"POST", "/sdapi/v1/img2img", `{}`}, 404, `{"detail":"Init image not found"}`},
		{call{"POST", "/sdapi/v1/txt2img", `{`}, 422, `{"detail":[`},
		ok("GET", "/sdapi/v1/memory", "", `"system":{"free":42949672960,"total":51539607552,"used":8589934592}`),
		ok("GET", "/sdapi/v1/progress", "", `"progress":0,"state"`),
		ok("POST", "/sdapi/v1/interrupt", "", "{}"),
		ok("POST", "/sdapi/v1/unload-checkpoint", "", ""),
		ok("GET", "/sdapi/v1/memory", "", `"used":0}`),
		ok("POST", "/sdapi/v1/reload-checkpoint", "", ""),
		ok("GET", "/sdapi/v1/memory", "", `"used":4294967296}`),
	},
	"triton": {
		ok("GET", "/v2/health/live", "", ""),
		ok("GET", "/v2/health/ready", "", ""),
		ok("GET", "/v2/models/resnet50/ready", "", ""),
		{call{"GET", "/v2/models/bert/ready", ""}, 400, ""},
		ok("POST", "/v2/models/resnet50/infer", `{"id":"7","inputs":[{}]}`, `"id":"7","model_name":"resnet50"`),
		{call{"POST", "/v2/models/resnet50/infer", `{}`}, 400, "Unable to find 'inputs'"},
		{call{"POST", "/v2/models/bert/infer", `{"inputs":[{}]}`}, 400, "Request for unknown model: 'bert'"},
		{call{"POST", "/v2/models/gone/infer", `{"inputs":[{}]}`}, 400, "Request for unknown model: 'gone'"},
		ok("POST", "/v2/repository/index", "", `{"name":"resnet50","state":"READY","version":"1"},{"name":"bert","reason":"unloaded","state":"UNAVAILABLE"`),
		ok("POST", "/v2/repository/models/bert/load", "{}", ""),
		ok("POST", "/v2/models/bert/infer", `{"inputs":[{}]}`, `"model_name":"bert"`),
		ok("POST", "/v2/repository/models/resnet50/unload", "{}", ""),
		ok("POST", "/v2/repository/index", "", `{"name":"resnet50","reason":"unloaded","state":"UNAVAILABLE"`),
		{call{"POST", "/v2/repository/models/gone/load", ""}, 400, "failed to load 'gone'"},
	},
	"llama-server": {
		ok("GET", "/health", "", `"ok"`),
		ok("GET", "/models", "", `"path":"models/gemma-3-4b.gguf","status":{"args":[],"value":"unloaded"}}`),
		ok("POST", "/models/load", `{"model":"gemma-3-4b"}`, `{"success":true}`),
		ok("GET", "/models", "", `"status":{"args":[],"value":"loading"}`),
		ok("WAIT", "10s", "", ""),
		ok("GET", "/models", "", `"status":{"args":[],"value":"loaded"}`),
		{call{"POST", "/models/load", `{"model":"gemma-3-4b"}`}, 400, "already loaded"},
		ok("POST", "/v1/chat/completions", chat+`gemma-3-4b"}`, `"model":"gemma-3-4b"`),
		ok("POST", "/models/unload", `{"model":"gemma-3-4b"}`, `{"success":true}`),
		{call{"POST", "/models/unload", `{"model":"gemma-3-4b"}`}, 400, "not running"},
		{call{"POST", "/v1/chat/completions", chat + `gone"}`}, 404, "'gone' not found"},
	},
	"llama-swap": {
		ok("GET", "/running", "", `{"running":[]}`),
		ok("POST", "/v1/chat/completions", chat+`gemma-3-4b"}`, `"model":"gemma-3-4b"`),
		ok("GET", "/running", "", `"model":"gemma-3-4b","name":"","proxy":"http://localhost:5800","state":"ready","ttl":0}]}`),
		ok("POST", "/v1/chat/completions", chat+`qwen3-14b"}`, `"model":"qwen3-14b"`),
		ok("GET", "/running", "", `{"running":[{"cmd":"llama-server -m qwen3-14b.gguf"`),
		ok("POST", "/api/models/unload/gemma-3-4b", "", "OK"),
		ok("GET", "/running", "", `"qwen3-14b"`),
		{call{"POST", "/api/models/unload/gone", ""}, 404, "'gone' not found"},
		ok("POST", "/api/models/unload", "", `{"msg":"ok"}`),
		ok("GET", "/unload", "", "OK"),
		ok("GET", "/running", "", `{"running":[]}`),
	},
	"gradio": {
		ok("GET", "/config", "", `"api_prefix":"/gradio_api"`),
		{call{"POST", "/gradio_api/queue/join", `{}`}, 400, "Session hash"},
		{call{"GET", "/gradio_api/queue/data?session_hash=s", ""}, 404, "Session not found"},
		ok("POST", "/gradio_api/queue/join", `{"data":["?"],"session_hash":"s"}`, `{"event_id":"`),
		ok("POST", "/gradio_api/queue/join", `{"data":["?"],"session_hash":"other"}`, `{"event_id":"`),
		ok("GET", "/gradio_api/queue/status", "", `{"queue_size":1}`),
		ok("GET", "/gradio_api/queue/data?session_hash=s", "", `"msg":"process_completed","output":{"average_duration":`),
		{call{"GET", "/gradio_api/queue/data?session_hash=s", ""}, 404, "Session not found"},
		ok("GET", "/gradio_api/queue/data?session_hash=other", "", `data: {"msg":"close_stream"}`),
	},
}

func TestEveryKindSpeaksItsRoutes(t *testing.T) {
	for _, kind := range Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			story := slices.Concat(stories[kind.Name], signs[kind.Name])
			if len(story) == 0 {
				t.Fatal("it has no story")
			}
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				b.load()
				for _, s := range story {
					if s.method == "WAIT" {
						d, _ := time.ParseDuration(s.path)
						time.Sleep(d)
						continue
					}
					r := b.do(s.call)
					if r.status != s.status || !strings.Contains(r.body, s.words) || r.body == "" && s.words != "" {
						b.Errorf("%s %s %s: got %d %.400s, want %d and %q", s.method, s.path, s.body, r.status, r.body, s.status, s.words)
					}
					synctest.Wait()
				}
			})
		})
	}
}

func TestBeforeItsWeightsAreThereAnEngineSaysSo(t *testing.T) {
	for _, kind := range Kinds() {
		path := "/health"
		switch kind.Name {
		case "triton":
			path = "/v2/health/ready"
		case "ollama":
			path = "/api/version"
		case "comfyui", "a1111", "gradio":
			continue // their health is that they answer
		}
		t.Run(kind.Name, func(t *testing.T) {
			inBubble(t, kind, testCard, nil, func(b *bubble) {
				want := http.StatusServiceUnavailable
				switch {
				case kind.Lazy:
					want = http.StatusOK
				case kind.Name == "triton":
					want = http.StatusBadRequest
				}
				if r := b.do(call{"GET", path, ""}); r.status != want {
					b.Errorf("got %+v, want %d", r, want)
				}
				b.load()
				if r := b.do(call{"GET", path, ""}); r.status != http.StatusOK {
					b.Errorf("when loaded: %+v", r)
				}
			})
		})
	}
}

func TestOllamaUnloadsAModelWithoutRequests(t *testing.T) {
	inBubble(t, Ollama(), testCard, nil, func(b *bubble) {
		b.work(b.run)
		time.Sleep(4 * time.Minute)
		b.work(b.run)
		time.Sleep(5*time.Minute - b.kind.Shortest/2)
		if b.work(b.run); b.used() == 0 {
			b.Error("it went because its time came while it was at work")
		}
		time.Sleep(4*time.Minute + 59*time.Second)
		if b.used() == 0 {
			b.Error("it went within 5 minutes of the last request")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if b.used() != 0 {
			b.Errorf("%v after 5 minutes", b.used())
		}
		b.do(call{"POST", "/api/generate", `{"model":"llama3.2","prompt":"?","keep_alive":-1}`})
		time.Sleep(24 * time.Hour)
		if b.used() == 0 {
			b.Error("it went although it was told to stay")
		}
		b.do(call{"POST", "/api/generate", `{"model":"llama3.2","prompt":"?","keep_alive":"10s"}`})
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if b.used() != 0 {
			b.Errorf("%v after the 10 s that it was told", b.used())
		}
		b.do(call{"POST", "/api/generate", `{"model":"llama3.2","keep_alive":10}`})
		b.do(call{"POST", "/api/generate", `{"model":"llama3.2","keep_alive":-1}`})
		time.Sleep(time.Hour)
		if b.used() == 0 {
			b.Error("it went at a time that had been taken back")
		}
	})
}

func TestAnAbortedCompletionIsOneThatEndsEarly(t *testing.T) {
	inBubble(t, VLLM(), testCard, nil, func(b *bubble) {
		b.load()
		stream := b.begin(b.Context(), call{"POST", "/v1/chat/completions", chat + `x","stream":true}`})
		time.Sleep(b.kind.Shortest / 2)
		b.do(call{"POST", "/sleep", ""})
		r := <-stream
		if r.status != http.StatusOK || !strings.Contains(r.body, `"finish_reason":"abort"`) || !strings.HasSuffix(r.body, "data: [DONE]\n\n") {
			b.Errorf("got %+v", r)
		}
	})
}

func TestAStreamThatBreaksIsNoWholeAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		kind  Kind
		call  call
		words string
	}{
		"vqa cuts the connection": {VQA(), call{"POST", "/v1/chat/completions", `{"stream":true}`}, "data: "},
		"ollama says it":          {Ollama(), call{"POST", "/api/generate", `{"prompt":"?"}`}, `{"error":"the engine has ended"}` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, c.kind, testCard, nil, func(b *bubble) {
				b.load()
				b.work(c.call)
				got := b.begin(b.Context(), c.call)
				time.Sleep(c.kind.Shortest / 2)
				b.engine.Close()
				if r := <-got; !strings.Contains(r.body, c.words) || strings.Contains(r.body, "DONE") || strings.Contains(r.body, `"done":true`) {
					b.Errorf("got %+v", r)
				}
			})
		})
	}
}

func TestAnInterruptedImageIsAnsweredAsFarAsItCame(t *testing.T) {
	inBubble(t, A1111(), testCard, nil, func(b *bubble) {
		b.load()
		got := b.begin(b.Context(), b.run)
		time.Sleep(b.kind.Shortest / 2)
		if r := b.do(call{"GET", "/sdapi/v1/progress", ""}); strings.Contains(r.body, `"progress":0,`) || !strings.Contains(r.body, `"job_count":1`) {
			b.Errorf("at work: %s", r.body)
		}
		b.do(call{"POST", "/sdapi/v1/interrupt", ""})
		if r := <-got; r.status != http.StatusOK || r.took >= b.kind.Shortest || !strings.Contains(r.body, `"images":["`) {
			b.Errorf("got %+v", r)
		}
		if r := b.do(call{"GET", "/sdapi/v1/progress", ""}); !strings.Contains(r.body, `"progress":0,`) || !strings.Contains(r.body, `"job_count":0`) {
			b.Errorf("at rest: %s", r.body)
		}
	})
}

func TestADeepSleepForgetsTheWeights(t *testing.T) {
	for level, want := range map[string]time.Duration{"1": VLLM().Wake, "2": VLLM().Load} {
		inBubble(t, VLLM(), testCard, nil, func(b *bubble) {
			b.load()
			b.do(call{"POST", "/sleep?level=" + level, ""})
			if took := b.brought(); took != want {
				b.Errorf("level %s: awake after %v, want %v", level, took, want)
			}
		})
	}
}

// gone is a caller that leaves after the first word.
type gone struct {
	*httptest.ResponseRecorder
	words int
}

func (g *gone) Write(b []byte) (int, error) { return g.WriteString(string(b)) }

func (g *gone) WriteString(s string) (int, error) {
	if g.words++; g.words > 1 {
		return 0, errors.New("broken pipe")
	}
	return g.ResponseRecorder.WriteString(s)
}

func TestAStreamWithoutAReaderGoesOnWhereCallersAreIgnored(t *testing.T) {
	for trap, whole := range map[string]bool{ignoresCallers: true, residue: false} {
		inBubble(t, Ollama(), testCard, []string{trap}, func(b *bubble) {
			b.work(b.run)
			start := time.Now()
			w := &gone{ResponseRecorder: httptest.NewRecorder()}
			b.engine.ServeHTTP(w, httptest.NewRequest("POST", "/api/generate", strings.NewReader(`{"prompt":"?"}`)))
			if took := time.Since(start); took >= b.kind.Shortest != whole {
				b.Errorf("%s: it took %v", trap, took)
			}
		})
	}
}

func TestPromptsComeOneAfterTheOtherInTheirOrder(t *testing.T) {
	inBubble(t, ComfyUI(), testCard, nil, func(b *bubble) {
		const n = 20
		for i := range n {
			b.do(call{"POST", "/prompt", fmt.Sprintf(`{"prompt":{},"prompt_id":"p%02d"}`, i)})
		}
		last := -1
		for last < n-1 {
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			r := b.do(call{"GET", "/queue", ""})
			_, running, _ := strings.Cut(r.body, `"queue_running":[[`)
			if strings.Count(running, `"p`) != 1 {
				b.Fatalf("after prompt %d: %s", last, r.body)
			}
			at := last
			if strings.Contains(running, fmt.Sprintf(`"p%02d"`, last+1)) {
				at = last + 1
			}
			if !strings.Contains(running, fmt.Sprintf(`"p%02d"`, at)) {
				b.Fatalf("after prompt %d: %s", last, running)
			}
			last = at
		}
		if peak := look(b, b.card).Peak; peak != b.kind.Weights+b.kind.PerRun {
			b.Errorf("a peak of %v, want %v", peak, b.kind.Weights+b.kind.PerRun)
		}
	})
}

func TestTritonReadsThePartOfABodyThatIsJSON(t *testing.T) {
	for length, want := range map[string]int{"15": 200, "16": 400, "-1": 400, "99": 400, "x": 400} {
		inBubble(t, Triton(), testCard, nil, func(b *bubble) {
			b.load()
			w := httptest.NewRecorder()
			r := httptest.NewRequest("POST", "/v2/models/resnet50/infer", strings.NewReader(`{"inputs":[{}]}`+"\x00\x01"))
			r.Header.Set("Inference-Header-Content-Length", length)
			b.engine.ServeHTTP(w, r)
			if w.Code != want {
				b.Errorf("%s: got %d %s, want %d", length, w.Code, w.Body, want)
			}
		})
	}
}
