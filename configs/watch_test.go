package configs

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Real files under a clock that is not real: each story changes the file in one
// way, and the change is told once.
func TestSeesAFileChange(t *testing.T) {
	stories := map[string]func(t *testing.T, file string){
		"when it is written": func(t *testing.T, file string) { put(t, file, "two") },
		"when another is renamed onto it": func(t *testing.T, file string) {
			put(t, file+".new", "two")
			must(t, os.Rename(file+".new", file))
		},
		"when it is removed and made again": func(t *testing.T, file string) {
			must(t, os.Remove(file))
			time.Sleep(3 * lookEvery)
			put(t, file, "two")
		},
	}
	for name, change := range stories {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a.yaml")
			put(t, file, "one")
			watched(t, file, func(told func() []string) {
				change(t, file)
				expect(t, told, "two")
				put(t, file, "three") // the watch outlives the change
				expect(t, told, "three")
			})
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
	watched(t, file, func(told func() []string) {
		version("..2", "two")
		must(t, os.RemoveAll(filepath.Join(dir, "..1")))
		expect(t, told, "two")
		version("..3", "three")
		expect(t, told, "three")
	})
}

func TestSeesTheTargetOfALinkWritten(t *testing.T) {
	target, link := filepath.Join(t.TempDir(), "real.yaml"), filepath.Join(t.TempDir(), "a.yaml")
	put(t, target, "one")
	must(t, os.Symlink(target, link))
	watched(t, link, func(told func() []string) {
		put(t, target, "two")
		expect(t, told, "two")
	})
}

func TestTellsOnlyOfAContentThatStays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	put(t, file, "one")
	watched(t, file, func(told func() []string) {
		for i := range 20 {
			put(t, file, string(rune('a'+i)))
			time.Sleep(lookEvery)
			synctest.Wait()
			if calls := told(); len(calls) != 0 {
				t.Fatalf("told of %q after %d of 20 writes", calls, i+1)
			}
		}
		expect(t, told, "t")
		put(t, file+".log", "a line of a log beside it")
		put(t, file, "t") // the content stays
		time.Sleep(4 * lookEvery)
		must(t, os.Remove(file))
		expect(t, told)
	})
}

// A reload that takes long does not bring two looks close together.
func TestAContentMustStayAfterASlowReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a.yaml")
	put(t, file, "one")
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var told []string
		Watch(ctx, Options{File: file}, func() {
			text, _ := os.ReadFile(file)
			if told = append(told, string(text)); len(told) == 1 {
				time.Sleep(lookEvery * 5 / 4) // to 3¼ of what is between two looks
			}
		})
		put(t, file, "two")
		time.Sleep(lookEvery * 16 / 5)
		put(t, file, "half")
		time.Sleep(lookEvery * 9 / 10)
		put(t, file, "whole")
		time.Sleep(3 * lookEvery)
		cancel()
		synctest.Wait()
		if want := []string{"two", "whole"}; !slices.Equal(told, want) {
			t.Errorf("told of %q, want %q", told, want)
		}
	})
}

// What a file includes is watched with it, also while it names one that is not there.
func TestSeesWhatAFileIncludes(t *testing.T) {
	dir := t.TempDir()
	file, more := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "more.yaml")
	put(t, file, "include: [more.yaml]")
	put(t, more, "x-a: 1")
	watched(t, file, func(told func() []string) {
		put(t, more, "x-a: 2")
		expect(t, told, "include: [more.yaml]")
		put(t, file, "include: [none.yaml]")
		expect(t, told, "include: [none.yaml]")
		put(t, file, "x-b: 1")
		expect(t, told, "x-b: 1")
	})
}

// watched plays a story with a file that is watched; told gives the file's
// content at each call since it was asked last.
func watched(t *testing.T, file string, story func(told func() []string)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var calls []string
		Watch(ctx, Options{File: file}, func() {
			text, _ := os.ReadFile(file)
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, string(text))
		})
		story(func() []string {
			mu.Lock()
			defer mu.Unlock()
			c := calls
			calls = nil
			return c
		})
		cancel()
		synctest.Wait() // it has ended, else the bubble would not
	})
}

// expect says what was told of once enough time has passed.
func expect(t *testing.T, told func() []string, want ...string) {
	t.Helper()
	time.Sleep(3 * lookEvery)
	synctest.Wait()
	if got := told(); len(got) != len(want) || len(want) > 0 && got[0] != want[0] {
		t.Errorf("told of %q, want %q", got, want)
	}
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
