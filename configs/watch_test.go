package configs

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Real files and a real watcher: each story changes the file in one way and
// waits for the call.
func TestSeesAFileChange(t *testing.T) {
	stories := map[string]func(t *testing.T, file string){
		"when it is written": func(t *testing.T, file string) { put(t, file, "two") },
		"when another is renamed onto it": func(t *testing.T, file string) {
			put(t, file+".new", "two")
			must(t, os.Rename(file+".new", file))
		},
		"when it is removed and made again": func(t *testing.T, file string) {
			must(t, os.Remove(file))
			put(t, file, "two")
		},
	}
	for name, change := range stories {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.yaml")
			put(t, file, "one")
			changes := watch(t, file)
			change(t, file)
			<-changes
			// And again: the watch outlives the change.
			put(t, file, "three")
			for <-changes != "three" {
			}
		})
	}
}

func TestSeesTheLinksOfAVolumeSwapped(t *testing.T) {
	dir := t.TempDir()
	version := func(name, text string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
		put(t, filepath.Join(dir, name, "a.yaml"), text)
		must(t, os.Symlink(name, filepath.Join(dir, "..next")))
		must(t, os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")))
	}
	version("..1", "one")
	file := filepath.Join(dir, "a.yaml")
	must(t, os.Symlink("..data/a.yaml", file))
	changes := watch(t, file)
	version("..2", "two")
	must(t, os.RemoveAll(filepath.Join(dir, "..1")))
	for <-changes != "two" {
	}
	version("..3", "three")
	for <-changes != "three" {
	}
}

func TestSeesTheTargetOfALinkWritten(t *testing.T) {
	target, link := filepath.Join(t.TempDir(), "real.yaml"), filepath.Join(t.TempDir(), "a.yaml")
	put(t, target, "one")
	must(t, os.Symlink(target, link))
	changes := watch(t, link)
	put(t, target, "two")
	for <-changes != "two" {
	}
}

func TestLooksOnceAfterManyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "a.yaml")
		put(t, file, "one")
		var calls, armed atomic.Int32
		w := &watcher{file: file, changed: func() { calls.Add(1) }, arm: func() { armed.Add(1) }}
		w.last, _ = w.sum()
		events := make(chan fsnotify.Event)
		ctx, cancel := context.WithCancel(t.Context())
		go w.run(ctx, events, nil)

		for i := range 20 {
			put(t, file, string(rune('a'+i)))
			events <- fsnotify.Event{}
			time.Sleep(settle / 2)
			synctest.Wait()
			if calls.Load() != 0 {
				t.Fatalf("it was looked at after %d of 20 writes", i+1)
			}
		}
		time.Sleep(settle)
		synctest.Wait()
		if calls.Load() != 1 || armed.Load() != 1 {
			t.Errorf("%d calls and %d renewals, want 1 and 1", calls.Load(), armed.Load())
		}

		events <- fsnotify.Event{} // the content stays
		time.Sleep(2 * settle)
		must(t, os.Remove(file))
		events <- fsnotify.Event{} // it is gone
		time.Sleep(2 * settle)
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d calls, want none without a new content", calls.Load())
		}
		cancel()
		synctest.Wait() // run has ended, else the bubble would not
	})
}

func TestLooksAnywayWhereNothingIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "a.yaml")
		put(t, file, "one")
		var calls atomic.Int32
		w := &watcher{file: file, changed: func() { calls.Add(1) }, arm: func() {}}
		w.last, _ = w.sum()
		ctx, cancel := context.WithCancel(t.Context())
		go w.run(ctx, nil, nil)
		put(t, file, "two")
		time.Sleep(glance)
		synctest.Wait()
		if calls.Load() != 1 {
			t.Errorf("%d calls, want 1", calls.Load())
		}
		cancel()
		synctest.Wait()
	})
}

// watch gives the file's content at each change.
func watch(t *testing.T, file string) <-chan string {
	t.Helper()
	changes := make(chan string, 100)
	Watch(t.Context(), file, func() {
		text, _ := os.ReadFile(file)
		changes <- string(text)
	})
	return changes
}

func put(t *testing.T, file, text string) {
	t.Helper()
	must(t, os.WriteFile(file, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
