package proxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// TestWithoutAPlaceForFilesTheCauseIsTold to clients, and to callers that ask
// whether the proxy is ready.
func TestWithoutAPlaceForFilesTheCauseIsTold(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()+"/none")
	served := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	large := strings.Repeat("x", 2<<20)
	b := open(t, served)
	if res, body := b.do("POST", "/light/x", large); res.StatusCode != 503 || !strings.Contains(body, "spool_unavailable") ||
		res.Header.Get("Retry-After") != "" {
		t.Errorf("got %d %s %v, want 503 spool_unavailable without Retry-After", res.StatusCode, body, res.Header)
	}
	if res, _ := b.do("POST", "/light/x", "small"); res.StatusCode != 200 {
		t.Errorf("a small body: got %d", res.StatusCode)
	}
	if status, text := ready(t, b, ""); status != 503 || !strings.Contains(text, "/none") {
		t.Errorf("/readyz: got %d %q, want 503 and the directory", status, text)
	}
	if status, text := ready(t, b, "?verbose"); status != 503 || !strings.Contains(text, `"name":"spool","ready":false`) {
		t.Errorf("/readyz?verbose: got %d %q", status, text)
	}
	if err := b.setup.Proxy.Limits.CheckSpool(); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
		t.Errorf("CheckSpool: got %v", err)
	}
	none := open(t, served, func(s *proxy.Setup) { s.Proxy.Limits.Spool = 0 })
	if res, body := none.do("POST", "/light/x", large); res.StatusCode != 503 || !strings.Contains(body, "spool_full") {
		t.Errorf("without files by choice: got %d %s", res.StatusCode, body)
	}
	if status, _ := ready(t, none, ""); status != 200 {
		t.Errorf("without files by choice /readyz is %d", status)
	}
}

func ready(t *testing.T, b *box, query string) (int, string) {
	t.Helper()
	res, err := http.Get(b.server.AdminURL() + "/readyz" + query)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}
