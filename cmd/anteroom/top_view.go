package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

const (
	// On a smaller screen there is nothing to see.
	smallestWidth, smallestHeight = 40, 8
	// allPanels is the height from which on all panels are shown, and not the one in
	// focus alone.
	allPanels = 18
	// fewest is from how many waiting requests on a list may be only the first of each
	// class.
	fewest = 50
	// detailLines is what is shown of the selected row's detail.
	detailLines = 2
)

// layout is how many rows of each panel are shown: one of each, then those of the
// panel in focus up to half of the screen, then of all in turn.
func (t *top) layout() (heights [panelCount]int) {
	spare := t.height - 2 - detailLines
	if t.height < allPanels {
		heights[t.focus] = max(0, spare-1)
		return heights
	}
	spare -= len(panels)
	grow := func(i, most int) bool {
		if spare <= 0 || heights[i] >= min(most, len(t.tables[i])) {
			return false
		}
		heights[i], spare = heights[i]+1, spare-1
		return true
	}
	for i := range panels {
		grow(i, 1)
	}
	for grow(t.focus, t.height/2) {
	}
	for more := true; more; {
		more = false
		for i := range panels {
			more = grow(i, len(t.tables[i])) || more
		}
	}
	return heights
}

// View draws the screen.
func (t top) View() tea.View {
	v := tea.NewView(strings.Join(t.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "anteroom top"
	return v
}

// lines are the screen's, none wider than it is.
func (t top) lines() []string {
	if t.width < smallestWidth || t.height < smallestHeight {
		return []string{ansi.Truncate(fmt.Sprintf("want a terminal of %d × %d or more", smallestWidth, smallestHeight), max(0, t.width), "")}
	}
	lines := []string{t.header()}
	if t.mode == helping {
		lines = append(lines, helpText...)
	} else if t.answered.IsZero() {
		lines = append(lines, "", t.paint(dimTone, "the first answer is awaited"))
	} else {
		heights := t.layout()
		for i := range panels {
			if t.height >= allPanels || i == t.focus {
				lines = append(lines, t.table(i, heights[i])...)
			}
		}
	}
	room := t.height - 1 - detailLines
	lines = lines[:min(len(lines), room)]
	for len(lines) < room {
		lines = append(lines, "")
	}
	lines = append(lines, t.details()...)
	lines = append(lines, t.footer())
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], t.width, "…")
	}
	return lines
}

// header says which proxy this is, and how old the figures are.
func (t top) header() string {
	running, waiting := 0, 0
	for _, c := range t.state.Classes {
		running, waiting = running+c.Running, waiting+c.Queued
	}
	left := t.bold("anteroom top") + "  " + clean(strings.TrimPrefix(t.client.base, "http://"))
	if !t.answered.IsZero() {
		left += fmt.Sprintf("  %s%s  running %d  waiting %d", t.state.Mode, when(t.state.Draining, " DRAINING"), running, waiting)
	}
	tone, right := t.freshness()
	gap := max(2, t.width-ansi.StringWidth(left)-ansi.StringWidth(right))
	if ansi.StringWidth(left)+gap+ansi.StringWidth(right) > t.width {
		left = ansi.Truncate(left, max(0, t.width-2-ansi.StringWidth(right)), "…")
		gap = 2
	}
	return left + strings.Repeat(" ", gap) + t.paint(tone, right)
}

// old says that the figures are not of this moment.
func (t top) old() bool { return t.failed != nil || t.now.Sub(t.answered) > staleAfter }

// freshness says how old the figures are.
func (t top) freshness() (tone, string) {
	at := ""
	if !t.answered.IsZero() {
		at = " " + t.state.At.In(t.zone).Format("15:04:05")
	}
	switch {
	case t.failed != nil:
		return badTone, fmt.Sprintf("DISCONNECTED for %s%s", t.now.Sub(t.since).Round(time.Second), when(at != "", ", as of"+at))
	case t.answered.IsZero():
		return dimTone, "connecting"
	case t.old():
		return warnTone, fmt.Sprintf("STALE for %s, as of%s", t.now.Sub(t.answered).Round(time.Second), at)
	}
	return goodTone, "live" + at
}

