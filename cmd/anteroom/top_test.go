package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image/color"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

var rewriteScreens = flag.Bool("rewrite-screens", false, "write what top shows into testdata/top")

// screen is top without a terminal: what its commands would do is not done.
type screen struct {
	t *testing.T
	top
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aScreen shows the state of testdata/top.
func aScreen(t *testing.T, width, height int) *screen {
	t.Helper()
	s := &screen{t, newTop(newClient("http://127.0.0.1:9090", ""))}
	s.zone, s.plain = time.UTC, true
	s.send(tea.WindowSizeMsg{Width: width, Height: height})
	var m stateMsg
	read := func(name string, into any) {
		text, err := os.ReadFile(filepath.Join("testdata", "top", name))
		must(t, err)
		must(t, json.Unmarshal(text, into))
	}
	read("state.json", &m.state)
	read("queue.json", &m.queue)
	var history timeline.History
	read("history.json", &history)
	m.at = noon
	s.send(m)
	s.send(requestsMsg(history.Requests))
	s.now = noon
	return s
}

func (s *screen) send(m tea.Msg) tea.Cmd {
	next, then := s.Update(m)
	s.top = next.(top)
	return then
}

// press presses keys, each by its name as Bubble Tea has it.
func (s *screen) press(keys ...string) (then tea.Cmd) {
	for _, key := range keys {
		k := tea.Key{Text: key}
		switch key {
		case "tab":
			k = tea.Key{Code: tea.KeyTab}
		case "enter":
			k = tea.Key{Code: tea.KeyEnter}
		case "esc":
			k = tea.Key{Code: tea.KeyEscape}
		case "down":
			k = tea.Key{Code: tea.KeyDown}
		case "backspace":
			k = tea.Key{Code: tea.KeyBackspace}
		default:
			k.Code = []rune(key)[0]
		}
		then = s.send(tea.KeyPressMsg(k))
	}
	return then
}

// type types a text.
func (s *screen) typeText(text string) {
	for _, r := range text {
		s.press(string(r))
	}
}

func (s *screen) text() string { return ansi.Strip(strings.Join(s.lines(), "\n")) }

// has says which of some texts are not on the screen.
func (s *screen) has(wants ...string) {
	s.t.Helper()
	for _, want := range wants {
		if !strings.Contains(s.text(), want) {
			s.t.Errorf("no %q in\n%s", want, s.text())
		}
	}
}

// first is the first column of a panel, from top to bottom.
func (s *screen) first(panel int) (all []string) {
	for _, r := range s.tables[panel] {
		all = append(all, r.cells[0].text)
	}
	return all
}

func TestTopFitsItsScreen(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		keys          []string
	}{
		{"80x24", 80, 24, nil}, {"80x24-backends", 80, 24, []string{"5", "down"}}, {"80x24-help", 80, 24, []string{"?"}},
		{"200x60", 200, 60, nil}, {"60x12", 60, 12, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := aScreen(t, c.width, c.height)
			s.press(c.keys...)
			lines := s.lines()
			if len(lines) != c.height {
				t.Errorf("it has %d lines, want %d", len(lines), c.height)
			}
			for i, l := range lines {
				if w := ansi.StringWidth(l); w > c.width {
					t.Errorf("line %d is %d wide", i, w)
				}
			}
			file := filepath.Join("testdata", "top", c.name+".txt")
			got := s.text() + "\n"
			if *rewriteScreens {
				must(t, os.WriteFile(file, []byte(got), 0o644))
			}
			want, err := os.ReadFile(file)
			must(t, err)
			if got != string(want) {
				t.Errorf("it shows\n%swant\n%s(go test ./cmd/anteroom -run TopFits -rewrite-screens)", got, want)
			}
		})
	}
	for size := range 90 {
		if s := aScreen(t, size, size/2); len(s.lines()) > max(1, size/2) {
			t.Errorf("%d × %d: %d lines", size, size/2, len(s.lines()))
		}
	}
}

