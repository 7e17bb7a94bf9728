package proxy_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/backend"
	"github.com/anteroom-gpu/anteroom/proxy"
	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/telemetry"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// kept is what the history has.
func (b *box) kept() (h timeline.History) {
	b.t.Helper()
	if code := b.ask("GET", "/api/history?for=10m", &h); code != 200 {
		b.t.Fatalf("the history is answered with %d", code)
	}
	return h
}

func TestTheHistoryHasWhatHappened(t *testing.T) {
	draws := newComfy()
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/light/x" {
			io.WriteString(w, "done")
			return
		}
		draws.ServeHTTP(w, r)
	}), asComfy())
	before := time.Now()
	b.do("POST", "/light/x?secret=1", "{}")
	b.do("POST", "/nowhere", "")
	b.do("POST", "/prompt", "{}")
	job := <-draws.arrived
	if h := b.kept(); len(h.Requests) != 2 {
		t.Errorf("%d requests are kept while a job is drawn, want the two that have ended: %+v", len(h.Requests), h.Requests)
	}
	second := make(chan struct{})
	go func() { defer close(second); b.do("POST", "/prompt", "{}") }()
	eventually(t, "the second waits", func() bool { return b.waiting() == 1 })
	draws.finish(job, "error")
	<-second
	draws.finish(<-draws.arrived, "success")
	eventually(t, "the jobs are kept", func() bool { return len(b.kept().Requests) == 4 })
	eventually(t, "the state is sampled", func() bool { return len(b.kept().Samples) > 0 })

	h := b.kept()
	if !h.Since.Before(before) || h.Until.Before(before) {
		t.Errorf("it is complete from %v to %v, want from before the first request at %v", h.Since, h.Until, before)
	}
	light, refused, failed, well := h.Requests[0], h.Requests[1], h.Requests[2], h.Requests[3]
	if light.Route != "light" || light.Path != "/light/x" || light.Result != "ok" || light.Wait != 0 || light.Execute <= 0 ||
		light.VRAM != 512<<20 || light.Trace == (timeline.TraceID{}) {
		t.Errorf("the light one is %+v", light)
	}
	if refused.Status != 404 || refused.Code != "no_route" || refused.Wait != -1 || refused.Execute != -1 {
		t.Errorf("the refused one is %+v", refused)
	}
	if failed.Status != 200 || failed.Result != "failed" || failed.Code != "job_failed" || failed.Execute <= failed.Total {
		t.Errorf("the job that failed is %+v, want its execution to be longer than its answer took", failed)
	}
	if well.Result != "ok" || well.Wait <= 0 || well.Reason == "" || well.Position != 0 {
		t.Errorf("the job that waited is %+v", well)
	}
	var kinds []string
	for _, d := range h.Decisions {
		kinds = append(kinds, d.Kind+" "+d.Class)
	}
	if got := strings.Join(kinds, ", "); got != "granted light, granted heavy, granted heavy" {
		t.Errorf("the decisions are %s", got)
	}
	var decisions struct {
		Since     time.Time           `json:"complete_since"`
		Decisions []timeline.Decision `json:"decisions"`
	}
	if b.ask("GET", "/api/decisions?for=10m", &decisions); len(decisions.Decisions) != 3 || decisions.Since.IsZero() {
		t.Errorf("/api/decisions has %+v", decisions)
	}
	for _, path := range []string{"/api/history?for=x", "/api/decisions?for=-1s", "/api/record?format=x", "/api/record?tenants=x",
		"/api/record?for=100h"} {
		if code := b.ask("GET", path, nil); code != 400 {
			t.Errorf("%s is answered with %d, want 400", path, code)
		}
	}
}

// stream reads server-sent events.
type stream struct {
	*bufio.Scanner
	t *testing.T
}

type event struct{ name, id, data string }

func (b *box) events(t *testing.T, last string, query ...string) *stream {
	r, err := http.NewRequestWithContext(t.Context(), "GET", b.server.AdminURL()+"/api/events"+strings.Join(query, ""), nil)
	if err != nil {
		t.Fatal(err)
	}
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	res, err := b.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if kind := res.Header.Get("Content-Type"); kind != "text/event-stream" {
		t.Errorf("the events come as %s", kind)
	}
	s := &stream{bufio.NewScanner(res.Body), t}
	s.Buffer(nil, 1<<20)
	return s
}

// next is the next event that is no sample.
func (s *stream) next() (e event) {
	for s.Scan() {
		key, value, _ := strings.Cut(s.Text(), ": ")
		switch key {
		case "event":
			e.name = value
		case "id":
			e.id = value
		case "data":
			e.data = value
		case "":
			if e.name != "sample" {
				return e
			}
			e = event{}
		}
	}
	s.t.Fatalf("the events end: %v", s.Err())
	return e
}