// table draws a panel: its heading, with how many rows there are, and n rows.
func (t top) table(i, n int) []string {
	p, rows, at := panels[i], t.tables[i], t.panels[i]
	widths, shown := t.widths(i)
	var heads []string
	for _, k := range shown {
		heads = append(heads, p.columns[k].pad(t.title(i, k), widths[k], k))
	}
	head := strings.TrimRight(mark(i == t.focus)+strings.Join(heads, "  "), " ")
	head += "  " + padLeft(t.count(i, n), t.width-ansi.StringWidth(head)-3)
	lines := []string{t.heading(i == t.focus, head)}
	for r, x := range rows[min(at.first, len(rows)):min(at.first+n, len(rows))] {
		var cells []string
		for _, k := range shown {
			cells = append(cells, p.columns[k].pad(x.cells[k].text, widths[k], k))
		}
		selected := i == t.focus && at.first+r == at.cursor
		line := mark(selected) + strings.TrimRight(strings.Join(cells, "  "), " ")
		switch {
		case selected:
			line = t.reverse(padRight(line, t.width))
		case t.old():
			line = t.paint(dimTone, line)
		default:
			line = t.paint(x.tone, line)
		}
		lines = append(lines, line)
	}
	return lines
}

func mark(is bool) string {
	if is {
		return "> "
	}
	return "  "
}

// title is a column's heading. The first one's is the panel's.
func (t *top) title(i, k int) string {
	name := panels[i].columns[k].title
	if k == 0 {
		name = fmt.Sprintf("%d %s", i+1, panels[i].name)
	}
	if at := t.panels[i]; at.sort == k+1 && at.reversed {
		name += "▼"
	} else if at.sort == k+1 {
		name += "▲"
	}
	return name
}

// count says how many rows there are, which of them are shown, and what is missing.
func (t *top) count(i, n int) string {
	rows := len(t.tables[i])
	said := fmt.Sprint(rows)
	if rows == 0 {
		said = "none"
	} else if n > 0 && n < rows {
		said = fmt.Sprintf("%d–%d of %d", t.panels[i].first+1, t.panels[i].first+n, rows)
	}
	if t.filter != "" {
		said += fmt.Sprintf(" with %q", t.filter)
	}
	if i == waitingPanel {
		waiting := 0
		for _, c := range t.state.Classes {
			waiting += c.Queued
		}
		if listed := len(t.queue.Waiting); listed >= fewest && waiting > listed {
			said += fmt.Sprintf(", the first of %d", waiting)
		}
	}
	if i == requestsPanel && t.stream != nil {
		said = "not followed"
	}
	return said
}

// widths are the columns' widths, and which of them there is room for. The last one
// takes the rest of the line.
func (t *top) widths(i int) (widths, shown []int) {
	columns := panels[i].columns
	last := len(columns) - 1
	for k := range columns {
		w := ansi.StringWidth(t.title(i, k))
		for _, r := range t.tables[i] {
			if k < last {
				w = max(w, ansi.StringWidth(r.cells[k].text))
			}
		}
		widths, shown = append(widths, w), append(shown, k)
	}
	widths[last] += 14 // for the count
	for {
		sum := 2
		for _, k := range shown {
			sum += widths[k] + 2
		}
		drop := -1
		for at, k := range shown {
			if columns[k].drop > 0 && (drop < 0 || columns[k].drop > columns[shown[drop]].drop) {
				drop = at
			}
		}
		if sum-2 <= t.width || drop < 0 {
			widths[last] = max(0, widths[last]+t.width-sum+2)
			return widths, shown
		}
		shown = slices.Delete(shown, drop, drop+1)
	}
}

// pad brings a text of the k-th column to its width.
func (c column) pad(s string, width, k int) string {
	if c.number && k > 0 {
		return padLeft(s, width)
	}
	return padRight(s, width)
}

