package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestTheTracesAreWhatItWrites(t *testing.T) {
	var names []string
	for _, trace := range traces(1) {
		names = append(names, filepath.Join("..", trace.name))
		var want bytes.Buffer
		if err := write(&want, trace); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", trace.name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s is another: write it with go run ./examples/traces/generate", trace.name)
		}
	}
	there, err := filepath.Glob(filepath.Join("..", "*.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if slices.Sort(names); !slices.Equal(there, names) {
		t.Errorf("there are %q, want %q", there, names)
	}
}

func TestLongerTracesBeginWithinTheirTimes(t *testing.T) {
	for _, trace := range traces(4) {
		last := 0.0
		for _, r := range trace.rows {
			if r.at < last || r.execute <= 0 {
				t.Fatalf("%s: %v comes after %v s", trace.name, r, last)
			}
			last = r.at
		}
		if len(trace.rows) == 0 || last > 4*30*minute {
			t.Errorf("%s has %d rows until %v s, want some within two hours", trace.name, len(trace.rows), last)
		}
	}
}
