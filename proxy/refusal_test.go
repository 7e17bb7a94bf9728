package proxy_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

func TestAFullQueueIsRefusedWithATimeToComeBack(t *testing.T) {
	for dialect, want := range map[string]string{
		"problem": `"code":"queue_full"`, "openai": `{"error":{"message":"The queue is full`, "ollama": `{"error":"The queue is full`,
	} {
		t.Run(dialect, func(t *testing.T) {
			m := newModel(t)
			b := open(t, m, func(s *proxy.Setup) {
				class(s, "heavy", func(c *routing.ClassConfig) { c.Queue.Limit = 1 })
				s.Routing.Routes[0].Errors = dialect
			})
			defer close(m.let)
			for i := range 2 {
				go b.client.Do(b.request(t.Context(), "POST", "/heavy", "{}"))
				eventually(t, "it is in", func() bool { return b.running()+b.waiting() == i+1 })
			}
			res, body := b.do("POST", "/heavy", "{}")
			if res.StatusCode != http.StatusTooManyRequests || !strings.Contains(body, want) {
				t.Errorf("got %d %s, want 429 with %s", res.StatusCode, body, want)
			}
			seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
			if err != nil || seconds < 1 || seconds > 60 {
				t.Errorf("Retry-After is %q, want 1 to 60", res.Header.Get("Retry-After"))
			}
			if ms, err := strconv.Atoi(res.Header.Get("retry-after-ms")); err != nil || ms > 60_000 || ms > seconds*1000 || ms <= (seconds-1)*1000-1 {
				t.Errorf("retry-after-ms is %q beside Retry-After %d", res.Header.Get("retry-after-ms"), seconds)
			}
			if res.Header.Get("X-Anteroom-Class") != "heavy" {
				t.Errorf("the class is %q, want heavy", res.Header.Get("X-Anteroom-Class"))
			}
			if !json.Valid([]byte(body)) {
				t.Errorf("the body is not JSON: %s", body)
			}
		})
	}
}

func TestWhatNeverFitsIsTold(t *testing.T) {
	b := open(t, newModel(t), func(s *proxy.Setup) {
		class(s, "heavy", func(c *routing.ClassConfig) { c.VRAM.Amount = 80 * admission.GiB })
	})
	res, body := b.do("POST", "/heavy", "{}")
	if res.StatusCode != http.StatusUnprocessableEntity || res.Header.Get("X-Should-Retry") != "false" || res.Header.Get("Retry-After") != "" {
		t.Errorf("got %d %s %v, want 422, x-should-retry: false and no Retry-After", res.StatusCode, body, res.Header)
	}
	var problem struct {
		Type, Title, Detail, Code, Class string
		Status                           int
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil || problem.Code != "never_fits" || problem.Status != 422 ||
		problem.Detail == "" || problem.Class != "heavy" {
		t.Errorf("the problem is %+v, %v", problem, err)
	}
}

func TestWhoWaitsTooLongIsRefused(t *testing.T) {
	m := newModel(t)
	b := open(t, m, func(s *proxy.Setup) {
		class(s, "heavy", func(c *routing.ClassConfig) { c.Queue.Timeout = 20 * time.Millisecond })
	})
	defer close(m.let)
	go b.client.Do(b.request(t.Context(), "POST", "/heavy", "{}"))
	<-m.arrived
	if res, body := b.do("POST", "/heavy", "{}"); res.StatusCode != 503 || !strings.Contains(body, "queue_timeout") ||
		res.Header.Get("Retry-After") == "" {
		t.Errorf("got %d %s, want 503 queue_timeout with Retry-After", res.StatusCode, body)
	}
}

func TestRequestsThatMeanNothing(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("%s %s reached the backend", r.Method, r.URL) }))
	for request, want := range map[string]int{
		"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n":                                                               404,
		"FROB /nowhere HTTP/1.1\r\nHost: x\r\n\r\n":                                                              404,
		"GET ftp://other/light/x HTTP/1.1\r\nHost: x\r\n\r\n":                                                    400,
		"GET http://a:b@other/light/x HTTP/1.1\r\nHost: x\r\n\r\n":                                               400,
		"GET other:x HTTP/1.1\r\nHost: x\r\n\r\n":                                                                400,
		"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n":                                                  400,
		"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n":                                                                  400,
		"GET /light/../heavy HTTP/1.1\r\nHost: x\r\n\r\n":                                                        400,
		"GET /light/x HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 80<<10) + "\r\n\r\n":                     431,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: gzip\r\n\r\nabc":           501,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n":                          400,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc":                 400,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n X: folded\r\nTransfer_Encoding: a b\r\n\r\n": 400,
	} {
		_, r := b.raw(request)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != want {
			t.Errorf("%.60q: got %v, %v, want %d", request, res, err, want)
		}
	}
}

