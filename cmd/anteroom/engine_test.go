package main

import (
	"bufio"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

func TestAnEngineSharesACardAndEndsCleanly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "card")
	card, err := simulation.OpenCard(dir, 40*admission.GiB)
	if err != nil {
		t.Fatal(err)
	}
	defer card.Close()
	p := process("engine", "--kind", "flux", "--card", dir, "--speed", "1000")
	p.Stderr = os.Stderr
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	defer p.Process.Kill()
	line, _ := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "flux on ")
	if !ok {
		t.Fatalf("it says %q", line)
	}
	res, err := http.Post(url+"/v1/images/generations", "application/json", strings.NewReader(`{"prompt":"a bird"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("X-Execute-Seconds") == "" {
		t.Errorf("got %s, %v", res.Status, res.Header)
	}
	if m, err := card.Memory(); err != nil || m.Used != 34*admission.GiB {
		t.Errorf("got %+v, %v, want 34 GiB, weights and cache", m, err)
	}
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("it ended with %v, want 0", err)
	}
	if m, err := card.Memory(); err != nil || m.Used != 0 {
		t.Errorf("got %+v, %v, want an empty card", m, err)
	}
}

func TestAnEngineIsToldWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		word string
	}{
		"no kind":            {[]string{"engine"}, 2, "want flux or vqa"},
		"an unknown kind":    {[]string{"engine", "--kind", "sdxl"}, 2, "want flux or vqa"},
		"no speed":           {[]string{"engine", "--kind", "vqa", "--speed", "0"}, 2, "want more than 0"},
		"no size":            {[]string{"engine", "--kind", "vqa", "--memory", "much"}, 2, "48GiB"},
		"a card that is not": {[]string{"engine", "--kind", "vqa", "--card", "/dev/null/card"}, 1, "/dev/null/card"},
		"no such address":    {[]string{"engine", "--kind", "vqa", "--listen", "nowhere"}, 1, "nowhere"},
		"a demo too slow":    {[]string{"demo", "--speed", "-1"}, 2, "want more than 0"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := anteroom(c.args...)
			if code != c.code || stdout != "" || !strings.Contains(stderr, c.word) {
				t.Errorf("got %d, %q, %q, want %d and %q", code, stdout, stderr, c.code, c.word)
			}
		})
	}
}
