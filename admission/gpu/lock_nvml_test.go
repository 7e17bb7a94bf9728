//go:build linux && cgo

package gpu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestALockGoesByTheUUID(t *testing.T) {
	directory, state := t.TempDir(), filepath.Join(t.TempDir(), "state")
	must(t, os.WriteFile(state, []byte(strings.Join(card0(), "\n")+"\n"), 0o600))
	driver := []string{"FAKE_CARDS=" + state, "LD_LIBRARY_PATH=" + modern(t)}
	if _, says, _ := other(t, directory, map[string]Config{"a": {Device: "0", Source: "auto"}}, driver...); says != "taken" {
		t.Fatalf("the first one says %q", says)
	}
	_, says, _ := other(t, directory, map[string]Config{"b": {Device: "GPU-aaaa", Source: "nvml"}}, driver...)
	if !strings.Contains(says, filepath.Join("anteroom", "GPU-aaaa.lock")) {
		t.Errorf("one that names the card by its UUID says %q", says)
	}
}
