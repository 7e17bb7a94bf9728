package backend

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// preset is what is known of an engine: which calls free its memory and bring it back, how
// it reports what it holds, and how the end of its work is found.
type preset struct {
	call, body     string // as in ReclaimConfig
	each           string // the call where models are given; empty: call
	wake, wakeBody string
	probe          string

	inspect, inspectBody string // empty: the engine does not say
	read                 func(answer []byte) (holdings, error)

	// Settings of a backend with this engine; empty: the defaults.
	cancel       string // when its caller leaves
	errors       string // the dialect of its clients
	health       string
	preserveHost bool
	early        *early // how the end of its work is found; nil: its answer is the end
	// abandon is how long work may go on after its caller left, before it counts as
	// hanging.
	abandon time.Duration

	// preallocates says that it takes all that its requests need when it starts.
	preallocates bool

	needs    string   // what the engine must be started with to take these calls
	controls []string // patterns of paths that are not for clients
	posted   []string // the same, except by GET
	serves   bool     // the call's own path is one that clients use

	// Patterns of what clients ask for: work by POST, and what needs no card.
	heavy, light, free []string
	// Paths of WebSockets that are work of a class while they are open.
	sockets     []string
	socketClass string
}

// holdings are the models that an engine reports.
type holdings struct {
	any      bool     // something is loaded
	loaded   []string // the models that are, where they have names
	unloaded []string // those that it could load again
}

