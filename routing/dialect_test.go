package routing

import "testing"

// TestADialectIsTheConfiguredOneThenThePathsThenTheEngines and else a problem.
func TestADialectIsTheConfiguredOneThenThePathsThenTheEngines(t *testing.T) {
	for _, c := range [][4]string{{"", "/**", "ollama", "ollama"}, {"", "/v1/**", "ollama", "openai"},
		{"problem", "/**", "ollama", "problem"}, {"", "/**", "", "problem"}, {"", "/api/chat", "", "ollama"}} {
		if got := dialect(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("refusals on %s of %q, which says %q, are in %s, want %s", c[1], c[2], c[0], got, c[3])
		}
	}
}
