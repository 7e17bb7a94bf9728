package main

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/anteroom-gpu/anteroom/proxy/admin"
	"github.com/anteroom-gpu/anteroom/telemetry/timeline"
)

// The panels, by their place on the screen.
const (
	gpusPanel = iota
	classesPanel
	runningPanel
	waitingPanel
	backendsPanel
	requestsPanel
	panelCount
)

// panel is a table: its rows are made anew of what is known each time.
type panel struct {
	name    string
	columns []column
	rows    func(t *top) []line
}

type column struct {
	title  string
	number bool // sorted and aligned as one
	// drop says when it is left out where the screen is narrow: the highest first. 0:
	// never.
	drop int
}

// line is one of a table. The last cell takes the rest of the line.
type line struct {
	key    string // which stays while the figures change
	cells  []cell
	tone   tone
	detail string // all that there is to say of it
	offers []offer
}

type cell struct {
	text  string
	order float64 // in a column of numbers
}

// offer is a control call that a key makes, once it is confirmed.
type offer struct {
	key, verb string
	does      string // as said before
	path      string
}

// done is what is said then.
func (o offer) done() string { return "done: " + o.does }

// tone is the meaning of a colour.
type tone int

const (
	plainTone tone = iota
	goodTone
	warnTone
	badTone
	dimTone
)

var panels = [panelCount]panel{
	{"GPU", []column{{"", false, 0}, {"MEMORY", true, 2}, {"USED", true, 0}, {"AVAILABLE", true, 0}, {"CAPACITY", true, 3},
		{"STATE", false, 4}, {"HELD BY", false, 0}}, gpuRows},
	{"CLASS", []column{{"", false, 0}, {"RUNNING", true, 0}, {"SLOTS", true, 0}, {"QUEUED", true, 0}, {"LIMIT", true, 2}, {"OLDEST", true, 0},
		{"GRANTED", true, 1}, {"REFUSED", true, 1}, {"STATE", false, 0}}, classRows},
	{"RUNNING", []column{{"", true, 0}, {"CLASS", false, 0}, {"BACKEND", false, 0}, {"VRAM", true, 0}, {"RUNS FOR", true, 0},
		{"ENDS IN", true, 1}, {"TENANT", false, 0}}, runningRows},
	{"WAITING", []column{{"", true, 0}, {"CLASS", false, 0}, {"POS", true, 2}, {"BACKEND", false, 1}, {"TENANT", false, 4},
		{"VRAM", true, 3}, {"WAITED", true, 0},
		{"STARTS IN", true, 0}, {"WAITS FOR", false, 0}}, waitingRows},
	{"BACKEND", []column{{"", false, 0}, {"RESIDENCY", false, 0}, {"RUNNING", true, 0}, {"BREAKER", false, 1}, {"BOOKED", true, 0},
		{"RETAINED", true, 2}, {"UNLOADS", true, 3},
		{"STATE", false, 0}}, backendRows},
	{"ENDED", []column{{"", true, 0}, {"CLASS", false, 0}, {"BACKEND", false, 2}, {"RESULT", false, 0}, {"STATUS", true, 0},
		{"WAITED", true, 0}, {"RAN", true, 0},
		{"TOTAL", true, 3}, {"TENANT", false, 4}, {"REQUEST", false, 0}}, requestRows},
}

// rows are those of a panel that the filter lets through, as they are sorted.
func (t *top) rows(i int) []line {
	all := panels[i].rows(t)
	if t.filter != "" {
		all = slices.DeleteFunc(all, func(r line) bool { return !r.has(t.filter) })
	}
	by, reversed := t.panels[i].sort-1, t.panels[i].reversed
	if by < 0 {
		if reversed {
			slices.Reverse(all)
		}
		return all
	}
	slices.SortStableFunc(all, func(a, b line) int {
		order := cmp.Compare(a.cells[by].text, b.cells[by].text)
		if panels[i].columns[by].number {
			order = cmp.Compare(a.cells[by].order, b.cells[by].order)
		}
		if reversed {
			order = -order
		}
		return order
	})
	return all
}

// has says that a row has a text in a cell or in its detail, in capitals or not.
func (r line) has(text string) bool {
	text = strings.ToLower(text)
	return strings.Contains(strings.ToLower(r.detail), text) ||
		slices.ContainsFunc(r.cells, func(c cell) bool { return strings.Contains(strings.ToLower(c.text), text) })
}

// clean removes control characters from a text that others wrote, because they could
// control the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return '?'
		}
		return r
	}, s)
}

func text(s string) cell { return cell{text: clean(s)} }

func figure[N int | int64 | uint64](n N) cell { return cell{fmt.Sprint(n), float64(n)} }

func amount(n int64) cell { return cell{bytesOf(n), float64(n)} }

// span is a time in seconds; below zero there is none.
func span(s float64) cell {
	if s < 0 {
		return cell{"-", -1}
	}
	return cell{secondsOf(s), s}
}

// until is how long it is to a moment; nil: that is not known.
func (t *top) until(at *time.Time) cell {
	if at == nil {
		return cell{"-", 1e18}
	}
	return span(max(0, at.Sub(t.state.At).Seconds()))
}

