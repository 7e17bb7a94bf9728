package routing_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/routing"
)

// reclaiming is a configuration in which vqa has a reclaim.
func reclaiming(reclaim backend.ReclaimConfig, routes ...routing.RouteConfig) routing.Config {
	c := aConfig(routes...)
	b := c.Backends["vqa"]
	b.Reclaim = reclaim
	c.Backends["vqa"] = b
	return c
}

func TestAWildcardDoesNotReachWhatControlsTheEngine(t *testing.T) {
	for _, c := range []struct {
		reclaim backend.ReclaimConfig
		closed  []string
		open    []string
	}{
		{
			backend.ReclaimConfig{Preset: "vllm"},
			[]string{"POST /sleep", "POST /sleep?level=2", "POST /sleep/", "GET /sleep", "POST /%73leep", "POST /sle%65p?x", "POST /wake_up",
				"GET /is_sleeping", "POST /collective_rpc", "POST /pause"},
			[]string{"POST /v1/chat/completions", "POST /sleeper", "POST /v1/sleep", "GET /health"},
		},
		{
			backend.ReclaimConfig{Preset: "comfyui"},
			[]string{"POST /free", "POST /api/free"},
			[]string{"POST /api/prompt", "GET /", "GET /freedom", "POST /sleep"},
		},
		{
			backend.ReclaimConfig{Preset: "a1111"},
			[]string{"POST /sdapi/v1/unload-checkpoint", "POST /sdapi/v1/reload-checkpoint", "POST /sdapi/v1/server-kill"},
			[]string{"POST /sdapi/v1/txt2img"},
		},
		{
			backend.ReclaimConfig{Preset: "sglang"},
			[]string{"POST /release_memory_occupation", "GET /release_memory_occupation", "PUT /resume_memory_occupation"},
			[]string{"POST /generate"},
		},
		{
			backend.ReclaimConfig{Preset: "triton"},
			[]string{"POST /v2/repository/models/flux/unload", "POST /v2/repository/models/a%20b/load",
				"POST /inference.GRPCInferenceService/RepositoryModelUnload"},
			[]string{"POST /v2/models/flux/infer", "POST /v2/repository/index", "POST /inference.GRPCInferenceService/ModelInfer",
				"POST /v2/repository/models/flux/load/x"},
		},
		{
			backend.ReclaimConfig{Preset: "llama-server"},
			[]string{"POST /models/unload", "POST /models/load"},
			[]string{"GET /models", "GET /v1/models"},
		},
		{
			backend.ReclaimConfig{Preset: "llama-swap"},
			[]string{"POST /api/models/unload", "POST /api/models/unload/qwen", "POST /api/models/unload/", "GET /unload"},
			[]string{"GET /running", "GET /api/models"},
		},
		{
			// Clients generate by the very path that unloads.
			backend.ReclaimConfig{Preset: "ollama"},
			nil,
			[]string{"POST /api/generate", "POST /api/chat"},
		},
		{
			backend.ReclaimConfig{Call: "POST /weights/{{model}}/dr%6Fp?now", Models: []string{"a"}, Wake: "GET /"},
			[]string{"POST /weights/a/drop", "POST /weights/b/drop?x=1", "GET /", "HEAD /"},
			[]string{"GET /weights/a/drop", "POST /weights/drop", "POST /", "GET /x"},
		},
		{
			backend.ReclaimConfig{Preset: "vllm", Call: "PUT /nap"},
			[]string{"PUT /nap", "POST /sleep"},
			[]string{"POST /nap"},
		},
		{
			backend.ReclaimConfig{Stop: backend.Command{"docker", "stop", "it"}},
			nil,
			[]string{"POST /sleep", "POST /free"},
		},
	} {
		for _, wild := range []routing.RouteConfig{light("wild", path("/**")), light("wild", path("")), pass("wild", path("/{rest...}"))} {
			table := compiled(t, reclaiming(c.reclaim, wild))
			for _, line := range c.closed {
				_, err := table.Find(asServed(t, line))
				if !errors.Is(err, routing.ErrControl) || !strings.Contains(err.Error(),
					"controls backend vqa, which wild does not open by a wildcard: want a rule with that path") {
					t.Errorf("%+v: %s: got %v, want ErrControl and why", c.reclaim, line, err)
				}
			}
			for _, line := range c.open {
				wantRule(t, table, asServed(t, line), routing.Body{}, "wild")
			}
		}
	}
}

func TestAPathWithTwoMeaningsDoesNotReachItEither(t *testing.T) {
	table := compiled(t, reclaiming(backend.ReclaimConfig{Preset: "vllm"}, pass("rest", path("/**"))))
	for _, target := range []string{"//sleep", "/./sleep", "/x/../sleep", "/%2e/sleep", "/%2Fsleep", "/sleep;x", "/sleep//", "/%2573leep",
		`/\sleep`, "/sleep%00"} {
		if _, err := table.Find(asServed(t, "POST "+target)); !errors.Is(err, routing.ErrPath) && !errors.Is(err, routing.ErrControl) {
			t.Errorf("%s: got %v, want ErrPath or ErrControl", target, err)
		}
	}
}

