package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"

	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// runTop is `anteroom top`: what status, queue and backends print, and the last requests,
// on a screen that is updated.
func runTop(args []string, stdout, stderr io.Writer) int {
	fs := newFlags("top", "", "Show the cards, the queues, the backends and the last requests of a running proxy as they change.\n"+
		"Sort, filter, pause, drain and cancel by keys; ? lists them.", stderr)
	reach := clientFlags(fs)
	if code, done := parse(fs, args, 0); done {
		return code
	}
	fail := func(err error) int {
		fmt.Fprintf(stderr, "anteroom top: %v\n", err)
		return 1
	}
	if !term.IsTerminal(os.Stdout.Fd()) || !term.IsTerminal(os.Stdin.Fd()) {
		return fail(errors.New("this is no terminal: want one, or anteroom status, which prints once"))
	}
	c := reach()
	c.http.Timeout = askTime
	first := newTop(c)
	// An error at the start is printed on the command line.
	if err := c.get("/api/state", new(admin.State)); err != nil {
		return fail(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	p := tea.NewProgram(first, tea.WithContext(ctx))
	go follow(ctx, c, p.Send)
	if _, err := p.Run(); err != nil && !errors.Is(err, tea.ErrInterrupted) {
		return fail(err)
	}
	return 0
}

const (
	// askTime is how long one answer may take.
	askTime = 5 * time.Second
	// everySecond is how often the times on the screen are updated, and how often the state
	// is asked for while no events come.
	everySecond = time.Second
	// staleAfter is the age from which on figures are shown as old ones.
	staleAfter = 3 * time.Second
	// mostRequests is how many of the last requests are listed.
	mostRequests = 500
)

// top is the screen, as Bubble Tea has it: Update takes what happens, View shows what
// is known. Everything in it belongs to the program's one goroutine.
type top struct {
	client        *client
	zone          *time.Location
	width, height int
	light         bool // the terminal's background is
	plain         bool // no colours

	now      time.Time
	state    admin.State
	queue    admin.Queue
	requests []timeline.Request // that have ended, the last one first
	answered time.Time          // when the state came; zero: never yet
	failed   error              // of the last time that it was asked for; nil: it came
	since    time.Time          // of which it fails
	asking   bool
	streams  bool  // events come
	stream   error // why they do not; nil: that is not known

	panels [panelCount]panelState
	tables [panelCount][]line // as they are shown; settle makes them
	focus  int
	filter string
	mode   mode
	offer  offer  // what is to be confirmed
	typed  string // the filter, or the reason, while it is being typed
	said   string // of the last control call
	wrong  bool   // it was refused
}

// mode says what keys do.
type mode int

const (
	browsing mode = iota
	filtering
	confirming
	helping
)

// panelState is the cursor and the sorting of a panel.
type panelState struct {
	sort     int // a column, from 1 on; 0: as the proxy lists them
	reversed bool
	key      string // of the row under the cursor; empty: it stays where it is
	cursor   int    // where that was; the row that is there is taken if it is gone
	first    int    // the first row that is shown
}

// What comes from outside.
type (
	tickMsg  time.Time
	stateMsg struct {
		state admin.State
		queue admin.Queue
		at    time.Time
		err   error
	}
	requestsMsg []timeline.Request // that have ended, the last one last
	streamMsg   struct{ err error }
	doneMsg     struct {
		offer offer
		err   error
	}
)

func newTop(c *client) top {
	t := top{client: c, zone: time.Local, now: time.Now(), plain: os.Getenv("NO_COLOR") != ""}
	t.focus = waitingPanel
	t.panels[requestsPanel] = panelState{sort: 1, reversed: true}
	return t
}

// Init asks for the state, and whether the terminal is light.
func (t top) Init() tea.Cmd { return tea.Batch(tea.RequestBackgroundColor, t.ask(), tick()) }

func tick() tea.Cmd { return tea.Tick(everySecond, func(at time.Time) tea.Msg { return tickMsg(at) }) }

// ask asks for the state and the queue, one after the other.
func (t top) ask() tea.Cmd {
	return func() tea.Msg {
		var m stateMsg
		if m.err = t.client.get("/api/state", &m.state); m.err == nil {
			m.err = t.client.get("/api/queue", &m.queue)
		}
		m.at = time.Now()
		return m
	}
}

// Update takes a message.
func (t top) Update(m tea.Msg) (tea.Model, tea.Cmd) {
	var then tea.Cmd
	switch m := m.(type) {
	case tea.WindowSizeMsg:
		t.width, t.height = m.Width, m.Height
	case tea.BackgroundColorMsg:
		t.light = !m.IsDark()
	case tickMsg:
		t.now, then = time.Time(m), tick()
		if !t.streams && !t.asking {
			t.asking, then = true, tea.Batch(then, t.ask())
		}
	case stateMsg:
		t.asking, t.now = false, m.at
		switch {
		case m.err == nil:
			t.state, t.queue, t.answered, t.failed = m.state, m.queue, m.at, nil
		case t.failed == nil:
			t.failed, t.since = m.err, m.at
		default:
			t.failed = m.err
		}
	case requestsMsg:
		t.requests = addRequests(t.requests, m)
	case streamMsg:
		t.streams, t.stream = m.err == nil, m.err
	case doneMsg:
		t.said, t.wrong = m.offer.done(), false
		if m.err != nil {
			t.said, t.wrong = m.offer.does+": "+m.err.Error(), true
		}
	case tea.PasteMsg:
		t.typed += clean(m.Content)
	case tea.KeyPressMsg:
		t, then = t.press(m)
	}
	return t.settle(), then
}

// requestKey tells requests apart that have ended.
type requestKey struct {
	trace     timeline.TraceID
	at, ended int64
	grant     uint64
}

func keyOf(r timeline.Request) requestKey {
	return requestKey{r.Trace, r.At.UnixNano(), r.Ended.UnixNano(), r.Grant}
}

// addRequests puts ended requests before the known ones. A stream that was opened anew
// repeats some known ones.
func addRequests(known, more []timeline.Request) []timeline.Request {
	have := make(map[requestKey]bool, len(known))
	for _, r := range known {
		have[keyOf(r)] = true
	}
	var all []timeline.Request
	for _, r := range slices.Backward(more) {
		if len(all) < mostRequests && !have[keyOf(r)] {
			all = append(all, r)
		}
	}
	return append(all, known[:min(len(known), mostRequests-len(all))]...)
}

// press handles a key.
func (t top) press(k tea.KeyPressMsg) (top, tea.Cmd) {
	if k.String() == "ctrl+c" {
		return t, tea.Quit
	}
	switch t.mode {
	case filtering:
		switch t = t.typing(k); k.String() {
		case "enter":
			t.mode = browsing
		case "esc":
			t.mode, t.typed = browsing, ""
		}
		t.filter = t.typed
		return t, nil
	case confirming:
		switch t = t.typing(k); k.String() {
		case "enter":
			t.mode = browsing
			return t, t.act(t.offer, t.typed)
		case "esc":
			t.mode, t.said, t.wrong = browsing, "not done: "+t.offer.does, false
		}
		return t, nil
	case helping:
		t.mode = browsing
		return t, nil
	}
	t.said = ""
	return t.browse(k.String())
}

// typing adds a key to the text that is being typed.
func (t top) typing(k tea.KeyPressMsg) top {
	if k.String() == "backspace" {
		if r := []rune(t.typed); len(r) > 0 {
			t.typed = string(r[:len(r)-1])
		}
	} else {
		t.typed += clean(k.Text)
	}
	return t
}

// browse handles a key that moves, sorts, or offers a control call.
func (t top) browse(key string) (top, tea.Cmd) {
	p := &t.panels[t.focus]
	page := max(1, t.layout()[t.focus]-1)
	switch key {
	case "q":
		return t, tea.Quit
	case "?", "h":
		t.mode = helping
	case "/":
		t.mode, t.typed = filtering, t.filter
	case "esc":
		t.filter = ""
	case "tab", "right", "l":
		t.focus = (t.focus + 1) % len(panels)
	case "shift+tab", "left":
		t.focus = (t.focus + len(panels) - 1) % len(panels)
	case "1", "2", "3", "4", "5", "6":
		t.focus = int(key[0] - '1')
	case "s":
		p.sort = (p.sort + 1) % (len(panels[t.focus].columns) + 1)
		p.reversed = p.sort > 0 && panels[t.focus].columns[p.sort-1].number
	case "S":
		p.reversed = !p.reversed
	case "up", "k":
		t.moveTo(p.cursor - 1)
	case "down", "j":
		t.moveTo(p.cursor + 1)
	case "pgup":
		t.moveTo(p.cursor - page)
	case "pgdown":
		t.moveTo(p.cursor + page)
	case "home", "g":
		t.moveTo(0)
	case "end", "G":
		t.moveTo(len(t.tables[t.focus]) - 1)
	default:
		if r, ok := t.selected(); ok {
			for _, o := range r.offers {
				if o.key == key {
					t.mode, t.offer, t.typed = confirming, o, ""
				}
			}
		}
	}
	return t, nil
}

// moveTo puts the cursor of the panel in focus on a row, or on the nearest that is.
func (t *top) moveTo(i int) {
	rows := t.tables[t.focus]
	if len(rows) == 0 {
		return
	}
	p := &t.panels[t.focus]
	p.cursor, p.key = min(max(i, 0), len(rows)-1), ""
	if p.cursor > 0 {
		p.key = rows[p.cursor].key
	}
}

// settle makes the tables anew, moves each cursor with its row, and scrolls each panel to
// its cursor.
func (t top) settle() top {
	for i := range panels {
		t.tables[i] = t.rows(i)
	}
	heights := t.layout()
	for i := range t.panels {
		p, rows := &t.panels[i], t.tables[i]
		at := slices.IndexFunc(rows, func(r line) bool { return r.key == p.key })
		if at >= 0 {
			p.cursor = at
		}
		p.cursor = max(0, min(p.cursor, len(rows)-1))
		if at < 0 && p.key != "" && len(rows) > 0 {
			p.key = rows[p.cursor].key
		}
		p.first = max(0, min(p.first, p.cursor, len(rows)-heights[i]))
		p.first = max(p.first, p.cursor-heights[i]+1)
	}
	return t
}

// selected is the row under the cursor of the panel in focus.
func (t top) selected() (line, bool) {
	rows := t.tables[t.focus]
	if i := t.panels[t.focus].cursor; i < len(rows) {
		return rows[i], true
	}
	return line{}, false
}

// act makes a control call.
func (t top) act(o offer, reason string) tea.Cmd {
	return func() tea.Msg { return doneMsg{o, t.client.post(o.path, reason)} }
}
