package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/anteroom-gpu/anteroom/proxy/admin"
)

// TestAProxyIsSeenAndSteeredFromTheCommandLine runs each command against a process.
func TestAProxyIsSeenAndSteeredFromTheCommandLine(t *testing.T) {
	model, arrived, open := gated(t)
	s := serveProcess(t, model)
	answers := posts(t, s.url, 1)
	<-arrived
	ask := func(wantCode int, args ...string) string {
		t.Helper()
		code, out, errs := anteroom(append(args, "--admin", s.admin)...)
		if code != wantCode {
			t.Errorf("anteroom %s: ends with %d, want %d: %s", strings.Join(args, " "), code, wantCode, errs)
		}
		return out + errs
	}
	has := func(text string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("no %q in\n%s", want, text)
			}
		}
	}
	has(ask(0, "status"), "mode enforce", "CLASS", "work", "BACKEND", "model", "GRANT", "gpu0")
	has(ask(0, "queue"), "nothing waits")
	has(ask(0, "pause", "work", "--reason", "tonight"), "work is paused")
	line := s.until("an operator acted")
	if line["action"] != "pause" || line["class"] != "work" || line["reason"] != "tonight" || line["by"] != operator() {
		t.Errorf("the log has %v", line)
	}
	more := posts(t, s.url, 1)
	queue := func() (q admin.Queue) {
		must(t, json.Unmarshal([]byte(ask(0, "queue", "--json")), &q))
		return q
	}
	for len(queue().Waiting) == 0 {
	}
	has(ask(0, "queue"), "WAITS FOR", "paused (class work)")
	has(ask(0, "status"), "paused")
	has(ask(0, "cancel", fmt.Sprint(queue().Waiting[0].ID)), "is cancelled")
	if got := <-more; !strings.Contains(got, "cancelled_by_operator") {
		t.Errorf("the waiting one got %s", got)
	}
	has(ask(1, "cancel", "999"), "there is no waiting request")
	has(ask(0, "resume", "work"), "work takes work again")
	has(ask(0, "drain", "model"), "model gets no new work")
	has(ask(0, "backends"), "RESIDENCY", "model", "draining")
	has(ask(0, "resume", "model", "--json"), `"action": "resume"`)
	for line = s.until("an operator"); line["action"] != "resume" || line["backend"] == nil; line = s.until("an operator") {
		if line["action"] == "resume" && line["msg"] != "an operator acted" {
			t.Errorf("the log has %v: that mistake was not made", line)
		}
	}
	has(ask(1, "resume", "nothing"), `there is no class and no backend "nothing"`)
	for line = s.until("was refused"); line["action"] != "resume"; line = s.until("was refused") {
	}
	if line["error"] != `there is no backend "nothing"` {
		t.Errorf("the log has %v of the name that is none", line)
	}
	has(ask(1, "unload", "model"), "anteroom unload:")
	has(ask(0, "reload", "--reason", "new figures"), "reloaded")
	has(ask(0, "health"), "ok")
	has(ask(0, "health", "--json"), `"ready":true`)
	var state admin.State
	must(t, json.Unmarshal([]byte(ask(0, "status", "--json")), &state))
	has(ask(0, "release", fmt.Sprint(state.Running[0].ID)), "is given back")
	open()
	if got := <-answers; got != "done" {
		t.Errorf("the running one got %s", got)
	}
	has(ask(0, "record", "--for", "1m"), "at,class,execute", "work")
	has(ask(0, "record", "--format", "trace"), `"traceEvents"`)
	has(ask(1, "record", "--format", "none"), "want csv or trace")
	s.signal(syscall.SIGTERM)
	s.exit()
	has(ask(1, "health"), "want --admin")
	has(ask(1, "status"), "want --admin")
}

func TestControlsNeedTheirArgument(t *testing.T) {
	for _, a := range actions {
		args := []string{a.name, "one", "two"}
		if a.argument != "" {
			args = args[:1]
		}
		if code, _, errs := anteroom(args...); code != 2 || !strings.Contains(errs, "usage: anteroom "+a.name) {
			t.Errorf("%v: %d %s, want 2 and its usage", args, code, errs)
		}
	}
}

// TestNamesAndTheTokenReachTheListener as they are.
func TestNamesAndTheTokenReachTheListener(t *testing.T) {
	got := make(chan string, 1)
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.URL.EscapedPath() + " " + r.URL.RawQuery + " " + r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(listener.Close)
	if code, _, errs := anteroom("forget", "routes[0] a/b", "--admin", listener.URL, "--token", "secret", "--reason", "a b&c"); code != 0 {
		t.Errorf("it ends with %d: %s", code, errs)
	}
	if want := "POST /api/learned/routes%5B0%5D%20a%2Fb/forget reason=a+b%26c Bearer secret"; <-got != want {
		t.Errorf("the listener does not get %s", want)
	}
}
