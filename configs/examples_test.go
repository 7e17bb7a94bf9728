package configs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/routing"
)

func TestLoadsEveryExample(t *testing.T) {
	found := 0
	err := filepath.WalkDir("../examples", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(file, ".yaml") {
			return err
		}
		found++
		t.Run(strings.TrimPrefix(filepath.ToSlash(file), "../examples/"), func(t *testing.T) {
			c, err := Load(Options{File: file})
			if err != nil {
				t.Fatal(err)
			}
			if len(c.Warnings()) > 0 {
				t.Errorf("it warns: %v", c.Warnings())
			}
			if _, err := routing.NewTable(c.Routing); err != nil {
				t.Error(err)
			}
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found < 3 {
		t.Errorf("there are %d examples, want 3 or more", found)
	}
}

func TestLoadsTheConfigurationInTheReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```yaml\n")
	block, _, found := strings.Cut(rest, "```")
	if n := strings.Count(block, "\n"); !found || n != 10 {
		t.Fatalf("the first YAML in it has %d lines, want ten", n)
	}
	c, err := Load(Options{File: write(t, block)})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings()) > 0 {
		t.Errorf("it warns: %v", c.Warnings())
	}
}