func TestTopFollowsWhatHappens(t *testing.T) {
	s := aScreen(t, 80, 24)
	s.has("running 3", "waiting 4", "live 12:00:00")
	m := stateMsg{state: s.state, at: noon.Add(time.Second)}
	m.state.Classes = slices.Clone(m.state.Classes)
	m.state.Classes[0].Queued, m.state.Classes[0].Running = 0, 7
	s.send(m)
	s.has("waiting 1", "running 9", "4 WAITING", "none")
	s.send(requestsMsg{{At: noon, Ended: noon.Add(2 * time.Second), Class: "light", Result: "ok", Status: 299, Method: "POST", Path: "/new"}})
	s.has("299", "POST /new")
	before := len(s.requests)
	s.send(requestsMsg(slices.Clone(s.requests)))
	if len(s.requests) != before {
		t.Errorf("what was known is listed twice: %d requests, want %d", len(s.requests), before)
	}
	// While no events come it asks.
	s.send(streamMsg{})
	s.send(tickMsg(noon))
	if s.asking {
		t.Error("the state is asked for while it comes by itself")
	}
	s.send(streamMsg{errors.New("no history is kept")})
	s.send(tickMsg(noon))
	if !s.asking {
		t.Error("the state is not asked for while no events come")
	}
}

func TestTopSaysHowOldItsFiguresAre(t *testing.T) {
	s := aScreen(t, 100, 24)
	s.has("live 12:00:00")
	s.send(tickMsg(noon.Add(4 * time.Second)))
	s.has("STALE for 4s, as of 12:00:00")
	s.send(stateMsg{err: errors.New("connection refused"), at: noon.Add(5 * time.Second)})
	s.send(tickMsg(noon.Add(12 * time.Second)))
	s.has("DISCONNECTED for 7s, as of 12:00:00", "connection refused", "heavy")
	s.send(stateMsg{state: s.state, queue: s.queue, at: noon.Add(13 * time.Second)})
	s.has("live")
	s.send(streamMsg{errors.New("no history is kept")})
	s.has("not follow")
	s.press("6")
	s.has("not followed: no history is kept")

	empty := &screen{t, newTop(newClient("http://127.0.0.1:9090", ""))}
	empty.send(tea.WindowSizeMsg{Width: 80, Height: 24})
	empty.has("connecting", "the first answer is awaited")
}

func TestTopSortsAndFilters(t *testing.T) {
	s := aScreen(t, 120, 40)
	want := func(why string, want ...string) {
		t.Helper()
		if got := s.first(waitingPanel); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", why, got, want)
		}
	}
	want("as they came", "12", "13", "14", "15")
	s.press("s")
	want("by id, the largest first", "15", "14", "13", "12")
	s.has("4 WAITING▼")
	s.press("S")
	want("the other way round", "12", "13", "14", "15")
	for range 6 {
		s.press("s")
	}
	s.has("WAITED▼")
	want("by the time waited", "12", "13", "15", "14")
	s.press("s")
	s.has("STARTS IN▼")
	want("by the start, what is not known last of all", "15", "14", "13", "12")
	s.press("s", "s")
	want("as they came again", "12", "13", "14", "15")

	s.press("/")
	s.typeText("LIGHTx")
	s.press("backspace")
	want("while a filter is typed", "15")
	s.press("enter")
	s.has(`with "LIGHT"`)
	s.press("q"[:0] + "esc")
	want("without it", "12", "13", "14", "15")
}