// closed is what a call is told that no rule opens.
var closed = routing.ErrControl.Error()

func TestARuleThatNamesAControlOpensIt(t *testing.T) {
	for _, c := range []struct{ preset, pattern, line, want string }{
		{"vllm", "/sleep", "POST /sleep?level=1", "it"},
		{"vllm", "/sleep/", "POST /sleep", "it"},
		{"vllm", "/sleep/**", "POST /sleep", "it"},
		{"vllm", "/{x}", "POST /sleep", closed},
		{"vllm", "/{x}", "POST /other", "it"},
		{"vllm", "/sl/**", "POST /sleep", none},
		{"triton", "/v2/repository/models/{m}/unload", "POST /v2/repository/models/flux/unload", "it"},
		{"triton", "/v2/repository/models/flux/unload", "POST /v2/repository/models/flux/unload", "it"},
		{"triton", "/v2/repository/models/flux/unload", "POST /v2/repository/models/vae/unload", none},
		{"triton", "/v2/repository/models/{m}/{do}", "POST /v2/repository/models/flux/unload", closed},
		{"triton", "/v2/repository/models/{m}/{do}", "POST /v2/repository/models/flux/show", "it"},
		{"triton", "/v2/repository/models/flux/**", "POST /v2/repository/models/flux/unload", closed},
		{"triton", "/inference.GRPCInferenceService/{do}", "POST /inference.GRPCInferenceService/RepositoryModelLoad", closed},
		{"llama-swap", "/api/models/unload/{m}", "POST /api/models/unload/a", "it"},
		{"llama-swap", "/api/models/**", "POST /api/models/unload/a", closed},
	} {
		table := compiled(t, reclaiming(backend.ReclaimConfig{Preset: c.preset}, light("it", path(c.pattern))))
		got := chosen(t, table, asServed(t, c.line), routing.Body{})
		if got, _, _ = strings.Cut(got, ": /"); got != c.want {
			t.Errorf("%s with %s: %s: got %s, want %s", c.preset, c.pattern, c.line, got, c.want)
		}
	}
}

// TestACallForOneEngineDoesNotGoToAnother has a wildcard behind the one that
// leaves an engine's own calls out.
func TestACallForOneEngineDoesNotGoToAnother(t *testing.T) {
	table := compiled(t, reclaiming(backend.ReclaimConfig{Preset: "comfyui"},
		light("one", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/**"}}),
		heavy("other", routing.MatchConfig{Path: routing.Texts{"/**"}}),
	))
	wantRule(t, table, asServed(t, "POST /x"), routing.Body{}, "one")
	if _, err := table.Find(asServed(t, "POST /free")); !errors.Is(err, routing.ErrControl) {
		t.Errorf("got %v, want ErrControl", err)
	}
	wantRule(t, table, asServed(t, "GET /free"), routing.Body{}, "other") // which the first rule is not for
	open := heavy("open", routing.MatchConfig{Path: routing.Texts{"/free"}})
	table = compiled(t, reclaiming(backend.ReclaimConfig{Preset: "comfyui"},
		light("one", routing.MatchConfig{Method: routing.Texts{"POST"}, Path: routing.Texts{"/**"}}), open, heavy("other", path("/**"))))
	wantRule(t, table, asServed(t, "POST /free"), routing.Body{}, "open")
}

func TestARuleForAControlIsReachedAfterTheWildcardThatLeavesIt(t *testing.T) {
	c := reclaiming(backend.ReclaimConfig{Preset: "vllm"}, light("wild", path("/**")), pass("sleep", path("/sleep")))
	wantRule(t, compiled(t, c), asServed(t, "POST /sleep"), routing.Body{}, "sleep")
	// What the wildcard takes is still never reached.
	c.Routes[1].Match.Path = routing.Texts{"/health"}
	if got := mistakes(c); len(got) != 1 || !strings.HasPrefix(got[0], "routes[1].match: never reached") {
		t.Errorf("got %q", got)
	}
	c.Routes[1].Match.Path = routing.Texts{"/**"}
	if got := mistakes(c); len(got) != 1 || !strings.HasPrefix(got[0], "routes[1].match: never reached") {
		t.Errorf("got %q", got)
	}
}

func TestADoubtfulBodyDoesNotOpenAControl(t *testing.T) {
	table := compiled(t, reclaiming(backend.ReclaimConfig{Preset: "vllm"},
		light("a", routing.MatchConfig{Path: routing.Texts{"/**"}, When: "body.n == 1"}),
		heavy("b", routing.MatchConfig{Path: routing.Texts{"/x"}, When: "body.n == 2"})))
	r, b := posted(t, "/sleep", "{")
	if got := chosen(t, table, r, b); !strings.HasPrefix(got, closed) {
		t.Errorf("got %s", got)
	}
}
