package page

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"
)

func get(t *testing.T, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	e := echo.New()
	Register(e.Group(""))
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	e.ServeHTTP(w, r)
	return w
}

func TestThePolicyHasNoExceptions(t *testing.T) {
	for at := range files() {
		h := get(t, at).Header()
		policy := h.Get("Content-Security-Policy")
		if policy == "" || strings.Contains(policy, "unsafe") || strings.Contains(policy, "*") || strings.Contains(policy, "http") ||
			strings.Contains(policy, "data:") {
			t.Errorf("%s: the policy is %q", at, policy)
		}
		if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("%s: the policy is %q", at, policy)
		}
	}
}

// What the policy forbids would only be seen in a browser's console.
func TestNothingIsInlineOrFromElsewhere(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<script>|<style|\sstyle=|\son[a-z]+=|javascript:`)
	elsewhere := regexp.MustCompile(`(?i)(src|href|url\(|import|fetch\()["'( ]*(https?:)?//`)
	for at, f := range files() {
		f.read()
		if strings.Contains(at, "/vendor/") {
			continue
		}
		if found := inline.Find(f.raw); found != nil && strings.HasSuffix(f.kind, "html; charset=utf-8") {
			t.Errorf("%s has %q", at, found)
		}
		if found := elsewhere.Find(f.raw); found != nil {
			t.Errorf("%s asks for %q", at, found)
		}
	}
}

func TestThePageIsSmall(t *testing.T) {
	const most = 100_000
	raw, small := 0, 0
	for _, f := range files() {
		f.read()
		raw += len(f.raw)
		small += len(f.small)
	}
	if small > most {
		t.Errorf("%d bytes are sent, want at most %d", small, most)
	}
	t.Logf("%d bytes, %d as they are sent", raw, small)
}

func TestAFileIsSentOnceAndSmall(t *testing.T) {
	whole := get(t, "/page/app.js")
	if whole.Code != 200 || whole.Header().Get("Content-Encoding") != "" || !strings.HasPrefix(whole.Header().Get("Content-Type"), "text/javascript") {
		t.Fatalf("without gzip: %d %v", whole.Code, whole.Header())
	}
	small := get(t, "/page/app.js", "Accept-Encoding", "br, gzip")
	z, err := gzip.NewReader(small.Body)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(text, whole.Body.Bytes()) {
		t.Errorf("what is small is not the same: %v", err)
	}
	for _, c := range []struct {
		encoding, tag string
		want          int
	}{
		{"gzip", small.Header().Get("ETag"), 304}, {"", whole.Header().Get("ETag"), 304}, {"gzip", "W/" + small.Header().Get("ETag"), 304},
		{"gzip", whole.Header().Get("ETag"), 200}, {"gzip", `"x"`, 200}, {"gzip;q=0", whole.Header().Get("ETag"), 304},
	} {
		got := get(t, "/page/app.js", "Accept-Encoding", c.encoding, "If-None-Match", c.tag)
		if got.Code != c.want || got.Code == 304 && got.Body.Len() > 0 {
			t.Errorf("%+v: got %d with %d bytes", c, got.Code, got.Body.Len())
		}
	}
	if get(t, "/").Code != 200 || get(t, "/page/vendor/uPlot.LICENSE").Code != 404 || get(t, "/page/../page.go").Code == 200 {
		t.Error("what is served is not what is meant to be")
	}
}
