package telemetry

import (
	"bytes"
	"io"
	"sync"
	"time"
)

const (
	// logBytes is how much may wait for a slow reader of the log.
	logBytes = 1 << 20
	// logPause is how long lines are collected before they are written together.
	logPause = 5 * time.Millisecond
)

// LogWriter passes lines on to a writer without ever waiting for it: a pipe that is not
// read must not hold up a request. Up to 1 MiB waits; a line for which there is no room is
// dropped and counted. Its methods may be called from several goroutines at once.
type LogWriter struct {
	out io.Writer

	mu            sync.Mutex
	lines, spare  []byte // what waits, and a buffer of the same size to take its place
	lost, unsaid  int64  // lines that were dropped, and those of them not yet told of
	tell          func(lines int64)
	closed        bool
	wake, written chan struct{}
}

// NewLogWriter begins to pass lines on to out. Close ends it.
func NewLogWriter(out io.Writer) *LogWriter {
	w := &LogWriter{out: out, wake: make(chan struct{}, 1), written: make(chan struct{})}
	go w.run()
	return w
}

// Write takes one line, or several; it never blocks and never fails.
func (w *LogWriter) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.lines)+len(line) > logBytes {
		w.lost++
		w.unsaid++
		return len(line), nil
	}
	if len(w.lines) == 0 {
		w.signal()
	}
	w.lines = append(w.lines, line...)
	return len(line), nil
}

// Lost is how many lines were dropped so far; of a nil writer, none.
func (w *LogWriter) Lost() int64 {
	if w == nil {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// whenLost sets the function that is called, once lines can be written again, with the
// number of lines dropped since the last call.
func (w *LogWriter) whenLost(tell func(lines int64)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell = tell
}

// Close writes what waits, for at most the given time. What comes later is
// dropped. It does not close the writer that it passes to.
func (w *LogWriter) Close(within time.Duration) {
	w.mu.Lock()
	w.closed = true
	w.signal()
	w.mu.Unlock()
	select {
	case <-w.written:
	case <-time.After(within):
	}
}

func (w *LogWriter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// pass writes lines. Lines that cannot be written are lost, and only counted.
func (w *LogWriter) pass(lines []byte) {
	n, err := w.out.Write(lines)
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost += int64(bytes.Count(lines[n:], []byte("\n")))
}

// run writes until Close.
func (w *LogWriter) run() {
	defer close(w.written)
	for range w.wake {
		for {
			w.mu.Lock()
			lines, closed := w.lines, w.closed
			w.lines = w.spare[:0]
			unsaid, tell := w.unsaid, w.tell
			w.mu.Unlock()
			if len(lines) > 0 {
				w.pass(lines)
			}
			w.spare = lines
			if len(lines) == 0 && closed {
				return
			}
			if len(lines) == 0 {
				break
			}
			if unsaid > 0 && tell != nil {
				w.mu.Lock()
				w.unsaid -= unsaid
				w.mu.Unlock()
				tell(unsaid)
			}
			if !closed {
				time.Sleep(logPause)
			}
		}
	}
}
