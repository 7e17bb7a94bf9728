package replay

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// DrawVRAM draws the memory that is booked on each GPU over time, by class,
// against what may be booked.
func DrawVRAM(box *Box, trace *Trace, log *Log) ([]byte, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	const panel, gap = 300.0, 76.0
	m := sampleMemory(p, log, int(plotRight-plotLeft))
	c := &canvas{}
	colours := paints(box.Admission.Classes)
	var legend []entry
	for i, class := range box.Admission.Classes {
		legend = append(legend, entry{fill: colours[i].full, words: class.Name})
	}
	if m.kept {
		legend = append(legend, entry{fill: grey, words: "held without a request"})
	}
	legend = append(legend, entry{fill: alarm, words: "budget: memory less reserve", line: true})
	top := c.legend(86, legend) + 24
	for gpu, g := range box.Admission.GPUs {
		bottom := top + panel
		x := c.timeAxis(0, m.until, top, bottom)
		gib := func(b admission.Bytes) float64 { return float64(b) / float64(admission.GiB) }
		y := axis{0, max(1, gib(max(g.Memory, m.peak[gpu]))) * 1.04, bottom, top}
		for _, v := range marks(0, y.to, 6) {
			c.line(plotLeft-5, y.pos(v), plotRight, y.pos(v), grid, "")
			c.text(plotLeft-10, y.pos(v)+5, "end", ink, "", fmt.Sprintf("%g", v))
		}
		base := make([]float64, len(m.columns))
		layer := func(fill string, amount func(column) admission.Bytes) {
			next := make([]float64, len(base))
			used := false
			for i, col := range m.columns {
				next[i] = base[i] + gib(amount(col))
				used = used || next[i] > base[i]
			}
			if used {
				c.steps(x, y, m, base, next, fill)
			}
			base = next
		}
		layer(grey, func(col column) admission.Bytes { return col.held[gpu] })
		for _, class := range widestFirst(box) {
			layer(colours[class].full, func(col column) admission.Bytes { return col.classes[gpu][class] })
		}
		limit := budget(g)
		c.line(plotLeft, y.pos(gib(limit)), plotRight, y.pos(gib(limit)), alarm, `stroke-width="2" stroke-dasharray="6 4"`)
		c.line(plotLeft, top, plotLeft, bottom, ink, "")
		c.text(24, top+16, "start", ink, `font-weight="600"`, g.Name)
		c.text(24, top+38, "start", faint, "", "GiB booked")
		c.text(24, top+60, "start", faint, "", fmt.Sprintf("budget %v", limit))
		c.text(24, top+82, "start", faint, "", fmt.Sprintf("peak %v", m.peak[gpu]))
		top = bottom + gap
	}
	subtitle := fmt.Sprintf("%s, %d requests of %s", box.Name, len(trace.Rows), trace.File)
	if m.step > time.Second {
		subtitle += fmt.Sprintf("; the highest of every %.1f seconds", m.step.Seconds())
	}
	return c.finish(top-10, "Memory against the budget", subtitle), nil
}

// widestFirst orders classes by what one request takes: what is wide changes
// least and makes a steady ground for the others.
func widestFirst(box *Box) []int {
	widest := make([]admission.Bytes, len(box.Admission.Classes))
	order := make([]int, len(widest))
	for i, c := range box.Admission.Classes {
		order[i] = i
		for _, r := range box.Routes {
			if r.Class == c.Name {
				widest[i] = max(widest[i], r.VRAM)
			}
		}
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(widest[b], widest[a]) })
	return order
}

// memory is what was booked, at the fullest moment of each column of pixels.
type memory struct {
	until, step time.Duration
	columns     []column
	peak        []admission.Bytes // by GPU
	kept        bool              // anything was held beyond what ran
}

type column struct {
	total   []admission.Bytes   // by GPU
	held    []admission.Bytes   // by GPU: beyond what runs
	classes [][]admission.Bytes // by GPU and class: Σ of what runs
}

