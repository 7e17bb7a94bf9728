package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/admission/memory"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// aState is a state file's text.
func aState(t testing.TB) []byte {
	t.Helper()
	h := new(admission.History)
	for range 20 {
		h.Learn(34*admission.GiB, 18*time.Second)
		h.LearnPeak(time.Unix(0, 0), 34*admission.GiB, memory.Measurement{Seen: 20 * admission.GiB, Keeps: true, Exact: true, Grew: true})
	}
	learned, err := json.Marshal(h)
	must(t, err)
	text, err := json.Marshal(proxy.Memory{Version: 1,
		Routes:   []proxy.RouteMemory{{Backend: "flux", Route: "images", Class: "heavy", Path: "/**", Seen: "2026-01-01", Learned: learned}},
		Accounts: []proxy.AccountMemory{{Backend: "flux", GPU: "gpu0", Seen: "2026-01-01", Resident: 20 << 30}}})
	must(t, err)
	return text
}

// logged is a state file with what it says in the log.
func logged(name string) (*stateFile, *bytes.Buffer) {
	out := new(bytes.Buffer)
	return newStateFile(name, slog.New(slog.NewTextHandler(out, nil))), out
}

func TestAStateFileThatIsNoneIsSetAside(t *testing.T) {
	good := string(aState(t))
	for name, text := range map[string]string{
		"empty": "", "cut": good[:len(good)/2], "cut at its end": good[:len(good)-1], "foreign": `{"a": 1}`, "a list": "[]", "null": "null",
		"of a later version":               strings.Replace(good, `"anteroom_state":1`, `"anteroom_state":2`, 1),
		"of amounts that make no sense":    strings.Replace(good, `"resident_bytes":`, `"resident_bytes":-`, 1),
		"of a history that makes no sense": strings.Replace(good, `"runs":20`, `"runs":-20`, 1),
		"binary":                           "\x00\x01\x02",
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x.json")
			must(t, os.WriteFile(file, []byte(text), 0o600))
			f, log := logged(file)
			if m := f.read(); len(m.Routes)+len(m.Accounts) > 0 {
				t.Errorf("it is taken for %+v", m)
			}
			if kept, err := os.ReadFile(file + ".bad"); err != nil || string(kept) != text {
				t.Errorf("it is not set aside: %v", err)
			}
			if !strings.Contains(log.String(), "set aside") || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("the log says %s", log)
			}
			f.write(proxy.Memory{Version: 1})
			if m, _, err := readState(file); err != nil || m.Version != 1 {
				t.Errorf("a new one is not written: %v", err)
			}
		})
	}
}

func TestAStateThatCannotBeKeptIsSaidOnce(t *testing.T) {
	for name, prepare := range map[string]func(dir string) string{
		"no such directory": func(dir string) string { return filepath.Join(dir, "none", "x.json") },
		"a directory":       func(dir string) string { return dir },
		"below a file": func(dir string) string {
			must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
			return filepath.Join(dir, "file", "x.json")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f, log := logged(prepare(t.TempDir()))
			f.read()
			f.keep(func() proxy.Memory { return proxy.Memory{Version: 1} })
			if f.name != "" {
				f.write(proxy.Memory{Version: 1})
				f.write(proxy.Memory{Version: 1})
			}
			f.close()
			f.close()
			if n := strings.Count(log.String(), "is not kept"); n != 1 {
				t.Errorf("it is said %d times: %s", n, log)
			}
		})
	}
}

func TestAStateFileIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	target, file := filepath.Join(dir, "real.json"), filepath.Join(dir, "link.json")
	must(t, os.WriteFile(target, aState(t), 0o600))
	must(t, os.Symlink(target, file))
	f, log := logged(file)
	m := f.read()
	if len(m.Routes) != 1 || len(m.Accounts) != 1 {
		t.Fatalf("it reads %+v: %s", m, log)
	}
	// Whoever has the old one open goes on with the old one.
	old, err := os.Open(target)
	must(t, err)
	defer old.Close()
	m.Accounts[0].Resident = 7
	f.write(m)
	text, err := io.ReadAll(old)
	must(t, err)
	if !bytes.Equal(text, aState(t)) {
		t.Errorf("what was open has changed to %s", text)
	}
	if again, _, err := readState(target); err != nil || again.Accounts[0].Resident != 7 {
		t.Errorf("the new one is %+v, %v", again, err)
	}
	before, err := os.Stat(target)
	must(t, err)
	f.write(m)
	if after, err := os.Stat(target); err != nil || !os.SameFile(before, after) {
		t.Errorf("it is written although nothing has changed: %v", err)
	}
	names, err := os.ReadDir(dir)
	must(t, err)
	if len(names) != 2 {
		t.Errorf("the directory has %v", names)
	}
}

