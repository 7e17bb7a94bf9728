package telemetry

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowReader blocks each write until it is let through.
type slowReader struct {
	bytes.Buffer
	next chan struct{}
}

func (r *slowReader) Write(p []byte) (int, error) {
	<-r.next
	return r.Buffer.Write(p)
}

// A log that is not read costs lines, never a request; it says so once it is
// read again.
func TestALogThatIsNotReadHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slowReader{next: make(chan struct{})}
		w := NewLogWriter(out)
		w.whenLost(func(n int64) { fmt.Fprintf(w, "%d lines were lost\n", n) })
		line := []byte(strings.Repeat("x", 1023) + "\n")
		w.Write([]byte("first\n"))
		synctest.Wait() // it is being written, and not read
		for range 3 * logBytes / len(line) {
			w.Write(line)
		}
		if got := w.Lost(); got != 2*logBytes/int64(len(line)) {
			t.Errorf("%d lines were lost, want %d", got, 2*logBytes/len(line))
		}
		close(out.next)
		time.Sleep(time.Second)
		w.Write([]byte("last\n"))
		w.Close(time.Second)
		text := out.String()
		if !strings.HasPrefix(text, "first\n") || !strings.HasSuffix(text, "2048 lines were lost\nlast\n") || len(text) < logBytes {
			t.Errorf("%d bytes, from %q to %q", len(text), text[:10], text[len(text)-40:])
		}
		if n := strings.Count(text, "lines were lost"); n != 1 {
			t.Errorf("told of it %d times", n)
		}
	})
}

func TestCloseDoesNotWaitForeverForAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &slowReader{next: make(chan struct{})}
		w := NewLogWriter(out)
		w.Write([]byte("first\n"))
		began := time.Now()
		w.Close(2 * time.Second)
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("it took %v", d)
		}
		if w.Write([]byte("late\n")); w.Lost() != 1 {
			t.Error("a line after Close was taken")
		}
		close(out.next)
	})
}

// BenchmarkLogWriter is what a line costs its request.
func BenchmarkLogWriter(b *testing.B) {
	w := NewLogWriter(new(bytes.Buffer))
	defer w.Close(time.Second)
	line := []byte(strings.Repeat("x", 400) + "\n")
	b.ReportAllocs()
	for b.Loop() {
		w.Write(line)
	}
}

// failing is a log whose reader has gone.
type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestLinesThatCannotBeWrittenAreCounted(t *testing.T) {
	w := NewLogWriter(failing{})
	w.whenLost(func(int64) { t.Error("it is told in the log that cannot be written") })
	io.WriteString(w, "one\ntwo\n")
	w.Close(time.Minute)
	if n := w.Lost(); n != 2 {
		t.Errorf("%d lines are counted as lost, want 2", n)
	}
}