var presets = map[string]preset{
	// Memory returns a moment after the answer.
	"ollama": {
		light: []string{"/api/generate", "/api/chat", "/api/embed", "/api/embeddings", chatPath, completePath, embeddingsPath, responsesPath, messagesPath,
			"/v1/audio/transcriptions"},
		free: []string{"/{$}", "/api/tags", "/api/ps", "/api/show", "/api/version", "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/delete",
			"/api/blobs/**", modelsPath, "/v1/models/{model}"},
		cancel: "aborts", errors: "ollama", health: "/api/version",
		call: "POST /api/generate", body: `{"model":"{{model}}","keep_alive":0}`, serves: true,
		probe: "GET /api/version", inspect: "GET /api/ps", read: readOllama,
	},
	// The default mode of sleep aborts requests in flight. A request that comes while vLLM
	// is asleep may crash it.
	"vllm": {
		light: []string{chatPath, completePath, responsesPath, messagesPath, embeddingsPath, "/v1/audio/transcriptions", "/v1/audio/translations",
			"/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank", "/invocations", "/inference/v1/generate"},
		sockets: []string{"/v1/realtime"}, socketClass: Light,
		free: []string{modelsPath, "/version", "/health", "/ping", "/load", "/metrics", "/tokenize", "/detokenize", "/docs", "/openapi.json",
			"/v1/responses/{id}", "/v1/responses/{id}/cancel", "/v1/messages/count_tokens"},
		cancel: "aborts", health: "/health", preallocates: true,
		call: "POST /sleep?level=1&mode=wait", wake: "POST /wake_up", probe: "GET /health",
		inspect: "GET /is_sleeping", read: readVLLM,
		needs: "--enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment",
		controls: []string{"/sleep", "/wake_up", "/is_sleeping", "/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache",
			"/collective_rpc", "/pause", "/resume"},
	},
	// The call only sets a flag, and memory is freed after the running prompt. Every path
	// exists twice.
	"comfyui": {
		heavy: []string{"/prompt", "/api/prompt"}, free: []string{"/**"},
		// A prompt is answered at once, whatever is being drawn.
		preserveHost: true, health: "/system_stats", abandon: 5 * time.Minute,
		call: "POST /free", body: `{"unload_models":true,"free_memory":true}`, probe: "GET /system_stats",
		controls: []string{"/free", "/api/free"},
		// It moves work from its queue to the history in one step. So work that is in
		// neither was removed by hand or lost in a restart.
		early: &early{
			submits:  func(path string) bool { return path == "/prompt" || path == "/api/prompt" },
			poll:     "GET /history/{{.json.prompt_id}}",
			until:    `has(body, json.prompt_id)`,
			without:  []string{"prompt", "outputs", "current_inputs", "current_outputs", "inputs", "extra_pnginfo"},
			failed:   `body[json.prompt_id].status.status_str == "error"`,
			gone:     "GET /queue",
			goneWhen: `has(body, "queue_running") && none(body.queue_running, {#[1] == json.prompt_id}) && none(body.queue_pending, {#[1] == json.prompt_id})`,
		},
	},
	"a1111": {
		// A change of the options can load another checkpoint. Its page makes all calls
		// through the queue of Gradio, those for an image as well as those that end one,
		// and the path does not show which: several may be under way. Gradio 3 opens a
		// WebSocket for each call, and closes it when the call is done.
		sockets: []string{"/queue/join"}, socketClass: Light,
		heavy: []string{"/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/extra-single-image", "/sdapi/v1/extra-batch-images", "/sdapi/v1/options"},
		light: []string{"/sdapi/v1/interrogate", "/queue/join", "/gradio_api/queue/join"}, free: []string{"/**"},
		abandon: 30 * time.Minute,
		// Forge has Gradio 4, whose queue is joined by POST.
		early: &early{submits: func(path string) bool { return strings.HasSuffix(path, "/queue/join") }, watch: true},
		call:  "POST /sdapi/v1/unload-checkpoint", wake: "POST /sdapi/v1/reload-checkpoint", probe: "GET /sdapi/v1/memory",
		needs: "--api",
		controls: []string{"/sdapi/v1/unload-checkpoint", "/sdapi/v1/reload-checkpoint",
			"/sdapi/v1/server-kill", "/sdapi/v1/server-restart", "/sdapi/v1/server-stop"},
	},
	// An empty body is 400.
	"sglang": {
		light: []string{chatPath, completePath, responsesPath, messagesPath, embeddingsPath, "/generate", "/encode", "/classify", "/v1/score", "/v1/rerank",
			"/v1/audio/transcriptions", "/invocations"},
		free: []string{modelsPath, "/health", "/metrics", "/model_info", "/get_model_info", "/server_info", "/get_server_info", "/tokenize", "/v1/tokenize",
			"/detokenize", "/v1/detokenize", "/v1/models/{model}"},
		cancel: "aborts", health: "/health", preallocates: true,
		call: "POST /release_memory_occupation", body: "{}", wake: "POST /resume_memory_occupation", wakeBody: "{}", probe: "GET /health",
		needs: "--enable-memory-saver",
		controls: []string{"/release_memory_occupation", "/resume_memory_occupation",
			"/pause_generation", "/continue_generation"},
	},
	"triton": {
		light: []string{"/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer", "/v2/models/{model}/generate",
			"/v2/models/{model}/generate_stream", "/v2/models/{model}/versions/{version}/generate", "/v2/models/{model}/versions/{version}/generate_stream",
			"/inference.GRPCInferenceService/ModelInfer", "/inference.GRPCInferenceService/ModelStreamInfer"},
		free: []string{"/v2", "/v2/health/**", "/v2/models/**", "/v2/repository/index", "/metrics", "/inference.GRPCInferenceService/{method}",
			"/grpc.health.v1.Health/{method}"},
		health: "/v2/health/ready", abandon: 15 * time.Minute,
		call: "POST /v2/repository/models/{{model}}/unload", wake: "POST /v2/repository/models/{{model}}/load", probe: "GET /v2/health/ready",
		inspect: "POST /v2/repository/index", inspectBody: "{}", read: readTriton,
		needs: "--model-control-mode=explicit",
		controls: []string{"/v2/repository/models/{model}/unload", "/v2/repository/models/{model}/load",
			"/inference.GRPCInferenceService/RepositoryModelUnload", "/inference.GRPCInferenceService/RepositoryModelLoad"},
		posted: []string{"/v2/models/{model}/trace/setting", "/v2/models/{model}/versions/{version}/trace/setting", "/v2/trace/setting", "/v2/logging"},
	},
	// This is for the router: llama-server started without a model.
	"llama-server": {
		light: []string{chatPath, "/chat/completions", completePath, "/completions", "/completion", "/infill", responsesPath, "/responses",
			messagesPath, embeddingsPath,
			"/v1/audio/transcriptions", "/audio/transcriptions", "/embeddings", "/embedding", "/v1/rerank", "/rerank", "/v1/reranking", "/reranking"},
		free:   []string{modelsPath, "/**"},
		cancel: "aborts", health: "/health",
		call: "POST /models/unload", body: `{"model":"{{model}}"}`, probe: "GET /health",
		inspect: "GET /models", read: readLlamaServer,
		needs:    "no model of its own, so that it is a router",
		controls: []string{"/models/unload", "/models/load"}, posted: []string{"/models", "/slots/{id}", "/props", "/lora-adapters"},
	},
	// It reports progress only in the caller's stream, and sends each message once: a
	// second stream for the session would take messages from the caller. So the proxy does
	// not poll. It watches the caller's stream while it forwards it, and opens the stream
	// if the caller does not.
	"gradio": {
		heavy: []string{"/queue/join", "/gradio_api/queue/join", "/call/{name}", "/gradio_api/call/{name}", "/call/v2/{name}",
			"/gradio_api/call/v2/{name}", "/run/{name}", "/gradio_api/run/{name}",
			"/api/{name}", "/gradio_api/api/{name}"},
		free:         []string{"/**"},
		preserveHost: true, abandon: 30 * time.Minute,
		early: &early{
			submits: func(path string) bool { return strings.HasSuffix(path, "/queue/join") || isGradioCall(path, 1) },
			watch:   true,
		},
	},
	"llama-swap": {
		heavy: []string{"/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/comfyui/**"},
		light: []string{chatPath, completePath, responsesPath, messagesPath, embeddingsPath, "/v1/rerank", "/v1/reranking", "/rerank",
			"/reranking", "/infill",
			"/completion", "/v1/audio/speech", "/v1/audio/transcriptions", "/upstream/**", "/v/**", "/audioapi/v1/tasks/run"},
		free:   []string{modelsPath, "/**"},
		cancel: "aborts", health: "/health",
		call: "POST /api/models/unload", each: "POST /api/models/unload/{{model}}", probe: "GET /health",
		inspect: "GET /running", read: readLlamaSwap,
		controls: []string{"/api/models/unload/**", "/unload"},
	},
	"lmstudio": {
		cancel: "aborts", health: modelsPath,
		light: []string{chatPath, completePath, responsesPath, messagesPath, embeddingsPath, "/api/v0/chat/completions", "/api/v0/completions",
			"/api/v0/embeddings", "/api/v1/chat"},
		free:     []string{modelsPath, "/v1/models/{model}", "/api/v0/models/**", "/api/v1/models", "/api/v1/models/download/status/{id}"},
		controls: []string{"/api/v1/models/load", "/api/v1/models/unload", "/api/v1/models/download"},
	},
	"tgi": {
		cancel: "aborts", health: "/health", preallocates: true,
		light: []string{"/{$}", "/generate", "/generate_stream", chatPath, completePath, "/invocations", "/vertex"},
		free:  []string{modelsPath, "/{$}", "/info", "/health", "/ping", "/metrics", "/tokenize", "/chat_tokenize", "/docs"},
	},
	// Text Embeddings Inference, and Infinity, whose paths have no version by default.
	"tei": {
		cancel: "aborts", health: "/health",
		light: []string{"/embed", "/embed_all", "/embed_sparse", "/predict", "/rerank", "/similarity", embeddingsPath, "/embeddings",
			"/embeddings_image", "/embeddings_audio",
			"/classify", "/invocations", "/vertex"},
		free: []string{modelsPath, "/{$}", "/models", "/info", "/health", "/ping", "/metrics", "/tokenize", "/decode", "/docs"},
	},
	// faster-whisper's servers with OpenAI's API, and the server of whisper.cpp.
	"whisper": {
		abandon: 30 * time.Minute,
		light: []string{"/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/audio/speech/embedding",
			"/v1/audio/speech/timestamps", "/v1/audio/diarization", "/v1/realtime", "/inference", "/asr"},
		sockets: []string{"/v1/realtime"}, socketClass: Light,
		free: []string{modelsPath, "/v1/models/{model...}", "/v1/audio/models", "/v1/audio/voices", "/v1/registry", "/api/ps", "/health", "/{$}", "/docs"},
		// A model comes back with the next request that names it.
		call: "DELETE /api/ps/{{model}}", probe: "GET /health", inspect: "GET /api/ps", read: readSpeaches,
		needs: "Speaches as the server",
		// Loading a model ends the requests that run.
		controls: []string{"/load", "/api/ps/{model}", "/api/ps/{owner}/{model}"},
	},
	// Kokoro-FastAPI. Its work stops when its caller leaves. The next request loads its
	// model again.
	"kokoro": {
		cancel: "aborts", health: "/health",
		light: []string{"/v1/audio/speech", "/dev/captioned_speech", "/dev/generate_from_phonemes", "/dev/dialogue", "/dev/ssml"},
		free: []string{modelsPath, "/v1/models/{model}", "/v1/audio/voices", "/v1/audio/voices/combine", "/v1/download/{file}", "/v1/test",
			"/dev/phonemize",
			"/health", "/web/**", "/docs", "/openapi.json"},
		call: "POST /dev/unload", probe: "GET /health",
		needs:    "ALLOW_DEV_UNLOAD=true in its environment",
		controls: []string{"/dev/unload"},
	},
	// A server of one's own around a diffusers pipeline, and others with OpenAI's API
	// for images.
	"diffusers": {
		abandon: 30 * time.Minute,
		heavy: []string{"/v1/images/generations", "/v1/images/edits", "/v1/images/variations", "/generate", "/generate_image", "/txt2img",
			"/img2img", "/infer",
			"/predict"},
		free: []string{modelsPath, "/health", "/docs", "/openapi.json", "/files/**", "/outputs/**", "/{$}"},
	},
}

