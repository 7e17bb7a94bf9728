package backend_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/anteroom-gpu/anteroom/backend"
)

// A server is asked which engine it is.
func ExampleIdentify() {
	ollama := http.NewServeMux()
	ollama.HandleFunc("GET /api/version", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"version":"0.12.0"}`) })
	ollama.HandleFunc("GET /api/tags", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"models":[{"name":"llava","model":"llava"}]}`)
	})
	ollama.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "Ollama is running") })
	server := httptest.NewServer(ollama)
	defer server.Close()

	found, err := backend.Identify(context.Background(), server.URL)
	fmt.Println(found.Engine, found.Models, err)
	// Output:
	// ollama [llava] <nil>
}

// What a preset knows is what a backend needs to be unloaded and woken.
func ExampleNew() {
	vllm := http.NewServeMux()
	vllm.HandleFunc("POST /sleep", func(w http.ResponseWriter, r *http.Request) { fmt.Println("POST /sleep") })
	server := httptest.NewServer(vllm)
	defer server.Close()

	b, err := backend.New(context.Background(), "chat", backend.Config{URL: server.URL, GPU: "gpu0",
		Reclaim: backend.ReclaimConfig{Preset: "vllm"}}, func(slots int) {})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer b.Close()
	fmt.Println("can be unloaded:", b.HasHook(), "must be woken:", b.MustWake())
	fmt.Println(b.Unload(context.Background()))
	// Output:
	// can be unloaded: true must be woken: true
	// POST /sleep
	// <nil>
}
