package telemetry

import "sync"

// mostBeside bounds the number of classes for which it is known what runs beside them.
const mostBeside = 8

// contention knows which classes run at the same time, so that each execution can be
// counted with the classes that ran beside it. Work on one card slows down other work.
type contention struct {
	mu      sync.Mutex
	names   []string // guarded by mu; up to mostBeside
	running [mostBeside]int32
	started [mostBeside]uint32 // how often
}

// beside is what contention keeps for an execution.
type beside struct {
	class   int // -1: it is not told of
	with    uint16
	started [mostBeside]uint32
}

// begin says that an execution of a class begins.
func (c *contention) begin(class string) (b beside) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b.class = -1
	for i, name := range c.names {
		if name == class {
			b.class = i
		}
	}
	if b.class < 0 {
		if len(c.names) == mostBeside {
			return b
		}
		b.class = len(c.names)
		c.names = append(c.names, class)
	}
	for i, n := range c.running {
		if n > 0 {
			b.with |= 1 << i
		}
	}
	c.running[b.class]++
	c.started[b.class]++
	b.started = c.started
	return b
}

// end says that it has ended, and gives the classes that ran beside it at any time.
func (c *contention) end(b beside, classes []string) []string {
	if b.class < 0 {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[b.class]--
	for i, n := range c.started {
		if n != b.started[i] {
			b.with |= 1 << i
		}
	}
	for i, name := range c.names {
		if b.with&(1<<i) != 0 {
			classes = append(classes, name)
		}
	}
	return classes
}

// contended counts an execution by what ran beside it: each class, or none.
func (q *Request) contended(seconds float64, well bool) {
	var room [mostBeside]string
	classes := q.t.contention.end(q.beside, room[:0])
	if !well || q.beside.class < 0 {
		return
	}
	m := &q.t.metrics
	if len(classes) == 0 {
		m.of(q).alone.of(m, labels{kind: setBeside, class: q.class}).sum(seconds, 1)
	}
	for _, with := range classes {
		m.labelled(labels{kind: setBeside, class: q.class, extra: with}).sum(seconds, 1)
	}
}
