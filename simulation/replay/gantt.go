package replay

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// mostBars is how many requests a Gantt picture shows: with more of them a bar
// is thinner than a line.
const mostBars = 2400

// mostRows is how many requests of a class are drawn in rows of their own, one
// below the other. With more at once the queue is drawn as a heap.
const mostRows = 60

// DrawGantt draws what ran and what waited when, class by class. Of a long trace
// it shows the stretch in which most was waited.
func DrawGantt(box *Box, trace *Trace, log *Log) ([]byte, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	all := passages(p, log)
	g := gantt{plan: p, colours: paints(box.Admission.Classes)}
	var cut bool
	g.from, g.to, cut = stretch(all)
	subtitle := fmt.Sprintf("%s, %d requests of %s", box.Name, len(all), trace.File)
	if cut {
		subtitle += fmt.Sprintf(": from %s to %s, where most is waited", clock(g.from), clock(g.to))
	}
	var bands []band
	var legend []entry
	gone := false
	for class, c := range box.Admission.Classes {
		var mine []passage
		for _, x := range all {
			if x.class == class && x.end >= g.from && x.arrived <= g.to {
				mine = append(mine, x)
			}
		}
		if len(mine) == 0 {
			continue
		}
		b := newBand(class, mine, g.from, g.to)
		bands = append(bands, b)
		legend = append(legend, entry{fill: g.colours[class].full, words: c.Name + " runs"})
		if b.longest > 0 {
			legend = append(legend, entry{fill: g.colours[class].pale, words: c.Name + " waits"})
		}
		gone = gone || !b.heap && slices.ContainsFunc(mine, func(x passage) bool { return !x.ran && x.end <= g.to })
	}
	if gone {
		legend = append(legend, entry{fill: alarm, words: "left or was refused"})
	}
	top := g.legend(86, legend) + 8
	bottom := top
	for _, b := range bands {
		bottom += b.height() + bandGap
	}
	g.time = g.timeAxis(g.from, g.to, top, bottom)
	for _, b := range bands {
		g.band(b, top)
		top += b.height() + bandGap
	}
	return g.finish(bottom+60, "What ran and what waited", subtitle), nil
}

type gantt struct {
	*plan
	canvas
	colours  []paint
	from, to time.Duration
	time     axis
}

// stretch is what is shown of a trace: all of it, or if that is too much the
// part in which most was waited.
func stretch(all []passage) (from, to time.Duration, cut bool) {
	if len(all) <= mostBars {
		for _, x := range all {
			to = max(to, x.end)
		}
		return 0, max(to, 1), false
	}
	var waited, most time.Duration
	first := 0
	for i, x := range all {
		waited += x.start - x.arrived
		if i >= mostBars {
			gone := all[i-mostBars]
			waited -= gone.start - gone.arrived
			if waited > most {
				most, first = waited, i-mostBars+1
			}
		} else if i == mostBars-1 {
			most = waited
		}
	}
	from, to = all[first].arrived, all[first+mostBars-1].arrived
	return from, max(to, from+1), true
}

// band is one class's part of the picture: rows, and where they would be too
// many, rows of what runs with a heap of what waits below them.
type band struct {
	class     int
	passages  []passage
	rows      []int // by passage
	count     int
	thickness float64
	heap      bool
	longest   int // queue
}

const (
	bandGap    = 18.0
	heapHeight = 110.0
)

func newBand(class int, mine []passage, from, to time.Duration) band {
	b := band{class: class, passages: mine}
	slices.SortStableFunc(mine, func(x, y passage) int { return cmp.Compare(x.arrived, y.arrived) })
	whole := func(x passage) (time.Duration, time.Duration) { return x.arrived, x.end }
	b.rows, b.count = rows(mine, whole)
	if b.heap = b.count > mostRows; b.heap {
		slices.SortStableFunc(mine, func(x, y passage) int { return cmp.Compare(x.start, y.start) })
		b.rows, b.count = rows(mine, func(x passage) (time.Duration, time.Duration) { return x.start, x.end })
	}
	for _, n := range queue(mine) {
		if n.at <= to {
			b.longest = max(b.longest, n.length)
		}
	}
	b.thickness = min(22, max(5, 240/float64(max(1, b.count))))
	return b
}

func (b band) height() float64 {
	h := max(64, float64(b.count)*b.thickness)
	if b.heap {
		h += heapHeight + 10
	}
	return h
}

