//go:build unix

package gpu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func init() {
	helpers["lock"] = func(text string) {
		var cards map[string]Config
		if err := json.Unmarshal([]byte(text), &cards); err != nil {
			panic(err)
		}
		locks := Locks{Log: slog.New(slog.NewTextHandler(os.Stdout, nil))}
		if err := locks.Take(cards); err != nil {
			fmt.Println("refused:", strings.ReplaceAll(err.Error(), "\n", "; "))
			return
		}
		fmt.Println("taken")
		io.Copy(io.Discard, os.Stdin)
	}
}

// other is another process that takes locks. What it says first is given, and end
// ends it.
func other(t *testing.T, directory string, cards map[string]Config, env ...string) (pid int, says string, end func()) {
	t.Helper()
	text, err := json.Marshal(cards)
	must(t, err)
	c := exec.Command(os.Args[0])
	c.Env = append(append(os.Environ(), "GPU_TEST_PROCESS=lock "+string(text), "XDG_RUNTIME_DIR="+directory, "GORACE=atexit_sleep_ms=0"), env...)
	in, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	end = func() {
		in.Close()
		c.Wait()
	}
	t.Cleanup(end)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if says += lines.Text(); says == "taken" || strings.HasSuffix(lines.Text(), "taken") || strings.HasPrefix(lines.Text(), "refused") {
			break
		}
	}
	return c.Process.Pid, says, end
}

func one(change ...func(*Config)) map[string]Config {
	c := Config{Device: "0", Source: "amdgpu"}
	for _, do := range change {
		do(&c)
	}
	return map[string]Config{"gpu0": c}
}

func sharing(c *Config) { c.Shared = true }
func another(c *Config) { c.Device = "1" }

func TestACardIsForOneProcess(t *testing.T) {
	directory := t.TempDir()
	first, says, end := other(t, directory, one())
	if says != "taken" {
		t.Fatalf("the first one says %q", says)
	}
	file := filepath.Join(directory, "anteroom", "gpu-0.lock")
	want := fmt.Sprintf("refused: gpus.gpu0: another Anteroom uses this card (PID %d, which holds %s): stop it, or set "+
		"gpus.gpu0.shared: true here and there", first, file)
	if _, says, _ := other(t, directory, one()); says != want {
		t.Errorf("the second one says %q, want %q", says, want)
	}
	if _, says, _ := other(t, directory, one(another)); says != "taken" {
		t.Errorf("one on another card says %q", says)
	}
	if _, says, _ := other(t, directory, map[string]Config{"gpu0": {Device: "0", Source: "declared"}}); says != "taken" {
		t.Errorf("one that does not read the card says %q", says)
	}
	if _, says, _ := other(t, directory, one(sharing)); !strings.Contains(says, "is shared with a process that does not share it") ||
		!strings.HasSuffix(says, "taken") {
		t.Errorf("one that shares the card says %q", says)
	}
	end()
	if _, says, _ := other(t, directory, one()); says != "taken" {
		t.Errorf("after the end of the first one another says %q", says)
	}
}

func TestASharedCardIsForAllThatShareIt(t *testing.T) {
	directory := t.TempDir()
	for range 2 {
		if _, says, _ := other(t, directory, one(sharing)); says != "taken" {
			t.Errorf("one that shares the card says %q", says)
		}
	}
	if _, says, _ := other(t, directory, one()); !strings.HasPrefix(says, "refused") {
		t.Errorf("one that does not says %q", says)
	}
}

func TestAReloadTakesAndReleasesLocks(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", directory)
	locks := Locks{Log: slog.New(slog.DiscardHandler)}
	defer locks.Release()
	must(t, locks.Take(one()))
	_, _, end := other(t, directory, one(another))
	both := map[string]Config{"renamed": one()["gpu0"], "gpu1": one(another)["gpu0"]}
	if err := locks.Take(both); err == nil || !strings.Contains(err.Error(), "gpus.gpu1: another Anteroom") {
		t.Errorf("got %v while another has the new card", err)
	}
	end()
	must(t, locks.Take(both))
	locks.Keep(one(another))
	if _, says, _ := other(t, directory, one()); says != "taken" {
		t.Errorf("after a reload that takes the card out another says %q", says)
	}
	if _, says, _ := other(t, directory, one(another)); !strings.HasPrefix(says, "refused") {
		t.Errorf("after a reload that brings the card in another says %q", says)
	}
}

func TestTheRuntimeDirectoryIsThisUsersOwn(t *testing.T) {
	old := runDirectory
	defer func() { runDirectory = old }()
	own, run, tmp := t.TempDir(), filepath.Join(t.TempDir(), "anteroom"), t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", own)
	t.Setenv("TMPDIR", tmp)
	runDirectory = run
	want := func(want string) {
		t.Helper()
		if got, err := runtimeDirectory(); err != nil || got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	want(filepath.Join(own, "anteroom"))
	t.Setenv("XDG_RUNTIME_DIR", "")
	want(run)
	runDirectory = filepath.Join(run, "none", "none")
	temporary := filepath.Join(tmp, fmt.Sprintf("anteroom-%d", os.Getuid()))
	want(temporary)
	must(t, os.Remove(temporary))
	must(t, os.Symlink(own, temporary)) // of somebody who waits for us there
	if got, err := runtimeDirectory(); err == nil {
		t.Errorf("a link is followed to %s", got)
	}
}
