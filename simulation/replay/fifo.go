package replay

import (
	"time"

	"github.com/anteroom-gpu/anteroom/admission"
)

// FIFO plays a trace through a single queue, one request at a time on the
// whole box, which is what a lock around the GPU gives. The queue has no limit
// and no timeout; what never fits is refused.
func FIFO(box *Box, trace *Trace) (*Log, error) {
	p, err := newPlan(box, trace)
	if err != nil {
		return nil, err
	}
	var log Log
	var free time.Duration
	b := newBooks(box)
	for i := range trace.Rows {
		row, request := &trace.Rows[i], int32(i)
		r := p.route(row)
		replica := b.fitting(r, p.vram(row))
		start := max(free, row.At)
		switch {
		case replica < 0:
			log.refuse(row.At, request, admission.CodeNeverFits)
		case row.Leave > 0 && row.At+row.Leave <= start:
			log.left(row.At+row.Leave, request)
		default:
			end, fate := p.run(row, start)
			log.start(start, request, replica)
			log.end(end, request, fate)
			b.start(r.class, r.backend, replica, p.vram(row))
			b.end(r.class, r.backend, replica, p.vram(row))
			free = end
		}
	}
	log.sort()
	return &log, nil
}