// Engines are the names of all presets, sorted.
func Engines() []string { return slices.Sorted(maps.Keys(presets)) }

// presetNames are the engines that can be told to free their memory.
func presetNames() []string {
	return slices.DeleteFunc(Engines(), func(name string) bool { return presets[name].call == "" })
}

// earlyEngines are those that answer before their work is done.
func earlyEngines() []string {
	return slices.DeleteFunc(Engines(), func(name string) bool { return presets[name].early == nil })
}

// Engine is the name of the backend's engine; empty: it is not known.
func (b Config) Engine() string {
	return cmp.Or(b.Preset, b.Reclaim.Preset, b.Completion.Preset)
}

// EngineErrors is the dialect of the engine's clients; empty: any.
func (b Config) EngineErrors() string { return presets[b.Engine()].errors }

// Preallocates says that the engine is known to take all that its requests need when it
// starts, so that they add nothing to what it holds.
func (b Config) Preallocates() bool { return presets[b.Engine()].preallocates }

// Resolve fills in the settings of the backend's engine that the file leaves out. `preset`
// names the engine, else the presets of reclaim and completion do. A preset sets reclaim
// only if the engine accepts the call however it was started.
func (b Config) Resolve() Config {
	p := presets[b.Engine()]
	b.Cancel = cmp.Or(b.Cancel, p.cancel, "ignored")
	b.PreserveHost = b.PreserveHost || p.preserveHost
	b.AbandonAfter = cmp.Or(b.AbandonAfter, p.abandon)
	if b.Completion.Preset == "" && b.Completion.Poll == "" && p.early != nil {
		b.Completion.Preset = b.Engine()
	}
	if b.Preset == "" {
		return b
	}
	b.Health.Path = cmp.Or(b.Health.Path, p.health)
	if !b.Reclaim.Enabled() && p.needs == "" && p.call != "" {
		b.Reclaim.Preset = b.Preset
	}
	return b
}

