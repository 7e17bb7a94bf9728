package configs

import (
	"fmt"
	"strings"
	"testing"
)

// manyRoutes is a file with so many routes.
func manyRoutes(n int, match func(i int) string) []byte {
	var b strings.Builder
	b.WriteString("gpus: {gpu0: {memory: 48GiB, source: declared}}\n" +
		"classes: {work: {slots: 8, vram: 1MiB, estimate: 1s}}\n" +
		"backends: {model: {url: \"http://127.0.0.1:9\", gpu: gpu0, returns_memory: true}}\nroutes:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: r%d, match: %s, class: work, backend: model}\n", i, match(i))
	}
	return []byte(b.String())
}

// BenchmarkLoad is what loading a file takes, by its routes.
func BenchmarkLoad(b *testing.B) {
	for _, c := range []struct {
		name  string
		n     int
		match func(i int) string
	}{
		{"1-route", 1, func(i int) string { return fmt.Sprintf("{path: /v1/work%d}", i) }},
		{"1000-paths", 1000, func(i int) string { return fmt.Sprintf("{path: /v1/work%d}", i) }},
		{"1000-models", 1000, func(i int) string { return fmt.Sprintf("{path: /v1/work, model: m%d}", i) }},
		{"1000-whens", 1000, func(i int) string { return fmt.Sprintf("{path: /v1/work, when: 'body.steps > %d'}", i) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := manyRoutes(c.n, c.match)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Load(Options{File: "a.yaml", Text: text}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