func TestEventsAreASnapshotAndThenWhatHappens(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") }))
	first := b.events(t, "")
	snapshot := first.next()
	var state struct{ Classes []struct{ Name string } }
	if err := json.Unmarshal([]byte(snapshot.data), &state); snapshot.name != "snapshot" || err != nil || len(state.Classes) != 2 {
		t.Fatalf("the first event is %+v, %v, want a snapshot of the state", snapshot, err)
	}
	b.do("POST", "/light/x", "{}")
	granted, ended := first.next(), first.next()
	if granted.name != "decision" || !strings.Contains(granted.data, `"kind":"granted"`) || ended.name != "request" ||
		!strings.Contains(ended.data, `"route":"light"`) {
		t.Errorf("then come %+v and %+v, want the decision and the request", granted, ended)
	}
	if again := b.events(t, granted.id).next(); again != ended {
		t.Errorf("who comes back gets %+v, want %+v", again, ended)
	}
	if unknown := b.events(t, "99999"); unknown.next().name != "snapshot" {
		t.Error("who comes back with a number that never was gets no snapshot")
	}
}

func TestEventsGoBackAndTellTheStateAgain(t *testing.T) {
	m := newModel(t)
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/heavy" {
			m.ServeHTTP(w, r)
		}
	}))
	b.do("POST", "/light/x", "{}")
	first, second := make(chan int, 1), make(chan int, 1)
	go func() { res, _ := b.do("POST", "/heavy", "{}"); first <- res.StatusCode }()
	<-m.arrived
	go func() { res, _ := b.do("POST", "/heavy", "{}"); second <- res.StatusCode }()
	eventually(t, "the second waits", func() bool { return b.waiting() == 1 })

	events := b.events(t, "", "?for=10m&state=250ms")
	var names []string
	var state event
	for state.name != "state" {
		state = events.next()
		names = append(names, state.name)
	}
	if got := strings.Join(names, " "); got != "snapshot decision request decision state" {
		t.Errorf("the events are %s, want a snapshot, what was before it, and the state again", got)
	}
	var board struct {
		Started time.Time
		Running []struct {
			Class, Backend string
		}
		Waiting []struct {
			Class, Says string
			Trace       string `json:"trace_id"`
		}
	}
	if err := json.Unmarshal([]byte(state.data), &board); err != nil {
		t.Fatal(err)
	}
	if state.id != "" || board.Started.IsZero() || len(board.Running) != 1 || board.Running[0].Backend != "slow" ||
		len(board.Waiting) != 1 || board.Waiting[0].Says != "all slots of class heavy are taken" || len(board.Waiting[0].Trace) != 32 {
		t.Errorf("the state is %s", state.data)
	}
	close(m.let)
	<-first
	<-second
	for _, query := range []string{"?state=x", "?state=1ms", "?state=1h", "?for=-1s"} {
		if code := b.ask("GET", "/api/events"+query, nil); code != 400 {
			t.Errorf("%s is answered with %d, want 400", query, code)
		}
	}
}

func TestWhatIsNotKeptIsNotFound(t *testing.T) {
	setup := aBox("http://127.0.0.1:1")
	setup.Admission = controller(setup)
	told, err := telemetry.Start(t.Context(), telemetry.Config{ServiceName: "test", Log: telemetry.LogConfig{Format: "json", Level: "info"}},
		"test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	controller, err := admission.NewController(setup.Admission)
	if err != nil {
		t.Fatal(err)
	}
	h, err := proxy.New(setup, controller, told)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	for _, path := range []string{"/api/history", "/api/decisions", "/api/events", "/api/record"} {
		answer := httptest.NewRecorder()
		admin.New(setup.Proxy.Admin, admin.Process{Proxy: h, Controller: controller, Telemetry: told}).ServeHTTP(answer,
			httptest.NewRequest("GET", "http://127.0.0.1:9090"+path, nil))
		if answer.Code != 404 || !strings.Contains(answer.Body.String(), "telemetry.history.for") {
			t.Errorf("%s: got %d %s, want 404 and its cure", path, answer.Code, answer.Body)
		}
	}
}

func (b *box) text(path string) string {
	b.t.Helper()
	res, err := b.client.Get(b.server.AdminURL() + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		b.t.Fatalf("%s: %s %v", path, res.Status, err)
	}
	return string(text)
}

func TestTenantsAreHiddenInARecord(t *testing.T) {
	b := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") }), func(s *proxy.Setup) {
		s.Proxy.Trusted, s.Proxy.Tenants.Header = []string{"127.0.0.1"}, "X-Tenant"
	})
	for _, tenant := range []string{"acme", "bolt", "acme"} {
		b.do("POST", "/light/x", "{}", "X-Tenant", tenant)
	}
	tenants := func(text string) (found []string) {
		for _, line := range strings.Split(strings.TrimSpace(text), "\n")[2:] {
			found = append(found, strings.Split(line, ",")[4])
		}
		return found
	}
	hidden := tenants(b.text("/api/record"))
	if len(hidden) != 3 || hidden[0] != hidden[2] || hidden[0] == hidden[1] || strings.Contains(hidden[0], "acme") {
		t.Errorf("the tenants are %q, want words for two", hidden)
	}
	if plain := tenants(b.text("/api/record?tenants=plain")); fmt.Sprint(plain) != "[acme bolt acme]" {
		t.Errorf("the tenants are %q, want their names", plain)
	}
}

