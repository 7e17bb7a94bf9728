package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy"
)

// tokens is a box whose admin listener asks for a token.
func tokens(t *testing.T) *box {
	return open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Header["Cookie"]) }), func(s *proxy.Setup) {
		s.Proxy.Admin.Token, s.Proxy.Admin.ReadToken = "s3cret", "l00k"
	})
}

// signIn exchanges a token for a cookie, and gives the Set-Cookie line and a client that
// keeps it, as a browser does.
func signIn(t *testing.T, b *box, token string) (string, *http.Client) {
	t.Helper()
	jar, _ := cookiejar.New(nil)
	browser := &http.Client{Transport: b.client.Transport, Jar: jar}
	res, err := browser.Post(b.server.AdminURL()+"/api/session", "application/json", strings.NewReader(`{"token":"`+token+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("signing in is answered with %s", res.Status)
	}
	return res.Header.Get("Set-Cookie"), browser
}

// status sends a request and gives its status.
func status(t *testing.T, client *http.Client, method, url string, headers ...string) int {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	return res.StatusCode
}

func TestATokenIsExchangedForACookie(t *testing.T) {
	b := tokens(t)
	at := b.server.AdminURL()
	if got := status(t, b.client, "GET", at+"/api/session"); got != 401 {
		t.Errorf("without a token the session is %d, want 401", got)
	}
	res, err := b.client.Post(at+"/api/session", "application/json", strings.NewReader(`{"token":"wrong"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 401 || res.Header.Get("Set-Cookie") != "" {
		t.Errorf("a wrong token is answered with %s and %q", res.Status, res.Header.Get("Set-Cookie"))
	}
	cookie, browser := signIn(t, b, "s3cret")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/", "anteroom_admin_"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie is %q, want %s in it", cookie, want)
		}
	}
	if strings.Contains(cookie, "s3cret") {
		t.Errorf("the cookie has the token: %q", cookie)
	}
	if got := status(t, browser, "GET", at+"/api/state"); got != 200 {
		t.Errorf("with the cookie the state is %d, want 200", got)
	}
	// A browser says where a call comes from; what does not say it may be another site's form.
	pause := at + "/api/classes/light/pause"
	for _, c := range []struct {
		header []string
		want   int
	}{
		{[]string{"Sec-Fetch-Site", "same-origin"}, 204}, {[]string{"Origin", at}, 204},
		{nil, 403}, {[]string{"Sec-Fetch-Site", "same-site"}, 403}, {[]string{"Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Origin", "http://127.0.0.1:1"}, 403},
	} {
		if got := status(t, browser, "POST", pause, c.header...); got != c.want {
			t.Errorf("a pause with %v is %d, want %d", c.header, got, c.want)
		}
	}
	if got := status(t, b.client, "POST", pause, "Authorization", "Bearer s3cret"); got != 204 {
		t.Errorf("a pause with the token itself is %d, want 204", got)
	}
	for _, value := range []string{"", "x", "AgAAAAB", strings.Repeat("A", 55)} {
		if got := status(t, b.client, "GET", at+"/api/state", "Cookie", strings.SplitN(cookie, "=", 2)[0]+"="+value); got != 401 {
			t.Errorf("a made-up cookie %q is %d, want 401", value, got)
		}
	}
	if got := status(t, browser, "DELETE", at+"/api/session"); got != 204 {
		t.Errorf("signing out is %d", got)
	}
	if got := status(t, browser, "GET", at+"/api/state"); got != 401 {
		t.Errorf("after signing out the state is %d, want 401", got)
	}
}

func TestAReadTokenOnlyReads(t *testing.T) {
	b := tokens(t)
	at := b.server.AdminURL()
	_, browser := signIn(t, b, "l00k")
	header := []string{"Authorization", "Bearer l00k"}
	for _, path := range []string{"/api/state", "/api/queue", "/api/backends", "/api/learned", "/api/config", "/api/history", "/api/session",
		"/metrics"} {
		if got := status(t, b.client, "GET", at+path, header...); got != 200 {
			t.Errorf("GET %s is %d, want 200", path, got)
		}
	}
	for _, path := range []string{"/api/classes/light/pause", "/api/classes/light/resume", "/api/backends/slow/drain",
		"/api/backends/slow/resume", "/api/backends/slow/reclaim",
		"/api/backends/slow/wake", "/api/backends/slow/breaker/close", "/api/queue/1/cancel", "/api/grants/1/release",
		"/api/learned/light/forget", "/api/reload"} {
		if got := status(t, b.client, "POST", at+path, header...); got != 403 {
			t.Errorf("POST %s is %d, want 403", path, got)
		}
		if got := status(t, browser, "POST", at+path, "Sec-Fetch-Site", "same-origin"); got != 403 {
			t.Errorf("POST %s with the cookie is %d, want 403", path, got)
		}
	}
	var session struct{ Role string }
	if b.ask("GET", "/api/session", &session, header...); session.Role != "read" {
		t.Errorf("the session is %+v, want role read", session)
	}
}

// Cookies know no ports: a browser that is signed in sends the cookie to the public
// listener on the same host too.
func TestNoModelServerGetsTheAdminCookie(t *testing.T) {
	b := tokens(t)
	cookie, _ := signIn(t, b, "s3cret")
	pair, _, _ := strings.Cut(cookie, ";")
	for sent, want := range map[string]string{
		pair: "[]", "a=1; " + pair + "; b=2": "[a=1; b=2]", "a=1; " + pair: "[a=1]", "anteroom=1": "[anteroom=1]", `a="x;y"`: `[a="x;y"]`,
	} {
		if _, got := b.do("POST", "/light/x", "{}", "Cookie", sent); got != want {
			t.Errorf("of %q the backend got %s, want %s", strings.ReplaceAll(sent, pair, "SESSION"), got, want)
		}
	}
}

func TestAdminTokensAreChecked(t *testing.T) {
	for _, c := range []struct {
		admin proxy.AdminConfig
		want  string
	}{
		{proxy.AdminConfig{Token: "a", ReadToken: "b", TraceURL: "https://jaeger/trace/{trace_id}"}, ""},
		{proxy.AdminConfig{ReadToken: "b"}, "admin.read_token: set while admin.token is empty"},
		{proxy.AdminConfig{Token: "a", ReadToken: "a"}, "admin.read_token: the same as admin.token"},
		{proxy.AdminConfig{TraceURL: "http://jaeger/trace"}, "admin.trace_url"},
		{proxy.AdminConfig{TraceURL: "javascript:alert({trace_id})"}, "admin.trace_url"},
	} {
		s := aBox("http://127.0.0.1:1")
		c.admin.Listen = "127.0.0.1:0"
		s.Proxy.Admin = c.admin
		got := ""
		s.Proxy.Check(func(path, problem string) { got += path + ": " + problem + "\n" })
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%+v: got %q, want %q", c.admin, got, c.want)
		}
	}
}
