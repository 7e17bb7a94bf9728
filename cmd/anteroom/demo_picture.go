package main

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
	"github.com/anteroom-gpu/anteroom/simulation"
)

// The measures of a picture, in pixels of one that is not scaled. Colours are the
// page's, by class names of CSS.
const (
	pictureWidth  = 1000.0
	pictureLeft   = 64.0
	pictureRight  = pictureWidth - 10
	memoryHeight  = 72.0
	bandGap       = 12.0
	axisHeight    = 34.0
	mostThickness = 10.0
	bandHeight    = 96.0 // of a band of many rows, unless they would be thinner than a line
)

// endOf is when the last request of a scene ended, in any arm: pictures of one
// scene have one axis of time.
func endOf(by map[string]played) (end time.Duration) {
	for _, p := range by {
		for _, o := range p.seen {
			end = max(end, o.Ended)
		}
	}
	return max(end, time.Second)
}

// picture is what drawPlay draws.
type picture struct {
	bytes.Buffer
	until time.Duration
}

func (p *picture) x(t time.Duration) float64 {
	t = min(max(t, 0), p.until)
	return pictureLeft + (pictureRight-pictureLeft)*float64(t)/float64(p.until)
}

// drawPlay draws one arm's play of a scene in SVG: when each request waited and ran, and
// below that the memory of the card.
func drawPlay(s simulation.Scene, arm string, play played, until time.Duration) string {
	p := &picture{until: until}
	bottom := 4.0
	for _, heavy := range []bool{true, false} {
		bottom = p.band(play.seen, heavy, bottom) + bandGap
	}
	bottom = p.memory(play.memory, bottom)
	p.axis(bottom)
	label := fmt.Sprintf("%s, %s: waits and runs of heavy and light requests over time, and the card's memory in use", s.Name, arm)
	return fmt.Sprintf(`<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, pictureWidth, math.Ceil(bottom+axisHeight), label) + p.String() + "</svg>"
}

// band draws the requests of one class, each in a row of its own from its arrival
// to its end, and returns where it ends.
func (p *picture) band(seen []simulation.Outcome, heavy bool, top float64) float64 {
	name, class := "light", "l"
	if heavy {
		name, class = "heavy", "h"
	}
	var mine []simulation.Outcome
	for _, o := range seen {
		if o.Heavy == heavy {
			mine = append(mine, o)
		}
	}
	slices.SortStableFunc(mine, func(a, b simulation.Outcome) int { return cmp.Compare(a.Sent, b.Sent) })
	var free []time.Duration // when a row's last one ended
	rows := make([]int, len(mine))
	for i, o := range mine {
		row := slices.IndexFunc(free, func(t time.Duration) bool { return t <= o.Sent })
		if row < 0 {
			row = len(free)
			free = append(free, 0)
		}
		free[row], rows[i] = o.Ended, row
	}
	thick := min(mostThickness, max(1.2, bandHeight/float64(max(1, len(free)))))
	height := max(22, thick*float64(len(free)))
	var waits, runs, failed bytes.Buffer
	tall := thick // of a bar: thin ones make an area
	if thick > 4 {
		tall = thick - 1
	}
	bar := func(to *bytes.Buffer, from, until time.Duration, row int) {
		x := p.x(from)
		width := p.x(until) - x
		if width > 2 {
			width -= 0.4 // keeps bars that follow each other apart
		}
		fmt.Fprintf(to, "M%s %sh%sv%sh-%sz", number(x), number(top+float64(row)*thick), number(max(0.3, width)), number(tall), number(max(0.3, width)))
	}
	for i, o := range mine {
		start := o.Ended - o.Execute
		if start-o.Sent > 10*time.Millisecond {
			bar(&waits, o.Sent, start, rows[i])
		}
		if o.Status == http.StatusOK {
			bar(&runs, start, o.Ended, rows[i])
		} else {
			bar(&failed, o.Ended, o.Ended+p.until/200, rows[i])
		}
	}
	p.text(0, top+13, "b", name)
	for _, layer := range []struct {
		class string
		path  *bytes.Buffer
	}{{class + "w", &waits}, {class, &runs}, {"f", &failed}} {
		if layer.path.Len() > 0 {
			fmt.Fprintf(p, `<path class="%s" d="%s"/>`, layer.class, layer.path)
		}
	}
	return top + height
}

// memory draws what was in use of the card, and returns where it ends.
func (p *picture) memory(levels []level, top float64) float64 {
	bottom := top + memoryHeight
	y := func(b int64) float64 { return bottom - memoryHeight*float64(b)/float64(demoMemory) }
	before := int64(0)
	fmt.Fprintf(p, `<path class="m" d="M%s %s`, number(pictureLeft), number(bottom))
	// A column of pixels shows the highest of its levels.
	for i := 0; i < len(levels); {
		x := math.Round(p.x(levels[i].at))
		high, last := before, before
		for ; i < len(levels) && math.Round(p.x(levels[i].at)) == x; i++ {
			high, last = max(high, levels[i].bytes), levels[i].bytes
		}
		fmt.Fprintf(p, "H%sV%s", number(x), number(y(high)))
		if last != high {
			fmt.Fprintf(p, "h1V%s", number(y(last)))
		}
		before = last
	}
	fmt.Fprintf(p, `H%sV%sz"/>`, number(pictureRight), number(bottom))
	fmt.Fprintf(p, `<path class="c" d="M%s %sH%s"/>`, number(pictureLeft), number(top), number(pictureRight))
	p.text(0, top+4, "", fmt.Sprintf("%.0f GiB", float64(demoMemory)/float64(admission.GiB)))
	p.text(0, bottom-memoryHeight/2+4, "b", "memory")
	return bottom
}

// axis draws the axis of time below everything.
func (p *picture) axis(y float64) {
	fmt.Fprintf(p, `<path class="a" d="M%s %sH%s`, number(pictureLeft), number(y), number(pictureRight))
	step := 10 * time.Second
	for _, next := range []time.Duration{20, 30, 60, 120, 300, 600, 1800, 3600} {
		if p.until/step > 10 {
			step = next * time.Second
		}
	}
	var marks []time.Duration
	for at := time.Duration(0); at <= p.until; at += step {
		marks = append(marks, at)
		fmt.Fprintf(p, "M%s %sv5", number(p.x(at)), number(y))
	}
	p.WriteString(`"/>`)
	for _, at := range marks {
		fmt.Fprintf(p, `<text x="%s" y="%s" text-anchor="middle">%.0f s</text>`, number(p.x(at)), number(y+20), at.Seconds())
	}
}

func (p *picture) text(x, y float64, class, words string) {
	fmt.Fprintf(p, `<text x="%s" y="%s" class="%s">%s</text>`, number(x), number(y), class, words)
}

// number writes a coordinate, to a tenth of a pixel.
func number(f float64) string { return strconv.FormatFloat(math.Round(f*10)/10, 'f', -1, 64) }
