package backend

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestACommandLineIsSplitIntoWords(t *testing.T) {
	for text, want := range map[string][]string{
		"":                             nil,
		"  \t\n ":                      nil,
		"docker stop vllm":             {"docker", "stop", "vllm"},
		" a  b\tc ":                    {"a", "b", "c"},
		`sh -c 'kill $(pidof x) && y'`: {"sh", "-c", "kill $(pidof x) && y"},
		`a "b c" 'd "e"' "f 'g'"`:      {"a", "b c", `d "e"`, "f 'g'"},
		`a\ b c\\d \'`:                 {"a b", `c\d`, "'"},
		`"a\"b" "a\\b" "a\nb" 'a\b'`:   {`a"b`, `a\b`, `a\nb`, `a\b`},
		`a '' ""`:                      {"a", "", ""},
		`--x="1 2"y`:                   {"--x=1 2y"},
		"größe é":                      {"größe", "é"},
	} {
		var got Command
		if err := got.UnmarshalText([]byte(text)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %q, %v; want %q", text, []string(got), err, want)
		}
	}
}

func TestWhatOnlyAShellCouldCarryOutIsRefused(t *testing.T) {
	for text, says := range map[string]string{
		"a && b": `'&' means something only to one`, "a | b": `'|'`, "a; b": `';'`, "a > /dev/null": `'>'`, "a < b": `'<'`, "(a)": `'('`,
		"kill $PID": `'$'`, "kill `cat x`": "'`'", `kill "$PID"`: `'$'`,
		"a 'b": "within a quotation", `a "b`: "within a quotation", `a \`: "within a quotation",
	} {
		var got Command
		if err := got.UnmarshalText([]byte(text)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: got %q, %v; want an error that says %s", text, []string(got), err, says)
		}
	}
}

func TestACommandThatFailsSaysItsLastWords(t *testing.T) {
	for _, c := range []struct {
		name    string
		command Command
		says    []string
	}{
		{"with a status", Command{"sh", "-c", "echo first; echo 'no such unit' >&2; exit 5"}, []string{"exit status 5: first no such unit"}},
		{"in silence", Command{"sh", "-c", "exit 3"}, []string{"exit status 3"}},
		{"at length", Command{"sh", "-c", "yes begin | head -100000; echo the end; exit 1"}, []string{"exit status 1: ", "the end"}},
		{"that is not there", Command{"/no/such/program", "x"}, []string{"/no/such/program x: ", "no such file"}},
		{"that is not found", Command{"no-such-program-anywhere"}, []string{"not found in $PATH"}},
		{"by a signal", Command{"sh", "-c", "kill -9 $$"}, []string{"signal: killed"}},
	} {
		err := c.command.run(t.Context())
		for _, want := range c.says {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want %q in it", c.name, err, want)
			}
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: the error is %d bytes long", c.name, len(err.Error()))
		}
	}
}

func TestACommandHasOurEnvironmentAndNoInput(t *testing.T) {
	t.Setenv("ANTEROOM_TEST_OF_A_COMMAND", "here")
	out := filepath.Join(t.TempDir(), "out")
	if err := (Command{"sh", "-c", `cat; echo "$ANTEROOM_TEST_OF_A_COMMAND $1" >"$2"`, "sh", "$HOME; a|b", out}).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if want := "here $HOME; a|b\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}

// fifo is a named pipe, which says when its other end opens and closes.
func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guarded opens a pipe and closes it at the end.
func guarded(t *testing.T, path string, flag int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestACommandIsKilledWithAllThatItStarted(t *testing.T) {
	path := fifo(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	// The child and the grandchild hold the pipe open as long as they live.
	go func() {
		ended <- Command{"sh", "-c", `exec 3>"$0"; sleep 100000 & echo begun; echo begun >&3; wait`, path}.run(ctx)
	}()
	in := bufio.NewReader(guarded(t, path, os.O_RDONLY))
	if line, err := in.ReadString('\n'); err != nil || line != "begun\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "killed: context canceled: begun") {
		t.Errorf("got %v", err)
	}
	if _, err := in.ReadByte(); err != io.EOF {
		t.Errorf("something still holds the pipe: %v", err)
	}
}

func TestAServerThatACommandLeavesBehindGoesOn(t *testing.T) {
	word, answer := fifo(t), fifo(t)
	toServer, fromServer := guarded(t, word, os.O_RDWR), guarded(t, answer, os.O_RDWR)
	ctx, cancel := context.WithCancel(t.Context())
	err := Command{"sh", "-c", `(read x <"$0"; echo a line of its log; echo "$x" >"$1") &`, word, answer}.run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // as a caller does when it is done
	io.WriteString(toServer, "alive\n")
	if line, err := bufio.NewReader(fromServer).ReadString('\n'); err != nil || line != "alive\n" {
		t.Errorf("got %q, %v", line, err)
	}
}

func TestACommandThatHangsEndsAtItsTimeout(t *testing.T) {
	b := &Server{Name: "it"}
	b.hooks.Stop, b.hooks.Timeout = Command{"sleep", "100000"}, 50*time.Millisecond
	if err := b.Stop(t.Context()); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "backend: it: sleep 100000: killed") {
		t.Errorf("got %v", err)
	}
	b.hooks.Start = b.hooks.Stop
	if err := b.Wake(t.Context(), true); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