func FuzzAStateFile(f *testing.F) {
	good := aState(f)
	f.Add(good)
	for i := 0; i < len(good); i += 37 {
		f.Add(good[:i])
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := proxy.ReadMemory(text)
		if err != nil {
			return
		}
		file := filepath.Join(t.TempDir(), "x.json")
		s, log := logged(file)
		s.write(m)
		if again, _, err := readState(file); err != nil || len(again.Routes) != len(m.Routes) {
			t.Fatalf("what was read is not read again: %v %s", err, log)
		}
	})
}

// TestWhatIsLearnedOutlivesTheProcess goes through a real process twice.
func TestWhatIsLearnedOutlivesTheProcess(t *testing.T) {
	model, _, open := gated(t)
	open()
	state := filepath.Join(t.TempDir(), "anteroom.state.json")
	runs := func(s *served) uint64 {
		res, err := http.Get(s.admin + "/api/learned")
		must(t, err)
		defer res.Body.Close()
		var l admin.Learned
		must(t, json.NewDecoder(res.Body).Decode(&l))
		if len(l.Routes) == 0 {
			return 0
		}
		return l.Routes[0].Runs
	}
	s := serveProcessAt(t, write(t, serveFileWithState(state, model, "200")))
	for range 10 {
		res, err := http.Post(s.url+"/0", "text/plain", strings.NewReader("x"))
		must(t, err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if got := runs(s); got != 10 {
		t.Errorf("it has learned from %d runs, want 10", got)
	}
	code, stdout, stderr := anteroom("learned", "--admin", s.admin)
	if code != 0 || !strings.Contains(stdout, "routes[0]") || !strings.Contains(stdout, "64MiB") {
		t.Errorf("learned gives %d, %s%s", code, stdout, stderr)
	}
	if code, _, stderr := anteroom("learned", "--admin", s.admin, "--forget", "nothing"); code != 1 || !strings.Contains(stderr, "nothing") {
		t.Errorf("forget what is not there gives %d, %s", code, stderr)
	}
	s.signal(syscall.SIGTERM)
	if code := s.exit(); code != 0 {
		t.Errorf("it ended with %d, want 0", code)
	}
	s = serveProcessAt(t, s.file)
	if got := runs(s); got != 10 {
		t.Errorf("after a restart it knows of %d runs, want 10", got)
	}
	code, fromFile, stderr := anteroom("learned", "--state", state)
	if code != 0 || !strings.Contains(fromFile, "routes[0]") {
		t.Errorf("learned --state gives %d, %s%s", code, fromFile, stderr)
	}
	if code, stdout, stderr := anteroom("learned", "--admin", s.admin, "--forget", "routes[0]"); code != 0 ||
		strings.Contains(stdout, "routes[0]") || runs(s) != 0 {
		t.Errorf("learned --forget gives %d, %s%s", code, stdout, stderr)
	}
}

func TestLearnedShowsWhatIsOff(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.json")
	must(t, os.WriteFile(file, aState(t), 0o600))
	code, stdout, stderr := anteroom("learned", "--state", file)
	if code != 0 || !strings.Contains(stdout, "images on flux: vram: declared 34GiB, measured 20GiB at most over 20 runs: want about 20GiB") {
		t.Errorf("got %d, %s%s", code, stdout, stderr)
	}
	code, stdout, _ = anteroom("learned", "--state", file, "--json")
	var l admin.Learned
	if err := json.Unmarshal([]byte(stdout), &l); code != 0 || err != nil || len(l.Routes) != 1 || *l.Routes[0].Most != 20<<30 ||
		*l.Residents[0].Seen != 20<<30 {
		t.Errorf("got %d, %v, %s", code, err, stdout)
	}
	for _, args := range [][]string{{"--state", file + ".none"}, {"--admin", "127.0.0.1:1"}} {
		if code, _, stderr := anteroom(append([]string{"learned"}, args...)...); code != 1 || stderr == "" {
			t.Errorf("%v: got %d, %q", args, code, stderr)
		}
	}
}
