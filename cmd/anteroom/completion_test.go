package main

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"
)

// What bash completes is what bash itself makes of the script.
func TestBashCompletesCommandsAndFlags(t *testing.T) {
	_, script, _ := anteroom("completion", "bash")
	complete := func(words ...string) string {
		line := script + "\nCOMP_WORDS=(" + strings.Join(words, " ") + "); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _anteroom; echo \"${COMPREPLY[@]}\""
		out, err := exec.Command("bash", "-c", line).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := complete("anteroom", "sim"); got != "simulate" {
		t.Errorf("sim: %q", got)
	}
	if got := complete("anteroom", "explain", "--bo"); got != "--body" {
		t.Errorf("--bo: %q", got)
	}
	for _, shell := range []string{"zsh", "fish"} {
		if code, out, _ := anteroom("completion", shell); code != 0 || !strings.Contains(out, "simulate") || !strings.Contains(out, "trace") {
			t.Errorf("%s: %d, %.200s", shell, code, out)
		}
	}
	if code, _, stderr := anteroom("completion", "tcsh"); code != 2 || !strings.Contains(stderr, "want bash, zsh or fish") {
		t.Errorf("tcsh: %d, %s", code, stderr)
	}
}

func TestPrintsSchemaAndManualPage(t *testing.T) {
	if code, out, _ := anteroom("schema"); code != 0 || !json.Valid([]byte(out)) || !strings.Contains(out, "strict_after") {
		t.Errorf("schema: %d, %.200s", code, out)
	}
	code, out, _ := anteroom("man")
	if code != 0 || !strings.HasPrefix(out, ".TH ANTEROOM 1") {
		t.Fatalf("man: %d, %.200s", code, out)
	}
	for _, c := range commands {
		if c.name != "man" && c.name != "completion" && !strings.Contains(out, ".SS anteroom "+strings.ReplaceAll(c.name, "-", `\-`)) {
			t.Errorf("man does not have %s", c.name)
		}
	}
}

func TestAnUnknownCommandNamesTheNearest(t *testing.T) {
	if code, _, stderr := anteroom("chekc"); code != 2 || !strings.Contains(stderr, "want check?") {
		t.Errorf("%d, %s", code, stderr)
	}
}