// TestWhatAnOperatorDoesIsTold on a line and in the history, with who and why.
func TestWhatAnOperatorDoesIsTold(t *testing.T) {
	m := newModel(t)
	b := open(t, m)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		go b.client.Do(b.request(ctx, "POST", "/heavy", "{}"))
	}
	<-m.arrived
	eventually(t, "one waits", func() bool { return b.waiting() == 1 })
	running, waiting := b.controller.Running()[0].ID, b.controller.Queue(1)[0].ID
	for _, c := range []struct {
		path, action, on string
		status           int
	}{
		{"/api/classes/light/pause", "pause", `"class":"light"`, 204},
		{"/api/classes/light/resume", "resume", `"class":"light"`, 204},
		{"/api/classes/none/pause", "pause", `"class":"none"`, 404},
		{"/api/backends/quick/drain", "drain", `"backend":"quick"`, 204},
		{"/api/backends/quick/resume", "resume", `"backend":"quick"`, 204},
		{"/api/backends/quick/reclaim", "unload", `"backend":"quick"`, 409},
		{"/api/backends/quick/wake", "wake", `"backend":"quick"`, 202},
		{"/api/backends/quick/breaker/close", "close breaker", `"backend":"quick"`, 204},
		{fmt.Sprintf("/api/queue/%d/cancel", waiting), "cancel", fmt.Sprintf(`"grant":%d`, waiting), 204},
		{fmt.Sprintf("/api/grants/%d/release", running), "release", fmt.Sprintf(`"grant":%d`, running), 204},
		{"/api/learned/light/forget", "forget", `"route":"light"`, 204},
		{"/api/reload", "reload", `"by":"alice"`, 204},
	} {
		before := len(b.logs.String())
		if code := b.ask("POST", c.path+"?reason=maintenance%0Atonight", nil, "X-Anteroom-By", "alice"); code != c.status {
			t.Errorf("%s is answered with %d, want %d", c.path, code, c.status)
		}
		line := ""
		for l := range strings.Lines(b.logs.String()[before:]) {
			if strings.Contains(l, `"action":`) {
				line = l
			}
		}
		for _, want := range []string{`"action":"` + c.action + `"`, c.on, `"by":"alice"`, `"from":"127.0.0.1:`, `"reason":"maintenance\ntonight"`} {
			if !strings.Contains(line, want) {
				t.Errorf("%s: no %s in the line %s", c.path, want, line)
			}
		}
		if refused := strings.Contains(line, `"level":"WARN"`); refused != (c.status >= 400) {
			t.Errorf("%s: the line is %s", c.path, line)
		}
		all := b.kept().Decisions
		last := all[len(all)-1]
		for last.Kind != timeline.Control {
			all = all[:len(all)-1]
			last = all[len(all)-1]
		}
		if last.Action != c.action || last.By != "alice" || last.Note != "maintenance\ntonight" || last.Failed != (c.status >= 400) {
			t.Errorf("%s: the history has %+v", c.path, last)
		}
	}
	close(m.let)
}

// TestABreakersMovesAreTold with their cause.
func TestABreakersMovesAreTold(t *testing.T) {
	b := openAt(t, nobody, func(s *proxy.Setup) {
		setBackend(s, "quick", func(c *backend.Config) { c.Breaker.Open = time.Hour })
	})
	b.do("POST", "/light/x", "{}")
	eventually(t, "it is told", func() bool { return b.line("a breaker moved") != nil })
	line := b.line("a breaker moved")
	if line["backend"] != "quick" || line["from"] != "closed" || line["to"] != "open" || line["level"] != "WARN" ||
		!strings.Contains(fmt.Sprint(line["reason"]), "nothing listens") {
		t.Errorf("the line is %v", line)
	}
	b.ask("POST", "/api/backends/quick/breaker/close", nil)
	eventually(t, "its closing is told", func() bool { return b.line("a breaker moved")["to"] == "closed" })
	if line := b.line("a breaker moved"); line["reason"] != "it was closed by hand" || line["level"] != "INFO" {
		t.Errorf("the line is %v", line)
	}
	eventually(t, "the history has both", func() bool {
		var moves []string
		for _, d := range b.kept().Decisions {
			if d.Kind == timeline.Breaker {
				moves = append(moves, d.Action)
			}
		}
		return slices.Equal(moves, []string{"open", "closed"})
	})
}
