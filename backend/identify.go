package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// identifyWithin is how long a server may take for each question.
	identifyWithin = 2 * time.Second
	// identifyBytes bounds each of its answers.
	identifyBytes = 1 << 20
	// mostModels is how many models of a server are named.
	mostModels = 50
)

// Identity is what is known of a server.
type Identity struct {
	Engine  string   // the name of a preset; empty: it is not known
	Because string   // the answer that showed it
	Models  []string // that it lists; none: it lists none, or does not say
}

// clue is an answer that only one engine gives.
type clue struct {
	engine, path string
	tells        func(answer map[string]any, text string) bool
}

func hasKeys(keys ...string) func(map[string]any, string) bool {
	return func(answer map[string]any, _ string) bool {
		return !slices.ContainsFunc(keys, func(key string) bool { _, is := answer[key]; return !is })
	}
}

// ownedBy says that the list of models names an owner.
func ownedBy(owner string) func(map[string]any, string) bool {
	return func(answer map[string]any, _ string) bool {
		list, _ := answer["data"].([]any)
		return slices.ContainsFunc(list, func(m any) bool {
			model, _ := m.(map[string]any)
			return model["owned_by"] == owner
		})
	}
}

// serves says that an OpenAPI description has a path.
func serves(paths ...string) func(map[string]any, string) bool {
	return func(answer map[string]any, _ string) bool {
		has, _ := answer["paths"].(map[string]any)
		return slices.ContainsFunc(paths, func(path string) bool { return has[path] != nil })
	}
}

func contains(words string) func(map[string]any, string) bool {
	return func(_ map[string]any, text string) bool { return strings.Contains(text, words) }
}

// clues are in the order in which they are tried: those of engines that others take
// routes from come last.
var clues = []clue{
	{"comfyui", "/system_stats", hasKeys("system", "devices")},
	{"a1111", "/sdapi/v1/options", hasKeys("sd_model_checkpoint")},
	{"triton", "/v2", func(a map[string]any, _ string) bool { return a["name"] == "triton" }},
	{"llama-swap", "/running", hasKeys("running")},
	{"ollama", "/", contains("Ollama is running")},
	{"lmstudio", "/api/v0/models", hasKeys("data")},
	{"sglang", "/get_server_info", hasKeys("model_path")},
	{"sglang", "/server_info", hasKeys("model_path")},
	{"llama-server", "/props", hasKeys("default_generation_settings")},
	{"llama-server", "/v1/models", ownedBy("llamacpp")},
	{"tei", "/info", hasKeys("model_id", "model_type")},
	{"tgi", "/info", hasKeys("model_id", "max_concurrent_requests")},
	{"vllm", "/v1/models", ownedBy("vllm")},
	{"vllm", "/metrics", contains("vllm:")},
	{"tei", "/v1/models", ownedBy("infinity")},
	{"tei", "/models", ownedBy("infinity")},
	{"gradio", "/config", hasKeys("components", "dependencies")},
	{"whisper", "/openapi.json", serves("/v1/audio/transcriptions", "/asr")},
	{"kokoro", "/openapi.json", serves("/dev/captioned_speech", "/dev/unload", "/v1/audio/voices/combine")},
	{"whisper", "/", contains("Whisper.cpp")},
	{"tei", "/openapi.json", serves("/embed", "/rerank")},
	{"diffusers", "/openapi.json", serves("/v1/images/generations", "/generate", "/generate_image", "/txt2img", "/img2img", "/infer")},
	{"ollama", "/api/tags", hasKeys("models")},
}

// Identify asks the server at an address which engine it is and what it serves. It uses
// only GET, which changes nothing, follows no redirect, and takes little more than two
// seconds. It fails if the address is not valid or nothing answers there.
func Identify(ctx context.Context, address string) (Identity, error) {
	base, err := parseURL(address)
	if err != nil {
		return Identity{}, err
	}
	transport := newTransport(base, Config{})
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport, Timeout: identifyWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	root := base.Scheme + "://" + base.Host
	if base.Scheme == "unix" {
		root = "http://localhost"
	}
	paths := []string{"/v1/models", "/api/tags"}
	for _, c := range clues {
		if !slices.Contains(paths, c.path) {
			paths = append(paths, c.path)
		}
	}
	answers := make([]string, len(paths))
	errs := make([]error, len(paths))
	var all sync.WaitGroup
	for i, path := range paths {
		all.Go(func() { answers[i], errs[i] = look(ctx, &client, root+path) })
	}
	all.Wait()
	if !slices.Contains(errs, nil) {
		return Identity{}, fmt.Errorf("backend: nothing answers at %s: %w", address, errs[0])
	}
	read := func(path string) (map[string]any, string) {
		text := answers[slices.Index(paths, path)]
		var object map[string]any
		json.Unmarshal([]byte(text), &object) // an answer that is no object has no keys
		return object, text
	}
	id := Identity{Models: listed(read("/v1/models"))}
	if len(id.Models) == 0 {
		id.Models = listed(read("/api/tags"))
	}
	for _, c := range clues {
		if object, text := read(c.path); text != "" && c.tells(object, text) {
			id.Engine, id.Because = c.engine, "its answer to GET "+c.path
			break
		}
	}
	return id, nil
}

// look is the text of an answer of status 200; empty: it was another.
func look(ctx context.Context, client *http.Client, url string) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", nil
	}
	text, _ := io.ReadAll(io.LimitReader(res.Body, identifyBytes)) // a part may be enough
	return string(text), nil
}

// listed are the models that an answer lists, in OpenAI's form or Ollama's.
func listed(answer map[string]any, _ string) (models []string) {
	for _, key := range [...]string{"data", "models"} {
		list, _ := answer[key].([]any)
		for _, item := range list {
			m, _ := item.(map[string]any)
			for _, name := range [...]string{"id", "name"} {
				if text, _ := m[name].(string); text != "" && len(models) < mostModels && !slices.Contains(models, text) {
					models = append(models, text)
				}
			}
		}
	}
	return models
}