// TestTheCursorStaysOnItsRow while rows come and go around it.
func TestTheCursorStaysOnItsRow(t *testing.T) {
	s := aScreen(t, 80, 24)
	selected := func() string {
		r, _ := s.selected()
		return r.key
	}
	if got := selected(); got != "12" {
		t.Fatalf("at the start %s is selected, want the first", got)
	}
	s.press("down", "down")
	m := stateMsg{state: s.state, queue: admin.Queue{Waiting: s.queue.Waiting[1:]}, at: noon}
	s.send(m)
	if got := selected(); got != "14" {
		t.Errorf("after the first has started %s is selected, want 14 still", got)
	}
	m.queue.Waiting = []admin.Waiter{m.queue.Waiting[0], m.queue.Waiting[2]}
	s.send(m)
	if got := selected(); got != "15" {
		t.Errorf("after 14 has started %s is selected, want the one that took its line", got)
	}
	m.queue.Waiting = nil
	s.send(m)
	if got := selected(); got != "" {
		t.Errorf("%s is selected of none", got)
	}
}

// TestAControlIsConfirmed and meant for what was selected when its key was pressed.
func TestAControlIsConfirmed(t *testing.T) {
	calls := make(chan string, 10)
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls <- r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Authorization")
		if strings.Contains(r.URL.Path, "cancel") {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(403)
			io.WriteString(w, `{"detail": "the token only reads"}`)
			return
		}
		w.WriteHeader(204)
	}))
	t.Cleanup(listener.Close)
	s := aScreen(t, 120, 24)
	s.client = newClient(listener.URL, "secret")
	none := func(why string) {
		t.Helper()
		select {
		case call := <-calls:
			t.Errorf("%s: %s", why, call)
		default:
		}
	}
	if then := s.press("c"); then != nil {
		t.Error("c does something at once")
	}
	s.has("Cancel request 12 of class heavy", "enter does, esc does not")
	s.press("esc")
	s.has("not done: cancel request 12")
	none("after esc")

	s.press("c")
	s.send(stateMsg{state: s.state, queue: admin.Queue{Waiting: s.queue.Waiting[1:]}, at: noon}) // 12 has started
	s.typeText("too long")
	s.send(s.press("enter")())
	if got, want := <-calls, "POST /api/queue/12/cancel?reason=too+long Bearer secret"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.has("cancel request 12", "the token only reads")

	s.send(s.press("p", "enter")())
	if got, want := <-calls, "POST /api/classes/heavy/pause Bearer secret"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	s.has("done: pause class heavy")
	for keys, want := range map[string]string{
		"2 down p enter": "POST /api/classes/light/resume", // it is paused
		"3 x enter":      "POST /api/grants/7/release",
		"5 d enter":      "POST /api/backends/flux/drain",
		"5 u enter":      "POST /api/backends/flux/reclaim",
		"5 w enter":      "POST /api/backends/flux/wake",
		"5 b enter":      "POST /api/backends/flux/breaker/close",
	} {
		then := s.press(strings.Fields(keys)...)
		if then == nil {
			t.Errorf("%s: nothing is done", keys)
			continue
		}
		then()
		if got := <-calls; got != want+" Bearer secret" {
			t.Errorf("%s: got %s, want %s", keys, got, want)
		}
	}
	s.press("1", "c", "p", "enter")
	none("a card has no controls")
}

// TestTopHasNoColourWhereNoneIsWanted, and others on a light background.
func TestTopHasNoColourWhereNoneIsWanted(t *testing.T) {
	s := aScreen(t, 120, 40)
	codes := func() string { return strings.Join(s.lines(), "") }
	colours := []string{"\x1b[3", "\x1b[9", ";3", ";9"}
	for _, c := range colours {
		if strings.Contains(codes(), c) {
			t.Errorf("without colours there is %q", c)
		}
	}
	s.plain = false
	dark := codes()
	if !strings.Contains(dark, "\x1b[91m") {
		t.Error("what failed has no colour")
	}
	s.send(tea.BackgroundColorMsg{Color: color.White})
	if light := codes(); light == dark || strings.Contains(light, "\x1b[33m") {
		t.Error("a light background gets the dark one's colours")
	}
	for _, value := range []string{"1", "yes"} {
		t.Setenv("NO_COLOR", value)
		if !newTop(s.client).plain {
			t.Errorf("NO_COLOR=%s is not heeded", value)
		}
	}
}

