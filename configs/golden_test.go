package configs

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write what was got into testdata/*.want")

// Each testdata/NAME.yaml has beside it NAME.want: what check would print. A
// first line `# env:` or `# flags:` in the YAML sets variables or keys.
func TestSaysWhatIsWrongWithEachFile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			o := Options{File: file, Flags: map[string]string{}}
			for line := range strings.Lines(string(text)) {
				if rest, ok := strings.CutPrefix(line, "# env: "); ok {
					o.Env = append(o.Env, strings.TrimSpace(rest))
				}
				if rest, ok := strings.CutPrefix(line, "# flag: "); ok {
					path, value, _ := strings.Cut(strings.TrimSpace(rest), "=")
					o.Flags[path] = value
				}
			}
			got := describe(Load(o))
			want := strings.TrimSuffix(file, ".yaml") + ".want"
			if *rewrite {
				if err := os.WriteFile(want, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			expected, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(expected) {
				t.Errorf("got\n%swant\n%s", got, expected)
			}
		})
	}
}

func describe(c *Config, err error) string {
	var b strings.Builder
	if err != nil {
		for _, m := range err.(Mistakes) {
			b.WriteString(strings.TrimPrefix(m.String(), "testdata/") + "\n")
		}
		return b.String()
	}
	b.WriteString("good\n")
	for _, m := range c.Warnings() {
		b.WriteString("warning: " + strings.TrimPrefix(m.String(), "testdata/") + "\n")
	}
	return b.String()
}
