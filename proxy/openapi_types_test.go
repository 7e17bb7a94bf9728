package proxy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/internal/openapi"
)

// TestTheOpenAPIFileHasEachField of what the public listeners answer, with its type, and
// each reason that they tell.
func TestTheOpenAPIFileHasEachField(t *testing.T) {
	listed := openapi.Compare(t, "../docs/openapi.yaml", map[string]any{"Place": placeJSON{}, "Refusal": problem{}})
	reasons := []string{""}
	for r := range publicWords {
		reasons = append(reasons, string(r))
	}
	if got := slices.Sorted(slices.Values(listed)); !slices.Equal(got, slices.Sorted(slices.Values(reasons))) {
		t.Errorf("the reasons in the file are %v, want %v", got, reasons)
	}
}

// TestEachReasonHasWords for clients.
func TestEachReasonHasWords(t *testing.T) {
	text, err := json.Marshal(publicWords)
	if err != nil || len(publicWords) < 17 || strings.Contains(string(text), `""`) {
		t.Errorf("the words are %s", text)
	}
}