// TestNothingOfAClientsSteersTheTerminal that an operator looks at.
func TestNothingOfAClientsSteersTheTerminal(t *testing.T) {
	s := aScreen(t, 200, 60)
	bad := "\x1b]0;owned\a\x1b[2J\u202e\r\n"
	s.send(requestsMsg{{At: noon, Ended: noon.Add(time.Second), Class: "heavy", Tenant: bad, Model: bad, Path: "/" + bad, Result: "ok", Status: 200}})
	s.queue.Waiting[0].Tenant, s.queue.Waiting[0].Says = bad, bad
	s.send(stateMsg{state: s.state, queue: s.queue, at: noon})
	s.has("owned")
	for _, panel := range []string{"4", "6"} {
		s.press(panel)
		for _, l := range s.lines() {
			if strings.ContainsAny(ansi.Strip(l), "\a\x1b\r\n\u202e") || strings.Contains(l, "\x1b]") || strings.Contains(l, "2J") &&
				strings.Contains(l, "\x1b[2J") {
				t.Errorf("%q steers", l)
			}
		}
	}
}

func TestTopNeedsATerminalAndAProxy(t *testing.T) {
	if code, stdout, stderr := anteroom("top"); code != 1 || stdout != "" || !strings.Contains(stderr, "want one, or anteroom status") {
		t.Errorf("without a terminal: %d %q %q", code, stdout, stderr)
	}
}

// TestTopReadsTheEvents of a real listener, and comes back to it.
func TestTopReadsTheEvents(t *testing.T) {
	model, arrived, open := gated(t)
	open()
	s := serveProcess(t, model)
	ask := func(path string) {
		res, err := http.Post(s.url+path, "text/plain", strings.NewReader("x"))
		must(t, err)
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		<-arrived
	}
	ask("/before")
	got := make(chan tea.Msg, 1000)
	go follow(t.Context(), newClient(s.admin, ""), func(m tea.Msg) { got <- m })
	paths := func(m tea.Msg) string {
		list, _ := m.(requestsMsg)
		var all []string
		for _, r := range list {
			all = append(all, r.Path)
		}
		return strings.Join(all, " ")
	}
	state := false
	wait := func(path string) {
		t.Helper()
		for m := range got {
			if now, ok := m.(stateMsg); ok && len(now.state.Classes) == 1 {
				state = true
			}
			if paths(m) == path {
				return
			}
			if failed, ok := m.(streamMsg); ok && failed.err != nil {
				t.Fatal(failed.err)
			}
		}
	}
	wait("/before")
	ask("/after")
	wait("/after")
	if !state {
		t.Error("the stream has no state")
	}
	must(t, s.process.Process.Kill())
	for m := range got {
		if failed, ok := m.(streamMsg); ok && failed.err != nil {
			break
		}
	}
}

// TestTopAgreesWithTheState of the same moment.
func TestTopAgreesWithTheState(t *testing.T) {
	model, arrived, open := gated(t)
	defer open()
	s := serveProcess(t, model)
	posts(t, s.url, 5)
	for range 5 {
		<-arrived
	}
	x := &screen{t, newTop(newClient(s.admin, ""))}
	x.send(tea.WindowSizeMsg{Width: 160, Height: 40})
	m := x.ask()().(stateMsg)
	must(t, m.err)
	x.send(m)
	var state struct {
		GPUs    []struct{ Booked, Available int64 }
		Classes []struct{ Running, Queued int }
		Running []struct{ ID uint64 }
	}
	must(t, newClient(s.admin, "").get("/api/state", &state))
	var ids []string
	for _, r := range state.Running {
		ids = append(ids, fmt.Sprint(r.ID))
	}
	if got := x.first(runningPanel); !slices.Equal(got, ids) || len(ids) != 5 {
		t.Errorf("running are %v, want %v", got, ids)
	}
	x.has(fmt.Sprintf("running %d  waiting %d", state.Classes[0].Running, state.Classes[0].Queued))
}
