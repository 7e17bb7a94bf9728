package simulation_test

import (
	"net/http/httptest"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// Each engine is told from the others by what it answers, without being changed.
func TestEachEngineIsIdentified(t *testing.T) {
	known := map[string]string{"rerank": "tei", "infinity": "tei", "whisper-cpp": "whisper", "flux": "", "vqa": "", "tts": "kokoro", "generic": ""}
	for _, kind := range simulation.Kinds() {
		t.Run(kind.Name, func(t *testing.T) {
			want, other := known[kind.Name]
			if !other {
				want = kind.Name
			}
			e := simulation.NewEngine(kind, simulation.NewCard(48*admission.GiB), simulation.Options{Speed: 1000})
			defer e.Close()
			if err := e.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(e)
			defer server.Close()
			id, err := backend.Identify(t.Context(), server.URL)
			if err != nil || id.Engine != want {
				t.Errorf("got %+v, %v, want %q", id, err, want)
			}
		})
	}
	if _, err := backend.Identify(t.Context(), "http://127.0.0.1:1"); err == nil {
		t.Error("an address at which nothing listens is no error")
	}
	if _, err := backend.Identify(t.Context(), "http://169.254.169.254"); err == nil {
		t.Error("a link-local address is asked")
	}
}
