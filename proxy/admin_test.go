package proxy_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/routing"
)

// ask calls the admin API and decodes what it answers.
func (b *box) ask(method, path string, into any, headers ...string) int {
	b.t.Helper()
	r, err := http.NewRequest(method, b.server.AdminURL()+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && into != nil {
		err = json.Unmarshal(body, into)
	}
	if err != nil {
		b.t.Fatalf("%s %s: %v: %s", method, path, err, body)
	}
	return res.StatusCode
}

func TestAnOperatorSeesAndSteersTheController(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	first := make(chan int, 1)
	second := make(chan string, 1)
	go func() { res, _ := b.do("POST", "/heavy", "{}"); first <- res.StatusCode }()
	<-m.arrived
	go func() { _, body := b.do("POST", "/heavy", "{}"); second <- body }()
	eventually(t, "the second waits", func() bool { return b.waiting() == 1 })

	var state struct {
		GPUs []struct {
			Name     string
			Capacity int64  `json:"capacity_bytes"`
			Booked   int64  `json:"booked_bytes"`
			Observed *int64 `json:"observed_bytes"`
		}
		Classes []struct {
			Name            string
			Running, Queued int
		}
		Running []struct {
			ID    uint64
			Class string
			VRAM  int64 `json:"vram_bytes"`
		}
	}
	if code := b.ask("GET", "/api/state", &state); code != 200 || len(state.GPUs) != 1 || state.GPUs[0].Capacity != 48<<30 ||
		state.GPUs[0].Booked != 34<<30 || state.GPUs[0].Observed != nil || len(state.Running) != 1 || state.Running[0].VRAM != 34<<30 {
		t.Errorf("the state is %d %+v", code, state)
	}
	var queue struct {
		Waiting []struct {
			ID     uint64
			Class  string
			Reason string
		}
	}
	if b.ask("GET", "/api/queue", &queue); len(queue.Waiting) != 1 || queue.Waiting[0].Class != "heavy" || queue.Waiting[0].Reason == "" {
		t.Fatalf("the queue is %+v", queue)
	}
	id, running := jsonNumber(queue.Waiting[0].ID), jsonNumber(state.Running[0].ID)
	var one struct{ ID uint64 }
	if code := b.ask("GET", "/api/queue/"+id, &one); code != 200 || one.ID != queue.Waiting[0].ID {
		t.Errorf("one waiter is %d %+v", code, one)
	}
	for path, want := range map[string]int{
		"/api/queue/99999/cancel": 404, "/api/queue/x/cancel": 404, "/api/grants/99999/release": 404,
		"/api/classes/nobody/pause": 404, "/api/backends/nobody/drain": 404,
		"/api/backends/slow/reclaim": 409, "/api/backends/slow/wake": 202,
		"/api/classes/light/pause": 204, "/api/backends/quick/drain": 204, "/api/reload": 204,
	} {
		if got := b.ask("POST", path, nil); got != want {
			t.Errorf("POST %s: got %d, want %d", path, got, want)
		}
	}
	if code := b.ask("POST", "/api/queue/"+id+"/cancel", nil); code != 204 {
		t.Errorf("cancel: got %d, want 204", code)
	}
	if body := <-second; !strings.Contains(body, "cancelled_by_operator") {
		t.Errorf("the cancelled request got %s", body)
	}
	if code := b.ask("POST", "/api/grants/"+running+"/release", nil); code != 204 || b.running() != 0 {
		t.Errorf("release: got %d with %d still running, want 204 and 0", code, b.running())
	}
	close(m.let)
	if got := <-first; got != 200 {
		t.Errorf("the request whose grant was released got %d, want 200 all the same", got)
	}

	light := make(chan int, 1)
	go func() { res, _ := b.do("POST", "/light/x", "{}"); light <- res.StatusCode }()
	eventually(t, "the light waits while its class is paused", func() bool { return b.waiting() == 1 })
	b.ask("POST", "/api/classes/light/resume", nil)
	if b.waiting() != 1 {
		t.Errorf("the light did not wait for its draining backend")
	}
	b.ask("POST", "/api/backends/quick/resume", nil)
	if got := <-light; got != 200 {
		t.Errorf("the light got %d, want 200", got)
	}
}

func jsonNumber(n uint64) string { b, _ := json.Marshal(n); return string(b) }

func TestTheAdminListenerRefusesCallersWithoutAToken(t *testing.T) {
	b := open(t, newModel(t), func(s *proxy.Setup) { s.Proxy.Admin.Token = "open sesame" })
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/api/state": 401, "/api/config": 401} {
		r, _ := http.NewRequest("GET", b.server.AdminURL()+path, nil)
		res, err := b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s without a token: got %d, want %d", path, res.StatusCode, want)
		}
	}
	const right = "Bearer open sesame"
	for _, c := range []struct {
		headers []string
		want    int
	}{
		{[]string{"Authorization", "Bearer wrong"}, 401},
		{[]string{"Authorization", "open sesame"}, 401},
		{[]string{"Authorization", right}, 204},
		{[]string{"Authorization", right, "Origin", "http://elsewhere.example"}, 403},
		{[]string{"Authorization", right, "Origin", "null"}, 403},
		{[]string{"Authorization", right, "Sec-Fetch-Site", "cross-site"}, 403},
		{[]string{"Authorization", right, "Origin", b.server.AdminURL()}, 204},
	} {
		if got := b.ask("POST", "/api/classes/light/pause", nil, c.headers...); got != c.want {
			t.Errorf("with %q: got %d, want %d", c.headers, got, c.want)
		}
	}
}

