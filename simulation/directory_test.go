package simulation

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/anteroom-gpu/anteroom/admission"
)

// TestMain is also the other process on a shared card.
func TestMain(m *testing.M) {
	if dir := os.Getenv("ANTEROOM_TEST_CARD"); dir != "" {
		if err := holdMemory(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holdMemory takes 10 GiB, says so, and keeps them until its input ends.
func holdMemory(dir string) error {
	c, err := OpenCard(dir, admission.GiB)
	if err != nil {
		return err
	}
	if err := c.Alloc(10 * admission.GiB); err != nil {
		return err
	}
	fmt.Println("held")
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	return c.Close()
}

// neighbour is another process that holds 10 GiB of a card.
type neighbour struct {
	*exec.Cmd
	input io.Closer
}

func newNeighbour(t *testing.T, dir string) neighbour {
	t.Helper()
	p := exec.Command(os.Args[0])
	p.Env = append(os.Environ(), "ANTEROOM_TEST_CARD="+dir)
	in, err := p.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Process.Kill(); p.Wait() })
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "held\n" {
		t.Fatalf("the other process said %q", line)
	}
	return neighbour{p, in}
}

func open(t *testing.T, dir string) *Card {
	t.Helper()
	c, err := OpenCard(dir, 48*admission.GiB)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func sysfs(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "card0", "device", name))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestProcessesShareACard(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	defer c.Close()
	other := newNeighbour(t, dir)
	if m := look(t, c); m.Capacity != 48*admission.GiB || m.Used != 10*admission.GiB {
		t.Errorf("got %+v, want 10 GiB of the 48 that the first process asked for", m)
	}
	full := (*OutOfMemory)(nil)
	if err := c.Alloc(39 * admission.GiB); !errors.As(err, &full) || full.Free != 38*admission.GiB {
		t.Errorf("got %v, want 39 GiB refused", err)
	}
	if err := c.Alloc(38 * admission.GiB); err != nil {
		t.Error(err)
	}
	if total, used := sysfs(t, dir, "mem_info_vram_total"), sysfs(t, dir, "mem_info_vram_used"); total != "51539607552" || used != total {
		t.Errorf("the driver's files say %s of %s, want all of 48 GiB", used, total)
	}
	other.input.Close()
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
	if m := look(t, c); m.Used != 38*admission.GiB || m.Peak != 48*admission.GiB || m.Over != 1 {
		t.Errorf("got %+v, want 38 GiB in use, a peak of 48, one refusal", m)
	}
}

func TestAKilledProcessLosesItsMemory(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir)
	defer c.Close()
	other := newNeighbour(t, dir)
	if err := c.Alloc(40 * admission.GiB); err == nil {
		t.Fatal("40 GiB were given while another process held 10")
	}
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	other.Wait()
	if err := c.Alloc(40 * admission.GiB); err != nil {
		t.Errorf("after the other process was killed: %v", err)
	}
	if used := sysfs(t, dir, "mem_info_vram_used"); used != "42949672960" {
		t.Errorf("the driver's file says %s, want 40 GiB", used)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "holders")); len(entries) != 1 {
		t.Errorf("holders: %v, want one", entries)
	}
}

func TestAnEmptyCardOutlivesItsProcesses(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	other := newNeighbour(t, dir)
	other.Process.Kill()
	other.Wait()
	// No process was there when it died.
	c := open(t, dir)
	defer c.Close()
	if m := look(t, c); m.Used != 0 || m.Peak != 10*admission.GiB {
		t.Errorf("got %+v, want nothing in use, a peak of 10 GiB", m)
	}
}

func TestASharedCardGivesWhatItHasAndNoMore(t *testing.T) {
	root := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(root, "card")
		if err != nil {
			t.Fatal(err)
		}
		capacity := 48 * admission.GiB
		var cards []*Card
		for range 3 {
			c, err := OpenCard(dir, capacity)
			if err != nil {
				t.Fatal(err)
			}
			cards = append(cards, c)
		}
		playAllocations(t, capacity, cards)
	})
}

func TestADirectoryThatCannotBeACardIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCard(file, admission.GiB); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}