// rows puts spans into as few rows as there are spans at once.
func rows(of []passage, span func(passage) (from, to time.Duration)) (in []int, count int) {
	var free []time.Duration
	in = make([]int, len(of))
	for i, x := range of {
		from, to := span(x)
		row := slices.IndexFunc(free, func(t time.Duration) bool { return t <= from })
		if row < 0 {
			row = len(free)
			free = append(free, 0)
		}
		free[row] = max(to, from+1)
		in[i] = row
	}
	return in, len(free)
}

// length is how many wait from a moment on.
type length struct {
	at     time.Duration
	length int
}

// queue gives the length of a queue over time.
func queue(of []passage) []length {
	var steps []length
	for _, x := range of {
		if x.start > x.arrived {
			steps = append(steps, length{x.arrived, 1}, length{x.start, -1})
		}
	}
	slices.SortStableFunc(steps, func(a, b length) int { return cmp.Compare(a.at, b.at) })
	n := 0
	var out []length
	for _, s := range steps {
		n += s.length
		if last := len(out) - 1; last >= 0 && out[last].at == s.at {
			out[last].length = n
		} else {
			out = append(out, length{s.at, n})
		}
	}
	return out
}

func (g *gantt) band(b band, top float64) {
	colour, c := g.colours[b.class], g.box.Admission.Classes[b.class]
	slots := "1 slot"
	if c.Slots != 1 {
		slots = fmt.Sprintf("%d slots", c.Slots)
	}
	g.text(24, top+16, "start", ink, `font-weight="600"`, c.Name)
	g.text(24, top+35, "start", faint, "", slots)
	if b.longest > 0 {
		g.text(24, top+54, "start", faint, "", fmt.Sprintf("%d wait at most", b.longest))
	} else {
		g.text(24, top+54, "start", faint, "", "no request waits")
	}
	for i, x := range b.passages {
		y := top + float64(b.rows[i])*b.thickness
		height := max(1, b.thickness-1)
		if !b.heap {
			g.bar(x.arrived, x.start, y, height, colour.pale)
			if !x.ran && x.start >= g.from && x.start <= g.to {
				g.rect(g.time.pos(x.start.Seconds())-2, y, 2, height, alarm)
			}
		}
		if x.ran {
			g.bar(x.start, x.end, y, height, colour.full)
		}
	}
	if b.heap {
		g.heap(b, top+b.height(), colour.pale)
	}
	g.line(24, top+b.height()+bandGap/2, plotRight, top+b.height()+bandGap/2, grid, "")
}

func (g *gantt) bar(from, to time.Duration, y, height float64, fill string) {
	if from = max(from, g.from); from >= min(to, g.to) {
		return
	}
	left, right := g.time.pos(from.Seconds()), g.time.clip(to.Seconds())
	// A hair of white keeps bars that follow each other apart.
	width := right - left
	if width > 2 {
		width -= 0.5
	}
	g.rect(left, y, max(0.3, width), height, fill)
}

// heap draws how long a queue is, upwards from the bottom.
func (g *gantt) heap(b band, bottom float64, fill string) {
	scale := axis{0, float64(max(1, b.longest)), bottom, bottom - heapHeight}
	fmt.Fprintf(&g.body, `<path fill="%s" d="M%s %s`, fill, number(plotLeft), number(bottom))
	before := 0
	for _, n := range queue(b.passages) {
		if n.at > g.to {
			break
		}
		x := number(g.time.clip(n.at.Seconds()))
		if n.at >= g.from {
			fmt.Fprintf(&g.body, "L%s %sL%s %s", x, number(scale.pos(float64(before))), x, number(scale.pos(float64(n.length))))
		}
		before = n.length
	}
	fmt.Fprintf(&g.body, `L%s %sL%s %sZ"/>`+"\n", number(plotRight), number(scale.pos(float64(before))), number(plotRight), number(bottom))
	for _, m := range marks(0, float64(b.longest), 3) {
		g.line(plotLeft-5, scale.pos(m), plotLeft, scale.pos(m), faint, "")
		g.text(plotLeft-9, scale.pos(m)+5, "end", faint, `font-size="12"`, fmt.Sprintf("%.0f", m))
	}
	g.text(24, bottom-heapHeight/2, "start", faint, "", "waiting")
	g.line(plotLeft, bottom, plotLeft, bottom-heapHeight, faint, "")
}