// barWidth is the length of a card's bar.
const barWidth = 20

// bar draws a card: # runs, = retained, x unmanaged, ? unattributed, . free, - reserve.
func bar(capacity int64, parts ...int64) string {
	if capacity <= 0 {
		return strings.Repeat(" ", barWidth)
	}
	var b strings.Builder
	sum := int64(0)
	for i, n := range parts {
		sum += max(0, n)
		upTo := min(barWidth, int((sum*barWidth+capacity/2)/capacity))
		b.WriteString(strings.Repeat(string("#=x?.-"[i]), max(0, upTo-b.Len())))
	}
	return b.String() + strings.Repeat(" ", barWidth-b.Len())
}

func gpuRows(t *top) (rows []line) {
	for _, g := range t.state.GPUs {
		running := g.Booked - g.Retained
		r := line{key: g.Name, cells: []cell{text(g.Name),
			{"[" + bar(g.Capacity, running, g.Retained, g.Unmanaged, g.Unattributed, g.Available, g.Reserve) + "]", float64(g.Available)},
			amount(g.Booked + g.Unmanaged + g.Unattributed), amount(g.Available), amount(g.Capacity),
			text(words(when(g.Source == "", "ledger"), g.Source, when(g.Stale, "stale"), when(g.Lost, "lost"))),
			text(strings.Join(t.heldBy(g.Name, g.Unattributed, g.Unmanaged, g.Processes), ", "))}}
		if r.detail = fmt.Sprintf("%s: %s = running %s + retained %s + unmanaged %s + unattributed %s + available %s + reserve %s", g.Name,
			bytesOf(g.Capacity), bytesOf(running),
			bytesOf(g.Retained), bytesOf(g.Unmanaged), bytesOf(g.Unattributed), bytesOf(g.Available), bytesOf(g.Reserve)); g.Error != "" {
			r.detail += "; " + clean(g.Error)
		}
		if g.Lost {
			r.tone = badTone
		} else if g.Stale || g.Error != "" || g.Unattributed > 0 {
			r.tone = warnTone
		}
		rows = append(rows, r)
	}
	return rows
}

// heldBy lists which backends and processes hold memory of a card, the largest first.
func (t *top) heldBy(gpu string, unattributed, unmanaged int64, processes []admin.Holder) []string {
	type part struct {
		name string
		n    int64
		note string
	}
	var parts []part
	for _, b := range t.state.Backends {
		for _, a := range b.Accounts {
			if a.GPU != gpu || a.Booked == 0 {
				continue
			}
			p := part{name: replicaName(b, a.Replica), n: a.Booked}
			if a.Retained > 0 && a.Retained < a.Booked {
				p.note = " (" + bytesOf(a.Retained) + " retained)"
			} else if a.Retained > 0 {
				p.note = " (retained)"
			}
			parts = append(parts, p)
		}
	}
	if unmanaged > 0 {
		p := part{name: "unmanaged", n: unmanaged}
		var names []string
		for _, x := range processes {
			if x.Backend == "" {
				names = append(names, x.Name)
			}
		}
		if len(names) > 0 {
			p.note = " (" + strings.Join(names, ", ") + ")"
		}
		parts = append(parts, p)
	}
	if unattributed > 0 {
		parts = append(parts, part{name: "unattributed", n: unattributed})
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.n, a.n) })
	var said []string
	for _, p := range parts {
		said = append(said, p.name+" "+bytesOf(p.n)+p.note)
	}
	return said
}

// replicaName names a replica where there are more than one.
func replicaName(b admin.Backend, replica int) string {
	if len(b.Replicas) > 1 {
		return b.Name + "/" + strconv.Itoa(replica)
	}
	return b.Name
}

// classOffers are the control calls for a class.
func (t *top) classOffers(name string) []offer {
	path := "/api/classes/" + url.PathEscape(name)
	for _, c := range t.state.Classes {
		if c.Name == name && c.Paused {
			return []offer{{"p", "resume", "resume class " + clean(name), path + "/resume"}}
		}
	}
	return []offer{{"p", "pause", "pause class " + clean(name), path + "/pause"}}
}

func classRows(t *top) (rows []line) {
	for _, c := range t.state.Classes {
		r := line{key: c.Name, offers: t.classOffers(c.Name), cells: []cell{text(c.Name), figure(c.Running), figure(c.Slots), figure(c.Queued),
			figure(c.QueueLimit), span(c.OldestWait),
			figure(c.Granted), figure(c.Refused), text(words(when(c.Paused, "paused")))}}
		if c.Paused {
			r.tone = warnTone
		}
		r.detail = fmt.Sprintf("%s: %d of %d slots taken, %d of at most %d wait", clean(c.Name), c.Running, c.Slots, c.Queued, c.QueueLimit)
		rows = append(rows, r)
	}
	return rows
}

