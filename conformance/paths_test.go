package conformance

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

// pathRules are the rules of one server, told apart from the others' by their host.
// The servers' own handlers are the same.
func pathRules(name string) string {
	return strings.ReplaceAll(`
  - {match: {host: NAME, path: /v1/images/**}, class: heavy, backend: NAME}
  - {match: {host: NAME, path: /v1/chat/**}, class: light, backend: NAME}
  - {match: {host: NAME, path: /static/**}, pass: true, backend: NAME}
  - {match: {host: NAME, path: '/jobs/{id}/run'}, class: heavy, backend: NAME}
  - {match: {host: NAME}, class: other, backend: NAME}`, "NAME", name)
}

var (
	pathSeeds = []string{"/v1/images/generations", "/v1/chat/completions", "/static/logo.png", "/jobs/7/run", "/v1/images", "/",
		"/elsewhere/x", "/jobs/a%20b/run/", "/static/../v1/images/x"}
	pathPieces = []string{"/", "//", "/./", "/../", ".", "..", "%2f", "%2F", "%2e", "%2E%2e", "%5c", "\\", ";", ";x=1", "..;/", "%3b", "%00",
		"%", "%zz", "%u002f", "?", "%3f", "#", "%23",
		"%25", "%252f", "%252e", "é", "%c3%a9", "%c0%af", "%c0%ae", "%e0%80%af", "\xff", "%ff", "%7f", "\t", "%09", "%20", "+", "*", "@", ":",
		"//x@", "v1", "images", "/v1/images/", "/static/", "/jobs/", "/run", "%", "%2", "\x01", "%0a", "%0d%0a",
		"http://nginx", "{id}", "|", "\"", "<", "`", "^", "~", "!", "$&'()", "＊", "／", "․"}
	overrides = []string{"X-HTTP-Method-Override: GET", "X-HTTP-Method: DELETE", "X-Original-URL: /static/x", "X-Rewrite-URL: /v1/chat/x",
		"X-Forwarded-Prefix: /static", "X-Forwarded-Uri: /static/"}
)

// mutatePath changes a path in some places.
func mutatePath(random *rand.Rand, path string) string {
	for range 1 + random.IntN(4) {
		at := random.IntN(len(path) + 1)
		switch random.IntN(6) {
		case 0, 1, 2:
			path = path[:at] + pathPieces[random.IntN(len(pathPieces))] + path[at:]
		case 3: // encode a byte
			if at < len(path) {
				path = path[:at] + fmt.Sprintf([]string{"%%%02x", "%%%02X"}[random.IntN(2)], path[at]) + path[at+1:]
			}
		case 4: // leave one out
			if at < len(path) {
				path = path[:at] + path[at+1:]
			}
		case 5: // in other letters
			if at < len(path) {
				path = path[:at] + strings.ToUpper(path[at:at+1]) + path[at+1:]
			}
		}
	}
	return path
}

// TestAPathHasTheClassThatItsServerServes sends mutated paths to each server through
// the proxy. The class that the proxy gave must be that of the handler which the
// server picked, unless the server or the proxy refuses.
func TestAPathHasTheClassThatItsServerServes(t *testing.T) {
	servers := map[string]string{"nginx": nginx(t), "httptools": uvicorn(t, "httptools"), "h11": uvicorn(t, "h11"), "go": goServer(t)}
	var backends, rules strings.Builder
	names := []string{"nginx", "httptools", "h11", "go"}
	for _, name := range names {
		fmt.Fprintf(&backends, "\n  %s: {url: \"http://%s\", gpu: gpu0, preserve_host: true}", name, servers[name])
		rules.WriteString(pathRules(name))
	}
	p := serveFile(t, `
listen: 127.0.0.1:0
admin: {listen: ""}
state: {file: ""}
gpus: {gpu0: {memory: 24GiB, source: declared}}
classes:
  heavy: {slots: 64, vram: 4MiB, estimate: 1s, queue: {limit: 1000}}
  light: {slots: 64, vram: 2MiB, estimate: 1s, queue: {limit: 1000}}
  other: {slots: 64, vram: 1MiB, estimate: 1s, queue: {limit: 1000}}
backends:`+backends.String()+"\nroutes:"+rules.String()+"\n")

	counted(t, p.address, names, 0, func(random *rand.Rand, c *raw, name string) string {
		target := mutatePath(random, pathSeeds[random.IntN(len(pathSeeds))])
		if strings.ContainsAny(target, " \r\n") || target == "" {
			return ""
		}
		head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\n", target, name)
		if random.IntN(10) == 0 {
			head += overrides[random.IntN(len(overrides))] + "\r\n"
		}
		res, body, err := c.send(head + "\r\n{}")
		if err != nil && res != nil && res.StatusCode == http.StatusBadRequest {
			// A server that closes before it has read a request resets the
			// connection, and with it its answer.
			return "not served by the server: 400, and cut"
		}
		if err != nil {
			t.Errorf("%s: %q: %v", name, target, err)
			return ""
		}
		return judgePath(t, name, target, res, body)
	})
}

// judgePath says what came of a request.
func judgePath(t *testing.T, name, target string, res *http.Response, served string) string {
	class := res.Header.Get("X-Anteroom-Class")
	ours := strings.Contains(res.Header.Get("Content-Type"), "problem+json")
	switch {
	case ours && res.StatusCode == http.StatusBadRequest && strings.Contains(served, `"code":"ambiguous_`):
		return "refused by the proxy: it has several readings"
	case ours:
		return fmt.Sprintf("refused by the proxy: %d", res.StatusCode)
	case res.StatusCode == http.StatusBadRequest && class == "" && strings.HasPrefix(served, "400 Bad Request"):
		return "refused by net/http"
	case res.StatusCode != http.StatusOK:
		return fmt.Sprintf("not served by the server: %d", res.StatusCode)
	}
	if class == "" {
		class = "pass"
	}
	if class != served {
		t.Errorf("%s: %q: the proxy's class is %s, the server's handler is %s", name, target, class, served)
		return "WRONG"
	}
	return "the server's handler is that of the class"
}
