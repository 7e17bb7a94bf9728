package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unicode"
)

// Command is a program and its arguments. No shell reads it.
type Command []string

// UnmarshalText splits a command line into words as a shell would: at spaces, with quotes
// and backslashes. Syntax that only a shell could execute is an error.
func (c *Command) UnmarshalText(text []byte) error {
	var words []string
	var word strings.Builder
	var quote rune
	inside, escaped := false, false
	for _, r := range string(text) {
		switch {
		case escaped:
			if escaped = false; quote == '"' && !strings.ContainsRune("\"\\$`", r) {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
		case r == '\\' && quote != '\'':
			escaped, inside = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != '\'' && strings.ContainsRune("$`", r), quote == 0 && strings.ContainsRune("|&;<>()", r):
			return fmt.Errorf("no shell reads it, and %q means something only to one: want a program and its arguments, or a list such as [sh, -c, …]", r)
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inside = r, true
		case unicode.IsSpace(r):
			if inside {
				words, inside = append(words, word.String()), false
				word.Reset()
			}
		default:
			inside = true
			word.WriteRune(r)
		}
	}
	if quote != 0 || escaped {
		return errors.New("it ends within a quotation: want the quote's other half")
	}
	if inside {
		words = append(words, word.String())
	}
	*c = words
	return nil
}

func (c Command) String() string { return strings.Join(c, " ") }

func (c Command) check(report func(path, problem string), path string) {
	if len(c) > 0 && c[0] == "" {
		report(path, `"": no program: want one such as [systemctl, stop, vllm]`)
	}
	for _, word := range c {
		if strings.ContainsRune(word, 0) {
			report(path, fmt.Sprintf("%q: has a zero byte in it: want none", word))
		}
	}
}

// run runs the command to its end. When ctx ends first the command is killed,
// and on Unix with it all that it started, unless that has made a process group
// of its own. The error holds the last of what was written to either output.
//
// A process that the command leaves running may go on writing. Its output is read and
// dropped until it ends, so that it neither blocks nor dies of a closed pipe while this
// process lives.
func (c Command) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, c[0], c[1:]...)
	killGroup(cmd)
	out, in, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%v: %w", c, err)
	}
	cmd.Stdout, cmd.Stderr = in, in
	err = cmd.Start()
	in.Close()
	if err != nil {
		out.Close()
		return fmt.Errorf("%v: %w", c, err)
	}
	said := new(tail)
	ended := make(chan struct{})
	go func() {
		io.Copy(said, out)
		out.Close()
		close(ended)
	}()
	if err = cmd.Wait(); err == nil {
		return nil
	}
	select {
	case <-ended:
	case <-time.After(time.Second): // something that it started holds the pipe
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed: %w", ctx.Err())
	}
	if text := excerpt(said.bytes()); text != "" {
		return fmt.Errorf("%v: %w: %s", c, err, text)
	}
	return fmt.Errorf("%v: %w", c, err)
}

// tail keeps the last bytes that are written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte // guarded by mu
}

// mostSaid is how much of an answer or of a command's output an error repeats.
const mostSaid = 300

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	if over := len(t.kept) - mostSaid; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]byte(nil), t.kept...)
}

// excerpt is the part of an answer or output that an error repeats: one line.
func excerpt(text []byte) string {
	line := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, string(text[:min(len(text), mostSaid)]))
	return strings.Join(strings.Fields(line), " ")
}
