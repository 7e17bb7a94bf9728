package replay

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
)

// The axis of waits is logarithmic and begins below what a person notices.
const leastWait = 0.01

// DrawWaits draws how waits were distributed: for each class the share of its
// requests that had started after each wait. Those that never started keep the
// curve below the top.
func DrawWaits(box *Box, trace *Trace, log *Log) ([]byte, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	waits := make([][]time.Duration, len(box.Admission.Classes))
	requests := make([]int, len(box.Admission.Classes))
	longest := time.Second
	for _, x := range passages(p, log) {
		requests[x.class]++
		if x.ran {
			waits[x.class] = append(waits[x.class], x.start-x.arrived)
			longest = max(longest, x.start-x.arrived)
		}
	}
	c := &canvas{}
	colours := paints(box.Admission.Classes)
	var legend []entry
	for i, class := range box.Admission.Classes {
		if requests[i] == 0 {
			continue
		}
		slices.Sort(waits[i])
		words := fmt.Sprintf("%s: %d of %d started", class.Name, len(waits[i]), requests[i])
		if n := len(waits[i]); n > 0 {
			words += fmt.Sprintf(", p50 %s s, p99 %s s, max %s s", short(waits[i][rank(n, 0.5)].Seconds()),
				short(waits[i][rank(n, 0.99)].Seconds()), short(waits[i][n-1].Seconds()))
		}
		legend = append(legend, entry{fill: colours[i].full, words: words})
	}
	top := c.legend(86, legend) + 20
	bottom := top + 420
	// A tenth of a decade more, so that the last step is seen.
	x := axis{math.Log10(leastWait), math.Log10(longest.Seconds()) + 0.1, plotLeft, plotRight}
	y := axis{0, 1, bottom, top}
	for e := math.Log10(leastWait); e <= x.to; e++ {
		at := math.Pow(10, e)
		c.line(x.pos(e), top, x.pos(e), bottom+5, grid, "")
		label := strconv.FormatFloat(at, 'g', -1, 64)
		if at == leastWait {
			label = "≤ " + label
		}
		c.text(x.pos(e), bottom+21, "middle", ink, "", label)
		for k := 2.0; k <= 9; k++ {
			if minor := math.Log10(at * k); minor < x.to {
				c.line(x.pos(minor), bottom, x.pos(minor), bottom+4, faint, "")
			}
		}
	}
	for _, share := range []float64{0, 0.25, 0.5, 0.75, 0.9, 1} {
		c.line(plotLeft-5, y.pos(share), plotRight, y.pos(share), grid, "")
		c.text(plotLeft-10, y.pos(share)+5, "end", ink, "", fmt.Sprintf("%.0f %%", 100*share))
	}
	c.line(plotLeft, bottom, plotRight, bottom, ink, "")
	c.line(plotLeft, top, plotLeft, bottom, ink, "")
	c.text((plotLeft+plotRight)/2, bottom+44, "middle", ink, "", "wait (seconds, logarithmic)")
	c.text(40, (top+bottom)/2, "middle", ink, fmt.Sprintf(`transform="rotate(-90 40 %s)"`, number((top+bottom)/2)),
		"share of requests that have started")
	for i := range box.Admission.Classes {
		if len(waits[i]) > 0 {
			c.distribution(x, y, waits[i], requests[i], colours[i].full)
		}
	}
	return c.finish(bottom+60, "How long requests waited", fmt.Sprintf("%s, %d requests of %s", box.Name, len(trace.Rows), trace.File)), nil
}

// distribution draws one class's curve. Steps that are finer than a pixel are
// left out.
func (c *canvas) distribution(x, y axis, waits []time.Duration, requests int, stroke string) {
	at := func(i int) float64 { return x.clip(math.Log10(max(leastWait, waits[i].Seconds()))) }
	fmt.Fprintf(&c.body, `<path fill="none" stroke="%s" stroke-width="2.5" stroke-linejoin="round" d="M%s %s`, stroke, number(x.at), number(y.pos(0)))
	last := x.at - 1
	for i := range waits {
		if i+1 < len(waits) && at(i+1)-last < 0.5 {
			continue // the next one stands for it
		}
		fmt.Fprintf(&c.body, "H%sV%s", number(at(i)), number(y.pos(float64(i+1)/float64(requests))))
		last = at(i)
	}
	fmt.Fprintf(&c.body, `H%s"/>`+"\n", number(x.end))
}
