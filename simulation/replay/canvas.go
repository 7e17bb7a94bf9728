package replay

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// The pictures' measures, in pixels of a picture that is not scaled.
const (
	pictureWidth = 1200.0
	plotLeft     = 176.0
	plotRight    = pictureWidth - 30
)

const (
	ink   = "#1f2328" // words and axes
	faint = "#6b7280" // words that matter less
	grid  = "#e5e7eb"
	alarm = "#b45309" // limits
	grey  = "#9ca3af"
)

// paint is a class's colour where it runs and where it waits.
type paint struct{ full, pale string }

var (
	navy = paint{"#1e2f6f", "#c3cbe8"}
	red  = paint{"#d43d3d", "#f7cfcc"}
	// others are for classes that are neither heavy nor light.
	others = []paint{
		{"#1f8a70", "#c2e5db"}, {"#d58a1a", "#f6e0b8"}, {"#7a4fa3", "#dfd0ec"}, {"#2b8fb8", "#c6e4f0"}, {"#7c5c3e", "#e3d6c9"},
	}
)

// paints gives every class its colour.
func paints(classes []admission.Class) []paint {
	out := make([]paint, len(classes))
	next := 0
	for i, c := range classes {
		switch c.Name {
		case "heavy":
			out[i] = navy
		case "light":
			out[i] = red
		default:
			out[i] = others[next%len(others)]
			next++
		}
	}
	return out
}

// canvas collects a picture in SVG.
type canvas struct{ body bytes.Buffer }

// finish gives the whole picture, with a title over it and what it shows.
func (c *canvas) finish(height float64, title, subtitle string) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %[1]g %[2]g" width="%[1]g" height="%[2]g" font-family="system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="14">`+"\n",
		pictureWidth, math.Ceil(height))
	fmt.Fprintf(&out, "<title>%s</title>\n", html.EscapeString(title))
	fmt.Fprintf(&out, `<rect width="%.0f" height="%.0f" fill="#ffffff"/>`+"\n", pictureWidth, height)
	fmt.Fprintf(&out, `<text x="24" y="34" font-size="20" font-weight="600" fill="%s">%s</text>`+"\n", ink, html.EscapeString(title))
	fmt.Fprintf(&out, `<text x="24" y="56" fill="%s">%s</text>`+"\n", faint, html.EscapeString(subtitle))
	out.Write(c.body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// number writes a coordinate, to a hundredth of a pixel.
func number(f float64) string {
	s := strconv.FormatFloat(f, 'f', 2, 64)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

func (c *canvas) rect(x, y, width, height float64, fill string) {
	fmt.Fprintf(&c.body, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s"/>`+"\n", number(x), number(y), number(width), number(height), fill)
}

func (c *canvas) line(x1, y1, x2, y2 float64, stroke, more string) {
	fmt.Fprintf(&c.body, `<path d="M%s %sL%s %s" stroke="%s" %s/>`+"\n", number(x1), number(y1), number(x2), number(y2), stroke, more)
}

// text writes words; anchor is start, middle or end of them.
func (c *canvas) text(x, y float64, anchor, fill, more, words string) {
	fmt.Fprintf(&c.body, `<text x="%s" y="%s" text-anchor="%s" fill="%s" %s>%s</text>`+"\n", number(x), number(y), anchor, fill, more,
		html.EscapeString(words))
}

// entry is one line of a legend.
type entry struct {
	fill  string
	words string
	line  bool // a line's colour, not a bar's
}

// legend writes entries in a row, and in more rows where one is not enough. It
// gives the y below it.
func (c *canvas) legend(y float64, entries []entry) float64 {
	x := 24.0
	for _, e := range entries {
		width := 30 + 7.4*float64(len([]rune(e.words))) + 22
		if x > 24 && x+width > plotRight {
			x, y = 24, y+22
		}
		if e.line {
			c.line(x, y-5, x+22, y-5, e.fill, `stroke-width="2" stroke-dasharray="6 4"`)
		} else {
			c.rect(x, y-12, 22, 13, e.fill)
		}
		c.text(x+29, y, "start", ink, "", e.words)
		x += width
	}
	return y + 14
}

// axis maps values to pixels.
type axis struct {
	from, to float64 // values
	at, end  float64 // pixels
}

func (a axis) pos(v float64) float64 {
	if a.to <= a.from {
		return a.at
	}
	return a.at + (v-a.from)/(a.to-a.from)*(a.end-a.at)
}

// clip is pos for a value that may lie outside.
func (a axis) clip(v float64) float64 { return a.pos(min(a.to, max(a.from, v))) }

// marks are round values on an axis, at most as many as wanted and a few more.
func marks(from, to float64, wanted int) []float64 {
	if to <= from {
		return []float64{from}
	}
	step := math.Pow(10, math.Floor(math.Log10((to-from)/float64(wanted))))
	for _, f := range []float64{1, 2, 5, 10} {
		if (to-from)/(step*f) <= float64(wanted) {
			step *= f
			break
		}
	}
	var out []float64
	for i := math.Ceil(from/step - 1e-9); i*step <= to*(1+1e-9); i++ {
		out = append(out, i*step+0) // + 0, as there is no -0 on an axis
	}
	return out
}

// timeAxis draws an axis of time below a plot that reaches from top to bottom.
func (c *canvas) timeAxis(from, to time.Duration, top, bottom float64) axis {
	a := axis{from.Seconds(), to.Seconds(), plotLeft, plotRight}
	unit, name := 1.0, "time since the start of the trace (seconds)"
	if to-from > 10*time.Minute {
		unit, name = 60, "time since the start of the trace (minutes)"
	}
	for _, m := range marks(a.from/unit, a.to/unit, 12) {
		x := a.pos(m * unit)
		c.line(x, top, x, bottom+5, grid, "")
		c.text(x, bottom+21, "middle", ink, "", strconv.FormatFloat(m, 'f', -1, 64))
	}
	c.line(plotLeft, bottom, plotRight, bottom, ink, "")
	c.text((plotLeft+plotRight)/2, bottom+44, "middle", ink, "", name)
	return a
}

// clock writes a moment of a trace as minutes and seconds.
func clock(d time.Duration) string {
	s := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// passage is one request's way through the box.
type passage struct {
	class               int
	arrived, start, end time.Duration // end: it left, in whatever way
	ran                 bool
	fate                Fate
}

// passages reads a log, request by request.
func passages(p *plan, log *Log) []passage {
	out := make([]passage, len(p.trace.Rows))
	for i := range out {
		row := &p.trace.Rows[i]
		out[i] = passage{class: p.route(row).class, arrived: row.At, start: row.At, end: row.At}
	}
	for _, e := range log.Events {
		if e.What == Freed || e.What == Loaded {
			continue
		}
		x := &out[e.Request]
		switch e.What {
		case Started:
			x.start, x.ran = e.At, true
		case Ended:
			x.end, x.fate = e.At, e.Fate
		case Gone:
			x.start, x.end, x.fate = e.At, e.At, e.Fate
		}
	}
	return out
}
