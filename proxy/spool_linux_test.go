package proxy

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestTheFileOfABodyNeverHasAName where the file system can do that, and has none once it
// is there where it cannot. What keeps both from being made has the text of the latter.
func TestTheFileOfABodyNeverHasAName(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for name, c := range map[string]struct {
		file  func() (*os.File, error)
		named bool // for a moment
	}{
		"spoolFile":   {spoolFile, false},
		"removedFile": {func() (*os.File, error) { return removedFile(dir) }, true},
	} {
		file, err := c.file()
		if err != nil {
			t.Fatal(name, err)
		}
		defer file.Close()
		was, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		if err != nil || !strings.HasPrefix(was, dir) || strings.Contains(was, "anteroom-body") != c.named {
			t.Errorf("%s: it is %s, %v; want it in %s, with a name: %v", name, was, err, dir, c.named)
		}
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("%s: %v stands there, %v", name, left, err)
		}
		copied, err := again(file)
		if err != nil {
			t.Fatal(name, err)
		}
		defer copied.Close()
		got := make([]byte, 4)
		if _, err := file.WriteString("body"); err != nil {
			t.Fatal(name, err)
		}
		if _, err := copied.ReadAt(got, 0); err != nil || string(got) != "body" {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
	}
	t.Setenv("TMPDIR", dir+"/none")
	if _, err := spoolFile(); err == nil || !strings.Contains(err.Error(), dir+"/none/anteroom-body-") {
		t.Errorf("without a directory: got %v", err)
	}
	want := "no file can be made in " + dir + "/none for bodies above limits.body_memory (1MiB): no such file or directory: " +
		"want a directory that can be written, named by TMPDIR"
	if err := (LimitsConfig{Spool: 1, BodyMemory: 1 << 20}).CheckSpool(); err == nil || err.Error() != want {
		t.Errorf("CheckSpool: got %v, want %s", err, want)
	}
}
