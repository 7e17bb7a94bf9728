package simulation

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// A form is parts and an end.
const (
	boundary = "simulated"
	end      = "--" + boundary + "--\r\n"
)

func part(name, value string) string {
	return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%q\r\n\r\n%s\r\n", boundary, name, value)
}

func attached(name, file, content string) string {
	return fmt.Sprintf("--%s\r\nContent-Disposition: form-data; name=%q; filename=%q\r\n\r\n%s\r\n", boundary, name, file, content)
}

// recording is a second of 16 kHz mono.
var recording = attached("file", "a.wav", strings.Repeat("\x00", 32000))

func init() {
	// The kinds of which most is said in one or two answers.
	stories["tgi"] = []step{
		ok("POST", "/generate", `{"inputs":"?","parameters":{"details":true}}`, `"generated_text":"A small bird`),
		ok("POST", "/generate_stream", `{"inputs":"?"}`, `"token":{"id":0,"logprob":-0.25,"special":false,"text":"A "}`),
		ok("POST", "/", `{"inputs":"?"}`, `[{"generated_text":"A small`),
		ok("POST", "/", `{"inputs":"?","stream":true}`, `"details":{"finish_reason":"eos_token"`),
		{call{"POST", "/generate", `{}`}, 422, `"error_type":"validation"`},
		ok("POST", "/v1/chat/completions", chat+`tgi","stream":true}`, "data: [DONE]"),
		ok("POST", "/v1/completions", `{"prompt":"?"}`, `"object":"text_completion"`),
		ok("GET", "/health", "", ""),
	}
	stories["lmstudio"] = []step{
		ok("GET", "/api/v0/models", "", `"state":"not-loaded","type":"llm"`),
		ok("POST", "/v1/chat/completions", chat+`qwen2.5-7b-instruct"}`, `"model":"qwen2.5-7b-instruct"`),
		ok("GET", "/api/v0/models/qwen2.5-7b-instruct", "", `"state":"loaded"`),
		ok("POST", "/v1/embeddings", `{"model":"text-embedding-nomic-embed-text-v1.5","input":["a","b"]}`, `"index":1`),
		ok("GET", "/api/v0/models/qwen2.5-7b-instruct", "", `"state":"not-loaded"`),
		ok("POST", "/api/v1/models/load", `{"model":"qwen2.5-7b-instruct"}`, `"status":"loaded"`),
		ok("GET", "/api/v1/models", "", `"loaded_instances":[{"config":{"context_length":4096},"id":"qwen2.5-7b-instruct"}]`),
		ok("POST", "/api/v1/models/unload", `{"instance_id":"qwen2.5-7b-instruct"}`, `{"instance_id":"qwen2.5-7b-instruct"}`),
		ok("POST", "/api/v0/chat/completions", chat+`qwen2.5-7b-instruct"}`, `"stats":{"generation_time"`),
		{call{"POST", "/v1/chat/completions", chat + `gone"}`}, 404, "'gone' not found"},
	}
	stories["tei"] = []step{
		ok("POST", "/embed", `{"inputs":["a","b"]}`, "[["),
		ok("POST", "/embed_all", `{"inputs":"a"}`, "[[["),
		ok("POST", "/similarity", `{"inputs":{"source_sentence":"a","sentences":["a"]}}`, "[1"),
		ok("POST", "/v1/embeddings", `{"input":"a","encoding_format":"base64"}`, `"embedding":"`),
		ok("POST", "/tokenize", `{"inputs":"a"}`, `"special":false`),
		{call{"POST", "/embed", `{"inputs":[]}`}, 400, `"error_type":"Empty"`},
		{call{"POST", "/embed", `{"inputs":7}`}, 422, `"error_type":"Validation"`},
		{call{"POST", "/rerank", `{"query":"?","texts":["a"]}`}, 424, `{"error":"model is not a re-ranker model","error_type":"Backend"}`},
		{call{"POST", "/predict", `{"inputs":"a"}`}, 424, "not a classifier"},
		ok("GET", "/health", "", ""),
	}
	stories["rerank"] = []step{
		ok("POST", "/rerank", `{"query":"b","texts":["a","b"],"return_text":true}`, `[{"index":1,"score":0.99`),
		ok("POST", "/predict", `{"inputs":"a"}`, `[{"label":"LABEL_0"`),
		{call{"POST", "/rerank", `{"query":"b","texts":[]}`}, 400, `"error_type":"Empty"`},
		{call{"POST", "/embed", `{"inputs":"a"}`}, 424, "not an embedding model"},
	}
	stories["infinity"] = []step{
		ok("POST", "/embeddings", `{"model":"BAAI/bge-small-en-v1.5","input":["a"]}`, `"object":"embedding"`),
		ok("POST", "/rerank", `{"model":"mixedbread-ai/mxbai-rerank-xsmall-v1","query":"b","documents":["a","b"],"top_n":1}`,
			`"results":[{"document":null,"index":1,"relevance_score":0.99`),
		{call{"POST", "/rerank", `{"query":"b","documents":["a"]}`}, 400, "does not support `rerank`"},
		{call{"POST", "/embeddings", `{"input":7}`}, 422, `{"detail":[`},
		{call{"POST", "/embeddings", `{"model":"gone","input":"a"}`}, 404, `"code":404`},
	}
	stories["whisper"] = []step{
		ok("GET", "/api/ps", "", `{"models":[]}`),
		ok("POST", "/v1/audio/transcriptions", recording+part("model", "Systran/faster-whisper-small")+end, `{"text":"A small bird`),
		ok("GET", "/api/ps", "", `{"models":["Systran/faster-whisper-small"]}`),
		ok("POST", "/v1/audio/translations", recording+part("model", "Systran/faster-whisper-small")+part("response_format", "verbose_json")+end,
			`"task":"translate"`),
		ok("POST", "/v1/audio/transcriptions", recording+part("model", "Systran/faster-whisper-small")+part("response_format", "srt")+end,
			"00:00:00,000 --> 00:00:01,000"),
		ok("POST", "/v1/audio/transcriptions", recording+part("model", "Systran/faster-whisper-small")+part("response_format", "vtt")+end, "WEBVTT"),
		ok("POST", "/v1/audio/transcriptions", recording+part("model", "Systran/faster-whisper-small")+part("stream", "true")+end, `data: {"text":"A "}`),
		{call{"POST", "/v1/audio/transcriptions", part("model", "Systran/faster-whisper-small") + end}, 422, "no 'file' field"},
		{call{"POST", "/v1/audio/transcriptions", recording + part("model", "gone") + end}, 404, `{"detail":`},
		{call{"POST", "/api/ps/Systran/faster-whisper-small", ""}, 409, "already loaded"},
		{call{"DELETE", "/api/ps/Systran/faster-whisper-small", ""}, 204, ""},
		{call{"DELETE", "/api/ps/Systran/faster-whisper-small", ""}, 404, "not found"},
		{call{"POST", "/api/ps/Systran/faster-whisper-small", ""}, 201, ""},
		ok("WAIT", "6m", "", ""),
	}
	stories["whisper-cpp"] = []step{
		ok("GET", "/health", "", `{"status":"ok"}`),
		ok("POST", "/inference", recording+end, `{"text":"A small bird`),
		ok("POST", "/inference", recording+part("response_format", "verbose_json")+end, `"duration":1`),
		{call{"POST", "/inference", part("temperature", "0") + end}, 400, `{"error":"no 'file' field in the request"}`},
		ok("POST", "/load", part("model", "models/ggml-base.bin")+end, "Load was successful!"),
		{call{"POST", "/load", part("model", "gone") + end}, 400, "model not found!"},
	}
	stories["tts"] = []step{
		ok("POST", "/v1/audio/speech", `{"input":"A bird sits on the roof.","voice":"af_heart"}`, "\xff\xfb\x90\x00"),
		ok("POST", "/v1/audio/speech", `{"input":"A bird sits on the roof.","voice":"af_heart","response_format":"wav"}`, "WAVEfmt "),
		{call{"POST", "/v1/audio/speech", `{"input":"A bird.","voice":"af_heart","response_format":"ogg"}`}, 400, "mp3, wav and pcm"},
		ok("GET", "/v1/audio/voices", "", "af_heart"),
		ok("POST", "/dev/unload", "", `{"status":"unloaded"}`),
	}
	stories["diffusers"] = []step{
		ok("GET", "/health", "", `{"status":"ok"}`),
		ok("POST", "/generate", `{"prompt":"a bird","num_images_per_prompt":2}`, `{"images":["iVBOR`),
		{call{"POST", "/generate", `{}`}, 422, `"loc":["body","prompt"]`},
		ok("GET", "/docs", "", "Swagger UI"),
	}
}

