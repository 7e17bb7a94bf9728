package configs

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a file must be left alone before it is looked at:
	// editors and copies write in several steps.
	settle = 100 * time.Millisecond
	// glance is how often it is looked at anyway, for file systems that tell
	// nothing and directories that were replaced.
	glance = 10 * time.Second
)

// Watch calls changed, one call at a time, whenever the file's content is
// another than it was, until ctx ends. It returns at once. A file that is gone
// is not a change; when it comes back with another content that is one. Begin
// to watch before the first Load, so that nothing falls between.
func Watch(ctx context.Context, file string, changed func()) {
	w := &watcher{file: file, changed: changed}
	w.last, _ = w.sum()
	// The directories are watched, not the file: a file that is replaced by
	// rename, or by the links of a Kubernetes volume, takes its watch along.
	if notify, err := fsnotify.NewWatcher(); err == nil {
		w.arm = func() { rearm(notify, file) }
		w.arm()
		context.AfterFunc(ctx, func() { notify.Close() })
		go w.run(ctx, notify.Events, notify.Errors)
		return
	}
	w.arm = func() {}
	go w.run(ctx, nil, nil)
}

// watcher tells changes of the content from events that mean nothing.
type watcher struct {
	file    string
	changed func()
	arm     func() // watches the directories that are now on the file's way
	last    [sha256.Size]byte
}

// run ends when ctx does.
func (w *watcher) run(ctx context.Context, events <-chan fsnotify.Event, errors <-chan error) {
	quiet := time.NewTimer(settle)
	quiet.Stop()
	defer quiet.Stop()
	slow := time.NewTicker(glance)
	defer slow.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-events:
			if !open {
				events = nil
				continue
			}
			quiet.Reset(settle)
		case _, open := <-errors:
			// Events may have been lost.
			if !open {
				errors = nil
				continue
			}
			quiet.Reset(settle)
		case <-quiet.C:
			w.look()
		case <-slow.C:
			w.look()
		}
	}
}

// look compares the content with the one that was last seen. The watches are
// renewed first: what changes after that makes an event.
func (w *watcher) look() {
	w.arm()
	if sum, ok := w.sum(); ok && sum != w.last {
		w.last = sum
		w.changed()
	}
}

// sum stands for the file's content; false: there is none to be read.
func (w *watcher) sum() ([sha256.Size]byte, bool) {
	text, err := contents(w.file)
	return sha256.Sum256(text), err == nil
}

// rearm watches the directory of the file and of every link on the way to it.
// A directory of that name may be another one than before, so it is let go
// first.
func rearm(notify *fsnotify.Watcher, file string) {
	// More links than this is a circle.
	for range 16 {
		dir := filepath.Dir(file)
		notify.Remove(dir)
		notify.Add(dir)
		// A volume's file is a link to ..data/file, where ..data is a link that
		// is swapped; both lie in the first directory.
		next, err := os.Readlink(file)
		if err != nil {
			return
		}
		if !filepath.IsAbs(next) {
			next = filepath.Join(dir, next)
		}
		file = next
	}
}
