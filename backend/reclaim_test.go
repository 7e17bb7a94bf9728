package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/backend"
)

// engine is a model server that notes what it is asked, and answers what it is
// told to by "METHOD target"; everything else with 200 and nothing.
type engine struct {
	answers map[string]string // "404 body", or a body

	mu    sync.Mutex
	calls []string // guarded by mu
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	call := r.Method + " " + r.RequestURI
	answer := e.answers[call]
	if len(body) > 0 {
		call += " " + string(body)
		if r.Header.Get("Content-Type") != "application/json" {
			call += " as " + r.Header.Get("Content-Type")
		}
	}
	if err != nil || r.ContentLength != int64(len(body)) && r.ProtoMajor == 1 {
		call += fmt.Sprintf(" (%d bytes announced, %v)", r.ContentLength, err)
	}
	e.mu.Lock()
	e.calls = append(e.calls, call)
	e.mu.Unlock()
	var status int
	if n, _ := fmt.Sscanf(answer, "%3d", &status); n == 1 {
		w.WriteHeader(status)
		answer = strings.TrimPrefix(answer[3:], " ")
	}
	io.WriteString(w, answer)
}

// heard gives what was asked since it was called last.
func (e *engine) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.calls
	e.calls = nil
	return calls
}

func (e *engine) wantHeard(t *testing.T, what string, want ...string) {
	t.Helper()
	if got := e.heard(); !slices.Equal(got, want) {
		t.Errorf("%s: got\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// reclaimable is a backend with an engine behind it.
func reclaimable(t *testing.T, e *engine, reclaim backend.ReclaimConfig) *backend.Server {
	t.Helper()
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return backendAt(t, server.URL, with(reclaim))
}

// with gives a backend a reclaim that Check accepts.
func with(reclaim backend.ReclaimConfig) func(*backend.Config) {
	return func(c *backend.Config) {
		c.Reclaim = reclaim
		if found := mistakes(*c); found != nil {
			panic(fmt.Sprintf("the test's own configuration: %q", found))
		}
	}
}

func unload(t *testing.T, b *backend.Server) {
	t.Helper()
	if err := b.Unload(t.Context()); err != nil {
		t.Errorf("Unload: %v", err)
	}
}

func wake(t *testing.T, b *backend.Server, stopped bool) {
	t.Helper()
	if err := b.Wake(t.Context(), stopped); err != nil {
		t.Errorf("Wake: %v", err)
	}
}

func TestAPresetMakesTheCallsOfItsEngine(t *testing.T) {
	for _, c := range []struct {
		preset  string
		models  []string
		answers map[string]string
		unload  []string
		wake    []string
	}{
		{
			preset: "ollama",
			answers: map[string]string{"GET /api/ps": `{"models":[{"name":"llama3:8b","model":"llama3:8b","size_vram":5},{"name":"a \"b\":latest"}]}`,
				"POST /api/generate": `{"model":"x","done":true,"done_reason":"unload"}`},
			unload: []string{"GET /api/ps", `POST /api/generate {"model":"llama3:8b","keep_alive":0}`,
				`POST /api/generate {"model":"a \"b\":latest","keep_alive":0}`},
			wake: []string{"GET /api/version"},
		},
		{
			preset: "vllm",
			unload: []string{"POST /sleep?level=1&mode=wait"},
			wake:   []string{"POST /wake_up", "GET /health"},
		},
		{
			preset: "comfyui",
			unload: []string{`POST /free {"unload_models":true,"free_memory":true}`},
			wake:   []string{"GET /system_stats"},
		},
		{
			preset: "a1111",
			unload: []string{"POST /sdapi/v1/unload-checkpoint"},
			wake:   []string{"POST /sdapi/v1/reload-checkpoint", "GET /sdapi/v1/memory"},
		},
		{
			preset: "sglang",
			unload: []string{"POST /release_memory_occupation {}"},
			wake:   []string{"POST /resume_memory_occupation {}", "GET /health"},
		},
		{
			preset: "triton",
			answers: map[string]string{"POST /v2/repository/index": `[{"name":"flux","version":"1","state":"READY","reason":""},{"name":"flux","version":"2","state":"READY"},` +
				`{"name":"vae","version":"1","state":"READY"},{"name":"old","version":"1","state":"UNAVAILABLE","reason":"unloaded"},{"name":"never"}]`},
			unload: []string{"POST /v2/repository/index {}", "POST /v2/repository/models/flux/unload", "POST /v2/repository/models/vae/unload"},
			wake:   []string{"POST /v2/repository/models/flux/load", "POST /v2/repository/models/vae/load", "GET /v2/health/ready"},
		},
		{
			preset: "llama-server",
			answers: map[string]string{"GET /models": `{"data":[{"id":"qwen","status":{"value":"loaded"}},{"id":"gemma","status":{"value":"unloaded"}},` +
				`{"id":"org/phi:q4","status":{"value":"loaded"}}],"object":"list"}`},
			unload: []string{"GET /models", `POST /models/unload {"model":"qwen"}`, `POST /models/unload {"model":"org/phi:q4"}`},
			wake:   []string{"GET /health"},
		},
		{
			preset: "llama-swap",
			unload: []string{"POST /api/models/unload"},
			wake:   []string{"GET /health"},
		},
		{
			preset:  "llama-swap",
			models:  []string{"qwen", "org/phi"},
			answers: map[string]string{"GET /running": `{"running":[{"model":"org/phi","state":"ready"},{"model":"other","state":"ready"}]}`},
			unload:  []string{"GET /running", "POST /api/models/unload/org%2Fphi"},
			wake:    []string{"GET /health"},
		},
		{
			preset:  "whisper",
			answers: map[string]string{"GET /api/ps": `{"models":["Systran/faster-whisper-small","tiny"]}`},
			unload:  []string{"GET /api/ps", "DELETE /api/ps/Systran%2Ffaster-whisper-small", "DELETE /api/ps/tiny"},
			wake:    []string{"GET /health"},
		},
		{
			preset: "kokoro",
			unload: []string{"POST /dev/unload"},
			wake:   []string{"GET /health"},
		},
	} {
		t.Run(c.preset, func(t *testing.T) {
			e := &engine{answers: c.answers}
			b := reclaimable(t, e, backend.ReclaimConfig{Preset: c.preset, Models: c.models})
			if !b.HasHook() || b.HasStop() || !b.Config.Reclaim.Enabled() {
				t.Errorf("has a hook: %v, has a stop: %v, enabled: %v", b.HasHook(), b.HasStop(), b.Config.Reclaim.Enabled())
			}
			if want := len(c.wake) > 1; b.MustWake() != want {
				t.Errorf("must wake: %v, want %v", b.MustWake(), want)
			}
			unload(t, b)
			e.wantHeard(t, "Unload", c.unload...)
			wake(t, b, false)
			e.wantHeard(t, "Wake", c.wake...)
		})
	}
}

func TestAnEngineSaysWhetherItHoldsAModel(t *testing.T) {
	for _, c := range []struct {
		preset, call, answer string
		models               []string
		loaded, known        bool
	}{
		{preset: "ollama", call: "GET /api/ps", answer: `{"models":[{"model":"a:latest"}]}`, loaded: true, known: true},
		{preset: "ollama", call: "GET /api/ps", answer: `{"models":[]}`, known: true},
		{preset: "ollama", call: "GET /api/ps", answer: `{"models":[{"model":"a:latest"}]}`, models: []string{"a"}, loaded: true, known: true},
		{preset: "ollama", call: "GET /api/ps", answer: `{"models":[{"model":"a:latest"}]}`, models: []string{"b"}, known: true},
		{preset: "vllm", call: "GET /is_sleeping", answer: `{"is_sleeping":false}`, loaded: true, known: true},
		{preset: "vllm", call: "GET /is_sleeping", answer: `{"is_sleeping":true}`, known: true},
		{preset: "vllm", call: "GET /is_sleeping", answer: `{}`},
		{preset: "vllm", call: "GET /is_sleeping", answer: `404 {"detail":"Not Found"}`},
		{preset: "vllm", call: "GET /is_sleeping", answer: `<html>`},
		{preset: "triton", call: "POST /v2/repository/index", answer: `[{"name":"a","state":"READY"}]`, loaded: true, known: true},
		{preset: "triton", call: "POST /v2/repository/index", answer: `[{"name":"a","state":"UNAVAILABLE","reason":"unloaded"},{"name":"b"}]`, known: true},
		{preset: "llama-server", call: "GET /models", answer: `{"data":[{"id":"a","status":{"value":"loaded"}}]}`, loaded: true, known: true},
		{preset: "llama-server", call: "GET /models", answer: `{"data":[{"id":"a","status":{"value":"unloaded"}}]}`, known: true},
		{preset: "llama-swap", call: "GET /running", answer: `{"running":[{"model":"a","state":"ready"}]}`, loaded: true, known: true},
		{preset: "llama-swap", call: "GET /running", answer: `{"running":[]}`, known: true},
		{preset: "whisper", call: "GET /api/ps", answer: `{"models":["a"]}`, loaded: true, known: true},
		{preset: "whisper", call: "GET /api/ps", answer: `{"models":[]}`, known: true},
		{preset: "kokoro"},
		{preset: "comfyui"},
		{preset: "a1111"},
		{preset: "sglang"},
	} {
		e := &engine{answers: map[string]string{c.call: c.answer}}
		b := reclaimable(t, e, backend.ReclaimConfig{Preset: c.preset, Models: c.models})
		if loaded, known := b.Loaded(t.Context()); loaded != c.loaded || known != c.known {
			t.Errorf("%s that answers %s, models %q: got %v, known %v; want %v, known %v", c.preset, c.answer, c.models, loaded, known, c.loaded, c.known)
		}
		asked := len(e.heard())
		if want := min(len(c.call), 1); asked != want {
			t.Errorf("%s: was asked %d times, want %d", c.preset, asked, want)
		}
	}
}

func TestAKeyBesideAPresetCountsBeforeIt(t *testing.T) {
	e := &engine{}
	b := reclaimable(t, e, backend.ReclaimConfig{Preset: "comfyui", Call: "POST /api/free", Wake: "PUT /warm", WakeBody: "size=big", Probe: "GET /up"})
	unload(t, b)
	wake(t, b, false)
	e.wantHeard(t, "its calls", `POST /api/free {"unload_models":true,"free_memory":true}`,
		"PUT /warm size=big as application/x-www-form-urlencoded", "GET /up")
}

func TestAnyCallCanBeConfigured(t *testing.T) {
	e := &engine{}
	b := reclaimable(t, e, backend.ReclaimConfig{
		Call: "DELETE /m/{{model}}/weights?name={{model}}", Body: `{"m":"{{model}}"}`, Models: []string{"a/b&c", `"`}, Wake: "POST /load/{{model}}",
	})
	unload(t, b)
	e.wantHeard(t, "Unload", `DELETE /m/a%2Fb&c/weights?name=a%2Fb%26c {"m":"a/b\u0026c"}`, `DELETE /m/%22/weights?name=%22 {"m":"\""}`)
	wake(t, b, false)
	e.wantHeard(t, "Wake", "POST /load/a%2Fb&c", "POST /load/%22")
	if loaded, known := b.Loaded(t.Context()); loaded || known {
		t.Errorf("loaded: %v, known: %v, of an engine that is not known", loaded, known)
	}
}

func TestTheHealthPathIsTheProbeThatWasSeenWorking(t *testing.T) {
	for _, c := range []struct {
		preset, health, probe string
		want                  []string
	}{
		{"ollama", "", "", []string{"GET /api/version"}},
		{"ollama", "/up?deep=1", "", []string{"GET /up?deep=1"}},
		{"ollama", "/up", "HEAD /ready", []string{"HEAD /ready"}},
		{"", "/up", "", []string{"GET /up"}},
		{"", "", "", nil},
	} {
		e := &engine{}
		server := httptest.NewServer(e)
		defer server.Close()
		b := backendAt(t, server.URL, func(b *backend.Config) {
			b.Reclaim = backend.ReclaimConfig{Preset: c.preset, Probe: c.probe}
			b.Health = backend.HealthConfig{Path: c.health, Every: time.Hour}
		})
		wake(t, b, false)
		// The health check itself asks once as well, at any time.
		got := e.heard()
		if i := slices.Index(got, "GET "+c.health); len(got) > len(c.want) && i >= 0 {
			got = slices.Delete(got, i, i+1)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("preset %q, health %q, probe %q: asked %q, want %q", c.preset, c.health, c.probe, got, c.want)
		}
	}
}

func TestOnlyLoadedModelsAreUnloaded(t *testing.T) {
	e := &engine{answers: map[string]string{"GET /api/ps": `{"models":[{"model":"a:latest"},{"model":"b:7b"},{"model":"mine:1b"}]}`}}
	b := reclaimable(t, e, backend.ReclaimConfig{Preset: "ollama", Models: []string{"a", "b", "b:7b", "c"}})
	unload(t, b)
	e.wantHeard(t, "Unload", "GET /api/ps", `POST /api/generate {"model":"a","keep_alive":0}`, `POST /api/generate {"model":"b:7b","keep_alive":0}`)

	e.answers = map[string]string{"GET /api/ps": `{"models":[]}`}
	unload(t, b)
	e.wantHeard(t, "Unload of nothing", "GET /api/ps")

	// An engine that cannot be asked is told all the same.
	e.answers = map[string]string{"GET /api/ps": "500"}
	unload(t, b)
	if got := e.heard(); len(got) != 5 {
		t.Errorf("heard %q, want one call for each model", got)
	}
	b = reclaimable(t, e, backend.ReclaimConfig{Preset: "ollama"})
	if err := b.Unload(t.Context()); err == nil || !strings.Contains(err.Error(), "GET /api/ps: 500 Internal Server Error") {
		t.Errorf("got %v, want what came of the list", err)
	}
}

func TestAModelThatStaysDoesNotKeepTheOthers(t *testing.T) {
	e := &engine{answers: map[string]string{
		"POST /v2/repository/index":              `[{"name":"a","state":"READY"},{"name":"b","state":"READY"},{"name":"c","state":"READY"}]`,
		"POST /v2/repository/models/a/unload":    `400 {"error":"busy"}`,
		"POST /v2/repository/models/c/unload":    `500`,
		"POST /v2/repository/models/c/something": "",
	}}
	b := reclaimable(t, e, backend.ReclaimConfig{Preset: "triton"})
	err := b.Unload(t.Context())
	for _, want := range []string{`backend: it: POST /v2/repository/models/a/unload: 400 Bad Request: {"error":"busy"}`,
		"models/c/unload: 500 Internal Server Error"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
	if got := e.heard(); len(got) != 4 {
		t.Errorf("heard %q, want a call for each of the three", got)
	}
	wake(t, b, false)
	e.wantHeard(t, "Wake", "POST /v2/repository/models/b/load", "GET /v2/health/ready")
	// What is back is not loaded again.
	e.answers = nil
	wake(t, b, false)
	if got := e.heard(); slices.Contains(got, "POST /v2/repository/models/b/load") {
		t.Errorf("heard %q", got)
	}
}

// A backend may be asleep when this process starts.
func TestModelsThatAreNotRememberedAreThoseTheEngineListsAsUnloaded(t *testing.T) {
	e := &engine{answers: map[string]string{"POST /v2/repository/index": `[{"name":"a","version":"1","state":"UNAVAILABLE","reason":"unloaded"},` +
		`{"name":"a","version":"2","state":"UNAVAILABLE","reason":"unloaded"},{"name":"broken","state":"UNAVAILABLE","reason":"no such file"},{"name":"never"}]`}}
	b := reclaimable(t, e, backend.ReclaimConfig{Preset: "triton"})
	wake(t, b, false)
	e.wantHeard(t, "Wake", "POST /v2/repository/index {}", "POST /v2/repository/models/a/load", "GET /v2/health/ready")
}

func TestAFailureSaysTheCallTheStatusAndTheFirstOfTheAnswer(t *testing.T) {
	for _, c := range []struct{ preset, answer, want string }{
		{"vllm", `404 {"detail":"Not Found"}`, `backend: it: POST /sleep?level=1&mode=wait: 404 Not Found: {"detail":"Not Found"} (it takes this when it was started with --enable-sleep-mode, and VLLM_SERVER_DEV_MODE=1 in its environment)`},
		{"vllm", "500 Internal\n\r\n\tServer\x00 Error\xff",
			"backend: it: POST /sleep?level=1&mode=wait: 500 Internal Server Error: Internal Server Error"},
		{"sglang", "400", "backend: it: POST /release_memory_occupation: 400 Bad Request (it takes this when it was started with --enable-memory-saver)"},
		{"comfyui", "404 no", "backend: it: POST /free: 404 Not Found: no"},
		{"comfyui", "302", "backend: it: POST /free: 302 Found"},
		{"comfyui", "500 " + strings.Repeat("é", 1000), "backend: it: POST /free: 500 Internal Server Error: " + strings.Repeat("é", 150)},
	} {
		b := reclaimable(t, &engine{answers: map[string]string{"POST /sleep?level=1&mode=wait": c.answer,
			"POST /release_memory_occupation": c.answer, "POST /free": c.answer}},
			backend.ReclaimConfig{Preset: c.preset})
		if err := b.Unload(t.Context()); err == nil || err.Error() != c.want {
			t.Errorf("got %v\nwant %s", err, c.want)
		}
	}
}

func TestAListThatIsNoneIsAnError(t *testing.T) {
	for name, answer := range map[string]string{"a page": "<html>hello</html>", "endless": `{"models":[` +
		strings.Repeat(`{"name":"a"},`, 1<<17) + `{}]}`} {
		b := reclaimable(t, &engine{answers: map[string]string{"GET /api/ps": answer}}, backend.ReclaimConfig{Preset: "ollama"})
		if err := b.Unload(t.Context()); err == nil || !strings.Contains(err.Error(), "GET /api/ps: not the answer of this engine") ||
			len(err.Error()) > 600 {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestACallThatHangsEndsAtItsTimeout(t *testing.T) {
	for name, half := range map[string]bool{"no answer": false, "half an answer": true} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // before that a server does not see its client leave
				if half {
					w.(http.Flusher).Flush()
				}
				<-r.Context().Done()
			}))
			t.Cleanup(server.Close)
			b := backendAt(t, server.URL, with(backend.ReclaimConfig{Preset: "comfyui", Timeout: 50 * time.Millisecond}))
			err := b.Unload(t.Context())
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "POST /free: no answer within 50ms") {
				t.Errorf("got %v", err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			b = backendAt(t, server.URL, with(backend.ReclaimConfig{Preset: "comfyui"}))
			if err := b.Unload(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the caller's own end", err)
			}
		})
	}
}

func TestADeadEngineIsUnreachable(t *testing.T) {
	server := httptest.NewServer(&engine{})
	server.Close()
	for _, url := range []string{server.URL, "unix:" + filepath.Join(t.TempDir(), "gone.sock")} {
		for _, preset := range []string{"vllm", "ollama", "comfyui"} {
			b := backendAt(t, url, with(backend.ReclaimConfig{Preset: preset}))
			if err := b.Unload(t.Context()); !errors.Is(err, backend.ErrUnreachable) {
				t.Errorf("%s at %s: Unload: %v", preset, url, err)
			}
			if err := b.Wake(t.Context(), false); !errors.Is(err, backend.ErrUnreachable) {
				t.Errorf("%s at %s: Wake: %v", preset, url, err)
			}
			if loaded, known := b.Loaded(t.Context()); loaded || known {
				t.Errorf("%s at %s: loaded: %v, known: %v", preset, url, loaded, known)
			}
		}
		// One word is enough, however many models it has.
		b := backendAt(t, url, with(backend.ReclaimConfig{Call: "POST /unload/{{model}}", Models: []string{"a", "b"}}))
		if err := b.Unload(t.Context()); err == nil || strings.Contains(err.Error(), "/unload/b") {
			t.Errorf("at %s: %v", url, err)
		}
	}
}

func TestAnEngineThatDiesOfItsPromiseHasNotKeptIt(t *testing.T) {
	b := backendAt(t, answered(t, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nsleep"), with(backend.ReclaimConfig{Preset: "comfyui"}))
	if err := b.Unload(t.Context()); !errors.Is(err, backend.ErrProtocol) || !strings.Contains(err.Error(), "POST /free: 200 OK, then") {
		t.Errorf("got %v", err)
	}
}

func TestTheBreakerNeitherCountsNorStopsTheseCalls(t *testing.T) {
	server := httptest.NewServer(&engine{answers: map[string]string{"POST /free": "500", "GET /work": "500"}})
	defer server.Close()
	b := backendAt(t, server.URL, func(c *backend.Config) {
		c.Reclaim = backend.ReclaimConfig{Preset: "comfyui"}
		c.Breaker.Failures = 1
	})
	if err := b.Unload(t.Context()); err == nil {
		t.Error("a call that is answered with 500 is no error")
	}
	if _, counted := b.Failures(); counted != 0 || b.State() != "closed" {
		t.Errorf("%d were counted; the breaker is %s, want none and closed", counted, b.State())
	}
	b.TripBreaker()
	if err := b.Unload(t.Context()); errors.Is(err, backend.ErrBreakerOpen) {
		t.Errorf("got %v", err)
	}
	// What is awake is there.
	if err := b.Wake(t.Context(), false); err != nil || b.State() != "closed" {
		t.Errorf("got %v; the breaker is %s, want closed", err, b.State())
	}
}

func TestACallIsMadeOnce(t *testing.T) {
	o := &once{}
	l := listen(t, "tcp", "127.0.0.1:0", o.serve)
	b := backendAt(t, "http://"+l.Addr().String(), with(backend.ReclaimConfig{Call: "GET /unload"}))
	unload(t, b)
	if err := b.Unload(t.Context()); err == nil {
		t.Error("the second call went well")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if want := []string{"GET /unload ", "GET /unload "}; !slices.Equal(o.ran, want) {
		t.Errorf("it executed %q, want %q", o.ran, want)
	}
}

func TestCallsGoTheWayOfTheRequests(t *testing.T) {
	t.Run("over a unix socket", func(t *testing.T) {
		e := &engine{}
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		server := &httptest.Server{Listener: l, Config: &http.Server{Handler: e}}
		server.Start()
		defer server.Close()
		b := backendAt(t, "unix:"+path, with(backend.ReclaimConfig{Preset: "sglang"}))
		unload(t, b)
		wake(t, b, false)
		e.wantHeard(t, "its calls", "POST /release_memory_occupation {}", "POST /resume_memory_occupation {}", "GET /health")
	})
	t.Run("over HTTP/2 without TLS", func(t *testing.T) {
		e := &engine{}
		server := httptest.NewUnstartedServer(e)
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		defer server.Close()
		b := backendAt(t, server.URL, func(c *backend.Config) {
			c.Protocol = "h2c"
			c.Reclaim = backend.ReclaimConfig{Call: "POST /sleep", Wake: "POST /wake", WakeBody: "{}", Probe: "GET /up"}
		})
		unload(t, b)
		wake(t, b, false)
		e.wantHeard(t, "its calls", "POST /sleep", "POST /wake {}", "GET /up")
	})
}

func TestWakeAsksTheProbeUntilTheEngineIsReady(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			if asked++; asked < 4 {
				w.WriteHeader([]int{503, 404, 302}[asked-1])
			}
		}
	}))
	defer server.Close()
	b := backendAt(t, server.URL, with(backend.ReclaimConfig{Preset: "vllm"}))
	wake(t, b, false)
	if asked != 4 {
		t.Errorf("asked %d times, want 4", asked)
	}
}

func TestAWakeCallThatFailsIsNotFollowedByAProbe(t *testing.T) {
	e := &engine{answers: map[string]string{"POST /wake_up": "500 out of memory"}}
	b := reclaimable(t, e, backend.ReclaimConfig{Preset: "vllm"})
	if err := b.Wake(t.Context(), false); err == nil || !strings.Contains(err.Error(), "POST /wake_up: 500 Internal Server Error: out of memory") {
		t.Errorf("got %v", err)
	}
	e.wantHeard(t, "Wake", "POST /wake_up")
}

func TestWhatWasStoppedIsStartedAndNotWoken(t *testing.T) {
	for _, c := range []struct {
		preset string
		models []string
		want   []string
	}{
		{"vllm", nil, []string{"GET /health"}},
		{"ollama", nil, []string{"GET /api/version"}},
		// Nothing is loaded in a Triton that was just started.
		{"triton", []string{"a"}, []string{"GET /v2/health/ready", "POST /v2/repository/models/a/load", "GET /v2/health/ready"}},
	} {
		up := filepath.Join(t.TempDir(), "up")
		e := &engine{}
		b := reclaimable(t, e, backend.ReclaimConfig{Preset: c.preset, Models: c.models, Stop: backend.Command{"rm", up},
			Start: backend.Command{"touch", up}, Timeout: time.Minute})
		wake(t, b, true)
		e.wantHeard(t, c.preset, c.want...)
		if _, err := os.Stat(up); err != nil {
			t.Errorf("%s was not started: %v", c.preset, err)
		}
		if err := b.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(up); err == nil {
			t.Errorf("%s was not stopped", c.preset)
		}
		if err := b.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "backend: it: rm "+up+": exit status 1: rm: ") {
			t.Errorf("got %v, want what rm says", err)
		}
	}
}

func TestWithoutReclaimThereIsNothingToCall(t *testing.T) {
	b := reclaimable(t, &engine{}, backend.ReclaimConfig{})
	if b.HasHook() || b.HasStop() || b.MustWake() || b.Config.Reclaim.Enabled() {
		t.Error("it has something")
	}
	if err := b.Unload(t.Context()); err == nil || !strings.Contains(err.Error(), "no reclaim.call") {
		t.Errorf("got %v", err)
	}
	if err := b.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "no reclaim.stop") {
		t.Errorf("got %v", err)
	}
	wake(t, b, true)
}