func padRight(s string, width int) string {
	s = ansi.Truncate(s, max(0, width), "…")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

func padLeft(s string, width int) string {
	s = ansi.Truncate(s, max(0, width), "…")
	return strings.Repeat(" ", max(0, width-ansi.StringWidth(s))) + s
}

// details are all that there is to say of the selected row, or why there are no new
// figures.
func (t top) details() []string {
	said, tone := "", plainTone
	if r, ok := t.selected(); ok {
		said = r.detail
	}
	switch {
	case t.failed != nil:
		said, tone = clean(t.failed.Error()), badTone
	case t.stream != nil && t.focus == requestsPanel:
		said, tone = "the requests are not followed: "+clean(t.stream.Error()), badTone
	}
	lines := strings.Split(ansi.Wrap(said, t.width-1, ""), "\n")
	if len(lines) > detailLines {
		lines[detailLines-1] = ansi.Truncate(lines[detailLines-1]+" "+strings.Join(lines[detailLines:], " "), t.width-1, "…")
		lines = lines[:detailLines]
	}
	for len(lines) < detailLines {
		lines = append(lines, "")
	}
	for i := range lines {
		lines[i] = t.paint(tone, lines[i])
	}
	return lines
}

// footer is what is being typed, what came of a control call, or what keys do.
func (t top) footer() string {
	switch {
	case t.mode == filtering:
		return t.bold("show what has: ") + t.typed + "_   " + t.paint(dimTone, "enter keeps it, esc shows all")
	case t.mode == confirming:
		return t.paint(warnTone, strings.ToUpper(t.offer.does[:1])+t.offer.does[1:]+"?") + " enter does, esc does not; a reason: " + t.typed + "_"
	case t.mode == helping:
		return t.paint(dimTone, "any key goes back")
	case t.said != "" && t.wrong:
		return t.paint(badTone, clean(t.said))
	case t.said != "":
		return t.paint(goodTone, clean(t.said))
	}
	keys := []string{"q quit", "tab panel", "s sort", "/ filter", "? help"}
	if r, ok := t.selected(); ok {
		for _, o := range r.offers {
			keys = append(keys, o.key+" "+o.verb)
		}
	}
	return t.paint(dimTone, strings.Join(keys, "  "))
}

// helpText is what ? shows. None of its lines is longer than smallestWidth allows to
// be read.
var helpText = []string{
	"",
	"  tab, 1–6       the next panel, a panel",
	"  ↑ ↓ PgUp PgDn  move; Home and End too",
	"  s, S           sort by the next column; the other way round",
	"  /, esc         show only rows with a text; show all",
	"  p              pause or resume the class of the row",
	"  c              cancel the waiting request",
	"  x              give the running grant back",
	"  d, u, w, b     drain or resume, unload, wake a backend, close its breaker",
	"  q              quit",
	"",
	"  A control asks first, and takes a reason for the log.",
	"  A card: # running  = retained  x unmanaged  ? unattributed  . available  - reserve",
}

// paint gives a text a tone's colour, of those that can be read on the terminal's
// background. Without colours what is old is faint.
func (t top) paint(as tone, s string) string {
	dark := [...]string{plainTone: "", goodTone: "32", warnTone: "33", badTone: "91", dimTone: "2"}
	light := [...]string{plainTone: "", goodTone: "38;5;22", warnTone: "38;5;94", badTone: "38;5;124", dimTone: "2"}
	code := dark[as]
	if t.light {
		code = light[as]
	}
	if t.plain && as != dimTone {
		code = ""
	}
	return sgr(code, s)
}

func (t top) bold(s string) string    { return sgr("1", s) }
func (t top) reverse(s string) string { return sgr("7", s) }

// heading is a panel's: underlined where it is in focus.
func (t top) heading(focus bool, s string) string {
	if focus {
		return sgr("1;4", s)
	}
	return sgr("1", s)
}

// sgr puts a text between a terminal's codes; none: as it is.
func sgr(code, s string) string {
	if code == "" || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[m"
}