// signs are the answers that tell which engine it is.
var signs = map[string][]step{
	"ollama": {
		ok("GET", "/api/version", "", `{"version":"0.13.0"}`),
		ok("GET", "/api/tags", "", `"modified_at":"2026-`),
		ok("GET", "/v1/models", "", `"owned_by":"library"`),
		{call{"GET", "/health", ""}, 404, ""},
	},
	"comfyui": {
		ok("GET", "/object_info", "", `"KSampler":{"category":"sampling"`),
		ok("GET", "/api/object_info/SaveImage", "", `"output_node":true`),
		ok("GET", "/api/features", "", "supports_preview_metadata"),
		ok("GET", "/models/checkpoints", "", "sd_xl_base_1.0"),
		ok("POST", "/upload/image", attached("image", "a.txt", "hello")+part("overwrite", "true")+end, `{"name":"a.txt","subfolder":"","type":"input"}`),
		ok("GET", "/view?filename=a.txt&type=input", "", "hello"),
		{call{"GET", "/view?filename=gone.png", ""}, 404, ""},
		{call{"POST", "/api/upload/image", part("overwrite", "true") + end}, 400, ""},
		ok("POST", "/history", `{"delete":["three"]}`, ""),
		ok("GET", "/history/three", "", "{}"),
		{call{"GET", "/ws", ""}, 400, ""},
	},
	"vllm": {
		ok("GET", "/v1/models", "", `"owned_by":"vllm","parent":null`),
		ok("GET", "/version", "", `{"version":"0.12.0"}`),
		ok("GET", "/metrics", "", `vllm:num_requests_running{model_name="Qwen/Qwen2.5-7B-Instruct"} 0`),
		ok("GET", "/openapi.json", "", `"/wake_up":`),
	},
	"sglang": {
		ok("GET", "/v1/models/Qwen/Qwen2.5-7B-Instruct", "", `"owned_by":"sglang"`),
		ok("GET", "/get_server_info", "", `"internal_states":[{`),
		ok("GET", "/metrics", "", "sglang:num_running_reqs"),
		ok("GET", "/health_generate", "", ""),
	},
	"gradio": {
		ok("GET", "/config", "", `"root":"http://example.com","run_history"`),
		ok("GET", "/gradio_api/info", "", `"/predict":{`),
		ok("GET", "/gradio_api/app_id", "", `{"app_id":`),
		ok("GET", "/", "", "window.gradio_config = {"),
		ok("POST", "/gradio_api/upload", attached("files", "a.txt", "hello")+end, `/a.txt"]`),
		ok("POST", "/gradio_api/run/caption", `{"data":[{"path":"x"}]}`, `"data":["A small bird`),
		{call{"POST", "/gradio_api/call/gone", `{"data":[]}`}, 404, "Not Found"},
		ok("POST", "/gradio_api/call/v2/caption", `{"image":null}`, `{"event_id":"`),
		{call{"GET", "/gradio_api/call/predict/gone", ""}, 404, "Event not found"},
		{call{"GET", "/gradio_api/file=/etc/passwd", ""}, 403, "File not allowed"},
		ok("POST", "/gradio_api/queue/join", `{"data":["?"],"session_hash":"third","fn_index":1}`, `{"event_id":"`),
		ok("POST", "/gradio_api/cancel", `{"session_hash":"third","fn_index":1,"event_id":"gone"}`, `{"success":true}`),
		ok("POST", "/gradio_api/reset", `{"event_id":"gone"}`, `{"success":true}`),
		ok("GET", "/gradio_api/queue/data?session_hash=third", "", `"data":["A small bird`),
	},
	"a1111": {
		ok("GET", "/sdapi/v1/options", "", `"sd_model_checkpoint":"v1-5-pruned-emaonly.safetensors [6ce0161689]"`),
		ok("GET", "/config", "", `"version":"3.41.2"`),
		ok("POST", "/sdapi/v1/extra-single-image", `{"image":"x"}`, `"image":"iVBOR`),
		ok("POST", "/sdapi/v1/options", `{"sd_model_checkpoint":"v1-5-pruned-emaonly"}`, "null"),
		{call{"POST", "/sdapi/v1/options", `{"sd_model_checkpoint":"gone"}`}, 500, "'gone' not found"},
	},
	"triton": {
		ok("GET", "/v2", "", `"name":"triton"`),
		ok("GET", "/v2/models/bert", "", `"platform":"onnxruntime_onnx"`),
		{call{"GET", "/v2/models/resnet50", ""}, 400, "Request for unknown model: 'resnet50'"},
		ok("GET", "/v2/models/bert/stats", "", `"inference_count":1`),
	},
	"llama-server": {
		ok("GET", "/props", "", `"role":"router"`),
		ok("GET", "/v1/models", "", `"owned_by":"llamacpp"`),
		ok("GET", "/slots?model=gemma-3-4b", "", `"is_processing":false`),
		ok("GET", "/metrics?model=gemma-3-4b", "", "llamacpp:requests_processing 0"),
		{call{"GET", "/slots", ""}, 400, "model name is missing"},
		ok("POST", "/completion", `{"model":"gemma-3-4b","prompt":"?"}`, `"content":"A small`),
		ok("POST", "/v1/embeddings", `{"model":"gemma-3-4b","input":"?"}`, `"embedding":[`),
	},
	"llama-swap": {
		ok("GET", "/v1/models", "", `"owned_by":"llama-swap"`),
		ok("GET", "/api/version", "", `"build_date"`),
		{call{"GET", "/", ""}, 302, "/ui"},
		ok("GET", "/health", "", "OK"),
	},
	"tgi": {
		ok("GET", "/info", "", `"router":"text-generation-router"`),
		ok("GET", "/v1/models", "", `"owned_by":"Qwen/Qwen2.5-7B-Instruct"`),
		ok("GET", "/metrics", "", "tgi_queue_size"),
		ok("GET", "/api-doc/openapi.json", "", `"title":"Text Generation Inference"`),
	},
	"lmstudio": {
		ok("GET", "/v1/models", "", `"owned_by":"organization_owner"`),
		ok("GET", "/props", "", `{"error":"Unexpected endpoint or method. (GET /props)"}`),
	},
	"tei": {
		ok("GET", "/info", "", `"model_type":{"embedding":{"pooling":"cls"}}`),
		ok("GET", "/metrics", "", "te_queue_size"),
		ok("GET", "/api-doc/openapi.json", "", `"title":"Text Embeddings Inference"`),
	},
	"rerank": {ok("GET", "/info", "", `"model_type":{"reranker":{`)},
	"infinity": {
		ok("GET", "/models", "", `"owned_by":"infinity"`),
		ok("GET", "/health", "", `{"unix":`),
		ok("GET", "/openapi.json", "", "Infinity - Embedding Inference Server"),
	},
	"whisper": {
		ok("GET", "/v1/models", "", `"task":"automatic-speech-recognition"`),
		ok("GET", "/openapi.json", "", `"title":"Speaches"`),
		ok("GET", "/health", "", "OK"),
	},
	"whisper-cpp": {ok("GET", "/", "", "Whisper.cpp Server")},
	"tts": {
		ok("GET", "/v1/models", "", `"owned_by":"kokoro"`),
		ok("GET", "/health", "", `{"status":"healthy"}`),
		ok("GET", "/openapi.json", "", `"title":"Kokoro TTS API"`),
	},
	"diffusers": {ok("GET", "/openapi.json", "", `"title":"FastAPI"`)},
}

