package configs

import (
	"strings"
	"testing"
	"time"
)

// The example's three engines do not all fit: those that a head may have to wait for are
// named, and the wait is bounded by their turns, their longest runs and what moves.
func TestTurnsAreThoseOfBackendsThatDoNotFitTogether(t *testing.T) {
	c, err := Load(Options{File: "../examples/one-card-three-engines/anteroom.yaml"})
	must(t, err)
	turns := map[string]Turn{}
	for _, turn := range c.Turns() {
		turns[turn.Backend] = turn
	}
	if got := strings.Join(turns["comfyui"].Others, " "); len(turns) != 2 || got != "vllm" {
		t.Fatalf("the turns are %+v, want comfyui and vllm to wait for each other", turns)
	}
	comfyui := turns["comfyui"]
	longest := func(string) time.Duration { return 7 * time.Second }
	if got, want := comfyui.Bound(longest), comfyui.Turn+7*time.Second+comfyui.Moving; comfyui.Turn != 30*time.Second ||
		comfyui.Moving <= 0 || got != want {
		t.Errorf("comfyui's head waits for up to %v with a turn of %v, want %v", got, comfyui.Turn, want)
	}
	if c.Longest("comfyui") <= 0 {
		t.Error("the longest run of comfyui is not known")
	}
}
