package gpu

import (
	"os"
	"strings"
	"testing"
)

// helpers are what a process that a test starts may be, by name; it is told
// the rest of GPU_TEST_PROCESS.
var helpers = make(map[string]func(text string))

// after runs when all tests have ended.
var after []func()

func TestMain(m *testing.M) {
	if name, text, ok := strings.Cut(os.Getenv("GPU_TEST_PROCESS"), " "); ok {
		helpers[name](text)
		return
	}
	code := m.Run()
	for _, do := range after {
		do()
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
