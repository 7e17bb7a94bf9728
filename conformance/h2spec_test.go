package conformance

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var failure = regexp.MustCompile(`(?m)^\s*× (.*)$`)

// h2spec runs the suite against an address and gives what fails, and the count.
func h2spec(t *testing.T, address string) (failed []string, tests int) {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	out, _ := exec.Command("go", "tool", "h2spec", "-h", host, "-p", port, "--timeout", "2").CombinedOutput() // 1 where some fail
	text := string(out)
	var passed, skipped, wrong int
	if _, err := fmt.Sscanf(text[max(0, strings.LastIndex(text, "Finished in")):],
		"Finished in %f seconds\n%d tests, %d passed, %d skipped, %d failed", new(float64), &tests, &passed, &skipped, &wrong); err != nil {
		t.Fatalf("h2spec: %v\n%s", err, text)
	}
	report := text[max(0, strings.Index(text, "Failures:")):]
	for _, f := range failure.FindAllStringSubmatch(report, -1) {
		failed = append(failed, f[1])
	}
	if len(failed) != wrong {
		t.Fatalf("h2spec: %d failed, %d are named\n%s", wrong, len(failed), text)
	}
	return failed, tests
}

// TestHTTP2 runs h2spec against the proxy, and against net/http alone: what fails
// there is not the proxy's.
func TestHTTP2(t *testing.T) {
	model := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.Method, r.URL) }))
	defer model.Close()
	bare := httptest.NewUnstartedServer(model.Config.Handler)
	bare.Config.Protocols = new(http.Protocols)
	bare.Config.Protocols.SetHTTP1(true)
	bare.Config.Protocols.SetUnencryptedHTTP2(true)
	bare.Start()
	defer bare.Close()

	known, _ := h2spec(t, bare.Listener.Addr().String())
	failed, tests := h2spec(t, serve(t, model.URL).address)
	t.Logf("%d of %d pass; net/http alone fails %q", tests-len(failed), tests, known)
	for _, name := range failed {
		if !slices.Contains(known, name) {
			t.Errorf("%s: net/http alone passes it", name)
		}
	}
}