func TestABreakerThatIsOpenRefusesAtOnce(t *testing.T) {
	b := openAt(t, nobody)
	if res, body := b.do("POST", "/light/x", "{}"); res.StatusCode != http.StatusBadGateway {
		t.Fatalf("got %d %s, want 502", res.StatusCode, body)
	}
	eventually(t, "the breaker is open", func() bool { return b.handler.Breakers()["quick"][0] == "open" })
	_, r := b.raw("POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
	res, err := http.ReadResponse(r, nil)
	if err != nil || res.StatusCode != 503 || res.Header.Get("Retry-After") == "" {
		t.Fatalf("got %v, %v, want 503 with Retry-After and no 100 before it", res, err)
	}
	if body, _ := io.ReadAll(res.Body); !strings.Contains(string(body), "backend_unavailable") {
		t.Errorf("got %s, want backend_unavailable", body)
	}
	for path, want := range map[string]int{"/api/backends/quick/breaker/close": 204, "/api/backends/other/breaker/close": 404} {
		res, err := http.Post(b.server.AdminURL()+path, "", nil)
		if err != nil || res.StatusCode != want {
			t.Errorf("POST %s: got %v, %v, want %d", path, res, err, want)
		}
	}
	if res, _ := b.do("POST", "/light/x", "{}"); res.StatusCode != http.StatusBadGateway {
		t.Errorf("after an operator closed it: got %d, want 502", res.StatusCode)
	}
}

func TestBodiesThatAreNotAccepted(t *testing.T) {
	m := newModel(t)
	small := func(s *proxy.Setup) { s.Proxy.Limits.Body, s.Proxy.Limits.BodyMemory = 4096, 1024 }
	b := open(t, m, small)
	// Only what never comes is waited for briefly: what comes may be read late.
	brief := open(t, m, small, func(s *proxy.Setup) { s.Proxy.Limits.BodyIdle = 50 * time.Millisecond })
	for request, want := range map[string]int{
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n":                                                                       413,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1001\r\n" + strings.Repeat("a", 4097) + "\r\n":                    413,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("100\r\n"+strings.Repeat("a", 256)+"\r\n", 17): 413,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf":                                                                    408,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + strings.Repeat("a", 1500):                                           408,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n":                                              400,
		"POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n":                                               413,
	} {
		at := b
		if want == http.StatusRequestTimeout {
			at = brief
		}
		_, r := at.raw(request)
		res, err := http.ReadResponse(r, nil)
		if err != nil || res.StatusCode != want || !res.Close {
			t.Errorf("%.90q: got %v, %v, want %d and the connection closed", request, res, err, want)
		}
	}
	c, r := open(t, m).raw("POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	c.(interface{ CloseWrite() error }).CloseWrite()
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != 400 {
		t.Errorf("a body that ends early: got %v, %v, want 400", res, err)
	}
	if n := b.running() + brief.running(); m.total.Load() != 0 || n != 0 {
		t.Errorf("%d reached the backend and %d hold a grant, want none", m.total.Load(), n)
	}
}

func TestABodyOfAnySizeArrivesWhole(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Write(body)
	}), func(s *proxy.Setup) { s.Proxy.Limits.BodyMemory = 8 << 10; s.Proxy.Limits.Spool = 1 << 20 })
	for _, n := range []int{0, 1, 4095, 4096, 8191, 8192, 8193, 70_000, 1 << 20} {
		want := string(data(4, n))
		if res, got := b.do("POST", "/light/x", want); got != want {
			t.Errorf("%d bytes with their length: got %d of them, status %d", n, len(got), res.StatusCode)
		}
		r := b.request(t.Context(), "POST", "/slow/x", "")
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(want)), -1
		r.Trailer = http.Header{"X-Sum": {"1"}}
		res, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); err != nil || string(got) != want {
			t.Errorf("%d bytes in chunks: got %d of them, %v", n, len(got), err)
		}
		res.Body.Close()
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("files are left: %v, %v", left, err)
	}
	if res, body := b.do("POST", "/light/x", string(data(4, 1<<20+1))); res.StatusCode != 503 || !strings.Contains(body, "spool_full") {
		t.Errorf("more than the spool holds: got %d %s, want 503 spool_full", res.StatusCode, body)
	}
	if res, _ := b.do("POST", "/light/x", string(data(4, 1<<20))); res.StatusCode != 200 {
		t.Errorf("the spool was not given back: got %d", res.StatusCode)
	}
}

func TestExactlyOneContinue(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %q", body, r.Header["Expect"])
	}))
	c, r := b.raw("POST /light/x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v, want 100 Continue", line, err)
	}
	r.ReadString('\n')
	io.WriteString(c, "hi")
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatalf("got %v, %v, want 200", res, err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "hi []" {
		t.Errorf("the backend saw %s, want hi and no Expect", body)
	}
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Path) }))
	_, r := b.raw("POST /light/1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}GET /pass/2 HTTP/1.1\r\nHost: x\r\n\r\nGET /slow/3 HTTP/1.0\r\n\r\n")
	for _, want := range []string{"/light/1", "/pass/2", "/slow/3"} {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if got, err := io.ReadAll(res.Body); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after an HTTP/1.0 request: %v, want the end", err)
	}
}