// TestAPageWhoseNameLeadsHereIsKeptOut: its requests have its own name for Host.
func TestAPageWhoseNameLeadsHereIsKeptOut(t *testing.T) {
	bare := open(t, newModel(t))
	token := open(t, newModel(t), func(s *proxy.Setup) { s.Proxy.Admin.Token = "open sesame" })
	for _, c := range []struct {
		b    *box
		host string
		path string
		want int
	}{
		{bare, "evil.example", "/api/state", 403},
		{bare, "evil.example:9090", "/metrics", 403},
		{bare, "localhost.evil.example", "/api/config", 403},
		{bare, "127.0.0.1.evil.example", "/api/queue", 403},
		{bare, "evil.example", "/livez", 200},
		{bare, "localhost", "/api/state", 200},
		{bare, "LOCALHOST.:9090", "/api/state", 200},
		{bare, "127.0.0.1:9090", "/api/state", 200},
		{bare, "[::1]:9090", "/api/state", 200},
		{token, "gpu.example", "/api/state", 200},
	} {
		r, _ := http.NewRequest("GET", c.b.server.AdminURL()+c.path, nil)
		r.Host = c.host
		r.Header.Set("Authorization", "Bearer open sesame")
		res, err := c.b.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("GET %s of %s: got %d, want %d", c.path, c.host, res.StatusCode, c.want)
		}
	}
}

func TestNothingOfOursIsOnThePublicListener(t *testing.T) {
	b := open(t, newModel(t))
	for _, path := range []string{"/livez", "/readyz", "/metrics", "/api/state", "/api/reload", "/debug/pprof/"} {
		if res, _ := b.do("GET", path, ""); res.StatusCode != 404 {
			t.Errorf("GET %s: got %d, want 404", path, res.StatusCode)
		}
	}
}

func TestReload(t *testing.T) {
	answer := func(text string) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, text) }))
		t.Cleanup(s.Close)
		return s
	}
	t.Run("puts new rules in place and keeps what runs and waits", func(t *testing.T) {
		m := newModel(t)
		b := open(t, m)
		answers := make(chan string, 2)
		for i := range 2 {
			go func() { _, body := b.do("POST", "/heavy", "{}"); answers <- body }()
			eventually(t, "it is in", func() bool { return b.running()+b.waiting() == i+1 })
		}
		next := b.setup
		setBackend(&next, "quick", func(c *backend.Config) { c.URL = answer("new").URL })
		next.Admission = controller(next)
		if err := b.handler.Reload(next); err != nil {
			t.Fatal(err)
		}
		if _, got := b.do("POST", "/light/x", "{}"); got != "new" {
			t.Errorf("after the reload got %q, want the new backend's answer", got)
		}
		close(m.let)
		for range 2 {
			if got := <-answers; got != "done" {
				t.Errorf("a request from before got %q, want done", got)
			}
		}
	})
	t.Run("keeps the breaker of a backend that stays as it was", func(t *testing.T) {
		b := openAt(t, nobody)
		b.do("POST", "/light/x", "{}")
		eventually(t, "the breaker is open", func() bool { return b.handler.Breakers()["quick"][0] == "open" })
		next := b.setup
		setBackend(&next, "slow", func(c *backend.Config) { c.Slots = 3 })
		next.Admission = controller(next)
		if err := b.handler.Reload(next); err != nil {
			t.Fatal(err)
		}
		if res, _ := b.do("POST", "/light/x", "{}"); res.StatusCode != 503 {
			t.Errorf("got %d, want 503: the breaker was open", res.StatusCode)
		}
		if res, _ := b.do("POST", "/slow/x", "{}"); res.StatusCode != 502 {
			t.Errorf("got %d, want 502: a new backend has a new breaker", res.StatusCode)
		}
	})
	t.Run("that is refused changes nothing", func(t *testing.T) {
		b := openAt(t, answer("old").URL)
		next := b.setup
		next.Routing.Routes = nil
		next.Admission = controller(next)
		next.Admission.Classes = append(next.Admission.Classes, next.Admission.Classes[0]) // a name twice
		next.Admission.Backends[0].Replicas[0].Places[0].GPU = "nowhere"
		if err := b.handler.Reload(next); err == nil {
			t.Error("a box whose names do not resolve was taken")
		}
		if _, got := b.do("POST", "/light/x", "{}"); got != "old" {
			t.Errorf("got %q, want the old rules", got)
		}
	})
}

func TestObserveForwardsWhatItWouldHold(t *testing.T) {
	m := newModel(t)
	b := open(t, m, func(s *proxy.Setup) {
		s.Proxy.Mode = "observe"
		class(s, "heavy", func(c *routing.ClassConfig) { c.Queue.Limit = 1 })
	})
	answers := make(chan error, 3)
	for range 3 {
		go func() {
			if _, body := b.do("POST", "/heavy", "{}"); body != "done" {
				answers <- errors.New(body)
			}
			answers <- nil
		}()
		<-m.arrived // at once, although the slot is taken
	}
	var state struct {
		Observed struct {
			Held    int
			Refused map[string]int
		}
	}
	eventually(t, "the controller has judged all three", func() bool {
		b.ask("GET", "/api/state", &state)
		return b.running() == 1 && b.waiting() == 1 && state.Observed.Refused["queue_full"] == 1
	})
	close(m.let)
	for range 3 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	eventually(t, "the books are empty", func() bool { return b.running() == 0 && b.waiting() == 0 })
	eventually(t, "one was counted as held and one as refused", func() bool {
		b.ask("GET", "/api/state", &state)
		return state.Observed.Held == 1 && state.Observed.Refused["queue_full"] == 1
	})
}
