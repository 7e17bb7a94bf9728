package conformance

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
)

// bodySeeds are requests whose model a rule looks at.
var bodySeeds = []struct{ kind, body string }{
	{"application/json", `{"model":"big","n":1,"prompt":"a cat"}`},
	{"application/json", `{"model":"small","messages":[{"role":"user","content":"hi"}],"options":{"model":"big"}}`},
	{"", `{"prompt":"x","model":"big"}`},
	{"application/x-www-form-urlencoded", "model=big&n=1&prompt=a+cat"},
	{"application/x-www-form-urlencoded", `{"model":"big"}`},
	{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nbig\r\n--b\r\nContent-Disposition: " +
		"form-data; name=\"file\"; filename=\"model\"\r\nContent-Type: audio/mpeg\r\n\r\nsmall\r\n--b--\r\n"},
	{"multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\nx\r\n--b\r\nContent-Disposition: " +
		"form-data; name=\"model\"\r\n\r\nsmall\r\n--b--\r\n"},
	{"application/json; charset=utf-8", "\ufeff{\"model\":\"big\"}"},
}

var (
	bodyPieces = []string{`"model":"big",`, `"model":"small",`, `"MODEL":"big",`, `"mod\u0065l":"big",`, `"Model":null,`, `model=big&`,
		`&model=small`, `%6dodel=big&`, `model%5b%5d=big&`, `;model=big;`, "model", "big", "small",
		`"`, `\`, `\u0000`, `\ud800`, "{", "}", "[", "]", ":", ",", "NaN", "-Infinity", "1e999", "null", "/*x*/", "//x\n", "\n", "\r\n", "\r",
		"\x00", "\xff", "\xc3", "é", "ſ", "K", "\ufeff", " ", "\t", "\v", "\u00a0", "\u2028",
		"--b\r\n", "--b--\r\n", "\r\n--b", "--b", "Content-Disposition: form-data; name=\"model\"\r\n\r\n", "name=model",
		"name=\"model\"; name=\"x\"", "filename=\"\"", "Content-Transfer-Encoding: base64\r\n", "Content-Type: text/plain; charset=utf-16\r\n",
		"%", "%zz", "+", "=", "==", "&&", "'", "#", "true", "0", "-", "{}", "[]", `{"model":"big"}`, `{"model":"small"}`}
	bodyTypes = []string{"", "application/json", "Application/JSON", "application/json; charset=latin-1", "application/json; charset=utf-16",
		"text/plain", "text/json", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded; charset=utf-7",
		"multipart/form-data; boundary=b", "multipart/form-data; boundary=\"b\"", "multipart/form-data; boundary=c", "multipart/form-data",
		"multipart/mixed; boundary=b", "application/octet-stream", "image/png", "application/json, text/plain", "application/vnd.api+json", "x",
		"application/json;"}
)

// mutateBody changes a body in some places, and now and then what it is called.
func mutateBody(random *rand.Rand, kind, body string) (string, string) {
	for range 1 + random.IntN(4) {
		at := random.IntN(len(body) + 1)
		switch random.IntN(8) {
		case 0, 1, 2, 3:
			body = body[:at] + bodyPieces[random.IntN(len(bodyPieces))] + body[at:]
		case 4:
			if at < len(body) {
				body = body[:at] + body[at+1:]
			}
		case 5: // a part twice
			end := at + random.IntN(len(body)-at+1)
			body = body[:end] + body[at:end] + body[end:]
		case 6:
			if at < len(body) {
				body = body[:at] + string([]byte{body[at] ^ 0x20}) + body[at+1:]
			}
		case 7:
			if random.IntN(3) == 0 {
				kind = bodyTypes[random.IntN(len(bodyTypes))]
			}
		}
	}
	return kind, body
}

// TestABodyGoesToTheServerOfTheModelThatItNames sends mutated bodies to rules that
// send one model to one backend and all others to another. Both are the same server,
// which says which model it reads. A request whose server reads `big` must be at the
// backend of that model, and no other may be.
func TestABodyGoesToTheServerOfTheModelThatItNames(t *testing.T) {
	servers := map[string]string{"httptools": uvicorn(t, "httptools"), "h11": uvicorn(t, "h11"), "go": goServer(t)}
	names := slices.Sorted(maps.Keys(servers))
	var backends, rules strings.Builder
	for _, name := range names {
		fmt.Fprintf(&backends, "\n  %s-big: {url: \"http://%s\", gpu: gpu0}\n  %s-small: {url: \"http://%s\", gpu: gpu0}", name, servers[name],
			name, servers[name])
		fmt.Fprintf(&rules, "\n  - {match: {host: %s, method: POST, when: 'body.model == \"big\"'}, class: big, backend: %s-big}\n  - {match: "+
			"{host: %s}, class: small, backend: %s-small}", name, name, name, name)
	}
	p := serveFile(t, `
listen: 127.0.0.1:0
admin: {listen: ""}
state: {file: ""}
gpus: {gpu0: {memory: 24GiB, source: declared}}
classes:
  big: {slots: 64, vram: 2MiB, estimate: 1s, queue: {limit: 1000}}
  small: {slots: 64, vram: 1MiB, estimate: 1s, queue: {limit: 1000}}
backends:`+backends.String()+"\nroutes:"+rules.String()+"\n")

	counted(t, p.address, names, 100, func(random *rand.Rand, c *raw, name string) string {
		s := bodySeeds[random.IntN(len(bodySeeds))]
		kind, body := mutateBody(random, s.kind, s.body)
		// One handler goes by the type, the other reads JSON whatever that says.
		handler := []string{"model", "json"}[random.IntN(2)]
		head := fmt.Sprintf("POST /%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", handler, name, len(body))
		if kind != "" {
			head += "Content-Type: " + kind + "\r\n"
		}
		res, said, err := c.send(head + "\r\n" + body)
		if err != nil {
			t.Errorf("%s: %q %q: %v", name, kind, body, err)
			return ""
		}
		return judgeBody(t, name+"/"+handler, kind, body, res, said)
	})
}

// counted sends the mutations, each server's in four parts at once. one sends one of them
// and says what came of it; an empty text is not counted. The counts are logged.
func counted(t *testing.T, address string, names []string, seedOf uint64, one func(random *rand.Rand, c *raw, name string) string) {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	counts := map[string]int{}
	for i, name := range names {
		for part := range 4 {
			all.Go(func() {
				random := rand.New(rand.NewPCG(*seed, seedOf+uint64(i*4+part)))
				c := raw{address: address}
				defer c.close()
				local := map[string]int{}
				for range *mutations / len(names) / 4 {
					if what := one(random, &c, name); what != "" {
						local[what]++
					}
				}
				mu.Lock()
				defer mu.Unlock()
				for what, n := range local {
					counts[name+": "+what] += n
				}
			})
		}
	}
	all.Wait()
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%7d %s", counts[what], what)
	}
}

// judgeBody says what came of a request.
func judgeBody(t *testing.T, name, kind, body string, res *http.Response, said string) string {
	class := res.Header.Get("X-Anteroom-Class")
	switch {
	case res.StatusCode == http.StatusBadRequest && strings.Contains(said, `"code":"ambiguous_body"`) && strings.Contains(said, `"detail":"`):
		return "refused by the proxy: it says why the body is in doubt"
	case res.StatusCode != http.StatusOK:
		t.Errorf("%s: %q %q: got %s %s", name, kind, body, res.Status, said)
		return fmt.Sprintf("%d", res.StatusCode)
	case said == "!":
		return "the server finds no model"
	case (said == "big") != (class == "big"):
		t.Errorf("%s: %q %q: the proxy's class is %s, the server reads %q", name, kind, body, class, said)
		return "WRONG"
	case said == "big":
		return "big at the backend of big"
	}
	return "another model at the backend of the others"
}