func TestAKindNamesTheRoutesThatItServes(t *testing.T) {
	for _, kind := range Kinds() {
		routes := kind.Serves()
		for _, s := range append(slices.Clone(stories[kind.Name]), signs[kind.Name]...) {
			path, _, _ := strings.Cut(s.path, "?")
			if s.method == "WAIT" || s.status == 404 || strings.Contains(path, "{") {
				continue
			}
			// A route that the list has word for word, or one of a pattern.
			if !slices.ContainsFunc(routes, func(route string) bool {
				head, _, pattern := strings.Cut(route, "{")
				return route == s.method+" "+path || pattern && strings.HasPrefix(s.method+" "+path, head) || route == "/"
			}) {
				t.Errorf("%s: %s %s is answered and not among %q", kind.Name, s.method, path, routes)
			}
		}
	}
}

func TestTheNewerWayToAskIsAnsweredInEvents(t *testing.T) {
	inBubble(t, VLLM(), testCard, nil, func(b *bubble) {
		b.load()
		r := b.do(call{"POST", "/v1/responses", `{"input":"?","stream":true}`})
		at := 0
		for _, kind := range []string{"response.created", "response.output_text.delta", "response.output_text.done", "response.completed"} {
			i := strings.Index(r.body, "event: "+kind+"\ndata: {")
			if i < at {
				t.Errorf("%s is not where it should be in %s", kind, r.body)
			}
			at = i
		}
		if n := strings.Count(r.body, "event: "); !strings.Contains(r.body, fmt.Sprintf(`"sequence_number":%d`, n-1)) {
			t.Errorf("%d events are not numbered", n)
		}
	})
}
