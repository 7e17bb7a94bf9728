package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// stateFile keeps what has been learned over restarts. The file is replaced as a whole, so
// that a reader, also after a crash, sees the old file or the new one and never a part. If
// it cannot be written, the log says so once, and serving goes on.
type stateFile struct {
	name string // empty: nothing is kept
	log  *slog.Logger

	written []byte // what it holds
	failing bool   // and the log has said so
	stop    chan struct{}
	ended   chan struct{} // nil: nothing writes it
}

const (
	// writeEvery is how often a state that changes is written.
	writeEvery = 30 * time.Second
	// maxState bounds the file that is read. It is far more than any state takes.
	maxState = 32 << 20
)

func newStateFile(name string, log *slog.Logger) *stateFile {
	return &stateFile{name: name, log: log, stop: make(chan struct{})}
}

// read returns the content of the file. A file that is damaged, of another program or of a
// later version is renamed, or left as it is if that fails; then nothing is known.
func (f *stateFile) read() proxy.Memory {
	if f.name == "" {
		return proxy.Memory{}
	}
	m, text, err := readState(f.name)
	switch {
	case err == nil:
		f.written = text
		return m
	case errors.Is(err, fs.ErrNotExist):
		return proxy.Memory{}
	}
	aside := f.name + ".bad"
	if _, unread := errors.AsType[*fs.PathError](err); unread {
		f.log.Error("what has been learned is not kept: the state file cannot be read", "file", f.name, "error", err.Error())
		f.name = ""
	} else if e := os.Rename(f.name, aside); e != nil {
		f.log.Error("what has been learned is not kept: the state file is damaged or foreign, and cannot be set aside", "file", f.name, "error",
			errors.Join(err, e).Error())
		f.name = ""
	} else {
		f.log.Warn("the state file is damaged or foreign: it is set aside, and learning begins anew", "file", f.name, "aside", aside, "error", err.Error())
	}
	return proxy.Memory{}
}

// readState reads a state file.
func readState(name string) (m proxy.Memory, text []byte, err error) {
	file, err := os.Open(name)
	if err != nil {
		return m, nil, err
	}
	defer file.Close()
	if text, err = io.ReadAll(io.LimitReader(file, maxState+1)); err != nil {
		return m, nil, err
	}
	if len(text) > maxState {
		return m, nil, fmt.Errorf("it has more than %d bytes", maxState)
	}
	m, err = proxy.ReadMemory(text)
	return m, text, err
}

// keep writes the result of memory every half minute if it has changed, until close.
func (f *stateFile) keep(memory func() proxy.Memory) {
	if f.name == "" {
		return
	}
	f.ended = make(chan struct{})
	go func() {
		defer close(f.ended)
		tick := time.NewTicker(writeEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f.write(memory())
			case <-f.stop:
				f.write(memory())
				return
			}
		}
	}()
}

// close writes a last time. It may be called again.
func (f *stateFile) close() {
	if f == nil || f.ended == nil {
		return
	}
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	<-f.ended
}

func (f *stateFile) write(m proxy.Memory) {
	text, err := json.Marshal(m)
	if err != nil {
		panic("a state that is no JSON: " + err.Error())
	}
	text = append(text, '\n')
	if bytes.Equal(text, f.written) {
		return
	}
	err = replaceFile(f.name, text)
	switch {
	case err == nil && f.failing:
		f.log.Info("what has been learned is kept again", "file", f.name)
	case err != nil && !f.failing:
		f.log.Warn("what has been learned is not kept: want state.file where this process may write, or empty", "file", f.name, "error", err.Error())
	}
	if f.failing = err != nil; err == nil {
		f.written = text
	}
}

// replaceFile puts a file with that text in the place of another, or leaves
// that one as it was.
func replaceFile(name string, text []byte) error {
	if target, err := filepath.EvalSymlinks(name); err == nil {
		name = target // a symbolic link stays a link
	}
	file, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.new")
	if err != nil {
		return err
	}
	_, err = file.Write(text)
	if err == nil {
		err = file.Sync()
	}
	if e := file.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(file.Name(), name)
	}
	if err != nil {
		os.Remove(file.Name())
		return err
	}
	// So that the new file is there after a power cut. Some file systems cannot do this.
	if directory, err := os.Open(filepath.Dir(name)); err == nil {
		directory.Sync()
		directory.Close()
	}
	return nil
}