func runningRows(t *top) (rows []line) {
	for _, x := range t.state.Running {
		id := strconv.FormatUint(x.ID, 10)
		r := line{key: id, cells: []cell{figure(x.ID), text(x.Class), text(x.Backend), amount(x.VRAM), span(x.Elapsed), t.until(x.EstimatedEnd),
			text(words(x.Tenant))},
			detail: fmt.Sprintf("grant %s of class %s at backend %s", id, clean(x.Class), clean(x.Backend))}
		r.offers = append(t.classOffers(x.Class), offer{"x", "release", "release grant " + id + ", of work that is known to be over",
			"/api/grants/" + id + "/release"})
		rows = append(rows, r)
	}
	return rows
}

func waitingRows(t *top) (rows []line) {
	for _, w := range t.queue.Waiting {
		id := strconv.FormatUint(w.ID, 10)
		r := line{key: id, cells: []cell{figure(w.ID), text(w.Class), figure(w.Position), text(w.Backend), text(words(w.Tenant)),
			amount(w.VRAM), span(w.Waited),
			t.until(w.EstimatedStart), text(waitsFor(w))}, detail: clean(whyWaits(w))}
		if w.Strict {
			r.tone = warnTone
		}
		r.offers = append([]offer{{"c", "cancel", fmt.Sprintf("cancel request %s of class %s, which has waited %s", id, clean(w.Class),
			secondsOf(w.Waited)), "/api/queue/" + id + "/cancel"}},
			t.classOffers(w.Class)...)
		rows = append(rows, r)
	}
	return rows
}

// whyWaits is all that is known of why a request waits.
func whyWaits(w admin.Waiter) string {
	said := fmt.Sprintf("request %d %s", w.ID, w.Says)
	var by []string
	for _, id := range w.BlockedBy.Running {
		by = append(by, fmt.Sprintf("grant %d", id))
	}
	for _, k := range w.BlockedBy.Idle {
		by = append(by, fmt.Sprintf("idle %s with %s", k.Backend, bytesOf(k.High)))
	}
	for _, p := range w.BlockedBy.Processes {
		by = append(by, fmt.Sprintf("%s (PID %d) with %s", p.Name, p.PID, bytesOf(p.Used)))
	}
	if len(by) > 0 {
		said += "; in the way: " + strings.Join(by, ", ")
	}
	if w.Strict {
		said += "; nothing may overtake it any more"
	}
	return said
}

func backendRows(t *top) (rows []line) {
	for _, b := range t.state.Backends {
		path := "/api/backends/" + url.PathEscape(b.Name)
		name := clean(b.Name)
		offers := []offer{{"d", "drain", "drain backend " + name, path + "/drain"}}
		if b.Draining {
			offers = []offer{{"d", "resume", "resume backend " + name, path + "/resume"}}
		}
		offers = append(offers, offer{"u", "unload", "unload backend " + name, path + "/reclaim"}, offer{"w", "wake", "wake backend " + name,
			path + "/wake"},
			offer{"b", "close breaker", "close the breaker of backend " + name, path + "/breaker/close"})
		for i, x := range b.Replicas {
			booked, retained := holds(b, x.Replica)
			running := figure(b.Running) // of all replicas
			if i > 0 {
				running.text = ""
			}
			r := line{key: name + "/" + strconv.Itoa(x.Replica), offers: offers, cells: []cell{text(replicaName(b, x.Replica)),
				text(words(x.Residency)), running, text(x.Breaker),
				amount(booked), amount(retained), figure(x.Swaps), text(stateOf(b, i))},
				detail: fmt.Sprintf("%s at %s", name, clean(x.URL))}
			switch {
			case x.Breaker == "open" || x.Residency == "failed" || !x.Healthy:
				r.tone = badTone
			case b.Draining || x.Breaker != "closed":
				r.tone = warnTone
			case x.Residency == "asleep":
				r.tone = dimTone
			}
			rows = append(rows, r)
		}
	}
	return rows
}

func requestRows(t *top) (rows []line) {
	for _, q := range t.requests {
		trace, _ := q.Trace.MarshalText()
		result := q.Result
		if q.Code != "" {
			result = q.Code
		}
		r := line{key: fmt.Sprint(keyOf(q)), cells: []cell{{q.Ended.In(t.zone).Format("15:04:05"), float64(q.Ended.UnixNano())},
			text(words(q.Class)), text(words(q.Backend)), text(words(result)),
			figure(q.Status), span(q.Wait), span(q.Execute), span(q.Total), text(words(q.Tenant)),
			text(strings.TrimSpace(q.Method + " " + q.Path + " " + q.Model))},
			detail: clean(fmt.Sprintf("%s %s, route %s, ended %s, trace %s%s", q.Method, q.Path, words(q.Route), words(q.Result),
				words(string(trace)), lastReason(q)))}
		switch q.Result {
		case "failed":
			r.tone = badTone
		case "refused":
			r.tone = warnTone
		case "cancelled":
			r.tone = dimTone
		}
		rows = append(rows, r)
	}
	return rows
}

// lastReason says what a request waited for last, if it waited.
func lastReason(q timeline.Request) string {
	if q.Reason == "" {
		return ""
	}
	return ", waited for " + q.Reason
}