func sampleMemory(p *plan, log *Log, columns int) *memory {
	controller := &p.box.Admission
	m := &memory{columns: make([]column, columns), peak: make([]admission.Bytes, len(controller.GPUs))}
	for _, e := range log.Events {
		m.until = max(m.until, e.At)
	}
	m.until = max(m.until, time.Duration(columns))
	m.step = (m.until + time.Duration(columns) - 1) / time.Duration(columns)
	now := newColumn(len(controller.GPUs), len(controller.Classes))
	b := newBooks(p.box)
	replicas := make([]uint8, len(p.trace.Rows))
	at := 0
	m.columns[0] = newColumn(len(controller.GPUs), len(controller.Classes))
	note := func() {
		for gpu, n := range b.booked {
			running := admission.Bytes(0)
			for _, c := range now.classes[gpu] {
				running += c
			}
			now.total[gpu], now.held[gpu] = n, n-running
			m.peak[gpu] = max(m.peak[gpu], n)
			m.kept = m.kept || n > running
		}
		m.columns[at].raise(now)
	}
	for i, e := range log.Events {
		for at < columns-1 && time.Duration(at+1)*m.step <= e.At {
			at++
			m.columns[at] = newColumn(len(controller.GPUs), len(controller.Classes))
			m.columns[at].raise(now) // as it was when the column began
		}
		if e.What == Freed || e.What == Loaded {
			b.move(e.What, int(e.Request), int(e.Replica))
			note()
			continue
		}
		row := &p.trace.Rows[e.Request]
		r, vram := p.route(row), p.vram(row)
		sign := admission.Bytes(1)
		switch e.What {
		case Started:
			replicas[e.Request] = e.Replica
			b.start(r.class, r.backend, int(e.Replica), vram)
		case Ended:
			sign = -1
			b.end(r.class, r.backend, int(replicas[e.Request]), vram)
		default:
			sign = 0
		}
		for _, place := range b.backends[r.backend][replicas[e.Request]].places {
			now.classes[place.gpu][r.class] += sign * vram
		}
		// What happens at one moment is seen together.
		if i+1 == len(log.Events) || log.Events[i+1].At > e.At || e.What == Started {
			note()
		}
	}
	for at++; at < columns; at++ {
		m.columns[at] = newColumn(len(controller.GPUs), len(controller.Classes))
		m.columns[at].raise(now)
	}
	return m
}

func newColumn(gpus, classes int) column {
	c := column{total: make([]admission.Bytes, gpus), held: make([]admission.Bytes, gpus)}
	for range gpus {
		c.classes = append(c.classes, make([]admission.Bytes, classes))
	}
	return c
}

// raise takes the state of each GPU that is fuller in now.
func (c column) raise(now column) {
	for gpu := range c.total {
		if now.total[gpu] >= c.total[gpu] {
			c.total[gpu], c.held[gpu] = now.total[gpu], now.held[gpu]
			copy(c.classes[gpu], now.classes[gpu])
		}
	}
}

// steps draws an area between two lines that change by steps.
func (c *canvas) steps(x, y axis, m *memory, low, high []float64, fill string) {
	at := func(i int) string { return number(x.clip((time.Duration(i) * m.step).Seconds())) }
	fmt.Fprintf(&c.body, `<path fill="%s" d="M%s %s`, fill, at(0), number(y.pos(high[0])))
	for i := 1; i < len(high); i++ {
		if high[i] != high[i-1] {
			fmt.Fprintf(&c.body, "H%sV%s", at(i), number(y.pos(high[i])))
		}
	}
	fmt.Fprintf(&c.body, "H%sV%s", at(len(high)), number(y.pos(low[len(low)-1])))
	for i := len(low) - 1; i > 0; i-- {
		if low[i] != low[i-1] {
			fmt.Fprintf(&c.body, "H%sV%s", at(i), number(y.pos(low[i-1])))
		}
	}
	c.body.WriteString("H" + at(0) + "Z\"/>\n")
}