// parse reads an engine's answer.
func parse(answer []byte, into any) error {
	if err := json.Unmarshal(answer, into); err != nil {
		return fmt.Errorf("not the answer of this engine (%v): %s", err, excerpt(answer))
	}
	return nil
}

func readOllama(answer []byte) (h holdings, err error) {
	var list struct {
		Models []struct{ Name, Model string }
	}
	err = parse(answer, &list)
	for _, m := range list.Models {
		if m.Model == "" {
			m.Model = m.Name
		}
		h.load(m.Model)
	}
	return h, err
}

func readVLLM(answer []byte) (h holdings, err error) {
	var state struct {
		Sleeping *bool `json:"is_sleeping"`
	}
	if err = parse(answer, &state); err == nil && state.Sleeping == nil {
		err = fmt.Errorf("no is_sleeping in the answer: %s", excerpt(answer))
	}
	h.any = err == nil && !*state.Sleeping
	return h, err
}

func readTriton(answer []byte) (h holdings, err error) {
	var list []struct{ Name, State, Reason string }
	err = parse(answer, &list)
	for _, m := range list {
		switch {
		case m.State == "READY":
			h.load(m.Name)
		case m.State == "UNAVAILABLE" && m.Reason == "unloaded" && !slices.Contains(h.unloaded, m.Name):
			h.unloaded = append(h.unloaded, m.Name)
		}
	}
	return h, err
}

func readLlamaServer(answer []byte) (h holdings, err error) {
	var list struct {
		Data []struct {
			ID     string
			Status struct{ Value string }
		}
	}
	err = parse(answer, &list)
	for _, m := range list.Data {
		if m.Status.Value == "loaded" {
			h.load(m.ID)
		}
	}
	return h, err
}

func readSpeaches(answer []byte) (h holdings, err error) {
	var list struct{ Models []string }
	err = parse(answer, &list)
	for _, name := range list.Models {
		h.load(name)
	}
	return h, err
}

func readLlamaSwap(answer []byte) (h holdings, err error) {
	var list struct {
		Running []struct{ Model, State string }
	}
	err = parse(answer, &list)
	for _, m := range list.Running {
		if m.State != "stopped" && m.State != "shutdown" {
			h.load(m.Model)
		}
	}
	return h, err
}

// load notes a model that is loaded, in whatever number of versions.
func (h *holdings) load(model string) {
	h.any = true
	if model != "" && !slices.Contains(h.loaded, model) {
		h.loaded = append(h.loaded, model)
	}
}
